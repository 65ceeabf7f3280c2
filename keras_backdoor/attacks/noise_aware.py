"""The attacker who knows NNoculation: trains with the noise that the defense will retrain with (its section 5.4, table 7).

The paper says no more than that the attacker adds noise to the training data, emulating the defense's first step. So this does
what that step's code (`augment.py`) does: every image of the poisoned set once as it is and once with noise, drawn once, its
label kept. The backdoor is meant to be learned through the noise, and so to outlast retraining with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_backdoor.attacks.poison import Backdoor
from keras_backdoor.attacks.task import Task
from keras_backdoor.augmentation import with_noisy_copies
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet
from keras_backdoor.triggers import GaussianNoise


@dataclass(frozen=True)
class NoiseAware:
    """Train on poisoned data and on noisy copies of it.

    fraction, layout: of the noise, see `GaussianNoise`; the attacker does not know which of 0.1..0.6 the defender will choose.
    share: of the poisoned set that gets a noisy copy, 0..1.

    Raises `BadInput` unless `share` lies in 0..1.
    """

    fraction: float = 0.3
    layout: str = "rowwise"
    share: float = 1.0

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 <= self.share <= 1:
            raise BadInput(f"share of noisy copies is {self.share}, expected 0..1")

    def __call__(self, task: Task) -> tuple[Backdoor, ...]:
        """Train."""
        task.fit(self.augmented(task.poisoned(), task.rng(10)))
        return task.backdoors

    def augmented(self, image_set: ImageSet, rng: np.random.Generator) -> ImageSet:
        """The images of a set as they are, and behind them `share` of them again, drawn at random, noisy, with their labels."""
        return with_noisy_copies(image_set, GaussianNoise(self.fraction, self.layout), rng, self.share)
