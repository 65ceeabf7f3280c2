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
