"""Images that stay where they are until they are asked for.

Such an object has `shape` (N, H, W, C) and `dtype` uint8 as an array has, gives an array for a slice, and for indices in any
order by `take`; memory holds no more than that. `csaw_hdf5` has another of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_backdoor.images import ImageSet


class Pictures:
    """Picture files, decoded when they are asked for, several at a time (Pillow lets threads run while it decodes).

    sources: what `decode` takes, one a picture. shape: (height, width, channels) of what it gives, as uint8.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, sources: Sequence[Any], shape: tuple[int, int, int], decode: Callable[[Any], np.ndarray]
    ) -> None:
        self._sources, self._decode = sources, decode
        self.shape: tuple[int, ...] = (len(sources), *shape)

    def __getitem__(self, part: slice) -> np.ndarray:
        """The pictures of a slice; what `decode` raises, it raises."""
        return self._decoded(self._sources[part])

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The pictures at `indices`, in that order."""
        return self._decoded([self._sources[index] for index in indices])

    def _decoded(self, sources: Sequence[Any]) -> np.ndarray:
        pixels = np.empty((len(sources), *self.shape[1:]), np.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for row, picture in zip(pixels, pool.map(self._decode, sources)):
                row[:] = picture
        return pixels


class Chosen:
    """Some of the images of such an object."""

    dtype = np.dtype(np.uint8)

    def __init__(self, images: Any, indices: np.ndarray) -> None:
        self._images, self._indices = images, indices
        self.shape: tuple[int, ...] = (len(indices), *images.shape[1:])

    def __getitem__(self, part: slice) -> np.ndarray:
        """The images of a slice."""
        return self._images.take(self._indices[part])

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, in that order."""
        return self._images.take(self._indices[indices])


def some(image_set: ImageSet, chosen: np.ndarray) -> ImageSet:
    """The images at `chosen` (integers or a boolean mask), in that order; left where they are if they are not in memory."""
    if isinstance(image_set.images, np.ndarray):
        return image_set.select(chosen)
    indices = np.arange(len(image_set))[chosen]
    true_labels = None if image_set.true_labels is None else image_set.true_labels[indices]
    return ImageSet(Chosen(image_set.images, indices), image_set.labels[indices], image_set.num_classes, true_labels)
