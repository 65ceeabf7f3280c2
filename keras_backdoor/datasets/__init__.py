"""Data sets by name, and images by file; one file a source."""

from __future__ import annotations

from keras_backdoor.datasets import mnist
from keras_backdoor.datasets.csaw_hdf5 import read_csaw_hdf5, write_csaw_hdf5
from keras_backdoor.datasets.npz import read_npz
from keras_backdoor.datasets.splits import Splits
from keras_backdoor.files import BadInput, PathLike, check_file, lookup
from keras_backdoor.images import ImageSet

__all__ = ["DATASETS", "Splits", "load", "read_csaw_hdf5", "read_images", "write_csaw_hdf5"]

DATASETS = {"mnist": mnist.load}


def load(name: str, folder: PathLike | None = None) -> Splits:
    """The data set called `name` from `folder`; without a folder, the miniature that ships with a dependency.

    Raises `BadInput` if there is no such data set, or the folder does not hold it.
    """
    return DATASETS[lookup(name, DATASETS, "data set")](folder)


def read_images(path: PathLike, num_classes: int | None = None) -> ImageSet:
    """A file of images: the course's HDF5, or `.npz` with `images` and `labels`; told apart by content, not by name.

    Without `num_classes` the largest label decides. Raises `BadInput` if the file is neither, or its contents are no image set.
    """
    with open(check_file(path), "rb") as file:
        magic = file.read(8)
    if magic == b"\x89HDF\r\n\x1a\n":
        return read_csaw_hdf5(path, num_classes)
    if magic[:2] == b"PK":
        return read_npz(path, num_classes)
    raise BadInput(f"{path}: neither an HDF5 nor an .npz file")
