"""Networks that `kbd train` has trained before: a bench takes them instead of training the same ones again."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras_backdoor
from keras_backdoor.benchmark.cells import Cell
from keras_backdoor.files import TEMPORARY, BadInput, read_json, write_json

TAKEN = "taken_over"
"""In `run.json` of a copy: the name of the folder that it is a copy of."""
START = "start"


def take_over(cell: Cell, folder: Path, places: Iterable[str]) -> bool:
    """Copy the run of `kbd train` that has trained the network of `cell`, if there is one; whether `folder` is that copy now.

    places: run folders, or folders that hold some. A run is taken that has come to its end, with the same recipe, settings, seed,
    epochs and data, by this version of the package. Where the recipe has two steps, the first may have been done elsewhere
    (--start): the record of the cell has the fingerprint of that network then.
    """
    for source in _runs(places):
        if _same(cell, read_json(source / "run.json"), source):
            copy = folder.with_name(f"{TEMPORARY}{folder.name}")
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("checkpoints", f"{TEMPORARY}*"))
            write_json(copy / "run.json", {**read_json(copy / "run.json"), TAKEN: source.name})
            copy.rename(folder)
            return True
    return False


def _runs(places: Iterable[str]) -> Iterator[Path]:
    for place in map(Path, places):
        if not place.is_dir():
            raise BadInput(f"{place}: is no folder, expected run folders of kbd train")
        yield from sorted(path.parent for path in [*place.glob("run.json"), *place.glob("*/run.json")])


def _same(cell: Cell, record: Mapping[str, Any], source: Path) -> bool:
    """Whether a run has made what training the cell's network would make."""
    training = cell.training
    wanted: dict[str, Any] = {
        "recipe": training.recipe,
        "settings": repr(training.settings),
        "epochs": training.epochs or training.settings.epochs,
        "seed": training.seed,
        "clean_only": training.clean_only,
        "data": dict(training.fingerprints),
        "defense": None,
    }
    asked, versions = record.get("asked", {}), record.get("versions", {})
    if not training.settings.two_step:
        wanted[START] = None
    return (
        bool(record.get("finished"))
        and record.get("command") == "train"
        and versions.get("keras-backdoor") == keras_backdoor.__version__
        and all(asked.get(name) == value for name, value in wanted.items())
        and (source / ("clean.h5" if training.clean_only else "badnet.h5")).exists()
    )
