"""Single pictures."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Union

import numpy as np

from keras_backdoor.files import BadInput, PathLike, check_file

if TYPE_CHECKING:  # Pillow is imported when the first picture is opened
    from PIL.Image import Image as Picture

FORMATS = ("PNG", "JPEG", "WEBP", "PPM", "BMP", "GIF", "TIFF")
"""What is read. Pillow knows more, among them EPS, for which it runs another program."""


def read_image(path: PathLike, shape: tuple[int, int, int]) -> np.ndarray:
    """A PNG or JPEG file as uint8 of `shape`, (height, width, channels), grey or RGB.

    Raises `BadInput` if it is no picture, or of another size: a picture that is resized is not the picture any more.
    """
    height, width, channels = shape
    with opened(check_file(path), path) as picture:
        if picture.size != (width, height):
            found = f"{picture.size[0]}x{picture.size[1]}"
            raise BadInput(f"{path}: the picture is {found} pixels wide and high, the network takes {width}x{height}")
        return pixels_of(picture, channels)


@contextlib.contextmanager
def opened(source: Union[PathLike, bytes], name: object, formats: tuple[str, ...] = FORMATS) -> Iterator[Picture]:
    """A picture from a file or from its bytes. Whatever Pillow raises in the block becomes a `BadInput` that says `name`."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as picture:
            yield picture
    except BadInput:
        raise
    except Exception as error:  # its decoders raise a dozen kinds on damaged files
        detail = " ".join(str(error).split()) or type(error).__name__
        if detail.startswith("cannot identify"):  # goes on with where the bytes lie in memory
            detail = "none of " + ", ".join(formats)
        raise BadInput(f"{name}: not a whole {' or '.join(formats[:2])} picture ({detail})") from None


def pixels_of(picture: Picture, channels: int) -> np.ndarray:
    """Its pixels, uint8 (height, width, channels): RGB if `channels` is 3, grey if it is 1."""
    pixels = np.asarray(picture.convert("RGB" if channels == 3 else "L"), np.uint8)
    return pixels.reshape(*pixels.shape[:2], channels)
