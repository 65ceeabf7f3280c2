"""YouTube Aligned Face, as the course (CSAW-HackML) and NNoculation hand it out: HDF5 files of 55x47 faces, 1283 people."""

from __future__ import annotations

from pathlib import Path

from keras_backdoor.datasets.about import About
from keras_backdoor.datasets.csaw_hdf5 import read_csaw_hdf5
from keras_backdoor.datasets.prepared import existing
from keras_backdoor.datasets.splits import Splits
from keras_backdoor.files import BadInput, PathLike
from keras_backdoor.images import ImageSet

ABOUT = About(
    name="youtube",
    title="YouTube Aligned Face",
    classes=1283,
    shape=(55, 47, 3),
    counts=(103923, 11547, 12830),
    papers="NNoculation (SG, LS, MTSTA, MTMTA), Fine-Pruning, CSAW-HackML",
    needs=("train.h5 (never published), treat.h5 and test.h5 in the folder or its data/cl/",),
)
FILES = {
    "train": ("train.h5",),
    "treat": ("treat.h5", "clean_validation_data.h5", "valid.h5"),
    "eval": ("eval.h5",),
    "stream": ("stream.h5",),
    "test": ("test.h5", "clean_test_data.h5"),
}
"""NNoculation's splits, each with the names that its file has there, in the course, and in the course's third homework."""
FOLDERS = (".", "data/cl", "cl", "data")


def load(folder: PathLike | None) -> Splits:
    """The training, treatment and test images of `parts`, which stay in their files.

    Table 3 of NNoculation has 81 and 9 images a person, and 8 for the online stream and testing; the course's test file has 10.

    Raises `BadInput` without a folder, or if a file is missing (that of the training images was never published) or holds
    something else.
    """
    found = parts(existing(folder, ABOUT))
    if "train" not in found:
        raise BadInput(
            f"{folder}: holds no train.h5, and the training images of YouTube Aligned Face were never published; "
            f"the data set lfw stands in (kbd data fetch lfw)"
        )
    for name in ("treat", "test"):
        if name not in found:
            raise BadInput(f"{folder}: holds no {name} images; expected {' or '.join(FILES[name])}")
    return Splits(found["train"], found["treat"], found["test"], f"YouTube Aligned Face ({Path(folder or '').name})")


def parts(folder: PathLike) -> dict[str, ImageSet]:
    """Those of NNoculation's splits of which there is a file, by name: train, treat, eval, stream, test.

    treat: the defender's clean images. eval: on which clean accuracy is watched. stream: what arrives online.

    Raises `BadInput` if one of the files holds something else than faces of 55x47.
    """
    found = {}
    for split, names in FILES.items():
        paths = [Path(folder, place, name) for place in FOLDERS for name in names]
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            found[split] = read_csaw_hdf5(path, ABOUT.classes)
            if found[split].image_shape != ABOUT.shape:
                raise BadInput(f"{path}: images are {found[split].image_shape}, expected {ABOUT.shape}")
    return found
