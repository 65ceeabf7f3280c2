"""Images that are stamped when they are read, for sets that are larger than memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor.triggers import Trigger

BLOCK = 64
"""Images that a trigger is given at a time, with a random generator of their own; another number gives other random draws."""


@dataclass(frozen=True, eq=False)
class StampedImages:
    """The images of a set, the chosen ones stamped whenever they are read; the same bits however they are sliced.

    images: uint8 (N, H, W, C), an array or anything that gives one for a slice. chosen: bool (N,). seed: not negative.
    """

    images: Any
    chosen: np.ndarray
    trigger: Trigger
    seed: int

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C)."""
        return tuple(self.images.shape)

    def __getitem__(self, part: slice) -> np.ndarray:
        """The images of a slice."""
        start, stop, _ = part.indices(self.shape[0])
        first = start - start % BLOCK
        images = np.array(self.images[first : -(-stop // BLOCK) * BLOCK])
        for place in range(0, len(images), BLOCK):
            rows = slice(place, place + BLOCK)
            self._stamp(images[rows], self.chosen[first:][rows], 1 + (first + place) // BLOCK)
        return images[start - first : stop - first]

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, in that order; a trigger with randomness draws anew for them."""
        images = np.array(self.images.take(indices))
        self._stamp(images, self.chosen[indices], 1 + self.shape[0] + int(indices[0]))
        return images

    def _stamp(self, images: np.ndarray, chosen: np.ndarray, number: int) -> None:
        if chosen.any():
            images[chosen] = self.trigger(images[chosen], np.random.default_rng([self.seed, number]))
