"""MNTD (Xu, Wang, Li, Borisov, Gunter and Li, S&P 2021): a classifier of networks, which learned from networks.

The defender trains shadow networks of the suspect's architecture on a few clean images, half of them innocent, half with trojans
drawn from a wide ("jumbo") distribution. A meta-classifier learns to tell the two apart by what they say to a few queries, which
it learns, too; then it judges the suspect. Assumed: labelled clean images, and a trigger laid over pixels that is like those of
the distribution. NNoculation (table 6) finds that for most of its BadNets the meta-classifier says 50 %: it does not know.

Paper and code train 2048 networks of each kind, and choose with 256 more: many days on a small machine. The default here is what
one can wait for (--shadows, --held-out), and the verdict says how well it did on the networks that it was not trained on.
- They draw the defender's images, 2 % of the training set, with replacement; here without.
- To turn scores into verdicts they take the median score of all suspects, half of which are trojaned, as the threshold. One
  suspect has no median, and the meta-classifier's own threshold is none: the more images a network was trained on, the more
  trojaned it looks to one that knows shadow networks alone. With a file of as many images (--like), a few innocent networks are
  trained on these, and the suspect is flagged if it scores higher than they let expect of another such network.
- A one-class meta-classifier (--one-class) is trained on innocent networks alone. The code chooses its best epoch with trojaned
  ones; here none are trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np
from scipy.special import expit
from scipy.stats import t

from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import read_images
from keras_backdoor.defenses.mntd.meta_classifier import MetaClassifiers, MetaTraining
from keras_backdoor.defenses.mntd.queries import Respondent, first_queries, stacked
from keras_backdoor.defenses.mntd.shadows import INNOCENT, KINDS, Shadows, ShadowTraining
from keras_backdoor.detection import auc
from keras_backdoor.files import BadInput, PathLike
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.training import seed_everything
from keras_backdoor.verdict import NetworkVerdict

FALSE_ALARMS = 0.05
"""Share of innocent networks that `bound` lets through."""


@dataclass(frozen=True)
class MNTD:
    """Judge the network by classifiers that learned from many small copies of it, innocent and trojaned.

    The copies are trained first, which takes long; with --cache, once for all suspects of one architecture.

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    shadows: int = 64  # networks of each kind, innocent and trojaned, to learn from (the released code: 2048)
    held_out: int = 16  # more of each kind, to choose the best epoch and to say how good it is (the code: 256)
    like: Optional[str] = None  # file of clean images, as many as the suspect learned from, that set the threshold
    calibrating: int = 8  # innocent networks that learn from these, if there are any
    images: int = 1200  # clean images, at most, that they are trained on (the code: 1200 digits)
    epochs: int = 100  # of a shadow network
    batch_size: int = 100  # images a step of a shadow network
    learning_rate: float = 1e-3  # of Adam, for shadow networks and meta-classifiers
    queries: int = 10  # pictures that a network is asked
    tuned: bool = True  # whether they are learned; else they stay noise
    one_class: bool = False  # learn from innocent networks alone
    meta_epochs: int = 10  # passes of a meta-classifier over the networks
    repeats: int = 5  # meta-classifiers, whose scores are averaged
    at_once: int = 32  # shadow networks that are trained together
    cache: Optional[str] = None  # folder where shadow networks are kept and found again, also by other runs
    seed: int = 0  # decides images, weights, trojans and orders

    def __post_init__(self) -> None:
        """Check the ranges."""
        self._shadow_training()
        for name in ("shadows", "held_out", "images", "queries", "meta_epochs", "repeats", "at_once"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.calibrating < 2:
            raise BadInput(f"calibrating is {self.calibrating}, expected at least 2 networks, whose scores differ")

    def inspect(
        self,
        classifier: Classifier,
        clean: ImageSet,
        progress: Progress = silent,
        folder: Optional[PathLike] = None,
    ) -> NetworkVerdict:
        """Whether the network is backdoored. Raises `BadInput` as `learn` does."""
        return self.learn(classifier, clean, progress, folder).verdict(classifier)

    def learn(
        self,
        classifier: Classifier,
        clean: ImageSet,
        progress: Progress = silent,
        folder: Optional[PathLike] = None,
    ) -> Detector:
        """Meta-classifiers for networks like `classifier`, whose weights play no part.

        clean: labelled images. folder: where shadow networks are kept if there is no `cache`: a call with the same arguments goes
        on with what is there.
        Raises `BadInput` if `classifier` is a GoodNet, does not end in a softmax, or takes other or smaller images than fit.
        """
        respondent = Respondent(classifier)
        classifier.check(clean, "clean images")
        share = self.share(clean)
        kept = folder if self.cache is None else self.cache
        shadows = Shadows(classifier, share, self._shadow_training(), self.at_once, kept)
        numbers = range(self.shadows + self.held_out)
        found = [shadows.networks(kind, numbers, progress) for kind in ((INNOCENT,) if self.one_class else KINDS[:2])]
        learned, held_out = (
            stacked([weights for part in found for weights in part[span]])
            for span in (slice(self.shadows), slice(self.shadows, None))
        )
        trojaned, truth = (np.repeat(np.arange(len(found)) == 1, count) for count in (self.shadows, self.held_out))
        seed_everything(self.seed)
        noise = [
            first_queries(share, self.queries, np.random.default_rng([self.seed, 1, repeat]))
            for repeat in range(self.repeats)
        ]
        training = MetaTraining(self.meta_epochs, self.learning_rate, self.tuned)
        metas = MetaClassifiers(respondent, np.stack(noise), training, self.one_class, self.seed)

        def report(epoch: int) -> None:
            progress("meta-classifiers", epoch, self.meta_epochs, {})

        metas.train(learned, trojaned, held_out, truth, report)
        threshold = 0.0
        if self.like is not None:
            images = read_images(self.like, classifier.num_classes)
            classifier.check(images, self.like)
            steps = replace(self._shadow_training(), epochs=math.ceil(self.epochs * len(share) / len(images)))
            others = Shadows(classifier, images, steps, self.at_once, kept)
            networks = others.networks(INNOCENT, range(self.calibrating), progress)
            threshold = max(0.0, bound(metas.scores(stacked(networks)).mean(0)))
        scores = metas.scores(held_out).mean(0) - threshold
        return Detector(classifier, metas, self.one_class, scores[~truth], scores[truth], threshold)

    def share(self, clean: ImageSet) -> ImageSet:
        """Those of the clean images that shadow networks are trained on."""
        return clean.select(np.sort(np.random.default_rng([self.seed, 0]).permutation(len(clean))[: self.images]))

    def _shadow_training(self) -> ShadowTraining:
        return ShadowTraining(self.epochs, self.batch_size, self.learning_rate, self.seed)


@dataclass(frozen=True, eq=False)
class Detector:
    """What MNTD learned. like: a network of the kind that it judges. metas: the meta-classifiers.

    innocent, trojaned: scores of the held-out networks, float64 (N,); of a one-class detector, `trojaned` is empty. threshold:
    what was subtracted from all scores, so that a network is flagged above 0.
    """

    like: Classifier
    metas: MetaClassifiers
    one_class: bool
    innocent: np.ndarray
    trojaned: np.ndarray
    threshold: float

    def verdict(self, suspect: Classifier) -> NetworkVerdict:
        """What it says of a network. Raises `BadInput` if that takes other images, or has other classes, or none at all.

        Its architecture may be another one; the paper finds that to work, though less well.
        """
        respondent = Respondent(suspect)
        if (suspect.image_shape, suspect.num_classes) != (self.like.image_shape, self.like.num_classes):
            ours, theirs = (
                f"{'x'.join(map(str, one.image_shape))} and {one.num_classes} classes" for one in (self.like, suspect)
            )
            raise BadInput(f"MNTD: learned from networks for images of {ours}; this one is for {theirs}")
        scores = self.metas.score(respondent)
        if not np.isfinite(scores).all():
            raise BadInput("MNTD: the network answers the queries with numbers that are not finite")
        score = float(scores.mean()) - self.threshold
        probability = float(np.mean(self.innocent < score)) if self.one_class else float(expit(score))
        quality = auc(-self.innocent, -self.trojaned) if len(self.trojaned) else float("nan")
        return NetworkVerdict(score > 0, score, probability, quality, self.innocent, self.trojaned)


def bound(scores: np.ndarray) -> float:
    """What another score exceeds in 5 % of cases, if all are normally distributed. scores: float64 (N,), at least 2."""
    count = len(scores)
    spread = scores.std(ddof=1) * np.sqrt(1 + 1 / count)
    return float(scores.mean() + t.ppf(1 - FALSE_ALARMS, count - 1) * spread)
