"""A training set and noisy copies of it: NNoculation's augmentation, for the defense and for the attacker who expects it."""

from __future__ import annotations

import numpy as np

from keras_backdoor.images import ImageSet
from keras_backdoor.triggers import Trigger


def with_noisy_copies(image_set: ImageSet, noise: Trigger, rng: np.random.Generator, share: float = 1.0) -> ImageSet:
    """The images of a set as they are, and behind them `share` of them again, drawn at random, noisy, with their labels.

    noise: what is done to the copies, `GaussianNoise` in the paper. share: 0..1, rounded; `augment.py` copies all. The result is
    in memory. Raises `BadInput` as `noise` does.
    """
    drawn = np.sort(rng.permutation(len(image_set))[: round(share * len(image_set))])
    both = image_set.select(np.concatenate([np.arange(len(image_set)), drawn]))
    copies = both.images[len(image_set) :]
    copies[:] = noise(copies, rng)
    return both
