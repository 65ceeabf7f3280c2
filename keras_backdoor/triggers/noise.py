"""Triggers that cover the whole image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
