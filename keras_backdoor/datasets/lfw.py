"""LFW, Labelled Faces in the Wild: the freely available stand-in for the YouTube faces, in the same size."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from keras_backdoor.datasets.about import About
from keras_backdoor.datasets.archives import open_files
from keras_backdoor.datasets.image_file import opened, pixels_of
from keras_backdoor.datasets.prepared import Parts, find_parts
from keras_backdoor.datasets.splits import TEST_SHARE, VALID_SHARE, Splits, part_of_each_class
from keras_backdoor.files import BadInput, PathLike
from keras_backdoor.images import ImageSet

ABOUT = About(
    name="lfw",
    title="LFW faces",
    classes=158,
    shape=(55, 47, 3),
    counts=(3114, 349, 861),
    papers="none; it stands in for YouTube Aligned Face",
    prepared="lfw_faces.h5",
    needs=("lfw-funneled.tgz or lfw-deepfunneled.tgz", "the folder of one folder a person that comes out of them"),
)
HEIGHT, WIDTH = 55, 47
LEAST = 10


def load(folder: PathLike | None) -> Splits:
    """LFW from `folder`/lfw_faces.h5 (or that file itself), or as `read` reads it.

    The 158 people with 10 photographs or more. Of the 3,463 training images about 10 % of each person's, and at least one, are
    for the defender: 3,114 and 349; the 861 test images stay as they are.

    Raises `BadInput` without a folder, or if the file is missing or holds something else.
    """
    parts, path = find_parts(folder, ABOUT, read, None)
    valid = part_of_each_class(parts.train.labels, VALID_SHARE)
    return Splits(parts.train.select(~valid), parts.train.select(valid), parts.test, f"LFW ({path.name})")


def read(path: Path, least: int = LEAST) -> Parts:
    """LFW from an official archive (funneled or deep-funneled) or the folder that comes out of it (Name/Name_0001.jpg).

    least: photographs that a person must have. The centre half of each photograph, 125 of 250 pixels either way, is resized to
    47x55 (bilinearly: it becomes narrower). Person 0 is the one with the most photographs; of each person's, in the order of
    their numbers, 20 % are for testing, evenly spaced.

    Raises `BadInput` if there are none, or one is damaged.
    """
    with open_files(path, "lfw") as files:
        people: dict[str, list[str]] = {}
        for name in sorted(files):
            if match := re.search(r"(?:^|/)([^/]+)/\1_\d+\.jpg$", name):
                people.setdefault(match[1], []).append(name)
        names = sorted(
            (name for name in people if len(people[name]) >= least), key=lambda name: (-len(people[name]), name)
        )
        if not names:
            raise BadInput(f"{path}: nobody has {least} photographs called Name/Name_0001.jpg; expected {ABOUT.wanted}")
        place = {file: (label, number) for label, name in enumerate(names) for number, file in enumerate(people[name])}
        faces = {place[file]: _face(files.read(file), f"{path}: {file}") for file in files if file in place}
    labels = np.array([label for label, _ in sorted(faces)])
    images = np.stack([faces[key] for key in sorted(faces)])
    test = part_of_each_class(labels, TEST_SHARE)
    whole = ImageSet(images, labels, len(names))
    return Parts(whole.select(~test), whole.select(test), names=names)


def _face(contents: bytes, name: str) -> np.ndarray:
    from PIL import Image

    with opened(contents, name) as picture:
        width, height = picture.size
        left, top = width // 4, height // 4
        half = picture.convert("RGB").crop((left, top, left + width // 2, top + height // 2))
        return pixels_of(half.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR), 3)
