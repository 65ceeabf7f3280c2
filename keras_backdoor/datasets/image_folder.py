"""Any folder of pictures, with a folder for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Optional

import numpy as np

from keras_backdoor.datasets.about import About
from keras_backdoor.datasets.image_file import opened, pixels_of
from keras_backdoor.datasets.lazy import Pictures
from keras_backdoor.datasets.prepared import Parts, Shape, existing, is_hdf5, read_prepared
from keras_backdoor.datasets.splits import Splits, divided, held_out
from keras_backdoor.files import BadInput, PathLike
from keras_backdoor.images import ImageSet

ABOUT = About(
    name="image_folder",
    title="any folder of pictures",
    classes=None,
    shape=None,
    counts=None,
    papers="–",
    needs=(
        "a folder of pictures for each class, perhaps below train/, val/ and test/",
        "what `kbd data import` made of it",
    ),
)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".ppm", ".bmp", ".gif", ".tif", ".tiff")
PARTS = {"train": ("train",), "valid": ("val", "valid", "validation"), "test": ("test",)}
GREY = ("1", "L")
Size = tuple[int, int]


def load(folder: PathLike | None, size: Optional[Size] = None) -> Splits:
    """The pictures below `folder`, decoded when they are asked for; or a prepared file, in memory.

    With folders train, val and test these are the parts; with train and one of the others, that is for testing, and 10 % of each
    class of train are for the defender; otherwise `divided` splits each class.

    size: (height, width) to which pictures are resized; without it, all must be as large as the first one.

    Raises `BadInput` without a folder, if it does not hold that, or later if a picture is damaged or of another size.
    """
    path = existing(folder, ABOUT)
    source = f"pictures of {path.name}"
    if is_hdf5(path):
        parts = read_prepared(path)
        return divided(parts.train, source, parts.test)
    sets, _ = _sets(path, size)
    if "valid" in sets:
        return Splits(sets["train"], sets["valid"], sets["test"], source)
    return divided(sets["train"], source, sets.get("test"))


def read(path: Path, size: Optional[Size] = None) -> Parts:
    """The same in two parts: where `load` splits, what it would give to the defender is still among the training images."""
    sets, names = _sets(path, size)
    if "valid" in sets:
        raise BadInput(f"{path}: has train, val and test, and a prepared file holds two parts: use the folder as it is")
    train, test = (sets["train"], sets["test"]) if "test" in sets else held_out(sets["train"])
    return Parts(train, test, names=names)


def scan(folder: Path, names: Optional[Sequence[str]] = None) -> tuple[list[str], np.ndarray, list[str]]:
    """The picture files below the folders of classes, their labels, int64 (N,), and the names of all classes.

    names: of the classes, if they are known already; by default all folders, in order (of numbers, if their names are).
    """
    folders = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    classes = list(names or sorted(folders, key=lambda name: int(name) if all(map(str.isdecimal, folders)) else 0))
    files: list[str] = []
    counts = np.zeros(len(classes), int)
    for name in folders:
        if name not in classes:
            raise BadInput(f"{folder}: class {name!r} is none of the {len(classes)} of the training pictures")
    for label, name in enumerate(classes):
        own = sorted(os.listdir(folder / name)) if name in folders else []
        own = [os.path.join(folder, name, file) for file in own if file.lower().endswith(SUFFIXES)]
        if name in folders and not own:
            raise BadInput(f"{folder / name}: holds no pictures ({' '.join(SUFFIXES)})")
        files += own
        counts[label] = len(own)
    if not files:
        raise BadInput(f"{folder}: holds no folders of pictures, one a class")
    return files, np.repeat(np.arange(len(classes)), counts), classes


def _sets(folder: Path, size: Optional[Size]) -> tuple[dict[str, ImageSet], list[str]]:
    """The image sets train, valid and test, as far as there are such folders, and the names of the classes."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: is a file, expected {ABOUT.wanted}")
    found = {part: next((folder / n for n in names if (folder / n).is_dir()), None) for part, names in PARTS.items()}
    folders = {part: path for part, path in found.items() if path is not None}
    if "train" not in folders:
        folders = {"train": folder}
    elif "test" not in folders and "valid" in folders:
        folders["test"] = folders.pop("valid")
    sets: dict[str, ImageSet] = {}
    names: Optional[list[str]] = None
    shape: Optional[Shape] = None
    for part, path in folders.items():
        files, labels, names = scan(path, names)
        shape = shape or _shape(files[0], size)
        decode = partial(_decoded, shape=shape, resize=size is not None)
        sets[part] = ImageSet(Pictures(files, shape, decode), labels, len(names))
    return sets, names or []


def _shape(file: str, size: Optional[Size]) -> Shape:
    with opened(file, file) as picture:
        height, width = size or (picture.height, picture.width)
        return height, width, 1 if picture.mode in GREY else 3


def _decoded(file: str, shape: Shape, resize: bool) -> np.ndarray:
    from PIL import Image

    height, width, channels = shape
    with opened(file, file) as picture:
        if channels == 1 and picture.mode not in GREY:
            raise BadInput(f"{file}: a colour picture, where the first one is grey")
        if resize:
            wanted = picture.convert("RGB" if channels == 3 else "L")
            return pixels_of(wanted.resize((width, height), Image.Resampling.BILINEAR), channels)
        if picture.size != (width, height):
            raise BadInput(
                f"{file}: the picture is {picture.width}x{picture.height}, the first one {width}x{height}; "
                f"kbd data import image_folder with --size makes them equal"
            )
        return pixels_of(picture, channels)
