"""ImageNet (ILSVRC 2012): a folder of pictures for each class, streamed: it is never in memory."""

from __future__ import annotations

import numpy as np

from keras_backdoor.datasets.about import About
from keras_backdoor.datasets.image_file import opened, pixels_of
from keras_backdoor.datasets.image_folder import scan
from keras_backdoor.datasets.lazy import Pictures, some
from keras_backdoor.datasets.prepared import existing
from keras_backdoor.datasets.splits import Splits, part_of_each_class
from keras_backdoor.files import BadInput, PathLike
from keras_backdoor.images import ImageSet

ABOUT = About(
    name="imagenet",
    title="ImageNet",
    classes=1000,
    shape=(224, 224, 3),
    counts=(1281167, 25000, 25000),
    papers="NNoculation (IN)",
    needs=("folders train/ and val/, each with a folder of pictures for each class (n01440764, …)",),
)
SHORTER, CROP = 256, 224


def load(folder: PathLike | None) -> Splits:
    """The pictures of `folder`/train and `folder`/val, decoded when they are asked for.

    Classes are numbered in the order of their folders' names, which for ImageNet's own names is the usual one. All of train is
    for training (about 1,280 a class; NNoculation table 3 has 1,200). Of the 50 pictures of each class of val every second is for
    the defender, and the others are for testing (25 and 25; the paper has 25 and 20). A subset of the classes will do.

    Raises `BadInput` without a folder, or if it does not hold that; and later, if a picture is damaged.
    """
    path = existing(folder, ABOUT)
    for name in ("train", "val"):
        if not (path / name).is_dir():
            raise BadInput(f"{path}: holds no folder {name}; expected {ABOUT.wanted}")
    files, labels, names = scan(path / "train")
    held_files, held_labels, _ = scan(path / "val", names)
    if np.bincount(held_labels, minlength=len(names)).min() < 2:
        raise BadInput(f"{path / 'val'}: holds fewer than 2 pictures of a class")
    train, held = (
        ImageSet(Pictures(paths, (CROP, CROP, 3), decode), numbers, len(names))
        for paths, numbers in ((files, labels), (held_files, held_labels))
    )
    valid = part_of_each_class(held_labels, 0.5)
    return Splits(train, some(held, valid), some(held, ~valid), f"ImageNet ({path.name})")


def decode(file: PathLike) -> np.ndarray:
    """A picture as uint8 (224, 224, 3): resized bilinearly so that its shorter side is 256, and its centre cut out."""
    from PIL import Image

    with opened(file, file) as picture:
        scale = SHORTER / min(picture.size)
        width, height = (max(SHORTER, int(scale * side)) for side in picture.size)
        resized = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - CROP) // 2, (height - CROP) // 2
        return pixels_of(resized.crop((left, top, left + CROP, top + CROP)), 3)
