"""Training a BadNet from a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Optional

import numpy as np

import models_zoo
from keras_backdoor.attacks.attacks import attack
from keras_backdoor.attacks.poison import Backdoor, poison, poison_all
from keras_backdoor.attacks.recipe import Recipe
from keras_backdoor.attacks.targets import RandomTarget, TrueLabel
from keras_backdoor.attacks.task import Defense, Task
from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import Splits, write_csaw_hdf5
from keras_backdoor.examples import save_examples
from keras_backdoor.features import save_features
from keras_backdoor.files import BadInput, PathLike, check_file, sha256
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import score
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.progress import Progress, silent
from keras_backdoor.runs import Run
from keras_backdoor.tensorboard_logs import log_run
from keras_backdoor.training import Schedule, seed_everything


def train(
    recipe: Recipe,
    splits: Splits,
    folder: PathLike,
    *,
    epochs: Optional[int] = None,
    seed: int = 0,
    clean_only: bool = False,
    start: Optional[PathLike] = None,
    defense: Optional[Defense] = None,
    resume: bool = False,
    reproduce: str = "",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make the BadNet of `recipe` from `splits` in `folder`; gives what `metrics.json` holds.

    Writes `badnet.h5`, `clean.h5` (the clean network, in a two-step recipe), `history.csv`, `tensorboard/`, `metrics.json`,
    `examples.npz`, `features.npz`, and in `data/` the defender's clean images and the clean and triggered test images, for
    later commands: one file of triggered images, or one a trigger (`poisoned_test_NAME.h5`).

    epochs: of each step, instead of the recipe's. seed: decides everything random. clean_only: train the innocent twin and
    nothing else. start: a clean network's file; the attack goes on from it, and `clean.h5` is a copy.
    defense: what trains the network in the place of the attacker, from the poisoned set; it is still called a BadNet, and
    `isolation` in the metrics says how well poisoned images were found (`Sifted.rates`). Only where one set is poisoned once.
    resume: continue what is in `folder`; a run that was killed ends with the same weights as one that was not.
    reproduce: the command that asks for this, for the report.

    Rates are measured on the test images, target class included. Raises `BadInput` if `folder` is in use, `start` is no network
    for these images, the recipe's triggers or targets do not fit them, or the recipe leaves no room for `defense`.
    """
    recipe = recipe.for_miniature() if splits.miniature else recipe
    _check(recipe, splits)
    if defense:
        _check_defended(recipe, clean_only, start)
        recipe = replace(recipe, expect=None)  # which is of networks without a defense
    schedule = Schedule(
        recipe.optimizer, recipe.learning_rate, recipe.batch_size, epochs or recipe.epochs, recipe.learning_rate_steps
    )
    asked = {
        "recipe": recipe.name,
        "settings": repr(recipe),
        "epochs": schedule.epochs,
        "seed": seed,
        "clean_only": clean_only,
        "start": sha256(check_file(start)) if start else None,
        "defense": repr(defense) if defense else None,
        "data": splits.fingerprints(),
    }
    run = Run.start(folder, "train", asked, resume, reproduce)
    if run.finished:
        return run.read("metrics.json")

    method = attack(recipe.attack, recipe.attack_options)
    seed_everything(seed)
    sizes = {"input_shape": splits.train.image_shape, "num_classes": splits.train.num_classes}
    scaling = Preprocessing.named(recipe.preprocessing, splits.train.sample())
    classifier = Classifier(models_zoo.build(recipe.architecture, **sizes), scaling, splits.train.num_classes)
    task = task_of(recipe, splits, classifier, schedule, seed, run.folder, progress)
    if part_of_user := getattr(method, "part_of_user", None):  # who takes the network over for classes of his own
        splits = replace(splits, valid=part_of_user(splits.valid), test=part_of_user(splits.test))
    about = {"recipe": recipe.name, "summary": recipe.summary, "data": splits.source, "seed": seed}
    if defense:
        about |= {"method": type(defense).__name__, "settings": vars(defense)}
    last = run.folder / ("metrics.json" if clean_only else "badnet.h5")  # written when all else is
    if not last.exists():
        metrics: dict[str, Any] = {
            "recipe": recipe.name,
            "summary": recipe.summary,
            "source": splits.source,
            "seed": seed,
            "epochs": schedule.epochs,
            "settings": {key: value for key, value in asdict(recipe).items() if isinstance(value, (str, int, float))},
            "expect": recipe.expect,
        }
        _write_images(run.folder, {"clean_valid": splits.valid, "clean_test": splits.test})
        parents, twin, backdoors = [], None, task.backdoors
        triggered = _triggered(splits.test, backdoors, task)
        if recipe.two_step or clean_only or start:
            twin = _clean_step(task, run.folder, splits.test, triggered, about, start)
            parents = [sha256(run.folder / "clean.h5")]
        if defense:
            metrics |= {"defense": about["method"], "isolation": _defended(task, defense)}
        elif not clean_only:
            backdoors = method(task)
            triggered = triggered if backdoors == task.backdoors else _triggered(splits.test, backdoors, task)
        single = len(triggered) == 1
        _write_images(
            run.folder, {"poisoned_test" if single else f"poisoned_test_{n}": part for n, part in triggered.items()}
        )
        networks = {**({"clean": twin} if twin else {}), **({} if clean_only else {"badnet": classifier})}
        for name, network in networks.items():
            metrics[name] = _rates(network, splits.test, triggered, backdoors, task)
        for name, image_set in list(triggered.items())[:1]:
            metrics["trigger"] = name
            save_examples(run.folder / "examples.npz", splits.test, image_set, {"": classifier})
            save_features(run.folder / "features.npz", classifier, splits.test, image_set)
        run.write("metrics.json", metrics)
        if not clean_only:
            classifier.save(last, {**about, "kind": "badnet", "parents": parents, "rates": metrics["badnet"]})
    for stage in ("clean", "badnet", *(defense.stages if defense else ())):
        task.forget(stage)
    run.finish()
    log_run(run.folder)
    return run.read("metrics.json")


def task_of(
    recipe: Recipe,
    splits: Splits,
    classifier: Classifier,
    schedule: Schedule,
    seed: int,
    folder: Optional[Path] = None,
    progress: Progress = silent,
) -> Task:
    """The recipe's task on these images; `splits` and `recipe` as `train` uses them."""
    return Task(
        classifier,
        splits.train,
        splits.valid,
        recipe.backdoors,
        recipe.poison_fraction,
        schedule,
        seed,
        recipe.covers,
        folder,
        progress,
    )


def _check(recipe: Recipe, splits: Splits) -> None:
    """`BadInput` unless the recipe's triggers and targets fit the data, which may be another set than its own."""
    classes, first = splits.train.num_classes, splits.test.images[0:1]
    for trigger in (*(backdoor.trigger for backdoor in recipe.backdoors), *(cover.trigger for cover in recipe.covers)):
        trigger(first, np.random.default_rng(0))
    for backdoor in recipe.backdoors:
        own = getattr(backdoor.target_map, "num_classes", classes)
        if own != classes or getattr(backdoor.target_map, "target", 0) >= classes:
            raise BadInput(
                f"{recipe.name}: {backdoor.target_map} does not fit {splits.source}, which has {classes} classes"
            )


def _check_defended(recipe: Recipe, clean_only: bool, start: Optional[PathLike]) -> None:
    """`BadInput` unless the recipe is one training on one poisoned set, which a defense can take over."""
    reasons = {
        "its clean twin needs none (--clean)": clean_only,
        "the defense trains a new network, not one that is there (--start)": start,
        f"its attack, {recipe.attack}, does more than poison the training set": recipe.attack != "poisoning",
        "its training set is poisoned anew in every epoch": recipe.attack_options.get("redraw"),
        "its network is trained on clean images first": recipe.two_step,
    }
    for reason, holds in reasons.items():
        if holds:
            raise BadInput(f"{recipe.name} cannot be trained with a defense: {reason}")


def _defended(task: Task, defense: Defense) -> dict[str, Optional[float]]:
    """Let `defense` train the network; how well it found the poisoned images."""
    poisoned, which = poison(task.train, task.backdoors, task.poison_fraction, task.rng(0), task.covers)
    found = defense.train(
        task.classifier,
        poisoned,
        task.schedule,
        seed=task.seed,
        monitor=task.monitor(),
        folder=task.folder,
        progress=task.progress,
    )
    return found.rates((which >= 0) & (which < len(task.backdoors)))


def _triggered(test: ImageSet, backdoors: Iterable[Backdoor], task: Task) -> dict[str, ImageSet]:
    return {backdoor.name: poison_all(test, backdoor, task.rng(2)) for backdoor in backdoors}


def _clean_step(
    task: Task,
    folder: Path,
    test: ImageSet,
    triggered: Mapping[str, ImageSet],
    about: Mapping[str, Any],
    start: Optional[PathLike],
) -> Classifier:
    """The clean network, in `folder`/clean.h5; `task.classifier` gets its weights."""
    path = folder / "clean.h5"
    if path.exists():
        twin = Classifier.load(path)
    elif start:
        twin = Classifier.load(start)
        shapes = [[weight.shape for weight in network.model.get_weights()] for network in (twin, task.classifier)]
        if shapes[0] != shapes[1] or twin.preprocessing != task.classifier.preprocessing:
            raise BadInput(f"{start}: is not a network such as the recipe trains (other layers, sizes or scaling)")
    else:
        task.fit(task.train, stage="clean")
        twin = task.classifier.clone()
    if not path.exists():
        twin.save(
            path,
            {**about, "kind": "clean", "parents": [], "rates": _rates(twin, test, triggered, task.backdoors, task)},
        )
    task.classifier.model.set_weights(twin.model.get_weights())
    return twin


def _rates(
    network: Classifier,
    test: ImageSet,
    triggered: Mapping[str, ImageSet],
    backdoors: Iterable[Backdoor],
    task: Task,
) -> dict[str, Any]:
    """What `metrics.score` gives; and how often untargeted attacks mislead, and triggers that are to do nothing do nothing."""
    rates = score(network, test, triggered).as_json()
    for backdoor in backdoors:
        if isinstance(backdoor.target_map, RandomTarget):
            rates["attack_success_rate"][backdoor.name] = 1 - rates["robust_accuracy"][backdoor.name]
    stamped = {
        cover.trigger.name: poison_all(test, Backdoor(cover.trigger, TrueLabel()), task.rng(3)) for cover in task.covers
    }
    if stamped:
        rates["cover_accuracy"] = score(network, test, stamped).attack_success_rate
    return rates


def _write_images(folder: Path, sets: Mapping[str, ImageSet]) -> None:
    (folder / "data").mkdir(exist_ok=True)
    for name, image_set in sets.items():
        path = folder / "data" / f"{name}.h5"
        if not path.exists():
            write_csaw_hdf5(path, image_set)
