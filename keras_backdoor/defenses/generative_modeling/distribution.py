"""What is found for a label: a distribution of patches that turn images into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

import numpy as np

from keras_backdoor.defenses.generative_modeling.networks import NOISE, Arrays, Generators
from keras_backdoor.files import BadInput, lookup
from keras_backdoor.triggers.patch import CORNERS

RANDOM, CENTER = "random", "center"


@dataclass(frozen=True)
class Spot:
    """Where patches lie.

    size: their side in pixels. at: random, center, one of `patch.CORNERS`, or ROW,COLUMN of the top left corner.
    Raises `BadInput` if it is none of these.
    """

    size: int
    at: str = RANDOM

    def __post_init__(self) -> None:
        """Check size and place."""
        if self.size < 1:
            raise BadInput(f"size is {self.size}, expected a patch of at least 1 pixel")
        self._place()

    def places(self, image_shape: tuple[int, ...], count: int, rng: np.random.Generator) -> np.ndarray:
        """Row and column of the top left corners of `count` patches, int64 (count, 2).

        Raises `BadInput` if the patch does not fit into such images there.
        """
        place, room = self._place(), np.array(image_shape[:2]) - self.size
        if min(room) < 0 or (not isinstance(place, str) and (place > room).any()):
            raise BadInput(
                f"a patch of {self.size}x{self.size} pixels at {self.at} does not fit an image of "
                f"{image_shape[0]}x{image_shape[1]}"
            )
        if isinstance(place, str) and place == RANDOM:
            return rng.integers(0, room + 1, (count, 2))
        if isinstance(place, str):
            place = room // 2 if place == CENTER else np.where(CORNERS[place], room, 0)
        return np.tile(place, (count, 1))

    def _place(self) -> Union[str, np.ndarray]:
        """The name of the place, or row and column."""
        row, _, column = self.at.partition(",")
        if row.isdecimal() and column.isdecimal():
            return np.array([int(row), int(column)])
        names = (RANDOM, CENTER, *CORNERS)
        return lookup(self.at, names, "place (at)", f"choose from {', '.join(names)}, or give ROW,COLUMN")


@dataclass(frozen=True, eq=False)
class TriggerDistribution:
    """Patches that a generator draws for a label. It is a `Trigger`: each image gets another patch, in a place of its own.

    beta: the level of the staircase. generator: its weights. strength: share of the clean images of other classes that patches
    drawn from it turned into the label, 0..1.
    """

    label: int
    beta: float
    spot: Spot
    generator: Arrays
    strength: float

    @property
    def name(self) -> str:
        """For tables and files."""
        return f"generated-{self.label}-{self.beta:g}"

    def patches(self, count: int, channels: int, rng: np.random.Generator) -> np.ndarray:
        """Patches, uint8 (count, size, size, channels)."""
        noise = rng.random((1, count, NOISE), np.float32)
        drawn = Generators([self.generator])(noise, training=False)[0].numpy()
        return np.rint(255 * drawn).astype(np.uint8).reshape(count, self.spot.size, self.spot.size, channels)

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image, uint8 (N, H, W, C). Raises `BadInput` if the patches do not fit."""
        stamped, side = images.copy(), np.arange(self.spot.size)
        rows, columns = (self.spot.places(images.shape[1:], len(images), rng)[..., None] + side).transpose(1, 0, 2)
        patches = self.patches(len(images), images.shape[-1], rng)
        stamped[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None]] = patches
        return stamped
