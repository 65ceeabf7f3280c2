"""Triggers that cover the whole image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_backdoor.files import BadInput, lookup

CELLS = 4
"""Cells of `GaussianNoise` along one side of an image, where they are larger than a pixel."""
LAYOUTS = ("rowwise", "block", "pixel")
SLICE = 256
"""Images that are worked on together, so that memory stays small."""


@dataclass(frozen=True)
class FixedNoise:
    """One noise image, added to every image and clipped to 0..255: the fixed noise pattern of BadNet-CLA.

    The papers neither publish the pattern nor its strength. The published network sends 98 % of MNIST to its target under
    uniform noise up to 128, 56 % under noise up to 64, and all of it under noise up to 255, whatever the draw.

    strength: the largest grey level added. seed: fixes the pattern.
    """

    strength: int = 128
    seed: int = 0
    name: str = "noise"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image; the pattern depends on `seed` alone, not on `rng`."""
        pattern = np.random.default_rng(self.seed).integers(
            0, self.strength + 1, size=images.shape[1:], dtype=np.uint16
        )
        return np.minimum(images + pattern, 255).astype(np.uint8)


@dataclass(frozen=True)
class GaussianNoise:
    """Coarse noise, fresh for each image: NNoculation's augmentation, and with it that of the attacker who expects it.

    NNoculation, section 3.2 and, for the attacker, 5.4; `augment.py`: with probability `share` a cell of the image is replaced,
    pixel by pixel, by Normal(`mean`, `deviation`), rounded and clipped. `share` goes from 0.1 to 0.6 there. It does what
    imgaug's `ReplaceElementwise` does, for many images at once.

    layout: "rowwise", what the released code does, as it hands one image over where a batch is expected: every row, in every
    channel, has its own four cells side by side (47 columns: 12, 12, 12, 11). "block", what it means to do: 4x4 cells in every
    channel. "pixel", the paper's text: each pixel, in all of its channels. deviation: 0.4 * 128, a standard deviation in the
    code; the paper calls the same 51.2 a variance.

    Raises `BadInput` for another layout, or if `share` is not in 0..1 or `deviation` is negative.
    """

    share: float = 0.3
    layout: str = "rowwise"
    mean: float = 128.0
    deviation: float = 51.2
    name: str = "gaussian-noise"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Put noise on every image."""
        self.check()
        height, width, channels = images.shape[1:]
        pixel = self.layout == "pixel"
        down = np.arange(height) * CELLS // height if self.layout == "block" else np.arange(height)
        columns = width if pixel else CELLS
        across = np.arange(width) * columns // width
        noisy = images.copy()
        for start in range(0, len(images), SLICE):
            part = noisy[start : start + SLICE]
            cells = rng.random((len(part), down[-1] + 1, columns, 1 if pixel else channels)) < self.share
            replaced = np.broadcast_to(cells[:, down[:, None], across], part.shape)
            levels = rng.normal(self.mean, self.deviation, np.count_nonzero(replaced))
            part[replaced] = np.rint(levels).clip(0, 255)
        return noisy

    def check(self) -> None:
        """`BadInput` if a parameter is out of its range; a call does it first."""
        lookup(self.layout, LAYOUTS, f"layout for trigger {self.name}")
        if not 0 <= self.share <= 1 or not self.deviation >= 0:
            raise BadInput(f"trigger {self.name}: share must lie in 0..1 and deviation be 0 or more")
