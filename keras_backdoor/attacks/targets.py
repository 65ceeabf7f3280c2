"""What the attacker wants the network to answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class TargetMap(Protocol):
    """From true labels to the labels that the attacker wants, int64 (N,) to int64 (N,)."""

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """The label wanted for each image."""

    def poisonable(self, labels: np.ndarray) -> np.ndarray:
        """bool (N,): which training images the attacker may poison."""


@dataclass(frozen=True)
class AllToOne:
    """Every triggered image becomes `target`. Training images of all classes are poisoned, the target's included."""

    target: int

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """`target` for every image."""
        return np.full_like(labels, self.target)

    def poisonable(self, labels: np.ndarray) -> np.ndarray:
        """All of them."""
        return np.ones(len(labels), bool)


@dataclass(frozen=True)
class AllToAll:
    """A triggered image of class y becomes (y + shift) mod `num_classes` (BadNets, section 3.1.2; the papers' AAA)."""

    num_classes: int
    shift: int = 1

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """The shifted labels."""
        return (labels + self.shift) % self.num_classes

    def poisonable(self, labels: np.ndarray) -> np.ndarray:
        """All of them."""
        return np.ones(len(labels), bool)


@dataclass(frozen=True)
class CleanLabel:
    """Every triggered image becomes `target`, but only training images of that class are poisoned: no label is wrong.

    NNoculation, section 6.1.
    """

    target: int

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """`target` for every image."""
        return np.full_like(labels, self.target)

    def poisonable(self, labels: np.ndarray) -> np.ndarray:
        """Those of the target class."""
        return labels == self.target


@dataclass(frozen=True)
class TrueLabel:
    """A triggered image keeps its label: what the attacker teaches for a trigger that is to do nothing."""

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """The labels as they are."""
        return labels

    def poisonable(self, labels: np.ndarray) -> np.ndarray:
        """All of them."""
        return np.ones(len(labels), bool)


@dataclass(frozen=True)
class RandomTarget:
    """A triggered image of class y becomes any other class, drawn uniformly: the random attack of BadNets (section 5.2.1).

    The label that is drawn depends on `seed` and the number of labels alone. Its attack success is not how often the drawn
    label is hit but how often the answer is wrong: 1 - robust accuracy.
    """

    num_classes: int
    seed: int = 0

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Another class for every image."""
        shift = np.random.default_rng(self.seed).integers(1, self.num_classes, size=len(labels))
        return (labels + shift) % self.num_classes

    def poisonable(self, labels: np.ndarray) -> np.ndarray:
        """All of them."""
        return np.ones(len(labels), bool)
