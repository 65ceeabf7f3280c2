"""What a run of NNoculation learned of the trigger: pictures of each round, and how its CycleGAN was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np
from matplotlib.figure import Figure

from keras_backdoor.files import BadInput
from keras_backdoor.report.drawing import ATTACKS, CLEAN, LOSS, styled
from keras_backdoor.report.figures import epoch_axes, image_strips
from keras_backdoor.report.run_folder import Arrays, RunFolder, require
from keras_backdoor.report.words import percent

PICTURES = "pictures.npz"
"""What `examples.save_round` wrote, in the folder of each round."""
KINDS = {
    "clean": "clean",
    "generated": "as the generator\nmakes them",
    "triggered": "with the\ntrue trigger",
    "quarantined": "quarantined",
}
"""Rows of the pictures of a round, and what they are called. The first three show the same images; the third may be missing."""
LOSSES = {
    "discriminators": (
        LOSS,
        "-",
        ["discriminator_a_real", "discriminator_b_real", "discriminator_a_made", "discriminator_b_made"],
    ),
    "generators, adversarial": (*ATTACKS[0], ["adversarial_a", "adversarial_b"]),
    "there and back": (CLEAN, "--", ["cycle_a", "cycle_b"]),
}
"""Curves, each the mean of some columns of a CycleGAN's history."""


def nnoculation_figures(run: RunFolder) -> dict[str, Optional[Figure]]:
    """`rounds`, pictures, and `cyclegan`, curves; None for what the run has no data for.

    Raises `BadInput` if the run's files are not what they should be.
    """
    pictures, histories = read_pictures(run), read_histories(run)
    return {
        "rounds": round_pictures(pictures) if pictures else None,
        "cyclegan": cyclegan_curves(histories) if histories else None,
    }


def read_pictures(run: RunFolder) -> dict[str, Arrays]:
    """The images of each round, by its name and by `KINDS`, uint8 (N, H, W, 1 or 3), for the rounds that have such a file."""
    rounds: dict[str, Arrays] = {}
    for name in round_names(run):
        file = f"{name}/{PICTURES}"
        kinds = run.arrays(file, [kind for kind in KINDS if kind != "triggered"])
        if not kinds:
            continue
        for kind, images in kinds.items():
            if images.dtype != np.uint8 or images.ndim != 4 or not len(images) or images.shape[-1] not in (1, 3):
                raise BadInput(f"{run.folder / file}: {kind}: expected images, uint8 (N, H, W, 1 or 3), at least one")
        if len({images.shape[1:] for images in kinds.values()}) > 1:
            raise BadInput(f"{run.folder / file}: expected images of one size")
        rounds[name] = kinds
    return rounds


def round_names(run: RunFolder) -> list[str]:
    """The folders of the rounds that the run came to."""
    return [f"round-{step['round']}" for step in run.metrics.get("steps", []) if "round" in step]


def read_histories(run: RunFolder) -> dict[str, dict[str, list[float]]]:
    """What each CycleGAN of the run noted: its columns, by name of the round; NaN where nothing was measured."""
    found = {}
    for name in round_names(run):
        file = f"{name}/cyclegan/history.csv"
        rows = run.table(file)
        if not rows:
            continue
        require(run.folder / file, rows[0], [column for *_, columns in LOSSES.values() for column in columns])
        try:
            found[name] = {
                column: [float(row[column] or "nan") for row in rows] for column in rows[0] if column != "stage"
            }
        except (TypeError, ValueError):
            raise BadInput(f"{run.folder / file}: expected a number in each column of each line") from None
    return found


def round_pictures(rounds: Mapping[str, Arrays]) -> Figure:
    """A block of rows for each round, one a kind of image; the same image is in the same column, but for the quarantined."""
    return image_strips(
        [
            (name.replace("-", " ") if len(rounds) > 1 and kind == "clean" else "", title, kinds[kind])
            for name, kinds in rounds.items()
            for kind, title in KINDS.items()
            if kind in kinds
        ]
    )


@styled
def cyclegan_curves(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Losses, epoch by epoch, a round after the other; below them the share of images that flip, where it was measured."""
    stages = [(name.replace("-", " "), len(history["epoch"])) for name, history in histories.items()]
    figure, axes = epoch_axes(stages, rows=2)
    above, below = axes
    epochs = np.arange(1, sum(count for _, count in stages) + 1)
    lines = []
    for colour, dash, columns in LOSSES.values():
        values = [np.mean([history[column] for column in columns], 0) for history in histories.values()]
        lines += above.plot(epochs, np.concatenate(values), dash, color=colour, linewidth=1.2)
    shares = 100 * np.concatenate(
        [history.get("share", [np.nan] * len(history["epoch"])) for history in histories.values()]
    )
    known = np.isfinite(shares)
    lines += below.plot(epochs[known], shares[known], "-", color=ATTACKS[1][0], marker=".", linewidth=1.2)
    above.set_ylim(bottom=0)
    below.set_ylim(-3, 103)
    above.set_title("losses", loc="left", fontsize=9, pad=18 if len(stages) > 1 else 6)
    below.set_title("percent of the images made that flip the network", loc="left", fontsize=9)
    figure.legend(lines, [*LOSSES, "flips"], loc="outside lower left", frameon=False, ncols=2)
    return figure


def about_rounds(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each round watched and learned, a sentence or two a round; none of a run that has no rounds."""
    said = []
    for step in steps:
        if "round" not in step:
            continue
        text = (
            f"Round {step['round']}: of {step['seen']:,} images of the stream, {step['quarantined']:,} were quarantined"
        )
        if "poisoned_caught" in step and "clean_caught" in step:
            triggered, others = map(percent, (step["poisoned_caught"], step["clean_caught"]))
            text += f" ({triggered} of those with the trigger, {others} of the others)"
        if "flip_share" in step:
            text += f". With what was learned from them, {percent(step['flip_share'])} of clean images flip the network"
            if "gan_epochs" in step:
                text += f", after {step['gan_epochs']:,} epochs"
        if "treatment_rate" in step:
            text += f". The patched network was treated at a learning rate of {step['treatment_rate']:g}"
        said.append(f"{text}.")
    return said
