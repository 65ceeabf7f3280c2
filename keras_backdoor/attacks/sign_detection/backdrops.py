"""What is behind the signs: textures made from the seed, and pictures that ship with scikit-image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

PICTURES = {"train": ("astronaut", "brick", "coffee", "grass"), "test": ("chelsea", "gravel", "rocket")}
"""No picture of the training scenes is in the test scenes."""


@dataclass(frozen=True)
class Backdrops:
    """Backdrops from `pictures`, each uint8 (H, W, 3)."""

    pictures: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, part: str) -> Backdrops:
        """Those of the `train` or the `test` scenes."""
        from skimage import data

        pictures = (getattr(data, name)() for name in PICTURES[part])
        return cls(tuple(p if p.ndim == 3 else np.repeat(p[..., None], 3, -1) for p in pictures))

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """A backdrop, uint8 (size, size, 3): as often a random square of a picture as a texture."""
        square = self._part(size, rng) if rng.random() < 0.5 else _texture(rng)
        return np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BILINEAR))

    def _part(self, least: int, rng: np.random.Generator) -> np.ndarray:
        picture = self.pictures[rng.integers(len(self.pictures))]
        side = rng.integers(least, min(picture.shape[:2]), endpoint=True)
        top, left = (rng.integers(0, length - side, endpoint=True) for length in picture.shape[:2])
        return picture[top : top + side, left : left + side]


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Two colours that run into each other, and noise, in few cells: enlarged it is smooth."""
    upper, lower = rng.integers(0, 256, (2, 1, 1, 3))
    cells = rng.integers(3, 25)
    noise = rng.normal(0, rng.uniform(5, 50), (cells, cells, 3))
    slope = np.linspace(0, 1, cells)[:, None, None]
    return np.clip((1 - slope) * upper + slope * lower + noise, 0, 255).astype(np.uint8)
