"""What a stage of an audit says, and how it is weighed: thresholds are held against what was measured here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Optional

import numpy as np
from scipy.special import expit

from keras_backdoor.files import read_json

THRESHOLDS = Path(__file__).with_name("thresholds.json")
"""Of each stage, fitted to networks of known kinds by `benchmarks/audit_calibration.py`."""

MOST_LABELS = 8
"""Labels that a stage names."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a stage measured.

    statistic: the higher, the more suspect. labels: statistics of the labels that a backdoor may lead to, as far as the stage
    knows them. what: one plain sentence. arrays: kept beside it; those of `examples` are shown.
    """

    statistic: float
    labels: Mapping[int, float]
    what: str
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What is kept of it, without the arrays: the most suspect labels, and numbers that are finite."""
        strongest = sorted(self.labels.items(), key=lambda one: -one[1])[:MOST_LABELS]
        labels = {str(label): _finite(value) for label, value in strongest}
        return {"ran": True, "statistic": _finite(self.statistic), "labels": labels, "what": self.what}


@dataclass(frozen=True)
class Evidence:
    """What one stage says of a network.

    ran: whether it looked; if not, `what` is why. score: how suspect it finds the network, 0 at its threshold; None if it did not
    run, or says yes or no. statistic: what the score is made of. labels: those that it suspects, the most suspect first.
    """

    stage: str
    ran: bool
    seconds: float
    suspicious: bool
    score: Optional[float]
    labels: tuple[int, ...]
    what: str
    statistic: Optional[float] = None

    @classmethod
    def of(cls, stage: str, kept: Mapping[str, Any], limits: Optional[Mapping[str, Any]] = None) -> Evidence:
        """From what was kept of the stage: `Found.as_json` with its `seconds`, or why it did not run.

        limits: `threshold` and `weight` of each stage, by default those of the calibration.
        """
        if not kept["ran"]:
            return cls(stage, False, kept.get("seconds", 0.0), False, None, (), kept["what"])
        limit = (limits or thresholds()["stages"])[stage]
        score = round(limit["weight"] * (kept["statistic"] - limit["threshold"]), 4)
        labels = tuple(int(label) for label, value in kept["labels"].items() if value > limit["threshold"])
        return cls(stage, True, kept["seconds"], score > 0, score, labels, kept["what"], kept["statistic"])

    def as_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return {**asdict(self), "labels": list(self.labels)}


@cache
def thresholds() -> dict[str, Any]:
    """`stages`: `threshold` and `weight` of each; `innocent`, `backdoored`: number of networks that they were fitted on.

    `missed`: kinds of backdoors of which the calibration found none.
    """
    return read_json(THRESHOLDS)


def probability(scores: Sequence[float]) -> float:
    """That a network is backdoored, 0..1, if half of all networks were: above 0.5 if one stage is above its threshold.

    The odds' logarithm is the largest score, and to that each other stage that is above its threshold adds its own: silence does
    not speak against a backdoor that another stage has seen, as each sees another kind.
    """
    largest, *others = sorted(scores, reverse=True) or [0.0]
    return float(expit(largest + sum(max(0.0, score) for score in others)))


def suspects(evidence: Sequence[Evidence]) -> list[int]:
    """All labels that a stage suspects, the one with the most weight behind it first."""
    weight: dict[int, float] = {}
    for one in evidence:
        for place, label in enumerate(one.labels):
            weight[label] = weight.get(label, 0.0) + (one.score or 1.0) / (1 + place)
    return sorted(weight, key=lambda label: -weight[label])


def _finite(value: float) -> float:
    """JSON has no infinity: what stands out without bound stands out by 99."""
    return round(float(np.clip(np.nan_to_num(value, nan=0.0, posinf=99, neginf=-99), -99, 99)), 4)
