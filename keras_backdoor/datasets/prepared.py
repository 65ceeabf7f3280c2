"""Prepared files: a whole data set in one HDF5 file, what `kbd data import` writes.

Groups `train` and `test`, each with `labels` (N,) and either `images`, uint8 (N, H, W, C), or compressed pictures: their bytes
one after another in `webp` (or `png`, `jpeg`), and `offsets` (N + 1,). Any further array of N rows of `train` comes along
(`track`). `names`, if it is there, has those of the classes; nothing here depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import h5py
import numpy as np

from keras_backdoor.datasets.about import About
from keras_backdoor.datasets.csaw_hdf5 import stored, whole, write_images
from keras_backdoor.datasets.image_file import opened, pixels_of
from keras_backdoor.files import BadInput, PathLike, atomic, open_hdf5
from keras_backdoor.images import ImageSet, count_classes

ENCODINGS = ("webp", "png", "jpeg")

SMALLEST = 12
"""Bytes; no picture of these formats has fewer."""

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Parts:
    """What the source of a data set holds. more: arrays with one row a training image. names: of the classes, if known."""

    train: ImageSet
    test: ImageSet
    more: Mapping[str, np.ndarray] = field(default_factory=dict)
    names: Sequence[str] = ()


def find_parts(
    folder: PathLike | None, about: About, read: Callable[[Path], Parts], classes: Optional[int]
) -> tuple[Parts, Path]:
    """The parts of a data set, and the file or folder that they are in.

    folder: the prepared file, a folder with it, or what `read` takes: official archives, and folders that came out of them.
    classes: how many a prepared file has; None: its largest label decides.

    Raises `BadInput` if there is none, or it does not hold the data set.
    """
    path = existing(folder, about)
    if about.prepared and (path / about.prepared).is_file():
        path = path / about.prepared
    if is_hdf5(path):
        return read_prepared(path, classes, about.shape), path
    return read(path), path


def existing(folder: PathLike | None, about: About) -> Path:
    """`folder`, if it is there; a `BadInput` that says what it must hold otherwise."""
    if folder is None:
        raise BadInput(
            f"no images of {about.title} ship with a dependency: tell with --data where they are ({about.wanted}); "
            f"`kbd data list` says which can be downloaded"
        )
    if not Path(folder).exists():
        raise BadInput(f"{folder}: no such file or folder, expected {about.wanted}")
    return Path(folder)


def read_prepared(path: PathLike, num_classes: Optional[int] = None, shape: Optional[Shape] = None) -> Parts:
    """A prepared file, in memory, with images of `shape` if that is given.

    Without `num_classes` the largest training label decides. Raises `BadInput` if the file is missing, damaged, or holds
    anything else.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        train, test = (_group(file, part, path) for part in ("train", "test"))
        labels = [whole(stored(group, "labels", path, "images and labels"), path) for group in (train, test)]
        classes = num_classes or count_classes(labels[0])
        images = [_images(group, shape, path) for group in (train, test)]
        try:
            sets = [ImageSet(pixels, numbers, classes) for pixels, numbers in zip(images, labels)]
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None
        if sets[0].image_shape != sets[1].image_shape:
            raise BadInput(f"{path}: train has images of {sets[0].image_shape}, test of {sets[1].image_shape}")
        known = ("images", "labels", "offsets", *ENCODINGS)
        more = {name: whole(stored(train, name, path), path) for name in train if name not in known}
        for name, array in more.items():
            if np.shape(array)[:1] != (len(sets[0]),):
                raise BadInput(f"{path}: train/{name} has shape {np.shape(array)}, expected {len(sets[0])} rows")
    return Parts(sets[0], sets[1], more)


def write_prepared(path: PathLike, parts: Parts) -> None:
    """Write a data set, compressed without loss; whole or not at all. Images that are not in memory are read in slices."""
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        for part, image_set in (("train", parts.train), ("test", parts.test)):
            write_images(file, f"{part}/images", image_set)
            file[f"{part}/labels"] = image_set.labels
        for name, array in parts.more.items():
            file[f"train/{name}"] = array
        if parts.names:
            file["names"] = [name.encode() for name in parts.names]


def is_hdf5(path: Path) -> bool:
    """Whether it is a file that begins as HDF5 does."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _group(file: h5py.File, part: str, path: Path) -> Any:
    if not isinstance(file.get(part, getlink=True), h5py.HardLink) or not isinstance(file[part], h5py.Group):
        raise BadInput(f"{path}: not a prepared data set (groups train and test with images and labels)")
    return file[part]


def _images(group: Any, shape: Optional[Shape], path: Path) -> np.ndarray:
    if "images" not in group:
        return _pictures(group, shape, path)
    images = stored(group, "images", path)
    if images.dtype != np.uint8 or len(images.shape or ()) != 4 or shape not in (None, images.shape[1:]):
        right = "uint8 (N, {}, {}, {})".format(*shape or "HWC")
        raise BadInput(f"{path}: {images.name} is {images.dtype} {images.shape}, expected {right}")
    return whole(images, path)


def _pictures(group: Any, shape: Optional[Shape], path: Path) -> np.ndarray:
    """Compressed pictures as uint8 (N, H, W, 3), each of `shape` or, without it, as large as the first one."""
    found = [name for name in ENCODINGS if name in group]
    if not found:
        raise BadInput(f"{path}: {group.name} holds neither images nor pictures ({', '.join(ENCODINGS)})")
    data, offsets = (whole(stored(group, name, path), path) for name in (found[0], "offsets"))
    ends = np.asarray(offsets).astype(np.int64) if np.asarray(offsets).dtype.kind in "iu" else np.zeros(0, np.int64)
    if np.ndim(data) != 1 or data.dtype != np.uint8 or ends.ndim != 1 or len(ends) < 2:
        raise BadInput(f"{path}: {group.name} has no bytes of pictures, or no offsets of them")
    if ends[0] < 0 or ends[-1] > len(data) or (np.diff(ends) < SMALLEST).any():
        raise BadInput(f"{path}: {group.name}/offsets must rise by {SMALLEST} or more, and stay in 0..{len(data)}")
    pixels = None
    for index, (start, end) in enumerate(zip(ends, ends[1:])):
        name = f"{path}: picture {index} of {group.name}"
        with opened(data[start:end].tobytes(), name, (found[0].upper(),)) as picture:
            height, width, channels = shape or (picture.height, picture.width, 3)
            if pixels is None:
                shape = (height, width, channels)
                pixels = np.empty((len(ends) - 1, *shape), np.uint8)
            if picture.size != (width, height):
                size = f"{picture.width}x{picture.height}"
                raise BadInput(f"{name} is {size} pixels wide and high, expected {width}x{height}")
            pixels[index] = pixels_of(picture, channels)
    assert pixels is not None
    return pixels
