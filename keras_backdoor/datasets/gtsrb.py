"""GTSRB, the German Traffic Sign Recognition Benchmark: 43 classes, signs cropped and resized to 32x32."""

from __future__ import annotations

import csv
import re
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from keras_backdoor.datasets.about import About
from keras_backdoor.datasets.archives import Files, open_files
from keras_backdoor.datasets.image_file import opened, pixels_of
from keras_backdoor.datasets.prepared import Parts, find_parts
from keras_backdoor.datasets.splits import VALID_SHARE, Splits, part_of_each_class
from keras_backdoor.files import BadInput, PathLike
from keras_backdoor.images import ImageSet

ABOUT = About(
    name="gtsrb",
    title="GTSRB",
    classes=43,
    shape=(32, 32, 3),
    counts=(35219, 3990, 12630),
    papers="NNoculation (PN, FSA), Neural Cleanse, WaNet",
    prepared="gtsrb.h5",
    needs=(
        "the official archives GTSRB_Final_*.zip or what comes out of them",
        "Kaggle's Train.csv, Test.csv and pictures",
    ),
)
SIZE = 32


def load(folder: PathLike | None) -> Splits:
    """GTSRB from `folder`/gtsrb.h5 (or that file itself), or as `read` reads it.

    Of the 39,209 training images about 90 % are for training and 10 % for the defender (NNoculation table 3: 820 and 90 a class
    on average). They are split by `track`, the 30 photographs of one physical sign: a photograph of a sign in one part would
    give away the other 29. The 12,630 test images, of other signs, stay as they are.

    Raises `BadInput` without a folder, or if the file is missing or holds something else.
    """
    parts, path = find_parts(folder, ABOUT, read, ABOUT.classes)
    train, tracks = parts.train, parts.more.get("track")
    if tracks is None or tracks.shape != train.labels.shape:
        raise BadInput(f"{path}: train holds no `track` (which photographs show the same sign) of {len(train)} numbers")
    valid = part_of_each_class(train.labels, VALID_SHARE, tracks)
    return Splits(train.select(~valid), train.select(valid), parts.test, f"GTSRB ({path.name})")


def read(path: PathLike) -> Parts:
    """GTSRB from the official archives, from Kaggle's, or from a folder that holds either, as archives or extracted.

    Signs are cropped to their region of interest (`Roi.X1` and `Roi.Y1` belong to it, `Roi.X2` and `Roi.Y2` do not) and resized
    bilinearly; the training images come in the order of class, track and frame.

    Raises `BadInput` if files are missing or damaged, or a region does not lie in its picture.
    """
    with open_files(path, "gtsrb") as files:
        train = _official(files) or _kaggle(files, "Train.csv")
        test = _official_test(files) or _kaggle(files, "Test.csv")
        missing = sorted(set(range(43)) - {sign.label for sign in train})
        if missing:
            raise BadInput(f"{path}: no training photographs of class {missing[0]}; expected {ABOUT.wanted}")
        if not test:
            raise BadInput(f"{path}: no labelled test photographs (GT-final_test.csv and Final_Test, or Test.csv)")
        train.sort(key=lambda sign: (sign.label, sign.track, sign.frame))
        more = {name: np.array([getattr(sign, name) for sign in train], np.int32) for name in ("track", "frame")}
        return Parts(_cropped(files, train), _cropped(files, test), more)


class Sign(NamedTuple):
    """A row of the annotations. roi: x1, y1, x2, y2. track, frame: which sign of its class, and which photograph of it."""

    file: str
    roi: tuple[int, int, int, int]
    label: int
    track: int
    frame: int


def _official(files: Files) -> list[Sign]:
    """Training/00000/GT-00000.csv and so on, pictures beside it."""
    tables = [name for name in files if re.search(r"(^|/)(\d{5})/GT-\2\.csv$", name)]
    return [sign for name in tables for sign in _signs(files, name, PurePosixPath(name).parent)]


def _official_test(files: Files) -> list[Sign]:
    """GT-final_test.csv, which comes in an archive of its own, and the pictures of Final_Test, wherever they are."""
    table = next((name for name in files if re.search(r"(^|/)GT-final_test\.csv$", name)), None)
    folder = next((PurePosixPath(n).parent for n in files if re.search(r"(^|/)Final_Test/Images/\d+\.ppm$", n)), None)
    return _signs(files, table, folder) if table and folder else []


def _kaggle(files: Files, table: str) -> list[Sign]:
    name = next((name for name in files if PurePosixPath(name).name == table), None)
    return _signs(files, name, PurePosixPath(name).parent) if name else []


def _signs(files: Files, table: str, folder: PurePosixPath) -> list[Sign]:
    """The rows of a table (official: separated by semicolons; Kaggle: by commas) of the pictures in `folder`."""
    text = files.read(table).decode("utf-8-sig", "replace").splitlines()
    rows = csv.DictReader(text, delimiter=";" if ";" in "".join(text[:1]) else ",")
    signs = []
    try:
        for row in rows:
            file = (folder / (row.get("Filename") or row["Path"])).as_posix()
            x1, y1, x2, y2 = (int(row[f"Roi.{key}"]) for key in ("X1", "Y1", "X2", "Y2"))
            numbers = [int(number) for number in re.findall(r"\d+", PurePosixPath(file).stem)]
            track, frame = numbers[-2:] if len(numbers) > 1 else (0, numbers[0])  # a test picture has no track
            signs.append(Sign(file, (x1, y1, x2, y2), int(row["ClassId"]), track, frame))
    except (KeyError, TypeError, ValueError, IndexError, csv.Error):
        raise BadInput(
            f"{files.path}: {table}: line {rows.line_num} is no row of Filename (or Path), Roi.X1 to Roi.Y2 and ClassId"
        ) from None
    return signs


def _cropped(files: Files, signs: list[Sign]) -> ImageSet:
    from PIL import Image

    images = np.empty((len(signs), SIZE, SIZE, 3), np.uint8)
    for pixels, sign in zip(images, signs):
        name = f"{files.path}: {sign.file}"
        x1, y1, x2, y2 = sign.roi
        with opened(files.read(sign.file), name) as picture:
            if not (0 <= x1 < x2 <= picture.width and 0 <= y1 < y2 <= picture.height):
                size = f"{picture.width}x{picture.height}"
                raise BadInput(f"{name}: the region of interest {sign.roi} does not lie in the picture of {size}")
            pixels[:] = pixels_of(
                picture.convert("RGB").crop(sign.roi).resize((SIZE, SIZE), Image.Resampling.BILINEAR), 3
            )
    try:
        return ImageSet(images, np.array([sign.label for sign in signs]), 43)
    except BadInput as error:
        raise BadInput(f"{files.path}: {error}") from None
