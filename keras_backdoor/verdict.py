"""The noun of defenses that say whether a network is backdoored, and the rule that finds a label that stands out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

CONSISTENT = 1.4826
"""Times the median absolute deviation: the standard deviation, where values are normally distributed."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a defense says about a network.

    backdoored: whether any label is flagged. flagged: those labels. score: how far the most suspect label stands out, for Neural
    Cleanse the anomaly index; NaN if there was nothing to compare.
    probability: that the most suspect of as many labels of an innocent network would stand out less, 0..1, NaN as `score`. It
    is not the probability of a backdoor, which depends on how common they are.
    norms: L1 norm of each label's reversed trigger, float64 (C,), NaN for labels that were not examined. background: labels
    that the others are compared with: all that were examined, or those of them that were drawn at random. median, mad: of the
    background's norms (`spread`). bound: the norm below which a label is flagged, negative if none can be. labels: those that
    were examined, int64 (E,). masks: float32 (E, H, W), 0..1, and patterns: float32 (E, H, W, channels), 0..255, of these.
    """

    backdoored: bool
    flagged: tuple[int, ...]
    score: float
    probability: float
    norms: np.ndarray
    background: tuple[int, ...]
    median: float
    mad: float
    bound: float
    labels: np.ndarray
    masks: np.ndarray
    patterns: np.ndarray

    @property
    def indices(self) -> np.ndarray:
        """How many deviations the norm of each examined label lies below the median, float64 (E,); negative above it."""
        return deviations_below(self.norms[self.labels], self.median, self.mad)


@dataclass(frozen=True, eq=False)
class NetworkVerdict:
    """What a defense says about a network as a whole, of which it knows no label and no trigger.

    score: how suspect it is; above 0, it is taken for backdoored. probability: that it is backdoored, as the defense sees it,
    0..1; of a defense that has seen innocent networks alone, the share of them that are less suspect.
    auc: how well the defense tells apart networks that it was not trained on, whose scores are `innocent` and `trojaned`,
    float64 (N,); NaN if it has none of one kind.
    """

    backdoored: bool
    score: float
    probability: float
    auc: float
    innocent: np.ndarray
    trojaned: np.ndarray

    @property
    def flagged(self) -> tuple[int, ...]:
        """No label: as `Verdict.flagged`."""
        return ()


@dataclass(frozen=True, eq=False)
class StrengthVerdict:
    """What a defense says about a network by how strong the triggers are that it found, all of about one size.

    backdoored: whether any label is flagged. flagged: those labels, the strongest first. score: the largest strength, 0..1.
    strengths: share of clean images that the best trigger found for a label turns into it, float64 (C,), 0..1; NaN for labels
    that were not examined. bound: strength above which a label is flagged, 0..1.
    labels: those that were examined, int64 (E,), ascending; there may be none. examples: uint8 (E, n, H, W, channels), the same
    n clean images with the trigger of each of these labels.
    """

    backdoored: bool
    flagged: tuple[int, ...]
    score: float
    strengths: np.ndarray
    bound: float
    labels: np.ndarray
    examples: np.ndarray

    @classmethod
    def of(cls, strengths: np.ndarray, bound: float, examples: np.ndarray) -> StrengthVerdict:
        """The verdict on these strengths, (C,), by `bound`; NaN marks labels that were not examined. examples: as above."""
        labels = np.flatnonzero(~np.isnan(strengths))
        order = labels[np.argsort(-strengths[labels], kind="stable")]
        flagged = tuple(order[strengths[order] > bound].tolist())
        score = float(strengths[labels].max(initial=0.0))
        return cls(bool(flagged), flagged, score, strengths, bound, labels, examples)


def spread(values: np.ndarray) -> tuple[float, float]:
    """Median, and 1.4826 times the median of the absolute deviations from it."""
    median = np.median(values)
    return float(median), float(CONSISTENT * np.median(np.abs(values - median)))


def deviations_below(values: np.ndarray, median: float, mad: float) -> np.ndarray:
    """How many deviations each value lies below the median, float64; at the median 0, even if there is no deviation."""
    below = median - values
    return np.divide(below, mad, out=np.where(below == 0, 0.0, np.copysign(np.inf, below)), where=mad > 0)


def anomaly_indices(values: np.ndarray) -> np.ndarray:
    """How many deviations (`spread`) each value lies from the median, on either side, float64."""
    return np.abs(deviations_below(values, *spread(values)))


def innocence(index: float, count: int, background: Optional[int] = None) -> float:
    """How often the least of `count` normally distributed values has a smaller anomaly index.

    background: how many of them median and deviation are of, where these are not of all.
    The share of 2,000 seeded draws. With few labels median and deviation are rough, and an index above 2 is nothing special:
    that is so in a third of draws of 10 values, and in two thirds of 43.
    """
    draws = np.random.default_rng(0).standard_normal((2000, count))
    compared = draws[:, :background]
    medians = np.median(compared, axis=1, keepdims=True)
    deviations = CONSISTENT * np.median(np.abs(compared - medians), axis=1)
    return float(np.mean((medians[:, 0] - draws.min(1)) < index * deviations))
