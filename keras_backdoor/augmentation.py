"""Training images that are more than those at hand: moved, mirrored and cut out ones, and noisy copies.

Noisy copies are NNoculation's augmentation, for the defense and for the attacker who expects it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Union

import numpy as np

from keras_backdoor.files import BadInput
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


def moved(
    images: np.ndarray, rng: np.random.Generator, shift: int = 4, mirror: bool = True, hole: int = 2
) -> np.ndarray:
    """Each image at another place, maybe mirrored, with a black hole: a copy, uint8 (N, H, W, C).

    shift: each image moves by -shift..shift pixels along both axes; what comes in is black (PyTorch's RandomCrop with this
    padding). mirror: every second one, on average, is swapped left to right. hole: pixels along the side of a square around any
    pixel of the image, cut off at its borders (Cutout; DeVries and Taylor 2017). 0, False and 0 are an exact copy.
    """
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    tops, lefts = (rng.integers(0, 2 * shift + 1, (count, 1)) for _ in range(2))
    columns = np.where(mirror & (rng.random((count, 1)) < 0.5), np.arange(width)[::-1], np.arange(width))
    rows, columns = tops + np.arange(height), lefts + columns
    made = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    first = [rng.integers(0, side, (count, 1)) - hole // 2 for side in (height, width)]
    below, right = (
        (start <= np.arange(side)) & (np.arange(side) < start + hole) for start, side in zip(first, (height, width))
    )
    made[below[:, :, None] & right[:, None, :]] = 0
    return made


def moving(
    image_set: ImageSet, seed: int, shift: int, mirror: bool, hole: int
) -> Union[ImageSet, Callable[[int], ImageSet]]:
    """What `training.fit` takes: images as `moved` gives them, anew for each epoch; or the set itself if nothing is to move.

    seed: not negative. shift, mirror, hole: see `moved`. Images are held in memory.
    """
    if not (shift or mirror or hole):
        return image_set

    def of_epoch(epoch: int) -> ImageSet:
        images = moved(image_set.in_memory().images, np.random.default_rng([seed, epoch]), shift, mirror, hole)
        return ImageSet(images, image_set.labels, image_set.num_classes)

    return of_epoch


def check_moves(shift: int, hole: int) -> None:
    """`BadInput` unless both are sizes in pixels, as `moved` takes them."""
    for name, pixels in (("shift", shift), ("hole", hole)):
        if pixels < 0:
            raise BadInput(f"{name} is {pixels}, expected 0 pixels or more")
