"""NumPy archives of images."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_backdoor.files import BadInput, PathLike, check_file
from keras_backdoor.images import ImageSet


def read_npz(path: PathLike, num_classes: int | None = None) -> ImageSet:
    """`images`, uint8 (N, H, W, C), and `labels` (N,), from an .npz file.

    Without `num_classes` the largest label decides. Raises `BadInput` if the file is missing, damaged or holds something else.
    """
    with open_npz(path, ("images", "labels")) as file:
        images, labels = file["images"], file["labels"]
    if num_classes is None:
        num_classes = int(np.nanmax(labels, initial=0)) + 1 if labels.dtype.kind in "iuf" else 1
    try:
        return ImageSet(images, labels, num_classes)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


@contextlib.contextmanager
def open_npz(path: PathLike, keys: Sequence[str]) -> Iterator[Any]:
    """An open .npz file that holds all `keys`. Pickled objects in it are refused, as is everything that is no whole archive."""
    check_file(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in keys if key not in file]
            if missing:
                raise BadInput(f"{path}: holds no array {missing[0]!r}; expected {', '.join(keys)}")
            yield file
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise BadInput(f"{path}: damaged .npz file ({error})") from None
    except (ValueError, AttributeError, TypeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: not an .npz file of plain arrays ({error})") from None
