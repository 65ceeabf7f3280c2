"""Which neurons may be compromised: those that raise the same label in nearly all images, and that label far above the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_backdoor.defenses.artificial_brain_stimulation.stimulation import Response

DISSENT = 2
"""Images that another label may rise in."""
OF_A_LAYER = 3
"""Candidates of one layer, in the first of two passes."""


@dataclass(frozen=True)
class Candidate:
    """A neuron that may be compromised. layer: its place among those that were stimulated. number: the neuron's, in its layer.

    label: what it raises. gap: by how much more than any other label, at least, in images of other labels.
    """

    layer: int
    number: int
    label: int
    gap: float


def candidates(responses: Sequence[Response], labels: np.ndarray, count: int) -> list[Candidate]:
    """The most suspicious neurons: half of `count` and one, at most three of a layer; then the best others: `count` + 1.

    responses: of each layer. labels: the true ones of the images, int64 (N,).
    """
    every = [one for place, response in enumerate(responses) for one in _of_layer(place, response, labels)]
    every.sort(key=lambda one: -one.gap)
    chosen: list[Candidate] = []
    for one in every:
        if len(chosen) <= count // 2 and sum(other.layer == one.layer for other in chosen) < OF_A_LAYER:
            chosen.append(one)
    return (chosen + [one for one in every if one not in chosen])[: count + 1]


def _of_layer(place: int, response: Response, labels: np.ndarray) -> list[Candidate]:
    found = []
    for number, (raised, gaps) in enumerate(zip(response.labels.T, response.gaps.T)):
        label = int(np.bincount(raised).argmax())
        counted = (raised == label) & (labels != label)
        if (raised == label).sum() >= len(labels) - DISSENT and counted.any():
            found.append(Candidate(place, number, label, float(gaps[counted].min())))
    return found
