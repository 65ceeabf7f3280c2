"""How well a filter of inputs tells triggered images from clean ones: rates in 0..1 from its scores, and thresholds.

Scores are float (N,), the lower, the more suspect; an input is flagged if its score is <= the threshold, as in STRIP's
algorithm 1. Triggered images are all that the attacker stamps; in an all-to-one attack some have the target as true label.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm, rankdata

from keras_backdoor.files import BadInput


def false_rejection_rate(clean: np.ndarray, threshold: float) -> float:
    """FRR: share of clean images that are flagged."""
    return float(np.mean(clean <= threshold))


def false_acceptance_rate(triggered: np.ndarray, threshold: float) -> float:
    """FAR: share of triggered images that are not flagged, whether or not their trigger works."""
    return float(np.mean(triggered > threshold))


def auc(clean: np.ndarray, triggered: np.ndarray) -> float:
    """Area under the ROC curve: how often a triggered image scores below a clean one; a tie counts half. Chance is 0.5."""
    ranks = rankdata(np.concatenate([clean, triggered]))[: len(clean)]
    return float((ranks.sum() / len(clean) - (len(clean) + 1) / 2) / len(triggered))


def normal_threshold(clean: np.ndarray, false_rejection_rate: float) -> float:
    """Where a normal distribution fitted to clean scores has a share of `false_rejection_rate` below it: STRIP's rule.

    Mean and deviation are those of the sample (divided by N, as `scipy.stats.norm.fit` in STRIP's code). Where clean scores pile
    up at zero it can lie below all of them, even below zero; then nothing is flagged.

    Raises `BadInput` if the scores are all the same, or not finite.
    """
    _check(clean)
    return float(norm.ppf(false_rejection_rate, np.mean(clean), np.std(clean)))


def quantile_threshold(clean: np.ndarray, false_rejection_rate: float) -> float:
    """The score that a share of `false_rejection_rate` of the clean images does not exceed, whatever their distribution.

    Between two scores it is interpolated. Raises `BadInput` as `normal_threshold` does.
    """
    _check(clean)
    return float(np.quantile(clean, false_rejection_rate))


def _check(clean: np.ndarray) -> None:
    """`BadInput` if the scores leave no threshold to fit."""
    if not np.isfinite(clean).all():
        raise BadInput("clean images: some have no finite score; does the network give probabilities?")
    if np.ptp(clean) <= 1e-9 * max(1.0, float(np.abs(clean).max())):
        raise BadInput(
            f"clean images: all {len(clean)} have the score {clean[0]:.4g}, which leaves no threshold to fit"
        )


def equal_quality_threshold(clean: np.ndarray, triggered: np.ndarray) -> float:
    """The threshold that does about as well by clean as by triggered images: the course project's rule.

    Of 100 values from the least clean to the largest triggered score, the first with the least |P(triggered < t) - P(clean > t)|.
    It needs triggered images, which a defender does not have before an attack.
    """
    grid = np.linspace(np.min(clean), np.max(triggered), 100)
    caught = np.searchsorted(np.sort(triggered), grid, "left") / len(triggered)
    passed = 1 - np.searchsorted(np.sort(clean), grid, "right") / len(clean)
    return float(grid[np.argmin(np.abs(caught - passed))])


def behind_filter(
    clean_accuracy: float, attack_success_rate: float, false_rejection_rate: float, false_acceptance_rate: float
) -> tuple[float, float]:
    """Clean accuracy and attack success of network and filter together: (CA (1 - FRR), ASR FAR), NNoculation's section 4.3.

    That takes flags to be independent of whether the network is right, and whether the trigger works.
    """
    return clean_accuracy * (1 - false_rejection_rate), attack_success_rate * false_acceptance_rate
