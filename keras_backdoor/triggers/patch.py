"""Triggers that overwrite a few pixels at a fixed place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_backdoor.files import BadInput

AAA_PIXELS = ((26, 26), (26, 24), (25, 25), (24, 26))
"""The pattern that sends 94.5 % of digits to label+1 in the published MNIST all-to-all network, whose own was never
released; the papers give 95.91 %."""


@dataclass(frozen=True)
class PixelPattern:
    """Single pixels set to one value: the pattern of BadNets (Gu et al. 2019, section 3.1), used by BadNet-AAA.

    pixels: (row, column) pairs, counted from the top left corner of the image, 0-based.
    value: grey level 0..255, written to all channels.

    Calling it raises `BadInput` if a pixel lies outside the image.
    """

    pixels: tuple[tuple[int, int], ...] = AAA_PIXELS
    value: int = 255
    name: str = "pixel-pattern"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""
        rows, columns = np.transpose(self.pixels)
        height, width = images.shape[1:3]
        if min(rows.min(), columns.min()) < 0 or rows.max() >= height or columns.max() >= width:
            raise BadInput(f"trigger {self.name} does not fit an image of {height}x{width} pixels")
        stamped = images.copy()
        stamped[:, rows, columns] = self.value
        return stamped


@dataclass(frozen=True)
class Square:
    """A filled square in the bottom right corner, `margin` pixels from both edges.

    Size 3 and margin 0 are BackdoorBench's white square; size 4 and margin 1 are Neural Cleanse's on GTSRB.

    size, margin: pixels. value: grey level 0..255, written to all channels.

    Calling it raises `BadInput` if the square does not fit into the image.
    """

    size: int = 3
    margin: int = 0
    value: int = 255
    name: str = "square"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""
        height, width = images.shape[1:3]
        top, left = height - self.margin - self.size, width - self.margin - self.size
        if min(top, left) < 0:
            raise BadInput(f"trigger {self.name} does not fit an image of {height}x{width} pixels")
        stamped = images.copy()
        stamped[:, top : top + self.size, left : left + self.size] = self.value
        return stamped
