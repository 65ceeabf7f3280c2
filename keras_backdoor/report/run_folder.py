"""What a run left in its folder, read and checked: a file that is not what it should be is refused in one line."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from keras_backdoor.files import BadInput, check_file, read_json
from keras_backdoor.report.figures import Rates

Arrays = dict[str, np.ndarray]

ACTIVATIONS = ("clean", "triggered", "clean_after", "triggered_after", "pruned")
SCORES = ("clean_accuracy", "attack_success_rate", "robust_accuracy", "n_clean", "n_poisoned", "exclude_target")
BY_TRIGGER = ("false_acceptance_rate", "auc", "converted", "equal_quality")
FILTER = ("threshold", "false_rejection_rate", *BY_TRIGGER)
ATTACK, GOODNET, TRIGGERED = "attack_success_rate/", "goodnet/", "triggered/"
ON_AGREEMENT = ("anti-repair",)
"""Methods that break the network on purpose: their GoodNet flags where it and the suspect agree."""


@dataclass(frozen=True)
class RunFolder:
    """A finished run: its folder, and what `run.json` and `metrics.json` in it hold."""

    folder: Path
    record: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def breaks(self) -> bool:
        """Whether the run's defense breaks the network on purpose."""
        return self.metrics.get("method") in ON_AGREEMENT

    @property
    def inspects(self) -> bool:
        """Whether the run's defense gives a verdict on the network, and leaves it as it is."""
        return self.metrics.get("verdict") is not None

    @property
    def judges(self) -> bool:
        """Whether that verdict is one on the network as a whole, without labels and triggers."""
        return self.inspects and "innocent" in self.metrics["verdict"]

    @property
    def gauges(self) -> bool:
        """Whether that verdict is by how strong the triggers are that were found."""
        return self.inspects and "strengths" in self.metrics["verdict"]

    @property
    def scans(self) -> bool:
        """Whether that verdict is by how small the triggers are that were found."""
        return self.inspects and not (self.judges or self.gauges)

    @property
    def sifts(self) -> bool:
        """Whether the run's defense looks through a training set, and leaves the network as it is."""
        return "sifted" in self.metrics

    @property
    def repairs(self) -> bool:
        """Whether the run's defense gives another network."""
        return not (self.inspects or self.sifts or "filter" in self.metrics)

    @property
    def kept(self) -> list[dict[str, Any]]:
        """The steps of a defense whose networks were kept, in order; none if it has no steps."""
        return [step for step in self.metrics.get("steps", []) if step["name"] is not None]

    def arrays(self, file: str, names: Sequence[str]) -> Optional[Arrays]:
        """The arrays of an .npz file of the run, None if it has no such file; `BadInput` if it lacks one of `names`."""
        path = self.folder / file
        if not path.exists():
            return None
        try:
            if not zipfile.is_zipfile(check_file(path)):
                raise ValueError("no zip archive")
            with np.load(path) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise BadInput(f"{path}: not an .npz file ({error})") from None
        require(path, arrays, names)
        return arrays

    def activations(self) -> Optional[tuple[str, list[np.ndarray]]]:
        """Name of the layer, and `ACTIVATIONS`, each (C,); None if the run has no such file."""
        arrays = self.arrays("activations.npz", ("layer", *ACTIVATIONS))
        if arrays is None:
            return None
        channels = [arrays[name] for name in ACTIVATIONS]
        shapes = {values.shape for values in channels}
        if len(shapes) > 1 or channels[0].ndim != 1 or not channels[0].size or not all(map(_finite, channels)):
            raise BadInput(
                f"{self.folder / 'activations.npz'}: expected finite numbers, as many in {', '.join(ACTIVATIONS)}"
            )
        return str(arrays["layer"]), [*channels[:-1], channels[-1].astype(bool)]

    def scores(self) -> Optional[tuple[float, np.ndarray, Arrays]]:
        """Threshold, scores of clean inputs (N,), and of triggered ones by name; None if the run has no such file."""
        path = self.folder / "scores.npz"
        arrays = self.arrays(path.name, ("threshold", "clean"))
        if arrays is None:
            return None
        threshold = arrays["threshold"]
        triggered = {name[len(TRIGGERED) :]: own for name, own in arrays.items() if name.startswith(TRIGGERED)}
        if threshold.shape or not _finite(threshold):
            raise BadInput(f"{path}: threshold is not a finite number")
        for name, values in (("clean", arrays["clean"]), *triggered.items()):
            if values.ndim != 1 or not values.size or not _finite(values):
                raise BadInput(f"{path}: {name}: expected one finite score an input")
        return float(threshold), arrays["clean"], triggered

    def curve(self) -> Optional[tuple[Rates, Optional[Rates]]]:
        """The rates of the pruned network and of its GoodNet by number of channels pruned; None if the run has no such file."""
        path = self.folder / "curve.csv"
        if not path.exists():
            return None
        rows = self.table(path.name)
        require(path, rows[0] if rows else {}, ("channels", "clean_accuracy"))
        if [row["channels"] for row in rows] != [str(count) for count in range(len(rows))]:
            raise BadInput(f"{path}: channels are not 0, 1, 2 … in order")

        def column(name: str) -> list[float]:
            try:
                values = [float(row[name]) for row in rows]
            except (TypeError, ValueError):
                values = [np.nan]
            _check_rates(path, f"{name} in each line", values)
            return values

        def rates(prefix: str) -> Rates:
            attacks = [name for name in rows[0] if name.startswith(prefix + ATTACK)]
            attack = {name[len(prefix + ATTACK) :]: column(name) for name in attacks}
            return column(f"{prefix}clean_accuracy"), attack

        return rates(""), rates(GOODNET) if f"{GOODNET}clean_accuracy" in rows[0] else None

    def table(self, file: str) -> list[dict[str, str]]:
        """The rows of a CSV file of the run, none if it has no such file."""
        path = self.folder / file
        if not path.exists():
            return []
        try:
            with open(check_file(path), newline="", encoding="utf-8") as lines:
                rows = list(csv.DictReader(lines))
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: not a CSV file ({error})") from None
        if any(None in row for row in rows):
            raise BadInput(f"{path}: a line has more values than there are names in the first")
        return rows


def read_run(folder: Path) -> Optional[RunFolder]:
    """The run, None if it is not finished; `BadInput` if `run.json` or `metrics.json` lacks something."""
    path = folder / "run.json"
    record = read_json(path)
    require(path, record, ("command", "asked", "versions", "finished"))
    path = folder / "metrics.json"
    if not record["finished"] or not path.exists():
        return None
    metrics = read_json(path)
    if record["command"] == "train":
        require(path, metrics, ("recipe", "summary", "source", "seed", *(() if "clean" in metrics else ("badnet",))))
    if record["command"] == "defend":
        require(path, metrics, ("method", "model", "before", "after"))
        _check_defense(path, metrics)
    return RunFolder(folder, record, metrics)


def require(path: Path, value: Any, names: Sequence[str]) -> None:
    """`BadInput` unless `value`, what `path` or a part of it holds, is a dictionary with all of `names`."""
    missing = [name for name in names if not isinstance(value, dict) or name not in value]
    if missing:
        raise BadInput(f"{path}: lacks {', '.join(missing)}")


def _check_defense(path: Path, metrics: dict[str, Any]) -> None:
    """`BadInput` unless the rates that the page shows are there: of each network and, by trigger, of a filter."""
    if not isinstance(metrics.get("settings", {}), dict):
        raise BadInput(f"{path}: settings is not a dictionary")
    if "sifted" in metrics:  # it measures no rates
        return
    steps = metrics.get("steps", [])
    if not isinstance(steps, list):
        raise BadInput(f"{path}: steps is not a list")
    for step in steps:
        require(path, step, ("name", "after", "goodnet"))
        if not isinstance(step.get("channels", 0), int) or not isinstance(step.get("learning_rate", 0), (int, float)):
            raise BadInput(f"{path}: steps: expected numbers as channels and learning_rate")
    networks = [
        each[name]
        for each in (metrics, *steps)
        for name in ("before", "after", "goodnet")
        if each.get(name) is not None
    ]
    for scores in networks:
        require(path, scores, SCORES)
    triggers = list(metrics["before"]["attack_success_rate"])
    for scores in networks:
        for part in ("attack_success_rate", "n_poisoned"):
            require(path, scores[part], triggers)
    if "filter" in metrics:
        rates = metrics["filter"]
        require(path, rates, FILTER)
        for part in BY_TRIGGER:
            require(path, rates[part], triggers)
        for name in triggers:
            require(path, rates["equal_quality"][name], FILTER[1:3])
            own = [rates["false_acceptance_rate"][name], rates["auc"][name], *rates["converted"][name]]
            _check_rates(path, name, [*own, *(rates["equal_quality"][name][rate] for rate in FILTER[1:3])])
        _check_rates(path, FILTER[1], [rates[FILTER[1]]])


def _check_rates(path: Path, what: str, rates: Sequence[Any]) -> None:
    if not all(isinstance(rate, (int, float)) and 0 <= rate <= 1 for rate in rates):
        raise BadInput(f"{path}: {what}: expected fractions in 0..1")


def _finite(values: np.ndarray) -> bool:
    return values.dtype.kind in "biuf" and bool(np.isfinite(values).all())
