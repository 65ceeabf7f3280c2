"""What a record takes from the `metrics.json` of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from keras_backdoor.metrics import defense_effectiveness
from keras_backdoor.report.run_folder import ON_AGREEMENT

PARTS = {
    "verdict": ("backdoored", "labels", "score", "probability"),
    "filter": ("threshold", "false_rejection_rate", "false_acceptance_rate", "auc"),
    "sifted": ("images", "flagged", "poisoned", "recall", "precision", "false_flags"),
}
"""Parts of `metrics.json` that some defenses have, and what is taken of them."""


def figures_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the table is made of, from the `metrics.json` of a defense.

    `before`, `after`: as `Scores.as_json`; of a defense that breaks the network on purpose, `after` is its GoodNet's.
    `effectiveness`: `metrics.defense_effectiveness` by trigger, where the defense changes answers. `verdict`, `filter`, `sifted`:
    their figures, or None. `seconds`: of the defense.
    """
    before, after = metrics["before"], metrics["after"]
    if metrics["method"] in ON_AGREEMENT:
        after = metrics["goodnet"]
    effectiveness = None
    if before and not metrics.get("verdict"):
        effectiveness = {
            name: defense_effectiveness(
                (before["clean_accuracy"], after["clean_accuracy"]), (success, after["attack_success_rate"][name])
            )
            for name, success in before["attack_success_rate"].items()
        }
    return {
        "before": before,
        "after": after,
        "effectiveness": effectiveness,
        **{part: _some(metrics.get(part), names) for part, names in PARTS.items()},
        "seconds": metrics["seconds"],
    }


def _some(part: Optional[Mapping[str, Any]], names: Sequence[str]) -> Optional[dict[str, Any]]:
    return None if part is None else {name: part.get(name) for name in names}
