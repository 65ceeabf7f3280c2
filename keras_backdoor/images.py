"""Labelled images, the noun that data sets, attacks, defenses and metrics exchange."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from keras_backdoor.files import BadInput

IN_MEMORY = 4 << 30
"""Bytes of pixels up to which a set is worked on in memory; a larger one is read as it is needed (ImageNet has 180 GiB)."""
BATCH = 4 << 20
"""Bytes of pixels that a network is given at a time; its layers take a hundred times as much."""


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels.

    images: uint8, shape (N, H, W, C), RGB or grey, 0..255. An array, or anything with `shape` and `dtype` that gives an
        array for a slice, and by `take` for indices (a file that is read slice by slice).
    labels: int64 (N,), each in 0..num_classes-1. For a poisoned set, the labels that the attacker wants.
    num_classes: number of classes of the task.
    true_labels: int64 (N,), the labels before poisoning, where they are known.

    Raises `BadInput` if the set is empty, or shapes, types or labels are none of the above.
    """

    images: Any
    labels: np.ndarray
    num_classes: int
    true_labels: Optional[np.ndarray] = None

    def __post_init__(self) -> None:
        """Check shapes, types and ranges, and hold the labels as int64."""
        shape = tuple(self.images.shape)
        if len(shape) != 4:
            raise BadInput(f"images have shape {shape}, expected (N, height, width, channels)")
        if self.images.dtype != np.uint8:
            raise BadInput(f"images are {self.images.dtype}, expected uint8")
        if shape[0] == 0:
            raise BadInput("the set is empty: it holds no image")
        for name in ("labels", "true_labels"):
            labels = getattr(self, name)
            if labels is not None:
                object.__setattr__(self, name, check_labels(labels, shape[0], self.num_classes))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return tuple(self.images.shape[1:])

    @property
    def fits_in_memory(self) -> bool:
        """Whether it is worked on in memory."""
        return isinstance(self.images, np.ndarray) or int(np.prod(self.images.shape, dtype=np.int64)) <= IN_MEMORY

    def batches(self, size: Optional[int] = None) -> Iterator[np.ndarray]:
        """The images in order, as uint8 arrays of at most `size` images; by default 512, of large images 64 or more."""
        if size is None:  # whole 64s, as files are compressed in blocks of so many
            size = max(64, min(512, BATCH // max(1, int(np.prod(self.image_shape))) // 64 * 64))
        for start in range(0, len(self), size):
            yield self.images[start : start + size]

    def in_memory(self) -> ImageSet:
        """The same set with its images in one array."""
        if isinstance(self.images, np.ndarray):
            return self
        images = np.empty(self.images.shape, np.uint8)
        start = 0
        for batch in self.batches():
            images[start : start + len(batch)] = batch
            start += len(batch)
        return ImageSet(images, self.labels, self.num_classes, self.true_labels)

    def sample(self, count: int = 4096) -> np.ndarray:
        """All images, if they fit into memory; else about `count` of them in runs of 64, evenly spaced over the set."""
        if self.fits_in_memory:
            return self.in_memory().images
        starts = np.linspace(0, len(self) - 64, max(1, count // 64)).astype(int)
        return np.concatenate([self.images[start : start + 64] for start in starts])

    def select(self, indices: np.ndarray) -> ImageSet:
        """The images at `indices` (integers or a boolean mask), in that order, in memory."""
        true_labels = None if self.true_labels is None else self.true_labels[indices]
        images = self.in_memory().images if self.fits_in_memory else self.images
        chosen = images[indices] if isinstance(images, np.ndarray) else images.take(np.arange(len(self))[indices])
        return ImageSet(chosen, self.labels[indices], self.num_classes, true_labels)

    def fingerprint(self) -> str:
        """SHA-256 over shape, pixels and labels: equal for equal sets, whatever file they came from.

        Of a set that does not fit into memory, over the pixels of `sample`: to read all of ImageNet would take an hour.
        """
        digest = hashlib.sha256(repr((tuple(self.images.shape), self.num_classes)).encode())
        for batch in self.batches() if self.fits_in_memory else [self.sample()]:
            digest.update(np.ascontiguousarray(batch).data)
        digest.update(self.labels.tobytes())
        return digest.hexdigest()


def count_classes(labels: Any) -> int:
    """The number of classes that a file's labels speak of: the largest one + 1; at least 1, whatever the labels are."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iuf":
        return 1
    finite = labels[np.isfinite(labels)]
    return max(int(finite.max(initial=0)), 0) + 1


def check_labels(labels: Any, count: int, num_classes: int) -> np.ndarray:
    """`labels` as int64 (count,); `BadInput` unless they are whole numbers in 0..num_classes-1, one an image."""
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise BadInput(f"labels have shape {labels.shape}, expected ({count},): one an image")
    if labels.dtype.kind not in "iuf":
        raise BadInput(f"labels are {labels.dtype}, expected whole numbers")
    fractional = ~np.isfinite(labels) | (labels != np.rint(labels))
    if fractional.any():
        raise BadInput(f"labels must be whole numbers, found {labels[fractional][0]}")
    whole = labels.astype(np.int64)
    if whole.min() < 0 or whole.max() >= num_classes:
        wrong = whole[(whole < 0) | (whole >= num_classes)][0]
        raise BadInput(f"labels must lie in 0..{num_classes - 1}, found {wrong}")
    return whole
