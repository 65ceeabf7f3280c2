"""NNoculation from a full quarantine to two repaired networks, with and without the early stop of its CycleGAN.

    python benchmarks/early_stop.py

The network is `mnist-aaa` of the zoo; a fifth of the stream is triggered. Grid and quarantine are made once; both ways go on
from copies of that folder. Without MNIST ($KBD_SHARED_DATA or ../shared/data) there is nothing to measure.
"""

from __future__ import annotations

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
(BACKDOOR,) = recipe("mnist-aaa").backdoors
DEFENSE = NNoculation(alpha=(6.0,), gamma=(0.6,), gan_width=16, gan_blocks=3, gan_discriminator_width=16, gan_batch=4)
"""A small CycleGAN: an epoch of the default one takes some twenty times as long."""


def table() -> str:
    """The table, as Markdown."""
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

    def rates(network: Classifier) -> str:
        found = score(network, test, rated, exclude_target=True)
        return f"{100 * found.clean_accuracy:.2f} / {100 * found.attack_success_rate['trigger']:.2f}"

    lines = []
    with tempfile.TemporaryDirectory() as home:
        start = Path(home, "start")
        *_, quarantined = replace(DEFENSE, until=QUARANTINE).steps(
            classifier, splits.valid, folder=start, streams=[stream]
        )
        for name, early_stop in (("with", True), ("without (the paper)", False)):
            folder = Path(home, name)
            shutil.copytree(start, folder)
            defense = replace(DEFENSE, early_stop=early_stop)
            *_, last = defense.steps(classifier, splits.valid, folder=folder, streams=[stream])
            done = last.done
            cells = (
                f"{done['gan_epochs']:.0f}",
                f"{100 * done['flip_share']:.0f} %",
                f"{done['seconds_reversal']:.0f}",
                f"{done['seconds_treatment']:.0f}",
                f"{done['seconds_reversal'] + done['seconds_treatment']:.0f}",
                rates(last.classifier),
            )
            lines.append(f"| {name} | {' | '.join(cells)} |")
    heading += [
        f"{len(splits.valid)} clean digits, {len(watched)} in the stream, {quarantined.done['quarantined']} of them quarantined.",
        "CycleGAN: width 16, 3 blocks, discriminators of width 16, batch 4, at most 200 epochs. Clean accuracy / attack success",
        f"without the target's images: {rates(classifier)}, after the grid {rates(quarantined.classifier)}.",
        "",
        "| early stop | epochs | flips | CycleGAN, s | treatment of both networks, s | together, s | after the round |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*heading, *lines])


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
