"""What a bench left in its folder, read and checked: the rows of its table, a network and a defense each, over all seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Optional

from keras_backdoor.files import BadInput, printable, read_json
from keras_backdoor.report.run_folder import require

TABLE, CELLS = "table.json", "cells"
NONE = "none"
"""The defense of a row about the network itself."""
Known = Optional[float]
"""A rate, or None where there is none."""


@dataclass(frozen=True)
class BenchRow:
    """One row of `table.json`, as `keras_backdoor.benchmark.tables.as_json` writes it.

    values: figures of each seed, by name. by_trigger: the same by name, then by trigger. failed: reasons by seed. pareto: the
    triggers for which the row is on the Pareto front of its network. published: what papers print, with the `difference`.
    """

    recipe: str
    dataset: str
    innocent: bool
    defense: str
    settings: Mapping[str, Any]
    origins: Mapping[str, str]
    epochs: int
    miniature: bool
    seeds: Sequence[int]
    failed: Mapping[str, str]
    values: Mapping[str, Sequence[float]]
    by_trigger: Mapping[str, Mapping[str, Sequence[float]]]
    labels: Sequence[int]
    pareto: Sequence[str]
    published: Sequence[Mapping[str, Any]]

    @property
    def network(self) -> str:
        """What its network is called; equal for all that was done to it."""
        return f"{self.recipe}{', innocent' if self.innocent else ''}"

    @property
    def data(self) -> str:
        """What its network was trained on, and how long."""
        return f"{'miniature ' if self.miniature else ''}{self.dataset}, {self.epochs} epochs"

    @property
    def triggers(self) -> list[str]:
        """The triggers that it was measured with."""
        return list(self.by_trigger.get("attack_success_before", {}))

    @property
    def repairs(self) -> bool:
        """Whether something was done to the network, or to its inputs, that changes the rates."""
        return "effectiveness" in self.by_trigger

    def value(self, figure: str, trigger: Optional[str] = None) -> Known:
        """The mean of a figure over the seeds."""
        values = self._values(figure, trigger)
        return mean(values) if values else None

    def deviation(self, figure: str, trigger: Optional[str] = None) -> Known:
        """The standard deviation of a figure over the seeds; None of a single one."""
        values = self._values(figure, trigger)
        return stdev(values) if len(values) > 1 else None

    def _values(self, figure: str, trigger: Optional[str]) -> Sequence[float]:
        return self.values.get(figure, ()) if trigger is None else self.by_trigger.get(figure, {}).get(trigger, ())


@dataclass(frozen=True)
class Bench:
    """A bench: its folder, its rows, and what `run.json` holds, if there is one."""

    folder: Path
    rows: Sequence[BenchRow]
    record: Mapping[str, Any]

    def of_network(self) -> dict[tuple[str, str], list[BenchRow]]:
        """The rows of each network, by its name and its data."""
        networks: dict[tuple[str, str], list[BenchRow]] = {}
        for row in self.rows:
            networks.setdefault((row.network, row.data), []).append(row)
        return networks


def read_bench(folder: Path) -> Optional[Bench]:
    """The bench in a folder, None if there is none. Raises `BadInput` if its table is missing, empty, or damaged."""
    path = folder / TABLE
    if not path.exists():
        if (folder / CELLS).is_dir():
            raise BadInput(f"{path}: no such file, but {CELLS}/ has records; kbd bench --resume writes it")
        return None
    told = read_json(path)
    if not isinstance(told, list) or not told:
        raise BadInput(f"{path}: expected the rows of a bench, at least one")
    names = [field.name for field in fields(BenchRow)]
    for row in told:
        require(path, row, names)
        _check(path, row)
    record = folder / "run.json"
    return Bench(
        folder,
        [BenchRow(**{name: row[name] for name in names}) for row in told],
        read_json(record) if record.exists() else {},
    )


def _check(path: Path, row: Mapping[str, Any]) -> None:
    """`BadInput` unless its parts have the types that the page needs."""
    kinds = {
        dict: ("settings", "origins", "failed", "values", "by_trigger"),
        list: ("seeds", "labels", "pareto", "published"),
    }
    kinds |= {str: ("recipe", "dataset", "defense")}
    for kind, names in kinds.items():
        for name in names:
            if not isinstance(row[name], kind):
                raise BadInput(f"{path}: {name} is not a {kind.__name__}")
    figures = [*row["values"].items()]
    for name, part in row["by_trigger"].items():
        figures += [(name, values) for values in part.values()] if isinstance(part, dict) else [(name, None)]
    for name, values in figures:
        if not isinstance(values, list) or not all(isinstance(value, (int, float)) for value in values):
            raise BadInput(f"{path}: {printable(name)}: expected a number for each seed")
    for entry in row["published"]:
        require(path, entry, ("paper", "table", "clean_accuracy", "attack_success", "difference"))
