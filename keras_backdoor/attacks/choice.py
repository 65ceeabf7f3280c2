"""Which training images an attacker poisons, as NNoculation's `poison.py` chooses them."""

from __future__ import annotations

import numpy as np


def choose(
    labels: np.ndarray,
    num_classes: int,
    poisonable: np.ndarray,
    fraction: float,
    rng: np.random.Generator,
    taken: np.ndarray | None = None,
) -> np.ndarray:
    """bool (N,): of each class, int(fraction * n) of its n poisonable images, evenly spaced from a shuffled list.

    labels: int (N,), in 0..num_classes-1. poisonable: bool (N,). taken: bool (N,), images that another trigger has already; they
    count in n, but are not chosen again.

    Raises ValueError unless `fraction` lies in 0..1, or if fewer images are free than it asks for.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction}, expected 0..1")
    chosen = np.zeros(len(labels), bool)
    free = poisonable if taken is None else poisonable & ~taken
    for label in range(num_classes):
        of_class = labels == label
        members = rng.permutation(np.flatnonzero(of_class & free))
        # 0.29 * 100 is 28.999…: the fraction is meant as written
        count = int(round(fraction * int((of_class & poisonable).sum()), 9))
        if count > len(members):
            raise ValueError(f"class {label} has {len(members)} images left to poison, the fractions ask for {count}")
        chosen[members[np.linspace(0, len(members), count, endpoint=False).astype(int)]] = True
    return chosen
