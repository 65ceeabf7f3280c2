"""What the cells left: one record each, read again whenever a table is made, and put together over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Optional

from keras_backdoor.attacks.recipes import RECIPES
from keras_backdoor.benchmark.cells import NONE, SEED, Cell
from keras_backdoor.benchmark.trained import TAKEN
from keras_backdoor.defenses import DEFENSES, SIFTING, TRAINING
from keras_backdoor.files import TEMPORARY, BadInput, PathLike, read_json

CELLS = "cells"
DONE = "done"
COST = ("seconds", "cpu_seconds", "peak_memory_mib")
ORDER = (NONE, *DEFENSES, *SIFTING, *TRAINING)
SCALARS = (
    "clean_accuracy_before",
    "clean_accuracy",
    "false_rejection_rate",
    "backdoored",
    "score",
    "recall",
    "precision",
    "false_flags",
    *COST,
)
BY_TRIGGER = (
    "attack_success_before",
    "attack_success",
    "robust_accuracy",
    "effectiveness",
    "false_acceptance_rate",
    "auc",
)


def record_path(folder: PathLike, cell: Optional[Cell] = None) -> Path:
    """Of the record of a cell in a bench folder; without a cell, of all of them."""
    home = Path(folder) / CELLS
    return home / f"{cell.name}.json" if cell else home


def read_records(folder: PathLike) -> list[dict[str, Any]]:
    """All records of a bench folder, in the order of the recipes and the defenses, then of the seeds.

    Raises `BadInput` if there is none, or a file is no record.
    """
    paths = [path for path in record_path(folder).glob("*.json") if not path.name.startswith(TEMPORARY)]
    if not paths:
        raise BadInput(f"{folder}: holds no cells of kbd bench")
    records = [_checked(path) for path in paths]
    places = [{name: place for place, name in enumerate(names)} for names in (RECIPES, ORDER)]

    def order(record: Mapping[str, Any]) -> tuple[Any, ...]:
        ranks = [known.get(record[kind], len(known)) for known, kind in zip(places, ("recipe", "defense"))]
        return (ranks[0], record["dataset"], record["innocent"], ranks[1], record["seed"], record["key"])

    return sorted(records, key=order)


def _checked(path: Path) -> dict[str, Any]:
    record = read_json(path)
    needed = {"key", "recipe", "dataset", "innocent", "defense", "seed", "settings", "identity", "status", "reason"}
    if not isinstance(record, dict) or not needed <= record.keys():
        raise BadInput(f"{path}: is not the record of a cell")
    return record


@dataclass(frozen=True)
class Row:
    """A cell over all its seeds. recipe … limit: as in `cells.Training`. version: of this package.

    settings: of the defense, without the seed, where they are not the default. seeds: of the cells that are there; failed: why
    others are not, by seed: "failed: …", or "refused: …" where the defense does not take the network or the images.
    values: the figures of `SCALARS`, one a seed; by_trigger: those of `BY_TRIGGER` by trigger; a figure that a defense does not
    have is missing. labels: those that any seed's verdict flags.
    """

    recipe: str
    dataset: str
    innocent: bool
    defense: str
    settings: Mapping[str, Any]
    origins: Mapping[str, str]
    epochs: int
    miniature: bool
    limit: Optional[int]
    version: str
    seeds: Sequence[int]
    failed: Mapping[int, str]
    values: Mapping[str, Sequence[float]]
    by_trigger: Mapping[str, Mapping[str, Sequence[float]]]
    labels: Sequence[int]

    @property
    def triggers(self) -> list[str]:
        """The names of the network's triggers."""
        return list(self.by_trigger.get("attack_success_before", {}))

    @property
    def oracle(self) -> bool:
        """Whether the defense was told what nobody knows: the target."""
        return self.settings.get("target") is not None

    def mean(self, figure: str, trigger: Optional[str] = None) -> Optional[float]:
        """The mean of a figure over the seeds; None if there is none."""
        values = self._values(figure, trigger)
        return mean(values) if values else None

    def deviation(self, figure: str, trigger: Optional[str] = None) -> Optional[float]:
        """Its standard deviation (divided by N - 1); None of a single seed."""
        values = self._values(figure, trigger)
        return stdev(values) if len(values) > 1 else None

    def _values(self, figure: str, trigger: Optional[str]) -> Sequence[float]:
        return self.values.get(figure, ()) if trigger is None else self.by_trigger.get(figure, {}).get(trigger, ())


def rows(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row for all records that differ in nothing but the seed, in the order of the records; networks first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        for one in _expanded(record):
            groups.setdefault(_group(one), []).append(one)
    return sorted((_row(group) for group in groups.values()), key=_place(records))


def _expanded(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A record of a training, which may have made two networks, as one a network."""
    if record["defense"] != NONE or record["status"] != DONE:
        return [record]
    # What the process has cost is not what training has cost if the network was trained before.
    cost = dict.fromkeys(COST) if record.get(TAKEN) else {"seconds": record["process_seconds"]}
    return [
        {**record, "innocent": kind == "innocent", "before": scores, "after": scores, **cost}
        for kind, scores in record["networks"].items()
    ]


def _group(record: Mapping[str, Any]) -> str:
    identity = {key: value for key, value in record["identity"].items() if key not in (SEED, "data", "clean_only")}
    identity["settings"] = {key: value for key, value in identity.get("settings", {}).items() if key != SEED}
    return json.dumps([identity, record["innocent"], sorted(record["identity"]["data"].items())], sort_keys=True)


def _place(records: Sequence[Mapping[str, Any]]) -> Any:
    recipes = list(dict.fromkeys((record["recipe"], record["dataset"]) for record in records))
    return lambda row: (
        recipes.index((row.recipe, row.dataset)),
        (row.miniature, row.epochs, row.limit or 0),
        row.innocent,
        ORDER.index(row.defense) if row.defense in ORDER else len(ORDER),
    )


def _row(group: Sequence[Mapping[str, Any]]) -> Row:
    first, done = group[0], [record for record in group if record["status"] == DONE]
    figures = [_figures(record) for record in done]
    values = {name: [value for own, _ in figures if (value := own[name]) is not None] for name in SCALARS}
    by_trigger = {
        name: {
            trigger: [own[name][trigger] for _, own in figures if trigger in own[name]]
            for trigger in figures[0][1][name]
        }
        for name in (BY_TRIGGER if figures else ())
    }
    return Row(
        recipe=first["recipe"],
        dataset=first["dataset"],
        innocent=first["innocent"],
        defense=first["defense"],
        settings={name: value for name, value in first["settings"].items() if name != SEED},
        origins=first.get("origins", {}),
        epochs=first["identity"]["epochs"],
        miniature=first.get("miniature", False),
        limit=first.get("limit"),
        version=first["identity"].get("version", ""),
        seeds=[record["seed"] for record in done],
        failed={
            record["seed"]: f"{record['status']}: {record['reason']}" for record in group if record["status"] != DONE
        },
        values={name: own for name, own in values.items() if own},
        by_trigger={name: own for name, own in by_trigger.items() if own},
        labels=sorted({label for record in done for label in (record.get("verdict") or {}).get("labels") or ()}),
    )


def _figures(record: Mapping[str, Any]) -> tuple[dict[str, Optional[float]], dict[str, dict[str, float]]]:
    """The figures of one cell: `SCALARS`, and `BY_TRIGGER` by trigger."""
    before, after = record.get("before") or {}, record.get("after") or {}
    verdict, kept, sifted = (record.get(part) or {} for part in ("verdict", "filter", "sifted"))
    scalars = {
        "clean_accuracy_before": before.get("clean_accuracy"),
        "clean_accuracy": after.get("clean_accuracy"),
        "false_rejection_rate": kept.get("false_rejection_rate"),
        "backdoored": float(verdict["backdoored"]) if verdict else None,
        "score": verdict.get("score"),
        **{name: sifted.get(name) for name in ("recall", "precision", "false_flags")},
        "seconds": record.get("seconds"),
        "cpu_seconds": record.get("cpu_seconds"),
        "peak_memory_mib": record.get("peak_memory_mib"),
    }
    by_trigger = {
        "attack_success_before": before.get("attack_success_rate", {}),
        "attack_success": after.get("attack_success_rate", {}),
        "robust_accuracy": after.get("robust_accuracy", {}),
        "effectiveness": record.get("effectiveness") or {},
        "false_acceptance_rate": kept.get("false_acceptance_rate", {}),
        "auc": kept.get("auc", {}),
    }
    return scalars, by_trigger
