"""When NNoculation's CycleGAN has learned enough: what it makes sends the suspect network where the quarantined images do.

The paper trains for 200 epochs and looks at nothing on the way. This check is ours; it needs nothing that the defender has not.
How large the share can become, nobody can tell: a generator that learned all that there is makes as many false alarms as are in
quarantine. So training ends above a share that is convincing anyway, or when no greater one comes (`CycleGAN.learned`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.nnoculation.quarantine import Held

SHARE, FEW = 10, 10
"""A destination has at least one in `SHARE` images; of fewer than `FEW` images no shares are taken."""
BATCH = 512


def flip_share(suspect: Classifier, labels: np.ndarray, held: Held) -> Callable[[np.ndarray], float]:
    """A function for `CycleGAN.fit`'s `stop`: the share of made images, uint8 (N, H, W, C), that flip the suspect network.

    labels: int64 (N,), the true labels of the clean images that they are made from, in their order.
    held: the quarantined images.
    """
    expected = destinations(held.suspect, held.patched, suspect.model.output_shape[-1])
    return lambda made: share(
        expected, labels, suspect.predict(made[start : start + BATCH] for start in range(0, len(made), BATCH))
    )


def destinations(suspect: np.ndarray, patched: np.ndarray, outputs: int) -> np.ndarray:
    """Where triggered images of each class are sent: bool (outputs, outputs), [y, d] for a d other than y.

    d is one if at least a tenth of the quarantined images that the patched network calls y go there; of all quarantined images,
    whatever they are called, if fewer than 10 are called y. suspect, patched: int64 (N,), what the networks call them.
    """
    table = np.zeros((outputs, outputs), np.int64)
    np.add.at(table, (patched, suspect), 1)
    few = table.sum(1) < FEW
    table[few] = table.sum(0)
    enough = (SHARE * table >= table.sum(1, keepdims=True)) & (table > 0)
    return enough & ~np.eye(outputs, dtype=bool)


def share(expected: np.ndarray, labels: np.ndarray, answers: np.ndarray) -> float:
    """The share of images that a network sends where triggered ones of their class go.

    expected: what `destinations` gave. labels: int64 (N,), true. answers: int64 (N,), the network's. Images of classes for which
    no destination is known do not count; 0 if there are no others.
    """
    counted = expected[labels].any(1)
    return float(expected[labels, answers][counted].mean()) if counted.any() else 0.0
