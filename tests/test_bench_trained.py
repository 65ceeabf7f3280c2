"""Networks that were trained before: which of them a bench takes, and what its table says of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_bench_runner import MNIST, SCORES, cells, lock, runner

import keras_backdoor
from keras_backdoor.attacks.recipes import recipe
from keras_backdoor.benchmark.cells import Cell
from keras_backdoor.benchmark.results import read_records, rows
from keras_backdoor.benchmark.trained import TAKEN, take_over

__all__ = ["lock", "runner"]  # fixtures
CELL = Cell(MNIST)


def trained(folder: Path, cell: Cell = CELL, start=None, **changes) -> Path:
    """A run folder of kbd train that has made the network of `cell`, but for `changes` of what it was asked."""
    training = cell.training
    asked = {
        "recipe": training.recipe,
        "settings": repr(training.settings),
        "epochs": training.settings.epochs,
        "seed": training.seed,
        "clean_only": training.clean_only,
        "start": start,
        "defense": None,
        "data": dict(training.fingerprints),
    }
    record = {"command": "train", "asked": asked, "finished": True, "reproduce": "kbd train", "started": "x"}
    record["versions"] = {"keras-backdoor": keras_backdoor.__version__}
    record |= {name: value for name, value in changes.items() if name in record}
    asked |= {name: value for name, value in changes.items() if name in asked}
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "badnet.h5").write_text("weights")
    return folder


def test_what_was_trained_alike_is_copied(tmp_path):
    trained(tmp_path / "runs" / "other", seed=1)
    source, copy = trained(tmp_path / "runs" / "same"), tmp_path / "copy"
    (tmp_path / "runs" / "stray").mkdir()
    assert take_over(CELL, copy, [str(tmp_path / "runs")])
    assert (copy / "badnet.h5").read_text() == "weights" and not (copy / "checkpoints").exists()
    record = json.loads((copy / "run.json").read_text())
    assert record == {**json.loads((source / "run.json").read_text()), TAKEN: "same"}
    assert take_over(CELL, tmp_path / "second", [str(source)])
    assert not list(tmp_path.glob(".unfinished*"))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"epochs": 9},
        {"recipe": "mnist-cla"},
        {"settings": "Recipe()"},
        {"clean_only": True},
        {"data": {"train": "x"}},
        {"defense": "abl"},
        {"start": 64 * "a"},
        {"finished": False},
        {"command": "defend"},
        {"versions": {"keras-backdoor": "99"}},
        {"versions": {}},
    ],
    ids=str,
)
def test_what_differs_is_not(tmp_path, changes):
    trained(tmp_path / "run", **changes)
    assert not take_over(CELL, tmp_path / "copy", [str(tmp_path)]) and not (tmp_path / "copy").exists()


def test_the_first_of_two_steps_may_have_been_done_elsewhere(tmp_path):
    two = Cell(replace(MNIST, recipe="gtsrb-pn", dataset="gtsrb", miniature=False))
    assert recipe("gtsrb-pn").two_step
    trained(tmp_path / "run", two, start=64 * "a")
    assert take_over(two, tmp_path / "copy", [str(tmp_path)])


def test_a_place_that_is_no_folder_is_named(tmp_path, refused):
    with refused(tmp_path / "no", "kbd train"):
        take_over(CELL, tmp_path / "copy", [str(tmp_path / "no")])


def test_what_copying_costs_is_not_told_as_the_cost_of_training(runner):
    work = runner()
    work.run(cells())
    (record,) = read_records(work.folder)
    (row,) = rows([record])
    assert row.values["seconds"] == [record["process_seconds"]] and row.values["cpu_seconds"]
    (row,) = rows([{**record, TAKEN: "same"}])
    assert row.values["clean_accuracy"] == [SCORES["clean_accuracy"]]
    assert not row.values.keys() & {"seconds", "cpu_seconds", "peak_memory_mib"}
