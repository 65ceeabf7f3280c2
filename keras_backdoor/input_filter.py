"""The noun of defenses that look at each input while the network is in use, and leave the network as it is."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent


class InputFilter(Protocol):
    """Tells backdoored inputs by a score, one an image: the lower, the more suspect.

    `detection` has the rates of a filter, from its scores.
    """

    @property
    def threshold(self) -> float:
        """The score up to which an input is flagged."""
        ...

    def scores(self, images: ImageSet, progress: Progress = silent) -> np.ndarray:
        """One score an image, float64 (N,); the labels play no part. Raises `BadInput` if the images do not fit the network."""
        ...

    def flags(self, images: ImageSet, progress: Progress = silent) -> np.ndarray:
        """Which images are taken for backdoored, bool (N,): those with `scores` <= `threshold`."""
        ...
