"""Neural Cleanse's unlearning (Wang, Yao, Shan, Li, Viswanath, Zheng and Zhao, S&P 2019, section VI.C); what its repairs share.

The network is trained on clean images of which some are stamped with the reversed trigger and keep their true labels, so that it
learns to ignore the trigger. Assumed: clean, labelled images; and what `neural_cleanse` assumes, a small trigger that turns all
inputs into one class. How much is unlearned depends on how near the reversed trigger comes to the original one.

If no label is flagged, there is nothing to repair: the result is a copy of the network, and `done` says `{"flagged": 0}`.
The released code has no repairs. Optimizer and learning rate, which the paper leaves open, are those of `FineTuning`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.step import Step, Stepwise
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.pruning import rounded_down
from keras_backdoor.training import Schedule, check_seed, fit, seed_everything
from keras_backdoor.trigger_inversion import SCHEDULES, ReversedTrigger, TriggerInversion, latest
from keras_backdoor.triggers import OneOf, Trigger
from keras_backdoor.triggers.language import parse

REVERSED, NONE = "reversed", "none"


def reverse(
    cleanse: NeuralCleanse, classifier: Classifier, clean: ImageSet, progress: Progress = silent, starts: int = 1
) -> list[ReversedTrigger]:
    """The triggers of the labels that Neural Cleanse flags, in order; then what works of those from more starts.

    Raises `BadInput` as `NeuralCleanse.chunks` does.
    """
    found = [trigger for chunk in cleanse.chunks(classifier, clean, progress=progress) for trigger in chunk]
    flagged = cleanse.verdict(found, classifier.num_classes).flagged
    inversion = TriggerInversion(classifier, clean, SCHEDULES[cleanse.schedule], seed=cleanse.seed + 1)
    more = inversion.chunks((starts - 1) * flagged, progress)
    first = [trigger for trigger in latest(found) if trigger.label in flagged]
    return first + [trigger for chunk in more for trigger in chunk if trigger.works]


class TriggerRepair(Stepwise):
    """A repair that knows reversed triggers."""

    def triggers(self, classifier: Classifier, clean: ImageSet, progress: Progress = silent) -> list[ReversedTrigger]:
        """Those that `steps` would search, to be given to it."""
        return reverse(self._cleanse(), classifier, clean, progress)

    def _cleanse(self) -> NeuralCleanse:
        raise NotImplementedError

    def steps(
        self,
        classifier: Classifier,
        clean: ImageSet,
        progress: Progress = silent,
        triggers: Optional[Sequence[ReversedTrigger]] = None,
    ) -> Iterator[Step]:
        """One network. triggers: of the flagged labels, where a scan has found them already; else they are searched."""
        raise NotImplementedError

    def repair(
        self,
        classifier: Classifier,
        clean: ImageSet,
        progress: Progress = silent,
        triggers: Optional[Sequence[ReversedTrigger]] = None,
    ) -> Classifier:
        """The repaired network. Takes and raises what `steps` does."""
        (step,) = self.steps(classifier, clean, progress, triggers)
        return step.classifier


@dataclass(frozen=True)
class Unlearning(TriggerRepair):
    """Train on clean images, some of them with the reversed trigger under their true label.

    The paper trains on 10 % of the training set, which is about what a defender has; so all clean images are used (--share 0.1
    for a tenth of a whole training set). A few hundred are too few steps for one epoch. Many patches that lie somewhere near the
    true trigger work, and to unlearn one of them leaves the others: so the trigger is reversed several times.

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    stamp: str = "reversed"  # what is stamped: reversed (found by Neural Cleanse), none, or a trigger: square(4)
    stamped: float = 0.2  # share of those images that is stamped, rounded down
    starts: int = 4  # times that the trigger of a flagged label is reversed, from other starts (the paper: 1)
    share: float = 1.0  # share of the clean images that is trained on, drawn at random, rounded down
    epochs: int = 1  # passes over them
    batch_size: int = 32  # images a step
    learning_rate: float = 1e-3  # of the optimizer
    optimizer: str = "adam"  # adam, adadelta, sgd, momentum or nesterov
    target: Optional[int] = None  # the papers' oracle: the label whose trigger is reversed; by default those flagged
    threshold: float = 2.0  # anomaly index above which a label is flagged (the paper: 2)
    schedule: str = "fast"  # of the reversal: fast or original (the released code's constants)
    labels: str = "auto"  # that Neural Cleanse examines: all, scan, search, or auto: all up to 100, else scan
    seed: int = 0  # decides which images are used and stamped, their order, and where the reversal starts

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_seed(self.seed)
        self._cleanse()
        self._training()
        self._named()
        for name in ("stamped", "share"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} is {getattr(self, name)}, expected a share in 0..1")
        if self.starts < 1:
            raise BadInput(f"starts is {self.starts}, expected at least 1")

    def steps(
        self,
        classifier: Classifier,
        clean: ImageSet,
        progress: Progress = silent,
        triggers: Optional[Sequence[ReversedTrigger]] = None,
    ) -> Iterator[Step]:
        """One network; how many labels are flagged, and how many images were used and stamped.

        triggers: of the flagged labels, where a scan has found them already; else they are searched. With another `stamp` than
        `reversed` there is no scan, and training whatever it would find.
        Raises `BadInput` if `clean` does not fit the network, or `share` of it is less than an image.
        """
        classifier.check(clean, "clean images")
        stamps, done = self._named(), {}
        if stamps is None:
            found = self.triggers(classifier, clean, progress) if triggers is None else triggers
            stamps, done = tuple(found), {"flagged": len({trigger.label for trigger in found})}
            if not found:
                yield Step(classifier.clone(), done, "")
                return
        network = classifier.clone()
        images, count = self.lesson(clean, stamps)
        seed_everything(self.seed)
        fit(network, images, self._training(), seed=self.seed, stage="unlearning", progress=progress)
        yield Step(network, {**done, "images": len(images), "stamped": count}, "")

    def triggers(self, classifier: Classifier, clean: ImageSet, progress: Progress = silent) -> list[ReversedTrigger]:
        """As of any such repair, from several starts; none if something else is stamped."""
        return reverse(self._cleanse(), classifier, clean, progress, self.starts) if self._named() is None else []

    def lesson(self, clean: ImageSet, triggers: Sequence[Trigger]) -> tuple[ImageSet, int]:
        """The images that are trained on, of all classes, under their true labels; the first ones are stamped, and how many.

        Of several triggers each stamped image gets one, drawn at random. Raises `BadInput` as `steps` does.
        """
        count = rounded_down(self.share, len(clean))
        if not count:
            raise BadInput(f"share {self.share} of {len(clean)} clean images is less than one")
        generator = np.random.default_rng(self.seed)
        chosen = clean.select(generator.permutation(len(clean))[:count])
        stamped = rounded_down(self.stamped, count) if triggers else 0
        images = chosen.images.copy()
        if stamped:
            images[:stamped] = OneOf(tuple(triggers))(images[:stamped], generator)
        return ImageSet(images, chosen.labels, clean.num_classes), stamped

    def _named(self) -> Optional[tuple[Trigger, ...]]:
        """The triggers that are stamped; None if they have to be reversed."""
        if self.stamp == REVERSED:
            return None
        return () if self.stamp == NONE else (parse(self.stamp),)

    def _training(self) -> Schedule:
        return Schedule(self.optimizer, self.learning_rate, self.batch_size, self.epochs)

    def _cleanse(self) -> NeuralCleanse:
        return NeuralCleanse(
            self.schedule, threshold=self.threshold, labels=self.labels, target=self.target, seed=self.seed
        )
