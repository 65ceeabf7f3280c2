"""CIFAR-10: 32x32 colour images of 10 classes."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from keras_backdoor.datasets.about import About
from keras_backdoor.datasets.archives import Files, open_files
from keras_backdoor.datasets.npz import read_arrays
from keras_backdoor.datasets.prepared import Parts, find_parts
from keras_backdoor.datasets.splits import Splits, part_of_each_class
from keras_backdoor.files import BadInput, PathLike
from keras_backdoor.images import ImageSet

ABOUT = About(
    name="cifar10",
    title="CIFAR-10",
    classes=10,
    shape=(32, 32, 3),
    counts=(50000, 5000, 5000),
    papers="NNoculation (TCA), STRIP, WaNet, ABS, NAD, ABL, MNTD",
    prepared="cifar10.h5",
    needs=("cifar-10-binary.tar.gz or what comes out of it", "cifar10.npz as keras.datasets has it"),
)
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 3 * 32 * 32
"""Bytes of an image in the binary version: its label, then red, green and blue, each row by row."""
RECORDS = 10000
BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))


def load(folder: PathLike | None) -> Splits:
    """CIFAR-10 from `folder`/cifar10.h5 (or that file itself), or as `read` reads it.

    All 50,000 training images are for training (NNoculation table 3: 5,000 a class). Of the 1,000 test images of each class
    every second, in the order of the file, is for the defender, and the other 500 are for testing; the paper has 500 and 450,
    and does not say where its images come from.

    Raises `BadInput` without a folder, or if the file is missing or holds something else.
    """
    parts, path = find_parts(folder, ABOUT, read, ABOUT.classes)
    valid = part_of_each_class(parts.test.labels, 0.5)
    return Splits(parts.train, parts.test.select(valid), parts.test.select(~valid), f"CIFAR-10 ({path.name})")


def read(path: Path) -> Parts:
    """CIFAR-10 from the official binary version (archive or folder), or an .npz file with x_train, y_train, x_test, y_test.

    The Python version is refused: its pickles are programs. Raises `BadInput` if anything is missing or damaged.
    """
    npz = path / "cifar10.npz" if path.is_dir() else path
    if npz.is_file() and npz.suffix == ".npz":
        return _from_npz(npz)
    with open_files(path, "cifar-10-") as files:
        places = {PurePosixPath(name).name: name for name in files}
        missing = [name for name in (*BATCHES, "test_batch.bin") if name not in places]
        if missing and "data_batch_1" in places:
            raise BadInput(
                f"{path}: holds the Python version of CIFAR-10, whose pickles could run any code; take the binary version, "
                f"cifar-10-binary.tar.gz (kbd data fetch cifar10)"
            )
        if missing:
            raise BadInput(f"{path}: holds no {missing[0]}; expected {ABOUT.wanted}")
        # In the order of the archive, so that a .tar.gz is gone through once.
        batches = {
            name: _batch(files, place)
            for name, place in places.items()
            if name.endswith("_batch.bin") or name in BATCHES
        }
    images, labels = (np.concatenate([batches[name][i] for name in BATCHES]) for i in (0, 1))
    return _parts(path, images, labels, *batches["test_batch.bin"])


def _batch(files: Files, name: str) -> tuple[np.ndarray, np.ndarray]:
    contents = files.read(name)
    if len(contents) != RECORDS * RECORD:
        raise BadInput(f"{files.path}: {name} has {len(contents)} bytes, expected {RECORDS} x {RECORD}")
    records = np.frombuffer(contents, np.uint8).reshape(RECORDS, RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def _from_npz(path: Path) -> Parts:
    x_train, y_train, x_test, y_test = read_arrays(path, ("x_train", "y_train", "x_test", "y_test"))
    for name, images, count in (("x_train", x_train, 50000), ("x_test", x_test, 10000)):
        if images.shape != (count, 32, 32, 3) or images.dtype != np.uint8:
            raise BadInput(f"{path}: {name} is {images.dtype} {images.shape}, expected uint8 ({count}, 32, 32, 3)")
    y_train, y_test = (
        labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels for labels in (y_train, y_test)
    )
    return _parts(path, x_train, y_train, x_test, y_test)


def _parts(path: Path, x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> Parts:
    try:
        return Parts(ImageSet(x_train, y_train, 10), ImageSet(x_test, y_test, 10), names=NAMES)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
