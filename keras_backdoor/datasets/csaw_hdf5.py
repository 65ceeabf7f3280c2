"""The course's HDF5 files: `data` (N, C, H, W) with values 0..255 and `label` (N,).

This is the exchange format everywhere. The files of 2019 hold (N, H, W, C); both are read. Ours also keep `true_label`, the
labels before poisoning, where they are known; readers that do not know it are not disturbed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from keras_backdoor.datasets.about import About
from keras_backdoor.datasets.splits import Splits, divided
from keras_backdoor.files import BadInput, PathLike, atomic, open_hdf5
from keras_backdoor.images import ImageSet, count_classes

ABOUT = About(
    name="hdf5",
    title="the course's HDF5",
    classes=None,
    shape=None,
    counts=None,
    papers="CSAW-HackML",
    needs=("an HDF5 file with data (N, C, H, W) and label (N,)",),
)
CHANNELS = (1, 3)

MOST_COMPRESSED = 1040
"""Times that HDF5's compression can make something smaller (deflate: 1032)."""
CHUNK = 64
"""Images that are compressed together."""
SLICE_BYTES = 4 << 20
"""About how many pixels are held while a file is written; always whole chunks."""


class _FileImages:
    """Images that stay in the file; a slice of them is read, checked, turned to (N, H, W, C) and given as uint8."""

    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path, shape: tuple[int, ...], channels_first: bool) -> None:
        self._path, self._channels_first = path, channels_first
        count, a, b, c = shape
        self.shape: tuple[int, ...] = (count, b, c, a) if channels_first else (count, a, b, c)

    def __getitem__(self, part: Any) -> np.ndarray:
        """The images of a slice (or at rising indices); `BadInput` if they are no pixel values."""
        with open_hdf5(self._path) as file:
            pixels = file["data"][part]
        pixels = _as_uint8(pixels, self._path)
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)) if self._channels_first else pixels

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, in that order; each is read once."""
        places, order = np.unique(indices, return_inverse=True)  # HDF5 wants them rising
        return self[places][order]


def load(path: PathLike | None) -> Splits:
    """One such file as a data set; `divided` splits it, and the images stay in the file. Errors: as `read_csaw_hdf5`."""
    if path is None:
        raise BadInput(f"no images ship with a dependency: tell with --data where they are ({ABOUT.wanted})")
    image_set = read_csaw_hdf5(path)
    try:
        return divided(image_set, f"images of {Path(path).name}")
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def read_csaw_hdf5(path: PathLike, num_classes: int | None = None) -> ImageSet:
    """An image set whose images stay in the file and are read slice by slice.

    Pixels of any number type are accepted if they lie in 0..255; fractions are rounded. Pixels that were scaled to 0..1 are
    refused. Each slice is checked when it is read. Without `num_classes` the largest label decides.

    Raises `BadInput` if the file is missing, truncated, not HDF5, without `data` and `label`, empty, or holds anything else.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        data, label = (stored(file, name, path) for name in ("data", "label"))
        shape: tuple[int, ...] = data.shape or ()
        labels = whole(label, path)
        true_labels = whole(stored(file, "true_label", path), path) if "true_label" in file else None
        if data.dtype.kind not in "iuf":
            raise BadInput(f"{path}: data is {data.dtype}, expected numbers")
    if len(shape) != 4 or (shape[1] not in CHANNELS and shape[3] not in CHANNELS):
        raise BadInput(f"{path}: data has shape {shape}, expected (N, channels, height, width) with 1 or 3 channels")
    if shape[0] == 0:
        raise BadInput(f"{path}: the set is empty: it holds no image")
    try:
        images = _FileImages(path, shape, shape[1] in CHANNELS)
        # All-to-one leaves one label; the true ones tell more.
        classes = num_classes or max(count_classes(labels), count_classes(true_labels))
        return ImageSet(images, labels, classes, true_labels)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def write_csaw_hdf5(path: PathLike, image_set: ImageSet) -> None:
    """Write `image_set` in the course's format (uint8, compressed), whole or not at all."""
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        write_images(file, "data", image_set, (0, 3, 1, 2))
        file["label"] = image_set.labels
        if image_set.true_labels is not None:
            file["true_label"] = image_set.true_labels


def write_images(group: h5py.Group, name: str, image_set: ImageSet, axes: tuple[int, ...] = (0, 1, 2, 3)) -> None:
    """Write the images as a compressed data set with the axes of (N, H, W, C) in another order, slice by slice."""
    full = tuple(image_set.images.shape)
    shape = tuple(full[axis] for axis in axes)
    chunks = (min(len(image_set), CHUNK), *shape[1:])
    data = group.create_dataset(name, shape, np.uint8, chunks=chunks, compression="gzip")
    start = 0
    for batch in image_set.batches(CHUNK * max(1, SLICE_BYTES // (CHUNK * int(np.prod(shape[1:]))))):
        data[start : start + len(batch)] = batch.transpose(axes)
        start += len(batch)


def stored(group: h5py.Group, name: str, path: Path, expected: str = "`data` and `label`") -> Any:
    """The data set `name` of an open file or a group in it, if it lies in the file itself."""
    if name not in group:
        raise BadInput(f"{path}: holds no data set {name!r}; expected {expected}")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise BadInput(f"{path}: {name!r} is a link to elsewhere, expected a data set in this file")
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise BadInput(f"{path}: {name!r} is not a data set in this file")
    return dataset


def whole(dataset: Any, path: Path) -> Any:
    """All of a data set, unless it is one that claims to be much larger than what the file holds of it."""
    if dataset.nbytes > MOST_COMPRESSED * (dataset.id.get_storage_size() + 64):
        raise BadInput(f"{path}: {dataset.name} claims {dataset.nbytes} bytes, of which the file holds next to none")
    return dataset[()]


def _as_uint8(pixels: np.ndarray, path: Path) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if np.isnan(pixels).any():
        raise BadInput(f"{path}: data holds NaN pixels")
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 255:
        raise BadInput(f"{path}: pixel values lie in {low:g}..{high:g}, expected 0..255")
    rounded = np.rint(pixels).astype(np.uint8)
    if high <= 1 and not np.array_equal(rounded, pixels):
        raise BadInput(f"{path}: pixel values were scaled to 0..1, expected 0..255")
    return rounded
