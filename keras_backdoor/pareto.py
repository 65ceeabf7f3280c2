"""Which of several networks are worth a look, by two rates at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pareto_front(clean_accuracy: Sequence[float], attack_success: Sequence[float]) -> np.ndarray:
    """Which results no other one beats in one rate without losing in the other, bool (N,). Both arguments: (N,)."""
    accuracy, success = np.asarray(clean_accuracy), np.asarray(attack_success)
    no_worse = (accuracy[:, None] >= accuracy) & (success[:, None] <= success)
    better = (accuracy[:, None] > accuracy) | (success[:, None] < success)
    return ~(no_worse & better).any(0)
