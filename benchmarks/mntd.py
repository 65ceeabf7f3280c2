"""Shadow networks of MNTD trained together, beside one after the other; with --detection, how well MNTD judges networks by them.

    python benchmarks/mntd.py [--detection] [--shadows 64] [--targets 32] [--meta-epochs 10] [--cache FOLDER]

Without MNIST ($KBD_SHARED_DATA or ../shared/data) the digits that ship with a dependency stand in. With --cache, what is trained
for --detection is kept in FOLDER: after an interrupt it goes on there.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import models_zoo
from keras_backdoor import datasets
from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import Splits
from keras_backdoor.defenses.mntd.mntd import MNTD
from keras_backdoor.defenses.mntd.shadows import Shadows, ShadowTraining
from keras_backdoor.detection import auc
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import score
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.training import Schedule, fit, seed_everything

DATA = Path(os.environ.get("KBD_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data") / "mnist.npz"
NETWORKS, ALONE, EPOCHS = 32, 2, 100


def digits() -> Splits:
    return datasets.load("mnist", DATA) if DATA.exists() else datasets.load("mnist")


def share(images: ImageSet, count: int, seed: int) -> ImageSet:
    return images.select(np.random.default_rng(seed).permutation(len(images))[:count])


def architecture() -> Classifier:
    return Classifier(models_zoo.build("mntd-mnist"), Preprocessing.named("unit"), 10)


def together(clean: ImageSet, count: int, at_once: int) -> float:
    """Seconds a network, of `count` jumbo-trojaned ones, in graphs of `at_once`."""
    started = time.perf_counter()
    Shadows(architecture(), clean, ShadowTraining(EPOCHS), at_once).networks("jumbo", range(count))
    return (time.perf_counter() - started) / count


def one_by_one(clean: ImageSet, count: int) -> float:
    """Seconds a network: the same sets, by the training loop of the library."""
    shadows, started = Shadows(architecture(), clean, ShadowTraining(EPOCHS)), time.perf_counter()
    for number in range(count):
        seed_everything(number)
        copies = shadows.trojan(number).copies(clean, np.random.default_rng(number))
        images, labels = (
            np.concatenate([getattr(part, name) for part in (clean, copies)]) for name in ("images", "labels")
        )
        fit(architecture(), ImageSet(images, labels, 10), Schedule("adam", 1e-3, 100, EPOCHS), seed=number)
    return (time.perf_counter() - started) / count


def table() -> str:
    """The table of speeds."""
    clean, load = share(digits().train, 1200, 0), os.getloadavg()[0]
    baseline = one_by_one(clean, ALONE)
    rows = [
        ("one after the other, the library's training loop", ALONE, baseline),
        ("one at a time, same code", ALONE, together(clean, ALONE, 1)),
        ("together, in one graph", NETWORKS, together(clean, NETWORKS, NETWORKS)),
    ]
    lines = [
        "### Shadow networks of MNTD",
        "",
        f"MNIST networks on {len(clean):,} digits and their poisoned copies, batches of 100, {EPOCHS} epochs, one run of each.",
        f"Load of the machine at the start: {load:.1f} on {os.cpu_count()} cores.",
        "",
        "| what | networks run | seconds a network | faster | wanted |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for what, count, seconds in rows:
        wanted = f"2 ×: {'yes' if baseline >= 2 * seconds else '**no**'}" if count == NETWORKS else ""
        lines.append(f"| {what} | {count} | {seconds:.2f} | {baseline / seconds:.1f} × | {wanted} |")
    return "\n".join(lines)


def detection(shadows: int, targets: int, meta_epochs: int, cache: str | None) -> str:
    """The table of how well networks are judged that had half of the training set, 4 epochs, and the code's attacks M and B."""
    splits, network = digits(), architecture()
    started = time.perf_counter()
    defense = MNTD(shadows=shadows, held_out=max(2, shadows // 4), meta_epochs=meta_epochs, cache=cache)
    detector = defense.learn(network, splits.valid)
    minutes = (time.perf_counter() - started) / 60
    suspects = Shadows(network, share(splits.train, len(splits.train) // 2, 1), ShadowTraining(4, seed=1), folder=cache)
    scores, lines = {}, []
    for kind in ("innocent", "patch", "blend"):
        accuracy, success, found = [], [], []
        for number, weights in enumerate(suspects.networks(kind, range(targets))):
            network.model.set_weights(weights)
            found.append(detector.verdict(network))
            poisoned = {}
            if kind != "innocent":
                trojan, images = suspects.trojan(number, kind), splits.test
                stamped = trojan.trigger(images.images, np.random.default_rng(0))
                poisoned["it"] = ImageSet(stamped, np.full(len(images), trojan.target), 10, images.labels)
            rates = score(network, splits.test, poisoned, exclude_target=True)
            accuracy.append(rates.clean_accuracy)
            success += rates.attack_success_rate.values()
        scores[kind] = np.array([verdict.score for verdict in found])
        flagged = np.mean([verdict.backdoored for verdict in found])
        probability = np.mean([verdict.probability for verdict in found])
        area = f"{auc(-scores['innocent'], -scores[kind]):.3f}" if success else "–"
        attack = f"{100 * np.mean(success):.1f} %" if success else "–"
        lines.append(
            f"| {kind} | {targets} | {100 * np.mean(accuracy):.1f} % | {attack} | {100 * probability:.1f} % | "
            f"{100 * flagged:.1f} % | {area} |"
        )
    held_out = auc(-detector.innocent, -detector.trojaned)
    head = [
        "### MNTD on MNIST",
        "",
        f"{shadows} + {shadows} shadow networks; {defense.held_out} + {defense.held_out} held out, AUC {held_out:.3f}.",
        f"Learned in {minutes:.1f} minutes.",
        "",
        "| networks | count | clean accuracy | attack success | probability, mean | flagged | AUC |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*head, *lines])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--detection", action="store_true")
    parser.add_argument("--shadows", type=int, default=64)
    parser.add_argument("--targets", type=int, default=32)
    parser.add_argument("--meta-epochs", type=int, default=10)
    parser.add_argument("--cache")
    arguments = parser.parse_args()
    text = (
        detection(arguments.shadows, arguments.targets, arguments.meta_epochs, arguments.cache)
        if arguments.detection
        else table()
    )
    sys.stdout.write(text + "\n")
