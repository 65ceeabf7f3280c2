"""Anti-backdoor learning, ABL (Li, Lyu, Koren, Lyu, Li and Ma, NeurIPS 2021): an innocent network from a poisoned set.

A network learns what is poisoned before all else. So it is trained for a few epochs with a loss that may not fall below a
level: where it does, gradient ascent pushes it up again. Poisoned images, learned at once, end with the lowest losses
nevertheless; a share of the set, less than is poisoned, is isolated by them. The network is then trained on all others as ever,
and learns the backdoor from those that were missed; in the end it unlearns the isolated ones, by gradient ascent. Assumed: that
most of the isolated images are poisoned (of an innocent set they are the easiest ones), and that the network has batch
normalisation: one that is sure of them has gradients near zero, and unlearns nothing. Ascent normalises with the figures of the
isolated batch, of which the network is less sure, and leaves these figures behind; in small networks most of what it takes away,
of the backdoor and of accuracy, comes from them and not from the weights.

Paper and released code. The code takes the loss of a batch on average and "floods" it, |L - level| + level. The paper's local
gradient ascent is sign(l - level) l for each image (`--ascent local`); of a batch's mean, as the code has it by the side, it
has the gradient of flooding. The paper trains on the others and unlearns the isolated in the same steps, from epoch 20 of
100; the code does one after the other, as here. Its five epochs of unlearning are four: the first one only tests. It moves,
mirrors and cuts out the images that it is fine-tuned on, which keeps the network from being too sure of the poisoned ones among
them, and unlearns by SGD with momentum, as here. Optimizer, rates, batches and epochs are otherwise those that the network would
have been trained with (of `Schedule`): `cifar10-grid/abl` has the code's. Each stage starts with no momentum; the code's last
one has that of the second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.augmentation import check_moves, moving
from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput, lookup
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.pruning import rounded_down
from keras_backdoor.sifted import Sifted
from keras_backdoor.training import CROSS_ENTROPY, Loss, Monitor, Schedule, fit

STAGES = ISOLATION, FINE_TUNING, UNLEARNING = ("isolation", "fine-tuning", "unlearning")


@dataclass(frozen=True)
class AntiBackdoorLearning:
    """Train a network on a set that may be poisoned: isolate what is learned too fast, train on the rest, unlearn that.

    Made for networks with batch normalisation, and rates for a wide ResNet (WRN-16-1). Use --no-mirror for digits and traffic
    signs.

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    isolation_epochs: int = 10  # passes over all, with the loss that may not fall (the code: 10, the paper: 20)
    ascent: str = "flooding"  # of a batch's mean loss, flooding (the code), or of each image's, local (the paper's)
    level: float = 0.5  # of the loss, below which it is pushed up again (paper and code: 0.5)
    isolation_rate: float = 0.01  # share of the images that is isolated, rounded down (paper and code: 0.01)
    shift: int = 4  # pixels that the others are moved by at most, along both axes, when they are trained on
    mirror: bool = True  # swap left and right of half of them
    hole: int = 2  # side of the black square put onto each of them, in pixels (the code: 2, though it says 3)
    unlearning_epochs: int = 4  # passes over the isolated images, by gradient ascent (the code: 4)
    unlearning_rate: float = 5e-4  # learning rate of these (the code: 5e-4)
    unlearning_optimizer: str = "nesterov"  # adam, adadelta, sgd, momentum or nesterov (the code's)

    stages = STAGES

    def __post_init__(self) -> None:
        """Check the ranges."""
        lookup(self.ascent, ASCENTS, "ascent", f"choose from {', '.join(ASCENTS)}")
        if not 0 < self.level < float("inf"):
            raise BadInput(f"level is {self.level}, expected a loss above 0")
        if not 0 < self.isolation_rate < 1:
            raise BadInput(f"isolation_rate is {self.isolation_rate}, expected a share between 0 and 1")
        if self.isolation_epochs < 1:
            raise BadInput(f"isolation_epochs is {self.isolation_epochs}, expected at least 1")
        check_moves(self.shift, self.hole)
        self._unlearning(1)

    def train(
        self,
        classifier: Classifier,
        poisoned: ImageSet,
        schedule: Schedule,
        *,
        seed: int = 0,
        monitor: Optional[Monitor] = None,
        folder: Optional[Path] = None,
        progress: Progress = silent,
    ) -> Sifted:
        """Train `classifier`, which is new, in place; says which images were isolated.

        Scores are minus the losses, so that isolated images have the highest ones. schedule: what the network would be trained
        with; isolation has its own epochs, at the first rate, and unlearning only the size of its batches. seed, monitor, folder,
        progress: as for `training.fit`, for each of `STAGES`; with a folder, a call with the same arguments after a kill ends
        with the same weights.
        Raises `BadInput` if the images do not fit the network, or the share to be isolated is less than one of them.
        """
        classifier.check(poisoned, "training images")
        count = rounded_down(self.isolation_rate, len(poisoned))
        if not count:
            raise BadInput(f"isolation_rate {self.isolation_rate} of {len(poisoned)} images is less than one")

        def stage(
            name: str,
            images: Union[ImageSet, Callable[[int], ImageSet]],
            how: Schedule,
            loss: Loss = CROSS_ENTROPY,
        ) -> None:
            options: dict[str, Any] = {"seed": seed, "monitor": monitor, "folder": folder, "progress": progress}
            fit(classifier, images, how, stage=name, loss=loss, **options)

        early = replace(schedule, epochs=self.isolation_epochs, steps=())
        stage(ISOLATION, poisoned, early, ASCENTS[self.ascent](self.level))
        found = isolate(losses(classifier, poisoned), count)
        others = poisoned.select(~found.flags)
        stage(FINE_TUNING, moving(others, seed, self.shift, self.mirror, self.hole), schedule)
        stage(UNLEARNING, poisoned.select(found.flags), self._unlearning(schedule.batch_size), unlearning)
        return found

    def _unlearning(self, batch_size: int) -> Schedule:
        return Schedule(self.unlearning_optimizer, self.unlearning_rate, batch_size, self.unlearning_epochs)


def flooding(level: float) -> Loss:
    """|L - level| + level of the mean cross-entropy L of a batch."""

    def loss(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
        mean = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, probabilities))
        return tf.abs(mean - level) + level

    return loss


def local(level: float) -> Loss:
    """sign(l - level) l of the cross-entropy l of each image: local gradient ascent, LGA."""

    def loss(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
        each = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
        return tf.sign(each - level) * each

    return loss


def unlearning(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Minus the cross-entropy of each image."""
    return -keras.losses.sparse_categorical_crossentropy(labels, probabilities)


ASCENTS: dict[str, Callable[[float], Loss]] = {"flooding": flooding, "local": local}


def losses(classifier: Classifier, image_set: ImageSet) -> np.ndarray:
    """Cross-entropy of each image, float64 (N,), as in use: no dropout, batch normalisation as trained.

    From the other classes' probabilities, so that images which the network is sure of are told apart: 1 - 1e-9 is 1 in float32.
    """
    probabilities = classifier.probabilities(image_set.batches()).astype(np.float64)
    own = np.arange(len(image_set)), image_set.labels
    right = np.maximum(probabilities[own], np.finfo(np.float32).tiny)
    probabilities[own] = 0
    return np.log1p(probabilities.sum(1) / right)


def isolate(values: np.ndarray, count: int) -> Sifted:
    """The `count` images with the lowest losses, of float64 (N,), are flagged; scores are minus the losses."""
    flags = np.zeros(len(values), bool)
    flags[np.argsort(values, kind="stable")[:count]] = True
    return Sifted(-values, flags)
