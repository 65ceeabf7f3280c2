"""Training beside a bare compiled step and Keras's `fit` on arrays; evaluation beside the course's eval.py.

    python benchmarks/throughput.py

Images are random, weights as they come: neither changes what is computed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import numpy as np
import tensorflow as tf
from tensorflow import keras

import models_zoo
from keras_backdoor.attacks.recipes import recipe
from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import read_csaw_hdf5
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import score
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.training import CROSS_ENTROPY, OPTIMIZERS, Schedule, fit, seed_everything

TRAINED = (("MNIST net", "mnist-patch", 16_000), ("DeepID", "youtube-sg/batch256", 20_480))
"""Networks, recipes, and images in an epoch: of MNIST and of the YouTube set, a quarter and a fifth."""
TURNS = 5
FACES = (11_547, 55, 47, 3)
RUNS = 3


class Turns(keras.callbacks.Callback):
    """Times the epochs of the training that it is a callback of, and runs the others' between them."""

    def __init__(self, others: dict) -> None:
        super().__init__()
        self._others = others
        self._epochs: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
        self._started = 0.0

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        self._epochs["ours"].append(time.perf_counter() - self._started)
        for name, run in self._others.items():
            self._epochs[name].append(run())
        self._started = time.perf_counter()

    def least(self) -> dict[str, float]:
        """The shortest epoch of each but for the first."""
        return {name: min(times[1:]) for name, times in self._epochs.items()}


class Clock(keras.callbacks.Callback):
    """Seconds of the last epoch, from the end of the one before it."""

    _ended = 0.0

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        ended = time.perf_counter()
        self.seconds, self._ended = ended - self._ended, ended


def training(name: str, count: int) -> dict[str, float]:
    """Seconds of an epoch of `count` images by recipe `name`: "ours", a "bare" step as often, and "fit" on float32 arrays."""
    seed_everything(0)
    made = recipe(name)
    network = Classifier(models_zoo.build(made.architecture), Preprocessing.named(made.preprocessing), 0)
    classes = network.model.output_shape[-1]
    network = replace(network, num_classes=classes)
    rng = np.random.default_rng(0)
    images = ImageSet(
        rng.integers(0, 256, (count, *network.image_shape), np.uint8), np.arange(count) % classes, classes
    )
    others = {"bare": bare(network, images, made), "fit": on_arrays(network, images, made)}
    turns = Turns(others)
    schedule = Schedule(made.optimizer, made.learning_rate, made.batch_size, TURNS + 1)
    fit(network, images, schedule, seed=0, callbacks=[turns])
    return turns.least()


def bare(network: Classifier, images: ImageSet, made):
    """A function that takes an epoch's number of compiled steps on one batch, and gives the seconds."""
    model, optimizer = network.clone().model, OPTIMIZERS[made.optimizer](made.learning_rate)
    inputs, labels = network.scale(images.images[: made.batch_size]), tf.constant(images.labels[: made.batch_size])

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, model(inputs, training=True)))
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
        return loss

    def epoch() -> float:
        started = time.perf_counter()
        for _ in range(len(images) // made.batch_size):
            loss = step()
        loss.numpy()
        return time.perf_counter() - started

    return epoch


def on_arrays(network: Classifier, images: ImageSet, made):
    """A function that trains two epochs by `keras.Model.fit` on arrays, and gives the seconds of the second."""
    model = network.clone().model
    model.compile(OPTIMIZERS[made.optimizer](made.learning_rate), CROSS_ENTROPY, metrics=["accuracy"])
    inputs = network.scale(images.images).numpy()

    def epoch() -> float:
        clock = Clock()
        model.fit(inputs, images.labels, made.batch_size, epochs=2, verbose=0, callbacks=[clock])
        return clock.seconds

    return epoch


def course(network: str, faces: str) -> float:
    """The accuracy as the course's eval.py finds it: everything is loaded, turned, divided and predicted at once."""
    with h5py.File(faces) as file:
        images, labels = np.array(file["data"]), np.array(file["label"])
    images = images.transpose((0, 2, 3, 1)) / 255
    model = keras.models.load_model(network)
    return float(np.mean(np.argmax(model.predict(images, verbose=0), axis=1) == labels))


def ours(network: str, faces: str) -> float:
    """The same as `kbd eval` finds it, with the gate that looks at the network file first."""
    classifier = Classifier.load(network)
    return score(classifier, read_csaw_hdf5(faces, classifier.num_classes), {}).clean_accuracy


def measured(way: str, network: str, faces: str) -> dict[str, float]:
    """Accuracy, seconds, and MB at the peak beyond what the process had before (Linux)."""

    def memory(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

    Path("/proc/self/clear_refs").write_text("5")
    before, started = memory("VmRSS"), time.perf_counter()
    accuracy = {"course": course, "ours": ours}[way](network, faces)
    return {"accuracy": accuracy, "seconds": time.perf_counter() - started, "megabytes": memory("VmHWM") - before}


def evaluations(folder: Path) -> dict[str, dict[str, float]]:
    """What `measured` gives for both ways, each in processes of its own, in turns; the least seconds and the most memory."""
    seed_everything(0)
    network, faces = folder / "deepid.h5", folder / "faces.h5"
    Classifier(models_zoo.build("deepid"), Preprocessing.named("unit"), 1283).save(network)
    count, *shape = FACES
    with h5py.File(faces, "w") as file:  # as the course's files are: whole, not compressed
        pixels = np.random.default_rng(0).integers(0, 256, (count, shape[2], *shape[:2]), np.uint8)
        file["data"], file["label"] = pixels, np.arange(count) % 1283
    found: dict[str, list[dict[str, float]]] = {"course": [], "ours": []}
    for _ in range(RUNS):
        for way, runs in found.items():
            command = [sys.executable, __file__, way, str(network), str(faces)]
            runs.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    most = {way: max(runs, key=lambda run: run["megabytes"]) for way, runs in found.items()}
    return {way: {**most[way], "seconds": min(run["seconds"] for run in runs)} for way, runs in found.items()}


def wanted(held: bool, what: str) -> str:
    return f"{what}: {'yes' if held else '**no**'}"


def table() -> str:
    """The tables, as Markdown."""
    lines = [
        "### Training throughput",
        "",
        f"Images a second in the shortest of {TURNS} epochs of each, all three in turns in one process. Bare: a compiled step,",
        "again and again on one batch of scaled images. `fit`: Keras's, on arrays of scaled images.",
        "",
        "| network | images | batch | bare | `fit` | ours | ours / bare | ours / `fit` | wanted |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for title, name, count in TRAINED:
        seconds = training(name, count)
        rates = {way: count / took for way, took in seconds.items()}
        to_bare, to_fit = rates["ours"] / rates["bare"], rates["ours"] / rates["fit"]
        numbers = (count, recipe(name).batch_size, *(rates[way] for way in ("bare", "fit", "ours")))
        cells = [title, *(f"{number:,.0f}" for number in numbers)]
        goal = wanted(to_bare >= 0.95 and to_fit > 1, "≥ 0.95, > 1")
        lines.append(f"| {' | '.join(cells)} | {to_bare:.2f} | {to_fit:.2f} | {goal} |")
    with tempfile.TemporaryDirectory() as folder:
        found = evaluations(Path(folder))
    less = found["ours"]["megabytes"] / found["course"]["megabytes"]
    faster = found["course"]["seconds"] / found["ours"]["seconds"]
    same = "the same" if found["ours"]["accuracy"] == found["course"]["accuracy"] else "**not the same**"
    lines += [
        "",
        "### Evaluation of 11,547 faces",
        "",
        "DeepID with 1283 classes and an HDF5 file of uint8, from the network file to the accuracy, imports not counted. Course:",
        "load all, transpose, divide, `predict`. Memory: resident at the peak, beyond what the process had after the imports.",
        f"A process for each run, in turns; least time and most memory of {RUNS}. The accuracies are {same}.",
        "",
        "| way | seconds | MB | wanted |",
        "| --- | ---: | ---: | --- |",
        f"| course's eval.py | {found['course']['seconds']:.2f} | {found['course']['megabytes']:.0f} | |",
        f"| `kbd eval` | {found['ours']['seconds']:.2f} | {found['ours']['megabytes']:.0f} | "
        f"{wanted(faster >= 2, f'{faster:.1f} × faster, ≥ 2')}; {wanted(less <= 0.25, f'{less:.2f} of the memory, ≤ 0.25')} |",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measured(*sys.argv[1:])) if len(sys.argv) > 1 else table() + "\n")
