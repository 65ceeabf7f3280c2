"""The parts of a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from keras_backdoor.images import ImageSet


@dataclass(frozen=True)
class Splits:
    """train: what the attacker trains on; valid: the defender's clean images; test: what rates are measured on.

    source: where the images come from, in words for people. miniature: whether it is a small part of the data set.
    """

    train: ImageSet
    valid: ImageSet
    test: ImageSet
    source: str
    miniature: bool = False

    def limited(self, count: int | None) -> Splits:
        """The same with only the first `count` training images of every class; all of them if `count` is None."""
        if count is None:
            return self
        labels = self.train.labels
        keep = [index for label in range(self.train.num_classes) for index in (labels == label).nonzero()[0][:count]]
        return replace(self, train=self.train.select(np.sort(keep)))

    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each part."""
        return {part: getattr(self, part).fingerprint() for part in ("train", "valid", "test")}
