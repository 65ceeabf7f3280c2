"""What is done in a cell's process: train its network, or run its defense, as `kbd train` and `kbd defend` do."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from keras_backdoor import datasets
from keras_backdoor.attacks.train import task_of, train
from keras_backdoor.benchmark.cells import NONE, OWN, Cell
from keras_backdoor.benchmark.child import serve
from keras_backdoor.benchmark.figures import figures_of
from keras_backdoor.benchmark.runner import NETWORKS, RUNS
from keras_backdoor.benchmark.trained import START, TAKEN, take_over
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses import SIFTING, TRAINING, find
from keras_backdoor.defenses.apply import defend
from keras_backdoor.defenses.apply_sift import sift
from keras_backdoor.defenses.described import hyper_parameters, verbs
from keras_backdoor.defenses.nnoculation.stream import Stream
from keras_backdoor.files import BadInput, read_json
from keras_backdoor.images import ImageSet
from keras_backdoor.runs import Run
from keras_backdoor.training import Schedule

SHARED = "shared"
"""In a bench folder: what the cells of one defense can use in common, such as shadow networks."""
STREAMED = 0.2
"""Share of a stream that is triggered: that of NNoculation's code."""


def main() -> None:
    """Do one job and end."""
    serve(work)


def work(job: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the record of a cell, `cell` of the job, whose run folder is made in `folder` of the job."""
    cell, home = Cell.from_json(job["cell"]), Path(job["folder"])
    network = home / NETWORKS / cell.network.name
    if cell.defense == NONE:
        known = network.exists() or take_over(cell, network, job["networks"])
        metrics = Run(network).read("metrics.json") if known and _finished(network) else _train(cell, network)
        made = {"badnet": metrics.get("badnet"), "innocent": metrics.get("clean")}
        networks = {kind: scores for kind, scores in made.items() if scores}
        return {"networks": networks, "expect": metrics["expect"], **_provenance(cell, network)}
    folder = home / RUNS / cell.name
    if cell.defense in SIFTING:
        metrics = _sift(cell, network, folder)
    elif cell.defense in TRAINING:
        metrics = _train_defended(cell, network, folder)
    else:
        metrics = _defend(cell, network, folder, home)
    return {**figures_of(metrics), **_provenance(cell, folder)}


def _provenance(cell: Cell, folder: Path) -> dict[str, Any]:
    record = read_json(folder / "run.json")
    known = {name: record[name] for name in ("versions", "started")}
    start = record["asked"].get(START)
    command = record["reproduce"] or _reproduce(cell) + (" --start CLEAN.h5" if start else "")
    return {**known, "reproduce": command, START: start, TAKEN: record.get(TAKEN)}


def _unfinished(folder: Path) -> bool:
    """Whether there is a run to go on with; what was killed before it had a record is removed."""
    if (folder / "run.json").exists():
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return False


def _train(cell: Cell, folder: Path, **defense: Any) -> dict[str, Any]:
    training = cell.training
    splits = datasets.load(training.dataset, training.data).limited(training.limit)
    if splits.fingerprints() != training.fingerprints:
        raise BadInput(f"data set {training.dataset}: was changed since the bench began")
    return train(
        training.settings,
        splits,
        folder,
        epochs=training.epochs,
        seed=training.seed,
        clean_only=training.clean_only,
        resume=_unfinished(folder),
        reproduce=_reproduce(cell),
        **defense,
    )


def _defend(cell: Cell, network: Path, folder: Path, home: Path) -> dict[str, Any]:
    if _finished(folder):
        return Run(folder).read("metrics.json")
    methods, model = verbs(cell.defense), _model(cell, network)
    classifier = Classifier.load(model)
    clean, test, poisoned = _images(network, classifier.num_classes)
    more: dict[str, Any] = {}
    if "streams" in methods.get("steps", ()):
        more["streams"], test, poisoned = _streams(
            test, {} if cell.innocent else poisoned, poisoned, cell.training.seed
        )
    resumes = "chunks" in methods or any("folder" in methods.get(verb, ()) for verb in ("steps", "inspect"))
    if not resumes:
        shutil.rmtree(folder, ignore_errors=True)
    return defend(
        cell.defense,
        _defense(cell, home / SHARED),
        model,
        classifier,
        clean,
        poisoned,
        folder,
        test=test,
        missing_classes=True,  # in transfer learning the user has none of the attacker's classes
        resume=_unfinished(folder),
        reproduce=_reproduce(cell),
        **more,
    )


def _sift(cell: Cell, network: Path, folder: Path) -> dict[str, Any]:
    """Look through the images that the network was trained on; those of other attacks than plain poisoning are not at hand."""
    if _finished(folder):
        return Run(folder).read("metrics.json")
    shutil.rmtree(folder, ignore_errors=True)
    training, recipe = cell.training, cell.training.settings
    splits, model = datasets.load(training.dataset, training.data).limited(training.limit), _model(cell, network)
    classifier = Classifier.load(model)
    seen = ImageSet(splits.train.images, splits.train.labels, splits.train.num_classes, splits.train.labels)
    if not cell.innocent:
        if recipe.attack != "poisoning" or recipe.attack_options.get("redraw"):
            raise BadInput(
                f"{training.recipe}: has no one poisoned training set that {cell.defense} could look through"
            )
        schedule = Schedule(recipe.optimizer, recipe.learning_rate, recipe.batch_size, 1)
        seen = task_of(recipe, splits, classifier, schedule, training.seed).poisoned()
    return sift(cell.defense, _defense(cell), model, classifier, seen, folder, reproduce=_reproduce(cell))


def _train_defended(cell: Cell, network: Path, folder: Path) -> dict[str, Any]:
    """Train on the poisoned images with a defense; before it, there is the network that was trained without."""
    started = time.perf_counter()
    metrics = _train(cell, folder, defense=_defense(cell))
    seconds = round(time.perf_counter() - started, 3)
    before = read_json(network / "metrics.json")["badnet"]
    found = {"method": cell.defense, "before": before, "after": metrics["badnet"], "sifted": metrics["isolation"]}
    return {**found, "seconds": seconds}


def _finished(folder: Path) -> bool:
    return (folder / "run.json").exists() and Run(folder).finished


def _defense(cell: Cell, shared: Optional[Path] = None) -> Any:
    """The defense of a cell. shared: where it keeps what other cells can use, if it can."""
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in cell.settings.items()}
    if shared and any(one.name == "cache" for one in hyper_parameters(cell.defense)):
        settings.setdefault("cache", str(shared))
    return find(cell.defense)(**settings)


def _model(cell: Cell, network: Path) -> Path:
    return network / ("clean.h5" if cell.innocent else "badnet.h5")


def _images(network: Path, num_classes: int) -> tuple[ImageSet, ImageSet, dict[str, ImageSet]]:
    """The defender's clean images, the clean test images, and the triggered ones by trigger, as `train` left them."""
    metrics, data = read_json(network / "metrics.json"), network / "data"
    triggers = list(metrics.get("badnet", metrics.get("clean"))["attack_success_rate"])
    files = {
        name: data / (f"poisoned_test_{name}.h5" if len(triggers) > 1 else "poisoned_test.h5") for name in triggers
    }
    poisoned = {name: datasets.read_images(path, num_classes) for name, path in files.items()}
    clean, test = (datasets.read_images(data / f"clean_{part}.h5", num_classes) for part in ("valid", "test"))
    return clean.in_memory(), test, poisoned


def _streams(
    test: ImageSet, attacks: Mapping[str, ImageSet], poisoned: Mapping[str, ImageSet], seed: int
) -> tuple[Sequence[Stream], ImageSet, dict[str, ImageSet]]:
    """Half of the test images, drawn at random, as a stream for each trigger; and all sets without that half.

    attacks: what the streams are attacked with, one each, evenly spaced in them; one stream without, if there is none.
    """
    order = np.random.default_rng(seed).permutation(len(test))
    seen, rest = order[: len(order) // 2], np.sort(order[len(order) // 2 :])
    triggered = np.zeros(len(seen), bool)
    triggered[np.linspace(0, len(seen), int(STREAMED * len(seen)), endpoint=False, dtype=int)] = True
    streams = []
    for attack in attacks.values() or [None]:
        images = np.array(test.select(seen).images)
        if attack is not None:
            images[triggered] = attack.select(seen[triggered]).images
        which: Optional[np.ndarray] = triggered if attack is not None else np.zeros(len(seen), bool)
        streams.append(Stream(ImageSet(images, test.labels[seen], test.num_classes), which))
    return streams, test.select(rest), {name: images.select(rest) for name, images in poisoned.items()}


def _reproduce(cell: Cell) -> str:
    """The command that trains the network, or that runs this cell and no other defense in a bench of its own."""
    training = cell.training
    other = training.dataset if training.dataset != training.settings.dataset else ""
    if cell.defense == NONE:
        words = ["kbd", "train", training.recipe, "--seed", str(training.seed)]
        words += [*(["--dataset", other] if other else []), *(["--clean"] if training.clean_only else [])]
    else:
        recipe = f"{training.recipe}@{other}" if other else training.recipe
        words = ["kbd", "bench", "--recipes", recipe, "--defenses", cell.defense, "--seeds", str(training.seed)]
        words += ["--innocent", recipe if cell.innocent else ""]
    for name in ("data", "epochs", "limit"):
        value = getattr(training, name)
        words += [] if value is None else [f"--{name}", str(value)]
    for name, value in cell.settings.items():
        if cell.origins.get(name) not in OWN:
            text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            words += ["--set", f"{cell.defense}.{name}={text}"]
    return shlex.join(words)
