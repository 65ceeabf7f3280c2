"""What a defense that scans a network left in its run folder: its verdict, and the triggers that it reversed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from keras_backdoor.files import BadInput
from keras_backdoor.report.run_folder import RunFolder, require
from keras_backdoor.report.truth import Comparison, comparisons

VERDICT = ("backdoored", "labels", "score", "probability", "examined", "norms", "median", "mad")
TRIGGERS = ("label", "mask", "pattern", "success", "works", "history")
MOST_SHOWN = 4
"""Labels whose triggers are shown."""
USUAL_LIMIT = 2.0
"""Anomaly index above which a label is flagged, where the settings do not say."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """A verdict. What is by label has one entry for each that was examined, in ascending order of the labels.

    labels: int64 (E,). norms: of their triggers, float64 (E,). flagged: bool (E,). background: bool (E,), those whose norms have
    this median and mad: all, or where labels were examined because they looked promising, others that were drawn at random.
    limit: anomaly index above which a label is flagged. threshold: the norm below which it is, negative if none can be; in a scan
    of many labels it can be lower than `limit` says. chance: how often a label of an innocent network stands out as far,
    0..1, None if there was nothing to compare. target: the label that was named beforehand, the only one that was examined; or
    None. num_classes: labels that the network has; all were examined, if a verdict does not say. comparisons: with true triggers.
    """

    labels: np.ndarray
    norms: np.ndarray
    flagged: np.ndarray
    background: np.ndarray
    median: float
    mad: float
    limit: float
    threshold: float
    chance: Optional[float]
    target: Optional[int]
    num_classes: int
    comparisons: tuple[Comparison, ...]

    @property
    def selected(self) -> bool:
        """Whether some labels were examined to the end because they looked promising, or only some at all."""
        return self.target is None and (len(self.labels) < self.num_classes or not self.background.all())

    @property
    def leaders(self) -> np.ndarray:
        """Places of the flagged labels, or else of the one with the smallest norm; by norm, int64."""
        order = np.argsort(self.norms, kind="stable")
        return order[self.flagged[order]] if self.flagged.any() else order[:1]

    @property
    def shown(self) -> np.ndarray:
        """Places of the labels whose triggers are shown: those with a true trigger beside them, then the leaders; by norm."""
        compared = np.isin(self.labels, [one.label for one in self.comparisons])
        wanted = sorted(
            {*np.flatnonzero(compared), *self.leaders}, key=lambda place: (not compared[place], self.norms[place])
        )
        return np.array(sorted(wanted[:MOST_SHOWN], key=lambda place: self.norms[place]), np.int64)

    def index(self, place: int) -> float:
        """How many deviations the norm lies below the median."""
        below = self.median - float(self.norms[place])
        return below / self.mad if self.mad > 0 else np.copysign(np.inf, below) if below else 0.0


@dataclass(frozen=True, eq=False)
class FoundTrigger:
    """A trigger that was reversed out of a network.

    norm: of the verdict. mask: float (H, W), 0..1. pattern: float (H, W, 1 or 3), 0..255. success: share of images that it
    turned, 0..1. works: whether that was enough. history: float (steps, 3): cost, success and norm in every step.
    """

    label: int
    norm: float
    mask: np.ndarray
    pattern: np.ndarray
    success: float
    works: bool
    history: np.ndarray


def read_inspection(run: RunFolder) -> Optional[Inspection]:
    """The verdict of the run, None if its defense gives no such one; `BadInput` if it is not what it should be."""
    if not run.scans:
        return None
    path, verdict = run.folder / "metrics.json", run.metrics["verdict"]
    require(path, verdict, VERDICT)

    def check(right: bool, complaint: str) -> None:
        if not right:
            raise BadInput(f"{path}: verdict: {complaint}")

    settings = run.metrics.get("settings", {})
    target, limit = settings.get("target"), settings.get("threshold", USUAL_LIMIT)
    examined, norms, flagged = (verdict[name] for name in ("examined", "norms", "labels"))
    check(_labels(examined) and bool(examined), "examined is not a list of different labels, one at least")
    check(_labels(flagged) and set(flagged) <= set(examined), "labels are not among those that were examined")
    check(verdict["backdoored"] is bool(flagged), "backdoored is not whether there are labels")
    check(isinstance(norms, list) and len(norms) == len(examined), "norms are not as many as examined")
    numbers = [*norms, verdict["median"], verdict["mad"], limit]
    check(all(map(_size, numbers)), "expected finite numbers from 0 on as norms, median, mad and the setting threshold")
    probability = verdict["probability"]
    check(probability is None or (_size(probability) and probability <= 1), "probability is not in 0..1")
    check(target is None or examined == [target], "examined is not the label that was named beforehand")
    background, num_classes = verdict.get("background", examined), verdict.get("num_classes", len(examined))
    check(
        _labels(background) and bool(background) and set(background) <= set(examined),
        "background is not a list of different labels among those that were examined, one at least",
    )
    if "num_classes" in verdict:
        check(
            type(num_classes) is int and all(0 <= label < num_classes for label in examined),
            "num_classes is not a number above all labels that were examined",
        )
    threshold = verdict.get("bound", verdict["median"] - limit * verdict["mad"])
    check(isinstance(threshold, (int, float)) and bool(np.isfinite(threshold)), "bound is not a finite number")
    indices = verdict.get("indices", [None] * len(examined))
    check(isinstance(indices, list) and len(indices) == len(examined), "indices are not as many as examined")
    check(all(map(_index, indices)), "indices are not finite numbers, or null")
    compared = comparisons(verdict.get("true_triggers", []), examined)
    if compared is None:
        raise BadInput(
            f"{path}: verdict: true_triggers are not label, trigger, overlap, common, reversed_size and true_size of comparisons"
        )
    order = np.argsort(examined)
    labels = np.array(examined, np.int64)[order]
    return Inspection(
        labels=labels,
        norms=np.array(norms, np.float64)[order],
        flagged=np.isin(labels, flagged),
        background=np.isin(labels, background),
        median=verdict["median"],
        mad=verdict["mad"],
        limit=limit,
        threshold=threshold,
        chance=None if probability is None else round(1 - probability, 6),
        target=target,
        num_classes=num_classes,
        comparisons=compared,
    )


def read_found(run: RunFolder, inspection: Inspection) -> list[FoundTrigger]:
    """The triggers of `inspection.shown`, none if the run has no `triggers.npz`; `BadInput` if it is not what it should be."""
    arrays = run.arrays("triggers.npz", TRIGGERS)
    if arrays is None:
        return []
    _check_triggers(f"{run.folder / 'triggers.npz'}", arrays, inspection)
    found = []
    for place in inspection.shown:
        row = int(np.flatnonzero(arrays["label"] == inspection.labels[place])[0])
        own = {name: arrays[name][row] for name in ("mask", "pattern")}
        history = arrays["history"][row]
        history = history[~np.isnan(history[:, 0])]
        about = {"success": float(arrays["success"][row]), "works": bool(arrays["works"][row]), "history": history}
        found.append(FoundTrigger(int(arrays["label"][row]), float(inspection.norms[place]), **own, **about))
    return found


def _check_triggers(path: str, arrays: Mapping[str, np.ndarray], inspection: Inspection) -> None:
    label, mask, pattern, history = (arrays[name] for name in ("label", "mask", "pattern", "history"))
    count = len(inspection.labels)
    if label.dtype.kind not in "iu" or sorted(np.ravel(label).tolist()) != inspection.labels.tolist():
        raise BadInput(f"{path}: label: expected the {count} labels that metrics.json says were examined")
    right = {
        "mask": mask.ndim == 3 and mask.size and _within(mask, 1),
        "pattern": pattern.shape in [(*mask.shape, channels) for channels in (1, 3)] and _within(pattern, 255),
        "success": arrays["success"].shape == (count,) and _within(arrays["success"], 1),
        "works": arrays["works"].shape == (count,) and arrays["works"].dtype.kind == "b",
        "history": history.shape[:1] + history.shape[2:] == (count, 3) and _histories(history),
    }
    expected = {
        "mask": "numbers in 0..1, (labels, height, width)",
        "pattern": "numbers in 0..255, (labels, height, width, 1 or 3)",
        "success": "a fraction in 0..1 for each label",
        "works": "yes or no for each label",
        "history": "cost, success and norm, from 0 on, in every step of each label, and NaN only after the last",
    }
    for name in expected:
        if not right[name] or len(arrays[name]) != count:
            raise BadInput(f"{path}: {name}: expected {expected[name]}")


def _labels(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int for one in value) and len(set(value)) == len(value)


def _index(value: Any) -> bool:
    """Whether it is an anomaly index; None is one beyond all bounds."""
    return value is None or (isinstance(value, (int, float)) and bool(-np.inf < value < np.inf))


def _size(value: Any) -> bool:
    return isinstance(value, (int, float)) and bool(0 <= value < np.inf)


def _within(values: np.ndarray, most: float) -> bool:
    """Whether all are numbers in 0..most; NaN is none."""
    return values.dtype.kind in "biuf" and bool(((values >= 0) & (values <= most)).all())


def _histories(history: np.ndarray) -> bool:
    """(E, steps, 3): whether each has a step, and what comes after its last is NaN throughout."""
    if history.dtype.kind != "f" or not history.shape[1]:
        return False
    missing = np.isnan(history)
    drawn = np.where(missing, 0, history)
    steps = _within(drawn[..., 1], 1) and _within(drawn, float(np.finfo(np.float32).max))
    whole = bool((missing.all(-1) == missing.any(-1)).all())
    return steps and whole and not missing[:, 0].any() and bool((missing[:, 1:] >= missing[:, :-1]).all())
