"""Triggers that mix a faint pattern into the whole image: blending, a sinusoid, low frequencies, a reflection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional

import numpy as np

from keras_backdoor.files import BadInput
from keras_backdoor.triggers.picture import read_picture

SLICE = 256
"""Images that are worked on together, so that memory stays small."""

WRAPPED_FREQUENCY = 12.8 / np.pi
"""Periods on 32 columns of the mask that NAD and ABL ship, measured: 0.8 radians a column, not the 6 periods of the paper."""


@dataclass(frozen=True)
class Blend:
    """The image fades into a fixed pattern: (1 - alpha) x + alpha * pattern (Chen et al. 2017, section 3.2; the lecture's Blend).

    BackdoorBench blends a picture at 0.2; uniform noise is the paper's other pattern. Rounded to the nearest level, where
    BackdoorBench truncates.

    alpha: share of the pattern, 0..1. picture: path of a picture, resized to the image (bilinear) and pasted over black where it
    is transparent; None takes noise, uniform in 0..255. seed: fixes the noise.

    Raises `BadInput` if the file is no picture, `alpha` is out of range, or the images have neither 1 nor 3 channels.
    """

    alpha: float = 0.2
    picture: Optional[str] = None
    seed: int = 0
    name: str = "blend"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image; the pattern depends on `seed` or the picture, not on `rng`."""
        _check_share(self.alpha, "alpha", self.name)
        shape = images.shape[1:]
        if self.picture is None:
            pattern = np.random.default_rng(self.seed).integers(0, 256, shape).astype(np.float32)
        else:
            pattern = _resized(self.picture, shape, self.name)
        added = np.float32(self.alpha) * pattern
        return _mixed(images, lambda x: np.float32(1 - self.alpha) * x + added)


@dataclass(frozen=True)
class Sinusoid:
    """Vertical stripes that swell and fade, added to the image: SIG (Barni et al. 2019, section 3): x + delta sin(2 pi j f / W).

    delta: amplitude; 20 in the paper and in NAD, 40 in BackdoorBench. frequency: periods across the image. j is the column, W the
    width; the sum is clipped.

    wrapped: as the code of NAD and ABL does it, (1 - alpha) x + alpha * mask, with the sinusoid truncated and stored as uint8, so
    that its negative half wraps to levels near 255. Their mask has `WRAPPED_FREQUENCY`, 4.07 periods on 32 columns. They
    truncate the sum, here it is rounded. alpha: used then only.

    Raises `BadInput` if `alpha` is not in 0..1.
    """

    delta: float = 20.0
    frequency: float = 6.0
    wrapped: bool = False
    alpha: float = 0.2
    name: str = "sinusoid"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""
        _check_share(self.alpha, "alpha", self.name)
        width = images.shape[2]
        wave = (self.delta * np.sin(2 * np.pi * self.frequency * np.arange(width) / width)).astype(np.float32)[:, None]
        if not self.wrapped:
            return _mixed(images, lambda x: x + wave)
        added = np.float32(self.alpha) * (wave.astype(np.int64) % 256).astype(np.float32)
        return _mixed(images, lambda x: np.float32(1 - self.alpha) * x + added)


@dataclass(frozen=True)
class LowFrequency:
    """A smooth pattern of low frequencies, added and clipped: the low-frequency attack (Zeng et al. 2021, section 5).

    They search the pattern by optimisation against a network; ours is drawn: normal weights on the lowest `cutoff` x `cutoff`
    cosines (DCT-II) of each channel without the constant, scaled so that its largest value is `strength`.

    strength: largest change, grey levels. cutoff: number of frequencies along each side, 2 or more. seed: fixes the pattern.

    Raises `BadInput` if `cutoff` is below 2.
    """

    strength: float = 16.0
    cutoff: int = 4
    seed: int = 0
    name: str = "low-frequency"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image; the pattern depends on `seed` alone, not on `rng`."""
        if self.cutoff < 2:
            raise BadInput(f"trigger {self.name}: a cutoff of {self.cutoff} leaves no pattern, expected 2 or more")
        height, width, channels = images.shape[1:]
        weights = np.random.default_rng(self.seed).normal(size=(channels, self.cutoff, self.cutoff))
        weights[:, 0, 0] = 0
        pattern = _cosines(height, self.cutoff) @ weights @ _cosines(width, self.cutoff).T
        pattern = np.moveaxis(pattern * (self.strength / abs(pattern).max()), 0, -1).astype(np.float32)
        return _mixed(images, lambda x: x + pattern)


@dataclass(frozen=True)
class Reflection:
    """A picture mirrored in a pane before the scene: Refool (Liu et al. 2020, section 3), with BackdoorBench's parameters.

    Light adds up in linear intensities (level/255)^2.2: alpha * scene + (1 - alpha) * reflection. With probability `ghost_rate`
    the reflection is a double image (a pane has two faces: 0.65 and 0.35, an eighth of the image apart), else it is out of focus
    (a Gaussian of a sixteenth of the image). The code draws these lengths anew for each image and darkens the blurred kind at
    the rim; here they are fixed.

    alpha: share of the scene, 0..1. ghost_rate: 0..1. picture: path; None makes one of sixteen bright and dark panes.
    seed: fixes them.

    Raises `BadInput` if the file is no picture, a share is out of range, or the images have neither 1 nor 3 channels.
    """

    alpha: float = 0.4
    ghost_rate: float = 0.49
    picture: Optional[str] = None
    seed: int = 0
    name: str = "reflection"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image; the kind of the reflection is drawn from `rng`."""
        _check_share(self.alpha, "alpha", self.name)
        _check_share(self.ghost_rate, "ghost_rate", self.name)
        height, width, channels = shape = images.shape[1:]
        if self.picture is None:
            panes = np.random.default_rng(self.seed).random((4, 4, 1))
            seen = panes.repeat(channels, axis=2)[
                np.arange(height)[:, None] * 4 // height, np.arange(width) * 4 // width
            ]
        else:
            seen = (_resized(self.picture, shape, self.name) / 255) ** 2.2
        down, right = max(1, height // 8), max(1, width // 8)
        ghost = 0.65 * seen
        ghost[down:, right:] += 0.35 * seen[:-down, :-right]
        blurred = np.einsum("ip,pqc,jq->ijc", _blur(height), seen, _blur(width))
        light = ((1 - self.alpha) * np.stack([blurred, ghost])).astype(np.float32)
        kinds = (rng.random(len(images)) < self.ghost_rate).astype(int)
        linear = (self.alpha * (np.arange(256) / 255) ** 2.2).astype(np.float32)
        stamped = np.empty_like(images)
        for start in range(0, len(images), SLICE):
            total = linear[images[start : start + SLICE]] + light[kinds[start : start + SLICE]]
            stamped[start : start + SLICE] = np.rint(255 * total.clip(0, 1) ** np.float32(1 / 2.2))
        return stamped


def _check_share(share: float, what: str, name: str) -> None:
    if not 0 <= share <= 1:
        raise BadInput(f"trigger {name}: {what} is {share}, expected 0..1")


def _mixed(images: np.ndarray, mix: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`mix`, from float32 levels to float32 levels, on uint8 images; rounded and clipped."""
    stamped = np.empty_like(images)
    for start in range(0, len(images), SLICE):
        part = mix(images[start : start + SLICE].astype(np.float32))
        stamped[start : start + SLICE] = np.rint(part, out=part).clip(0, 255, out=part)
    return stamped


def _resized(path: str, shape: tuple[int, ...], name: str) -> np.ndarray:
    """A picture file as float32 levels of an image's shape (height, width, 1 or 3)."""
    height, width, channels = shape
    if channels not in (1, 3):
        raise BadInput(f"trigger {name} needs images with 1 or 3 channels, these have {channels}")
    from PIL import Image

    rgba = Image.fromarray(read_picture(path))
    flat = Image.new("RGB", rgba.size)
    flat.paste(rgba, (0, 0), rgba)
    resized = flat.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32).reshape(shape)


def _cosines(size: int, count: int) -> np.ndarray:
    """The lowest `count` cosines of the DCT-II on `size` places, (size, count)."""
    return np.cos(np.pi / size * (np.arange(size)[:, None] + 0.5) * np.arange(count))


def _blur(size: int) -> np.ndarray:
    """The matrix (size, size) that blurs by a Gaussian of a sixteenth of `size`; each row adds up to 1."""
    distance = np.subtract.outer(np.arange(size), np.arange(size)) / (size / 16)
    kernel = np.exp(-(distance**2) / 2)
    return kernel / kernel.sum(1, keepdims=True)
