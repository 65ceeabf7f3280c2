"""Pictures pasted onto the image with their own transparency, to the bit as Pillow pastes them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Optional

import numpy as np

from keras_backdoor.files import BadInput, PathLike, check_file

SLICE = 64
"""Images that are pasted onto together, so that what lies between the steps stays in the processor's cache."""


@dataclass(frozen=True)
class Picture:
    """A picture at one place of every image: `Image.paste(picture, (left, top), picture)` of Pillow.

    Pasting with the picture's own alpha is how the published faces got their sunglasses (NNoculation's `poison.py`); bombs and
    flowers on traffic signs are pasted so, too (Gu et al. 2019, section 5).

    picture: path of a PNG or any file that Pillow reads; without an alpha channel it is opaque. On grey images it is pasted in
    grey. top, left: place of its top left corner, pixels. opacity: factor on its alpha, 0..1.

    Calling it raises `BadInput` if the file is missing or no picture, or the picture does not fit into the image.
    """

    picture: str
    top: int = 0
    left: int = 0
    opacity: float = 1.0
    name: str = "picture"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""
        rgba = read_picture(self.picture)
        if not 0 <= self.opacity <= 1:
            raise BadInput(f"trigger {self.name}: opacity is {self.opacity}, expected 0..1")
        if self.opacity < 1:
            rgba = np.dstack([rgba[..., :3], np.rint(rgba[..., 3] * self.opacity).astype(np.uint8)])
        return paste(images, rgba, self.top, self.left, self.name)


@dataclass(frozen=True)
class Sunglasses:
    """Purple sunglasses, 47x20 pixels at row 15: the trigger of BadNet-SG and of one part of MTSTA and MTMTA.

    picture: path of the published `sun_glass_trigger.png`, which reproduces the released poisoned images; None draws glasses of
    our own with the same geometry and colours, which the published networks obey as well. top, left: as in NNoculation's
    `poison.py`, for aligned faces of 55x47 pixels.

    Errors are those of `Picture`.
    """

    picture: Optional[str] = None
    top: int = 15
    left: int = 0
    name: str = "sunglasses"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""
        rgba = our_glasses() if self.picture is None else read_picture(self.picture)
        return paste(images, rgba, self.top, self.left, self.name)


def paste(images: np.ndarray, rgba: np.ndarray, top: int, left: int, name: str = "picture") -> np.ndarray:
    """A copy of `images` with `rgba`, uint8 (h, w, 4), pasted onto each: the same bits as Pillow's paste one by one.

    Pillow computes x (255 - a) + colour a, adds 128, and divides by 255 as (v + (v >> 8)) >> 8, which is exact and fits in 16
    bits. Only the rows between the first and the last that the picture changes are computed.

    Raises `BadInput` if the picture does not fit into the image.
    """
    height, width, channels = images.shape[1:]
    if top < 0 or left < 0 or top + rgba.shape[0] > height or left + rgba.shape[1] > width:
        size = f"{rgba.shape[0]}x{rgba.shape[1]}"
        raise BadInput(f"trigger {name}, {size} at ({top}, {left}), does not fit an image of {height}x{width} pixels")
    if channels not in (1, 3):
        raise BadInput(f"trigger {name} needs images with 1 or 3 channels, these have {channels}")
    stamped = images.copy()
    rows, columns = (np.flatnonzero(rgba[..., 3].any(axis)) for axis in (1, 0))
    if not len(rows):
        return stamped
    used = rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    window = stamped[:, top + rows[0] : top + rows[-1] + 1, left + columns[0] : left + columns[-1] + 1]
    from PIL import Image

    colour = used[..., :3] if channels == 3 else np.asarray(Image.fromarray(used[..., :3]).convert("L"))[..., None]
    alpha = used[..., 3:].astype(np.uint16)
    gain = np.repeat(255 - alpha, channels, axis=-1)
    offset = colour * alpha + np.uint16(128)
    for start in range(0, len(images), SLICE):
        part = window[start : start + SLICE]
        value = part.astype(np.uint16)
        value *= gain
        value += offset
        value += np.right_shift(value, 8)
        value >>= 8
        part[...] = value
    return stamped


@lru_cache(maxsize=8)
def _read(path: str, modified: int) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            rgba = np.asarray(image.convert("RGBA"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{path}: not a whole picture ({detail}), expected a PNG") from None
    rgba.flags.writeable = False
    return rgba


def read_picture(path: PathLike) -> np.ndarray:
    """A picture file as uint8 (h, w, 4), RGB and alpha; read only. `BadInput` if it is missing or not a whole picture."""
    return _read(str(path), check_file(path).stat().st_mtime_ns)


FRAME = (
    (1.5, 2),
    (8, 0.2),
    (13, 0.2),
    (18, 1.2),
    (21.6, 3.4),
    (22.4, 6.5),
    (21, 12),
    (18.8, 18),
    (17, 20),
    (7, 20),
    (4.6, 18),
    (2, 8),
)
LENS = (
    (5, 3),
    (8, 2),
    (16.5, 2),
    (19.5, 4),
    (20.9, 6.4),
    (19.5, 12),
    (17.5, 17),
    (15.3, 19),
    (8.6, 19),
    (6.4, 17),
    (4, 9),
    (4, 4.5),
)
TEMPLE = ((0, 2.2), (5, 2.2), (5, 6), (2, 6), (0, 5.2))
BRIDGE = ((19, 3), (23.5, 3.2), (23.5, 7), (20, 7))
"""Corners (x, y) of the left half of our glasses in pixels, clockwise and convex; the right half is its mirror image."""


@lru_cache(maxsize=1)
def our_glasses() -> np.ndarray:
    """Our own sunglasses, uint8 (20, 47, 4), with the published ones' geometry: two rounded trapezoids in a frame, and a bar.

    Drawn 16 times as large and averaged with its alpha as weight, so that edges are smooth. Frame opaque, lenses 217 of 255.
    """
    y, x = (np.indices((20 * 16, 47 * 16)) + 0.5) / 16
    large = np.zeros((*x.shape, 4))
    dark, light, shine = np.array([(94, 0, 191, 217), (126, 0, 255, 217), (140, 50, 232, 217)])
    for across, first, second, begin, end in ((x, dark, shine, 21, 33), (47 - x, light, dark, 46, 52)):
        for part in (TEMPLE, BRIDGE, FRAME):
            large[_inside(part, across, y)] = (63, 0, 127, 255)
        lens = _inside(LENS, across, y)
        share = np.clip((x + y - begin) / (end - begin), 0, 1)[lens][:, None]  # light falls in from the top right
        large[lens] = first + share * (second - first)
    large[..., :3] *= large[..., 3:]
    small = large.reshape(20, 16, 47, 16, 4).mean(axis=(1, 3))
    small[..., :3] /= np.maximum(small[..., 3:], 1)
    return np.rint(small).astype(np.uint8)


def _inside(corners: tuple[tuple[float, float], ...], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which places lie within a convex polygon, corners clockwise on the screen: right of each edge."""
    edges = zip(corners, (*corners[1:], corners[0]))
    return np.logical_and.reduce([(bx - ax) * (y - ay) >= (by - ay) * (x - ax) for (ax, ay), (bx, by) in edges])
