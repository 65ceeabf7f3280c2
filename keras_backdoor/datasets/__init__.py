"""Data sets by name, and images by file; one file a source."""

from __future__ import annotations

from keras_backdoor.datasets import cifar10, csaw_hdf5, gtsrb, image_folder, imagenet, lfw, mnist, npz, youtube
from keras_backdoor.datasets.csaw_hdf5 import read_csaw_hdf5, write_csaw_hdf5
from keras_backdoor.datasets.npz import read_npz
from keras_backdoor.datasets.prepared import write_prepared
from keras_backdoor.datasets.splits import Splits
from keras_backdoor.files import BadInput, PathLike, check_file, lookup
from keras_backdoor.images import ImageSet

__all__ = [
    "ABOUT",
    "DATASETS",
    "IMPORTS",
    "Splits",
    "load",
    "read_csaw_hdf5",
    "read_images",
    "write_csaw_hdf5",
    "write_prepared",
]

_MODULES = (mnist, cifar10, gtsrb, youtube, lfw, imagenet, image_folder, npz, csaw_hdf5)
ABOUT = {module.ABOUT.name: module.ABOUT for module in _MODULES}
DATASETS = {module.ABOUT.name: module.load for module in _MODULES}
IMPORTS = {module.ABOUT.name: module.read for module in (cifar10, gtsrb, lfw, image_folder)}
"""Which data sets can be prepared; a function from the official source to `prepared.Parts`."""


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
