"""Training a BadNet from a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

import numpy as np

import models_zoo
from keras_backdoor.attacks.poison import poison, poison_all
from keras_backdoor.attacks.recipes import Recipe
from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import Splits, write_csaw_hdf5
from keras_backdoor.examples import save_examples
from keras_backdoor.files import PathLike, sha256
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import score
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.progress import Progress, silent
from keras_backdoor.runs import Run
from keras_backdoor.training import Monitor, Schedule, fit, forget_checkpoint, seed_everything


def train(
    recipe: Recipe,
    splits: Splits,
    folder: PathLike,
    *,
    epochs: Optional[int] = None,
    seed: int = 0,
    resume: bool = False,
    reproduce: str = "",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make the BadNet of `recipe` from `splits` in `folder`; gives what `metrics.json` holds.

    Writes `badnet.h5`, `clean.h5` (the clean network, in a two-step recipe), `history.csv`, `tensorboard/`, `metrics.json`,
    `examples.npz`, and in `data/` the defender's clean images and the clean and triggered test images, for later commands.

    epochs: of each step, instead of the recipe's. seed: decides everything random. resume: continue what is in `folder`; a run
    that was killed ends with the same weights as one that was not. reproduce: the command that asks for this, for the report.

    Rates are measured on the test images, target class included. Raises `BadInput` if `folder` is in use.
    """
    recipe = recipe.for_miniature() if splits.miniature else recipe
    epochs = epochs or recipe.epochs
    asked = {
        "recipe": recipe.name,
        "settings": repr(recipe),
        "epochs": epochs,
        "seed": seed,
        "data": splits.fingerprints(),
    }
    run = Run.start(folder, "train", asked, resume, reproduce)
    if run.finished:
        return run.read("metrics.json")

    trigger = recipe.trigger
    poisoned_train, _ = poison(
        splits.train, trigger, recipe.target_map, recipe.poison_fraction, np.random.default_rng([seed, 0])
    )
    poisoned_valid = poison_all(splits.valid, trigger, recipe.target_map, np.random.default_rng([seed, 1]))
    poisoned_test = poison_all(splits.test, trigger, recipe.target_map, np.random.default_rng([seed, 2]))
    _write_images(
        run.folder / "data", {"clean_valid": splits.valid, "clean_test": splits.test, "poisoned_test": poisoned_test}
    )

    schedule = Schedule(recipe.optimizer, recipe.learning_rate, recipe.batch_size, epochs, recipe.learning_rate_steps)
    monitor = Monitor(splits.valid, {trigger.name: poisoned_valid})
    seed_everything(seed)
    sizes = {"input_shape": splits.train.image_shape, "num_classes": splits.train.num_classes}
    scaling = Preprocessing.named(recipe.preprocessing, splits.train.images)
    classifier = Classifier(models_zoo.build(recipe.architecture, **sizes), scaling, splits.train.num_classes)

    metrics: dict[str, Any] = {
        "recipe": recipe.name,
        "summary": recipe.summary,
        "trigger": trigger.name,
        "source": splits.source,
        "seed": seed,
        "epochs": epochs,
        "settings": {key: value for key, value in asdict(recipe).items() if isinstance(value, (str, int, float))},
        "expect": recipe.expect,
    }
    about = {"recipe": recipe.name, "summary": recipe.summary, "data": splits.source, "seed": seed}
    parents: list[str] = []
    clean_step = [("clean", splits.train)] if recipe.two_step else []
    for stage, images in [*clean_step, ("badnet", poisoned_train)]:
        path = run.folder / f"{stage}.h5"
        is_there = path.exists()
        if is_there:
            classifier = Classifier.load(path)
        else:
            fit(
                classifier,
                images,
                schedule,
                seed=seed,
                stage=stage,
                monitor=monitor,
                folder=run.folder,
                progress=progress,
            )
        metrics[stage] = score(classifier, splits.test, {trigger.name: poisoned_test}).as_json()
        if not is_there:
            classifier.save(path, {**about, "kind": stage, "parents": parents, "rates": metrics[stage]})
        forget_checkpoint(run.folder, stage)
        parents = [sha256(path)]
    save_examples(run.folder / "examples.npz", splits.test, poisoned_test, {"": classifier})
    run.write("metrics.json", metrics)
    run.finish()
    return metrics


def _write_images(folder: Path, sets: Mapping[str, ImageSet]) -> None:
    folder.mkdir(exist_ok=True)
    for name, image_set in sets.items():
        if not (folder / f"{name}.h5").exists():
            write_csaw_hdf5(folder / f"{name}.h5", image_set)
