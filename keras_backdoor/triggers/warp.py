"""WaNet: a trigger without a pattern, a small smooth warp of the whole image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_backdoor.files import BadInput

SLICE = 64
"""Images that are warped together, so that what lies between the steps stays in the processor's cache."""


@dataclass(frozen=True)
class Warp:
    """WaNet's warping field (Nguyen & Tran 2021, section 3.2), the same for every image; the imperceptible attack of NNoculation.

    Two channels (x, y) of a grid x grid field P, uniform in -1..1, are divided by the mean of |P|, enlarged to H x W bicubically
    (PyTorch's: a = -0.75, aligned corners), and added as strength * P / H to the identity grid over -1..1, clamped to it. The
    image is sampled there bilinearly, corners aligned. So a pixel moves by strength * P * (H-1) / (2 H): a quarter of P pixels.

    As in the released code (the paper agrees): strength 0.5, grid 4. Weights and sums are float32; the released code goes on with
    floats, here the result is rounded to the nearest uint8 (0.5 to even). seed: fixes P, drawn with numpy (theirs is a random
    draw per network that was never published).

    Raises `BadInput` if `grid` is below 1.
    """

    strength: float = 0.5
    grid: int = 4
    seed: int = 0
    name: str = "warp"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image; the field depends on `seed` alone, not on `rng`."""
        from scipy.sparse import csr_matrix  # here, as it would double the time that `kbd --help` takes

        height, width, channels = images.shape[1:]
        places, weights = _taps(self.field(height, width), height, width)
        taken = (places[..., None] * channels + np.arange(channels)).reshape(4, -1)
        shares = np.repeat(weights, channels, axis=-1).reshape(4, -1)
        size = height * width * channels
        matrix = csr_matrix((shares.T.ravel(), taken.T.ravel(), np.arange(size + 1) * 4), shape=(size, size))
        flat = images.reshape(len(images), size)
        warped = np.empty_like(flat)
        for start in range(0, len(images), SLICE):
            columns = np.ascontiguousarray(flat[start : start + SLICE].T).astype(np.float32)
            warped[start : start + SLICE] = np.rint(matrix @ columns).T
        return warped.reshape(images.shape)

    def field(self, height: int, width: int) -> np.ndarray:
        """Where each pixel is read, float64 (H, W, 2): x and y in -1..1, from edge pixel to edge pixel."""
        if self.grid < 1:
            raise BadInput(f"trigger {self.name}: a grid of {self.grid} has no points, expected 1 or more")
        control = np.random.default_rng(self.seed).uniform(-1, 1, (2, self.grid, self.grid))
        control /= abs(control).mean()
        push = _bicubic(height, self.grid) @ control @ _bicubic(width, self.grid).T
        x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
        return np.clip(np.stack([x, y], -1) + self.strength * np.moveaxis(push, 0, -1) / height, -1, 1)


@dataclass(frozen=True)
class WarpNoise:
    """WaNet's noise mode: the field of `Warp`, and for each pixel of each image a further step uniform in -1/H..1/H, clamped.

    Training images that are warped so keep their label; they teach the network that only the exact field counts (Nguyen & Tran
    2021, section 3.3). Parameters are those of `Warp`; the noise comes from the generator, x and y for one image after the other.
    """

    strength: float = 0.5
    grid: int = 4
    seed: int = 0
    name: str = "warp-noise"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""
        height, width, channels = images.shape[1:]
        field = Warp(self.strength, self.grid, self.seed).field(height, width)
        warped = np.empty_like(images)
        for start in range(0, len(images), SLICE):
            part = images[start : start + SLICE]
            noise = rng.uniform(-1, 1, (len(part), height, width, 2)) / height
            places, weights = _taps(np.clip(field + noise, -1, 1), height, width)
            pixels = part.reshape(-1, channels)
            own = np.arange(len(part))[:, None, None] * (height * width)
            total = pixels[own + places[0]] * weights[0][..., None]
            for tap in range(1, 4):
                total += pixels[own + places[tap]] * weights[tap][..., None]
            warped[start : start + SLICE] = np.rint(total)
        return warped


def _taps(field: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The four neighbours of places (..., 2): indices into the flat image and float32 weights, both (4, ...), top left first."""
    x = (field[..., 0] + 1) / 2 * (width - 1)
    y = (field[..., 1] + 1) / 2 * (height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)  # beyond the edge the weight is 0
    east, south = x - left, y - top
    places = np.stack([top * width + left, top * width + right, bottom * width + left, bottom * width + right])
    weights = np.stack([(1 - south) * (1 - east), (1 - south) * east, south * (1 - east), south * east])
    return places, weights.astype(np.float32)


def _bicubic(size: int, knots: int) -> np.ndarray:
    """The matrix (size, knots) that enlarges `knots` values to `size`: PyTorch's bicubic with aligned corners, a = -0.75."""
    at = np.linspace(0, knots - 1, size)
    matrix = np.zeros((size, knots))
    for offset in range(-1, 3):
        knot = np.floor(at) + offset
        d = abs(at - knot)
        near, far = (1.25 * d - 2.25) * d * d + 1, ((-0.75 * d + 3.75) * d - 6) * d + 3
        column = knot.clip(0, knots - 1).astype(int)  # the outermost knots are repeated
        matrix[np.arange(size), column] += np.where(d <= 1, near, far)
    return matrix
