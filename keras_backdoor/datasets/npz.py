"""NumPy archives of images."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_backdoor.datasets.about import About
from keras_backdoor.datasets.splits import Splits, divided
from keras_backdoor.files import BadInput, PathLike, check_file
from keras_backdoor.images import ImageSet, count_classes

ABOUT = About(
    name="npz",
    title="a NumPy archive",
    classes=None,
    shape=None,
    counts=None,
    papers="–",
    needs=("an .npz file with images and labels", "one with x_train, y_train, x_test and y_test"),
)


def load(path: PathLike | None) -> Splits:
    """Images of an .npz file, uint8 (N, H, W, C) or (N, H, W), and labels (N,) or (N, 1), as one set or as training and test set.

    `divided` splits off what there is no part for. Raises `BadInput` without a file, or if it is damaged or holds something else.
    """
    if path is None:
        raise BadInput(f"no images ship with a dependency: tell with --data where they are ({ABOUT.wanted})")
    arrays = read_arrays(path, ("images", "labels"), ("x_train", "y_train", "x_test", "y_test"))
    images = [array[..., None] if array.ndim == 3 else array for array in arrays[::2]]
    labels = [array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array for array in arrays[1::2]]
    classes = count_classes(labels[0])
    try:
        first, *test = (ImageSet(pixels, numbers, classes) for pixels, numbers in zip(images, labels))
        if test and test[0].image_shape != first.image_shape:
            raise BadInput(f"x_train has images of {first.image_shape}, x_test of {test[0].image_shape}")
        return divided(first, f"images of {Path(path).name}", *test)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def read_npz(path: PathLike, num_classes: int | None = None) -> ImageSet:
    """`images`, uint8 (N, H, W, C), and `labels` (N,), from an .npz file.

    Without `num_classes` the largest label decides. Raises `BadInput` if the file is missing, damaged or holds something else.
    """
    images, labels = read_arrays(path, ("images", "labels"))
    try:
        return ImageSet(images, labels, num_classes or count_classes(labels))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def read_arrays(path: PathLike, keys: Sequence[str], otherwise: Sequence[str] = ()) -> list[np.ndarray]:
    """The arrays called `keys` of an .npz file, or those called `otherwise` if it has the first of these.

    Pickled objects are refused, as is everything that is no whole archive.
    """
    check_file(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = otherwise if otherwise and otherwise[0] in file else keys
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
