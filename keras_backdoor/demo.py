"""The whole loop in a few minutes: train BadNets on real digits, measure, repair, report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from keras_backdoor import datasets
from keras_backdoor.attacks.recipes import recipe
from keras_backdoor.attacks.train import train
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses import find
from keras_backdoor.defenses.apply import defend
from keras_backdoor.files import PathLike
from keras_backdoor.progress import Progress, silent
from keras_backdoor.report import build_report
from keras_backdoor.runs import Run

RECIPES = ["mnist-patch", "mnist-aaa"]
# Fine-pruning as it is, and at a rate seven times as high for twice as long: the papers' first pitfall is that a defense
# depends on such choices. The rate is about the largest that costs these networks no more than 3 points of clean accuracy.
REPAIRS: dict[str, dict[str, Any]] = {
    "fine-pruning": {},
    "fine-pruning-high-rate": {"learning_rate": 7e-3, "epochs": 20},
}


def demo(folder: PathLike, *, seed: int = 0, resume: bool = False, progress: Progress = silent) -> dict[str, Any]:
    """Train `RECIPES` on the shipped digits, repair each in the ways of `REPAIRS`, and write `report.html` and `metrics.json`.

    Each step is a run folder of its own in `folder`, as `kbd train` and `kbd defend` leave it. resume: go on with a demo that was
    interrupted there. Gives what `metrics.json` holds: for each recipe and repair, the rates before and after.
    """
    folder = Path(folder)
    run = Run.start(
        folder, "demo", {"recipes": RECIPES, "repairs": REPAIRS, "seed": seed}, resume, f"kbd demo --seed {seed}"
    )
    metrics: dict[str, Any] = {}
    for name in RECIPES:
        chosen = recipe(name)
        splits = datasets.load(chosen.dataset)
        home = folder / name
        train(
            chosen,
            splits,
            home,
            seed=seed,
            resume=home.exists(),
            reproduce=f"kbd train {name} --seed {seed} -o {name}",
            progress=_named(progress, name),
        )
        metrics[name] = {repair: _repair(folder, name, repair, seed, progress) for repair in REPAIRS}
    run.write("metrics.json", metrics)
    run.finish()
    build_report(folder)
    return metrics


def _repair(folder: Path, name: str, repair: str, seed: int, progress: Progress) -> dict[str, Any]:
    """Fine-prune the BadNet of recipe `name` as `repair` says, in a run folder of its own."""
    home, target = folder / name, folder / f"{name}-{repair}"
    if (target / "run.json").exists() and Run(target).finished:
        return Run(target).read("metrics.json")
    shutil.rmtree(target, ignore_errors=True)  # what an interrupt left there, in the middle of writing
    trigger, settings = recipe(name).backdoors[0].name, {**REPAIRS[repair], "seed": seed}
    classifier = Classifier.load(home / "badnet.h5")
    clean, test, poisoned = (
        datasets.read_images(home / "data" / f"{part}.h5", classifier.num_classes).in_memory()
        for part in ("clean_valid", "clean_test", "poisoned_test")
    )
    options = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in settings.items())
    return defend(
        "fine-pruning",
        find("fine-pruning")(**settings),
        home / "badnet.h5",
        classifier,
        clean,
        {trigger: poisoned},
        target,
        test=test,
        reproduce=(
            f"kbd defend fine-pruning {name}/badnet.h5 --clean {name}/data/clean_valid.h5 --test {name}/data/clean_test.h5 "
            f"--poisoned {trigger}={name}/data/poisoned_test.h5 {options} -o {target.name}"
        ),
        progress=_named(progress, f"{name}, {repair}"),
    )


def _named(progress: Progress, name: str) -> Progress:
    """`progress` with the recipe's name before each stage."""
    return lambda stage, done, total, values: progress(f"{name}, {stage}", done, total, values)
