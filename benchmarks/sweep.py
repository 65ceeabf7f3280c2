"""The curve of pruning, all channels, beside predicting everything again with the whole network after each.

    python benchmarks/sweep.py

Without the published networks and faces (../shared/data) an untrained network and noise stand in.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import models_zoo
from keras_backdoor import datasets
from keras_backdoor.classifier import Classifier
from keras_backdoor.images import ImageSet
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.pruning import Cut, zero
from keras_backdoor.triggers import Sinusoid, Sunglasses

SHARED = Path(os.environ.get("KBD_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")
NETWORKS = {
    "course's lab 3": ("raw", "lab3_bd_weights.h5"),
    "BadNet-SG": ("unit", "sunglasses_bd_weights.h5"),
    "untrained": ("unit", None),
}
RUNS, COUNT = 3, 2000
STEPS = (0, 12, 24, 36, 48, 60)


def table() -> str:
    """The table, as Markdown."""
    lines = [
        "### Sweep of 60 channels",
        "",
        f"Accuracy and attack success of DeepID (1283 classes) after 0 to 60 channels of conv_3, on {COUNT:,} faces and two",
        f"poisoned sets of {COUNT:,}. Least of {RUNS} runs, all three in turns in one process. The baselines are the whole",
        "network on everything after each channel: by Keras' `predict` as it is, and by our compiled forward pass;",
        f"{len(STEPS)} of the 61 counts of them are run, and multiplied. Alive: channels that do something in an image.",
        "",
        "| network | alive | `predict`, s | forward, s | sweep, s | than `predict` | than forward | same answers | wanted |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    return "\n".join(lines + [row(name, *about) for name, about in NETWORKS.items() if _at_hand(about[1])])


def _at_hand(file: str | None) -> bool:
    return file is None or (SHARED / "models" / file).exists()


def faces() -> np.ndarray:
    """Real faces where they are at hand, noise otherwise; uint8 (COUNT, 55, 47, 3)."""
    if (SHARED / "lfw_faces.h5").exists():
        return datasets.load("lfw", SHARED).train.in_memory().images[:COUNT]
    return np.random.default_rng(0).integers(0, 256, (COUNT, 55, 47, 3), np.uint8)


def row(name: str, scaling: str, file: str | None) -> str:
    """One line of the table."""
    model = models_zoo.build("deepid")
    if file:
        model.load_weights(SHARED / "models" / file)
    network = Classifier(model, Preprocessing.named(scaling), 1283)
    images, rng = faces(), np.random.default_rng(0)
    stamped = [trigger(images, rng) for trigger in (Sunglasses(), Sinusoid())]
    sets = {str(place): ImageSet(one, np.zeros(COUNT, int), 1283) for place, one in enumerate([images, *stamped])}
    inputs = [network.scale(one.images).numpy() for one in sets.values()]
    order = np.argsort(Cut(network).means(sets["0"]), kind="stable")
    whole = network.clone()
    predict, forward, sweep = [], [], []
    equal = []
    for _ in range(RUNS):
        started = time.perf_counter()
        curve = Cut(network).curve(sets["0"], sets)
        sweep.append(time.perf_counter() - started)
        times = np.zeros(2)
        whole.model.set_weights(network.model.get_weights())
        for count in STEPS:
            zero(whole, "conv_3", order[:count])
            started = time.perf_counter()
            for one in inputs:
                whole.model.predict(one, verbose=0)
            predicted = time.perf_counter()
            answers = [whole.predict(one.batches()) for one in sets.values()]
            times += predicted - started, time.perf_counter() - predicted
            equal += [np.mean(said == curve.answers[key][count]) for key, said in zip(sets, answers)]
        scaled = times * (len(order) + 1) / len(STEPS)
        predict.append(scaled[0])
        forward.append(scaled[1])
    old, compiled, new = min(predict), min(forward), min(sweep)
    alive = _alive(network, images)
    verdict = f"20 ×: {'yes' if compiled >= 20 * new else 'no' if old < 20 * new else 'yes, against `predict`'}"
    return (
        f"| {name} | {alive:.0%} | {old:.1f} | {compiled:.1f} | {new:.2f} | {old / new:.1f} × | {compiled / new:.1f} × | "
        f"{100 * np.mean(equal):.2f} % | {verdict} |"
    )


def _alive(network: Classifier, images: np.ndarray) -> float:
    from tensorflow import keras

    part = keras.Model(network.model.input, network.model.get_layer("pool_3").output)
    return float(
        np.mean(
            [(part(network.scale(images[i : i + 250])).numpy() != 0).any((1, 2)).mean() for i in range(0, COUNT, 250)]
        )
    )


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
