"""The repair of generative modelling: the network is trained to ignore all the triggers of a distribution, not one of them.

Paper and released code agree: 10 passes over clean images, of which one in a hundred has a patch and keeps its true label. The
generators of the staircase take turns, one a pass, the highest level first. Patches are drawn anew for every pass. The code's SGD
has no weight decay; that of `momentum` shrinks weights by 5e-6 of themselves a step, 3 in a thousand in all.

Differences: the code places the patches of a batch together, and never in the last row or column of places, an oversight; here
each image has a place of its own, the last ones among them. The authors' attack places its trigger like that, too. One that works
in a single place is not found at random ones, and needs --at.

Published (tables 3 and 5 of the papers that compare it, with the label given): clean accuracy 93.65 %, attack success 5.58 % on
GTSRB-FSA, 77.64 and 1.88 % on YouTube-SG; it fails on MNIST-AAA (time), and the rest are out of its scope. Its authors: attack
success of 51 triggers on CIFAR-10 from 92.3-99.8 % to 1.2-5.9 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.generative_modeling.detection import verdict
from keras_backdoor.defenses.generative_modeling.distribution import TriggerDistribution
from keras_backdoor.defenses.generative_modeling.staircase import Search, Staircase, check_beta
from keras_backdoor.defenses.kept import STATE, Kept
from keras_backdoor.defenses.step import Step, Stepwise
from keras_backdoor.files import BadInput, PathLike
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.training import Schedule, fit, forget_checkpoint, seed_everything
from keras_backdoor.triggers import OneOf

REMOVAL = "removal"


@dataclass(frozen=True)
class GenerativeModeling(Search, Stepwise):
    """Train on clean images, a few of them with triggers under their true label, of all kinds that the network obeys.

    Generators learn to draw these triggers, square patches of known size (--size), for the labels that generative-modeling-scan
    flags, or for one that is known (--target). A trigger that works in one place alone needs --at. If no label is flagged, the
    network is left as it is.

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    beta: tuple[float, ...] = (0.9, 0.8, 0.5)  # levels of the staircase, a generator each; repeatable
    stamped: float = 0.01  # share of the images that have a trigger in a pass
    epochs: int = 10  # passes over the clean images; the generators take turns
    batch_size: int = 128  # images a step of these
    learning_rate: float = 1e-3  # of the optimizer
    optimizer: str = "momentum"  # adam, adadelta, sgd, momentum or nesterov

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        self._schedule()
        if not self.beta:
            raise BadInput("no beta is given")
        for beta in self.beta:
            check_beta(beta)
        if not 0 <= self.stamped <= 1:
            raise BadInput(f"stamped is {self.stamped}, expected a share in 0..1")

    def steps(
        self,
        classifier: Classifier,
        clean: ImageSet,
        progress: Progress = silent,
        folder: Optional[PathLike] = None,
    ) -> Iterator[Step]:
        """One network; how many labels were flagged, and which one has the strongest distribution, and how strong that is.

        folder: if given, what is found is kept there, and checkpoints of the training (`kept.Kept`).
        Raises `BadInput` as `Staircase` does, or if there is no label `target`.
        """
        place = None if folder is None else Path(folder)
        staircase = Staircase(classifier, clean, self, place and place / STATE)
        top = max(self.beta)
        found = staircase.find([(label, top) for label in staircase.labels], progress)
        seen = verdict(found, clean, self.bound)
        flagged = seen.flagged if self.target is None else (self.target,)
        strongest = int(np.nanargmax(seen.strengths))
        done = {"flagged": len(flagged), "strongest": strongest, "strength": seen.score}
        if not flagged:
            yield Step(classifier.clone(), done, "")
            return
        found = staircase.find([(label, beta) for beta in self.beta for label in flagged], progress)
        levels = [found[start : start + len(flagged)] for start in range(0, len(found), len(flagged))]
        kept = Kept(folder, classifier)
        network = kept.get(REMOVAL, lambda: self._remove(classifier, clean, levels, place, progress))
        if place:
            forget_checkpoint(place, REMOVAL)
        yield Step(network, done, "")

    def _remove(
        self,
        suspect: Classifier,
        clean: ImageSet,
        levels: Sequence[Sequence[TriggerDistribution]],
        place: Optional[Path],
        progress: Progress,
    ) -> Classifier:
        """A copy that is trained. levels: the distributions of the flagged labels, of which each stamped image gets one."""
        seed_everything(self.seed)
        network, images = suspect.clone(), clean.in_memory().images

        def of_epoch(epoch: int) -> ImageSet:
            rng = np.random.default_rng([self.seed, epoch])
            chosen, lesson = rng.random(len(clean)) < self.stamped, images.copy()
            if chosen.any():
                lesson[chosen] = OneOf(tuple(levels[epoch % len(levels)]))(images[chosen], rng)
            return ImageSet(lesson, clean.labels, clean.num_classes)

        fit(network, of_epoch, self._schedule(), seed=self.seed, stage=REMOVAL, folder=place, progress=progress)
        return network

    def _schedule(self) -> Schedule:
        return Schedule(self.optimizer, self.learning_rate, self.batch_size, self.epochs)
