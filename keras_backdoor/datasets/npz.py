"""NumPy archives of images."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from keras_backdoor.files import BadInput, PathLike, check_file
from keras_backdoor.images import ImageSet, count_classes


def read_npz(path: PathLike, num_classes: int | None = None) -> ImageSet:
    """`images`, uint8 (N, H, W, C), and `labels` (N,), from an .npz file.

    Without `num_classes` the largest label decides. Raises `BadInput` if the file is missing, damaged or holds something else.
    """
    images, labels = read_arrays(path, ("images", "labels"))
    try:
        return ImageSet(images, labels, num_classes or count_classes(labels))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def read_arrays(path: PathLike, keys: Sequence[str]) -> list[np.ndarray]:
    """The arrays called `keys` of an .npz file. Pickled objects are refused, as is everything that is no whole archive."""
    check_file(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in keys if key not in file]
            if missing:
                raise BadInput(f"{path}: holds no array {missing[0]!r}; expected {', '.join(keys)}")
            arrays = [file[key] for key in keys]
    except BadInput:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, MemoryError) as error:
        raise BadInput(f"{path}: damaged .npz file ({error})") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise BadInput(f"{path}: not an .npz file of plain arrays ({error})") from None
    if not all(isinstance(array, np.ndarray) for array in arrays):
        raise BadInput(f"{path}: not an .npz file of plain arrays")
    return arrays
