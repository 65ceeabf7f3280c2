"""The parts of a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional

import numpy as np

from keras_backdoor.datasets.lazy import some
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet

TEST_SHARE = 0.2
VALID_SHARE = 0.1


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
        return replace(self, train=some(self.train, np.sort(keep)))

    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each part."""
        return {part: getattr(self, part).fingerprint() for part in ("train", "valid", "test")}


def divided(image_set: ImageSet, source: str, test: Optional[ImageSet] = None) -> Splits:
    """A set that nobody has split: 20 % for testing (`held_out`, unless there is `test`), and 10 % of the rest for the defender.

    Raises `BadInput` if a class has too few images for that.
    """
    if test is None:
        image_set, test = held_out(image_set)
    train, valid = held_out(image_set, VALID_SHARE)
    return Splits(train, valid, test, source)


def held_out(image_set: ImageSet, share: float = TEST_SHARE) -> tuple[ImageSet, ImageSet]:
    """What stays, and of each class `share`, evenly spaced and at least one image. Nothing is random.

    Raises `BadInput` if there is a single image of a class.
    """
    labels, counts = np.unique(image_set.labels, return_counts=True)
    if counts.min() < 2:
        raise BadInput(f"class {labels[counts.argmin()]} has too few images to be split into parts")
    chosen = part_of_each_class(image_set.labels, share)
    return some(image_set, ~chosen), some(image_set, chosen)


def part_of_each_class(labels: np.ndarray, share: float, groups: Optional[np.ndarray] = None) -> np.ndarray:
    """Which images go to the smaller part, bool (N,): of each class `share`, evenly spaced and at least one.

    groups: int (N,); images of one class and group stay together, and the share is one of groups.
    """
    groups = np.arange(len(labels)) if groups is None else groups
    chosen = np.zeros(len(labels), bool)
    order = np.argsort(labels, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        own = np.unique(groups[members])
        count = max(1, round(share * len(own)))
        places = ((np.arange(count) + 0.5) * len(own) / count).astype(int)
        chosen[members[np.isin(groups[members], own[places])]] = True
    return chosen
