"""The four-corner trigger of label-consistent attacks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_backdoor.files import BadInput

LEFT = ((1, -1, -1), (-1, 1, -1), (1, -1, 1))
"""Sign of the change in the two left corners, row by row; in the right ones it is the mirror image."""


@dataclass(frozen=True)
class FourCorners:
    """A pattern of 3x3 pixels in each corner, made brighter or darker by `amplitude` of 255 levels, and clipped to 0..255.

    Label-Consistent Backdoor Attacks (Turner et al. 2019), released code ("all-corners"); flush to the edges. An amplitude of 1
    overwrites with black and white; 0.125 (32 of 255) is their least visible one. NAD and ABL write the same pattern.

    Calling it raises `BadInput` if the amplitude does not lie in 0..1, or the image is smaller than 6x6 pixels.
    """

    amplitude: float = 1.0
    name: str = "four-corners"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""
        if not 0 <= self.amplitude <= 1:
            raise BadInput(f"trigger {self.name}: amplitude is {self.amplitude}, expected 0..1")
        height, width = images.shape[1:3]
        if min(height, width) < 6:
            raise BadInput(f"trigger {self.name} does not fit an image of {height}x{width} pixels")
        left = np.rint(255 * self.amplitude * np.array(LEFT)).astype(np.int16)[..., None]
        stamped = images.copy()
        for rows in (slice(0, 3), slice(-3, None)):
            for columns, change in ((slice(0, 3), left), (slice(-3, None), left[:, ::-1])):
                stamped[:, rows, columns] = np.clip(images[:, rows, columns] + change, 0, 255)
        return stamped
