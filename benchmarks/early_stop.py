"""NNoculation from a full quarantine to two repaired networks, with and without the early stop of its CycleGAN.

    python benchmarks/early_stop.py                 # 60 epochs without it: some ten minutes of two cores
    python benchmarks/early_stop.py --epochs 200    # as many as the paper trains: half an hour

The network is `mnist-aaa` of the zoo; a fifth of the stream is triggered. Grid and quarantine are made once; both ways go on
from copies of that folder. The seconds of the paper's 200 epochs are then not measured: a line of their own has 200/60 of those
of 60, as each epoch does the same. Without MNIST ($KBD_SHARED_DATA or ../shared/data) there is nothing to measure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from keras_backdoor import datasets
from keras_backdoor.attacks.poison import poison_all
from keras_backdoor.attacks.recipes import recipe
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.nnoculation.nnoculation import QUARANTINE, NNoculation
from keras_backdoor.defenses.nnoculation.stream import poison_stream
from keras_backdoor.metrics import score

HERE = Path(__file__).resolve()
DATA = Path(os.environ.get("KBD_SHARED_DATA") or HERE.parents[2] / "shared" / "data") / "mnist.npz"
NETWORK = HERE.parents[1] / "models_zoo" / "pretrained" / "mnist-aaa.h5"
RECIPE = recipe("mnist-aaa")
(BACKDOOR,) = RECIPE.backdoors
PAPER = 200
"""Epochs of the paper's CycleGAN."""
DEFENSE = NNoculation(
    learning_rate=RECIPE.learning_rate,
    alpha=(6.0,),
    gamma=(0.6,),
    gan_width=16,
    gan_blocks=3,
    gan_discriminator_width=16,
    gan_batch=4,
)
"""A small CycleGAN: an epoch of the default one takes some twenty times as long."""


def table(epochs: int) -> str:
    """The table, as Markdown. epochs: of the CycleGAN without the early stop, and at most with it."""
    heading = ["### NNoculation's early stop", ""]
    if not DATA.exists():
        return "\n".join([*heading, "Left out: there is no MNIST."])
    rng = np.random.default_rng(0)
    splits = datasets.load("mnist", DATA)
    classifier = Classifier.load(NETWORK)
    order = rng.permutation(len(splits.test))
    watched, test = splits.test.select(order[:3000]), splits.test.select(order[3000:])
    stream = poison_stream(watched, BACKDOOR.trigger, 0.2, seed=0)
    rated = {"trigger": poison_all(test, BACKDOOR, rng)}
    defense = replace(DEFENSE, gan_epochs=epochs)

    def rates(network: Classifier) -> str:
        found = score(network, test, rated, exclude_target=True)
        return f"{100 * found.clean_accuracy:.2f} / {100 * found.attack_success_rate['trigger']:.2f}"

    def line(name: str, trained: float, flips: str, reversal: float, treatment: float, after: str) -> str:
        seconds = (f"{value:.0f}" for value in (reversal, treatment, reversal + treatment))
        return f"| {' | '.join([name, f'{trained:.0f}', flips, *seconds, after])} |"

    lines = []
    with tempfile.TemporaryDirectory() as home:
        start = Path(home, "start")
        *_, quarantined = replace(defense, until=QUARANTINE).steps(
            classifier, splits.valid, folder=start, streams=[stream]
        )
        for name, early_stop in (("with", True), ("without", False)):
            folder = Path(home, name)
            shutil.copytree(start, folder)
            *_, last = replace(defense, early_stop=early_stop).steps(
                classifier, splits.valid, folder=folder, streams=[stream]
            )
            reversal, treatment = last.done["seconds_reversal"], last.done["seconds_treatment"]
            flips = f"{100 * last.done['flip_share']:.0f} %"
            lines.append(line(name, last.done["gan_epochs"], flips, reversal, treatment, rates(last.classifier)))
    if epochs != PAPER:
        lines.append(line("without, computed", PAPER, "–", PAPER / epochs * reversal, treatment, "–"))
    heading += [
        f"{len(splits.valid)} clean digits, {len(watched)} in the stream, {quarantined.done['quarantined']} of them quarantined.",
        f"CycleGAN: width 16, 3 blocks, discriminators of width 16, batch 4, at most {epochs} epochs. Clean accuracy / attack",
        f"success without the target's images: {rates(classifier)}, after the grid {rates(quarantined.classifier)}.",
        "",
        "| early stop | epochs | flips | CycleGAN, s | treatment of both networks, s | together, s | after the round |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*heading, *lines])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="NNoculation's early stop: seconds with and without it.")
    parser.add_argument("--epochs", type=int, default=60, help="of the CycleGAN without the early stop (default: 60)")
    sys.stdout.write(table(parser.parse_args().epochs) + "\n")
