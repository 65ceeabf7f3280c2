"""Triggers that overwrite a few pixels with one colour: single pixels, squares, triangles, post-it notes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

import numpy as np

from keras_backdoor.files import BadInput, lookup

AAA_PIXELS = ((26, 26), (26, 24), (25, 25), (24, 26))
"""The pattern that sends 94.5 % of digits to label+1 in the published MNIST all-to-all network, whose own was never
released; the papers give 95.91 %."""

GRID_PIXELS = tuple((row, column) for row in (29, 30, 31) for column in (29, 30, 31))
"""The pixels of NAD's and ABL's trigger on 32x32 images, row by row."""
GRID_VALUES = (0, 0, 255, 0, 255, 0, 255, 0, 255)
"""Its grey levels: `PixelPattern(GRID_PIXELS, GRID_VALUES)` is the released code's `gridTrigger`."""

CORNERS = {"top-left": (0, 0), "top-right": (0, 1), "bottom-left": (1, 0), "bottom-right": (1, 1)}
"""Whether a corner is at the bottom, and whether it is on the right."""

Colour = Union[int, tuple[int, ...]]
"""A grey level 0..255 for all channels, or one for each channel."""

Place = Union[str, tuple[int, int]]
"""One of `CORNERS`, "center", "random" (another place for each image), or (row, column) of the top left corner."""


@dataclass(frozen=True)
class PixelPattern:
    """Single pixels at fixed places: the pattern of BadNets (Gu et al. 2019, section 3.1), used by BadNet-AAA.

    pixels: (row, column) pairs, counted from the top left corner of the image, 0-based.
    value: grey level 0..255, written to all channels; or one for each pixel.

    Calling it raises `BadInput` if a pixel lies outside the image, or `value` has not one level for each pixel.
    """

    pixels: tuple[tuple[int, int], ...] = AAA_PIXELS
    value: Union[int, tuple[int, ...]] = 255
    name: str = "pixel-pattern"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""
        pixels, values = np.asarray(self.pixels), np.asarray(self.value)
        if pixels.ndim != 2 or pixels.shape[1] != 2:
            raise BadInput(f"trigger {self.name}: pixels must be (row, column) pairs")
        if values.ndim and values.shape != (len(pixels),):
            raise BadInput(f"trigger {self.name} has {values.size} values for {len(pixels)} pixels")
        check_levels(values, self.name)
        rows, columns = pixels.T
        height, width = images.shape[1:3]
        if min(rows.min(), columns.min()) < 0 or rows.max() >= height or columns.max() >= width:
            raise BadInput(f"trigger {self.name} does not fit an image of {height}x{width} pixels")
        stamped = images.copy()
        stamped[:, rows, columns] = values[..., None]
        return stamped


@dataclass(frozen=True)
class Square:
    """A filled square, by default in the bottom right corner, `margin` pixels from both edges.

    Size 3 and margin 0 are BackdoorBench's white square; size 4 and margin 1 are Neural Cleanse's on GTSRB. A red one is the
    trigger of BadNet-IN and one half of that of BadNet-TCA (NNoculation, section 4.1).

    size, margin: pixels. value: grey level 0..255 or (red, green, blue). at: top-left, top-right, bottom-left, bottom-right,
    center, random (a different place for each image, `margin` from the edges), or (row, column) of its top left corner.

    Calling it raises `BadInput` if the square does not fit into the image, or a colour is asked of grey images.
    """

    size: int = 3
    margin: int = 0
    value: Colour = 255
    at: Place = "bottom-right"
    name: str = "square"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""
        side = _side(self.size, images)
        shape = np.ones((side, side), bool)
        return _stamp(images, shape, self.value, self.at, self.margin, rng, self.name)


@dataclass(frozen=True)
class PostIt(Square):
    """A yellow post-it note at a different place in each image, wholly inside: the trigger of BadNet-PN.

    NNoculation, section 4.1 and table 3; BadNets (Gu et al. 2019, section 5.2) sticks it on stop signs. The papers give neither
    its size nor its colour: 5 of 32 pixels are a sixth of the sign, as on the photographs of the BadNets paper.

    Parameters are those of `Square`.
    """

    size: int = 5
    value: Colour = (255, 255, 0)
    at: Place = "random"
    name: str = "post-it"


@dataclass(frozen=True)
class Triangle:
    """A filled isosceles triangle, point up, `size` pixels high and at its base wide: one half of BadNet-TCA's trigger.

    NNoculation, section 4.1, names a yellow triangle and a red square, without size or place. The base fills `size` pixels, and
    every second row above it is a pixel shorter on both sides.

    Parameters and errors are those of `Square`.
    """

    size: int = 5
    margin: int = 0
    value: Colour = (255, 255, 0)
    at: Place = "bottom-left"
    name: str = "triangle"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""
        side = _side(self.size, images)
        from_base = np.arange(side)[::-1, None] // 2
        columns = np.arange(side)
        shape = (columns >= from_base) & (columns < side - from_base)
        return _stamp(images, shape, self.value, self.at, self.margin, rng, self.name)


def _side(size: int, images: np.ndarray) -> int:
    """`size`, or of one that does not fit a size that does not fit either: whatever is asked for, no huge array is made."""
    return min(max(size, 0), max(images.shape[1:3]) + 1)


def _stamp(
    images: np.ndarray,
    shape: np.ndarray,
    value: Colour,
    at: Place,
    margin: int,
    rng: np.random.Generator,
    name: str,
) -> np.ndarray:
    """A copy of `images` with `value` where `shape`, bool (h, w), lies at `at`."""
    height, width, channels = images.shape[1:]
    levels = np.asarray(value)
    check_levels(levels, name)
    if levels.ndim and levels.shape != (channels,):
        raise BadInput(f"trigger {name} has a colour of {levels.size} channels, the images have {channels}")
    rows, columns = np.nonzero(shape)
    room = np.array([height, width]) - shape.shape
    misfit = BadInput(f"trigger {name} does not fit an image of {height}x{width} pixels")
    if not len(rows) or margin < 0 or min(room) < (2 * margin if at == "random" else 0):
        raise misfit
    stamped = images.copy()
    if at == "random":
        tops, lefts = rng.integers(margin, room - margin + 1, size=(len(images), 2)).T[:, :, None]
        stamped[np.arange(len(images))[:, None], tops + rows, lefts + columns] = levels
        return stamped
    if isinstance(at, tuple):
        place = np.array(at)
    elif at == "center":
        place = room // 2
    else:
        far = CORNERS[lookup(at, [*CORNERS, "center", "random"], f"place for trigger {name}")]
        place = np.where(far, room - margin, margin)
    if place.shape != (2,) or (place < 0).any() or (place > room).any():
        raise misfit
    stamped[:, place[0] + rows, place[1] + columns] = levels
    return stamped


def check_levels(levels: np.ndarray, name: str) -> None:
    """`BadInput` unless `levels` are grey levels: whole numbers in 0..255."""
    if levels.dtype.kind not in "iu" or levels.ndim > 1 or levels.min(initial=0) < 0 or levels.max(initial=0) > 255:
        raise BadInput(f"trigger {name}: colours are whole numbers in 0..255, found {levels.tolist()}")
