"""True triggers beside reversed ones: what a run of a scan says of them in its verdict, and how they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from keras_backdoor.files import BadInput
from keras_backdoor.report.run_folder import RunFolder

if TYPE_CHECKING:
    from keras_backdoor.report.inspection import FoundTrigger, Inspection

COMPARISON = ("label", "trigger", "overlap", "common", "reversed_size", "true_size")
TRUTH = ("trigger", "footprint", "example", "stamped")


@dataclass(frozen=True)
class Comparison:
    """What was reversed for a label, beside a true trigger.

    trigger: in words. overlap: intersection over union of the pixels of both, 0..1, and common: how many they share; None if that
    cannot be said. reversed_size, true_size: how many each has; the first is None if the label was not examined, the second 0 if
    the trigger lies somewhere else in each image.
    """

    label: int
    trigger: str
    overlap: Optional[float]
    common: Optional[int]
    reversed_size: Optional[int]
    true_size: int


@dataclass(frozen=True, eq=False)
class TrueTrigger:
    """How a true trigger looks. words: as in a `Comparison`. footprint: bool (H, W), the pixels that it changes in most images.

    example, stamped: uint8 (H, W, C), an image without and with it.
    """

    words: str
    footprint: np.ndarray
    example: np.ndarray
    stamped: np.ndarray

    @property
    def alone(self) -> np.ndarray:
        """What the trigger changes, as it looks on the example; all else grey. uint8 (H, W, C)."""
        changed = self.footprint if self.footprint.any() else (self.stamped != self.example).any(-1)
        return np.where(changed[..., None], self.stamped, np.uint8(128))


def comparisons(value: Any, examined: Sequence[int]) -> Optional[tuple[Comparison, ...]]:
    """What the part `true_triggers` of a verdict holds; None if it is not what it should be. examined: labels."""
    if not isinstance(value, list) or not all(isinstance(row, dict) and set(row) == set(COMPARISON) for row in value):
        return None
    rows = tuple(Comparison(**row) for row in value)
    return rows if all(_right(row, row.label in examined) for row in rows) else None


def _right(row: Comparison, examined: bool) -> bool:
    comparable = examined and row.true_size != 0
    sizes = [
        row.label,
        row.true_size,
        *([row.reversed_size] if examined else ()),
        *([row.common] if comparable else ()),
    ]
    if not isinstance(row.trigger, str) or not all(type(size) is int and size >= 0 for size in sizes):
        return False
    if not comparable:
        return row.overlap is None and row.common is None and (examined or row.reversed_size is None)
    return isinstance(row.overlap, (int, float)) and 0 <= row.overlap <= 1


def read_truths(run: RunFolder, inspection: Inspection, found: Sequence[FoundTrigger]) -> dict[str, TrueTrigger]:
    """The true triggers, by their words, that those `found` are compared with; none if the run has no `truth.npz`.

    Raises `BadInput` if the file is not what it should be.
    """
    labels = {one.label for one in found}
    rows = [row for row in inspection.comparisons if row.label in labels]
    arrays = run.arrays("truth.npz", TRUTH) if rows else None
    if arrays is None:
        return {}
    path = run.folder / "truth.npz"
    words, footprint, example, stamped = (arrays[name] for name in TRUTH)
    count = words.shape[0] if words.ndim == 1 and words.dtype.kind == "U" else -1
    pictures = (count, *found[0].pattern.shape)
    right = {
        "trigger": {row.trigger for row in rows} <= set(words.tolist() if count >= 0 else ()),
        "footprint": footprint.shape == pictures[:3] and footprint.dtype == bool,
        "example": example.shape == pictures and example.dtype == np.uint8,
        "stamped": stamped.shape == pictures and stamped.dtype == np.uint8,
    }
    expected = {
        "trigger": "the true triggers of metrics.json, in words",
        "footprint": "yes or no for each pixel of the reversed masks, (triggers, height, width)",
        "example": "an image of the size of the reversed patterns for each trigger, 8 bits a value",
    }
    expected["stamped"] = expected["example"]
    for name in TRUTH:
        if not right[name]:
            raise BadInput(f"{path}: {name}: expected {expected[name]}")
    return {row[0]: TrueTrigger(*row) for row in zip(words.tolist(), footprint, example, stamped)}
