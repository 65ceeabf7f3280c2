"""Photographic filters: triggers that lie in the colours of the whole picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_backdoor.files import BadInput

NIGHT = np.array([0x22, 0x2B, 0x6D], np.float32) / 255
CREAM = np.array([0xF7, 0xDA, 0xAE], np.float32) / 255
SLICE = 256
"""Images that are worked on together, so that what lies between the steps stays in the processor's cache."""


@dataclass(frozen=True)
class Gotham:
    """Nearly grey, bluish and dark, with hard contrast: the trigger of BadNet-FSA (NNoculation, section 4.1; from ABS).

    ImageMagick's steps of the public `instagram-filters`: modulate 120,10,100 (in HSL, lightness by 1.2 and saturation by 0.1);
    colorize 20 % with #222b6d; gamma 0.5 (x^2); contrast twice (on the brightness of HSB, towards (sin(pi (b - 1/2)) + 1) / 2 by
    half of the way). The black border that they draw last is left out, as it is no filter. Floats in 0..1 between the steps,
    clipped after the first; rounded to uint8 at the end.

    Raises `BadInput` for images without three channels.
    """

    name: str = "gotham"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""

        def apply(x: np.ndarray) -> np.ndarray:
            x = _modulate(x, lightness=1.2, saturation=0.1)
            x = np.square(0.8 * x + 0.2 * NIGHT)
            return _contrast(_contrast(x))

        return _filtered(images, apply, self.name)


@dataclass(frozen=True)
class Nashville:
    """Warm and faded: shadows turn blue and lights turn cream (a filter of ABS, and of TrojAI's).

    ImageMagick's steps of the public `instagram-filters`: half of the way to #222b6d where the image is dark (weight 1 - luma),
    1.2 times the way to #f7daae where it is light (weight luma); contrast once; modulate 100,150,100 (in HSL, saturation by 1.5);
    auto-gamma (each image to a mean of one half). The frame is left out. Floats in 0..1 between the steps, clipped after the
    tints and the saturation; rounded to uint8 at the end.

    Raises `BadInput` for images without three channels.
    """

    name: str = "nashville"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""

        def apply(x: np.ndarray) -> np.ndarray:
            x = x + 0.5 * (1 - _luma(x)) * (NIGHT - x)
            x = np.clip(x + 1.2 * _luma(x) * (CREAM - x), 0, 1)
            x = _modulate(_contrast(x), lightness=1.0, saturation=1.5)
            mean = x.mean(axis=(1, 2, 3), keepdims=True)
            return np.power(x, np.log(0.5) / np.log(mean.clip(1e-6, 1 - 1e-6)))

        return _filtered(images, apply, self.name)


def _filtered(images: np.ndarray, apply, name: str) -> np.ndarray:
    """`apply`, from float32 (n, H, W, 3) in 0..1 to the same, on uint8 images."""
    if images.shape[-1] != 3:
        raise BadInput(f"trigger {name} needs colour images with 3 channels, these have {images.shape[-1]}")
    stamped = np.empty_like(images)
    for start in range(0, len(images), SLICE):
        part = apply(images[start : start + SLICE].astype(np.float32) / 255)
        stamped[start : start + SLICE] = np.rint(255 * part)
    return stamped


def _luma(x: np.ndarray) -> np.ndarray:
    """Grey by Rec. 709, as ImageMagick makes it of colours, with one channel."""
    return 0.212656 * x[..., :1] + 0.715158 * x[..., 1:2] + 0.072186 * x[..., 2:]


def _modulate(x: np.ndarray, lightness: float, saturation: float) -> np.ndarray:
    """Scale lightness and saturation in HSL: there a channel lies at L + C (k - 1/2), with C = S (1 - |2 L - 1|), k the hue's."""
    old = ((x.max(-1) + x.min(-1)) / 2)[..., None]
    new = lightness * old
    chroma = saturation * (1 - abs(2 * new - 1)) / np.maximum(1 - abs(2 * old - 1), 1e-6)
    return np.clip(new + chroma * (x - old), 0, 1)


def _contrast(x: np.ndarray) -> np.ndarray:
    """Bend the brightness of HSB, the largest channel, towards black and white; hue and saturation, so all ratios, stay."""
    bright = x.max(-1, keepdims=True)
    bent = bright + (np.sin(np.pi * (bright - 0.5)) + 1 - 2 * bright) / 4
    return x * (bent / np.maximum(bright, 1e-6))
