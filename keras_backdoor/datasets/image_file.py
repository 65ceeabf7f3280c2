"""Single pictures."""

from __future__ import annotations

import numpy as np

from keras_backdoor.files import BadInput, PathLike, check_file


def read_image(path: PathLike, shape: tuple[int, int, int]) -> np.ndarray:
    """A PNG or JPEG file as uint8 of `shape`, (height, width, channels), grey or RGB.

    Raises `BadInput` if it is no picture, or of another size: a picture that is resized is not the picture any more.
    """
    from PIL import Image, UnidentifiedImageError

    height, width, channels = shape
    try:
        with Image.open(check_file(path)) as picture:
            if picture.size != (width, height):
                found = f"{picture.size[0]}x{picture.size[1]}"
                raise BadInput(
                    f"{path}: the picture is {found} pixels wide and high, the network takes {width}x{height}"
                )
            pixels = np.asarray(picture.convert("RGB" if channels == 3 else "L"), np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path}: not a whole PNG or JPEG file ({error})") from None
    return pixels.reshape(shape)
