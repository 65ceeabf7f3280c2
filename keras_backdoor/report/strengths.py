"""A verdict by how strong the triggers are that a defense found: read, told in words, and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from keras_backdoor.files import BadInput
from keras_backdoor.report.drawing import ATTACKS, CLEAN, INK, styled
from keras_backdoor.report.figures import image_strips
from keras_backdoor.report.run_folder import RunFolder, require
from keras_backdoor.report.words import count, percent

VERDICT = ("backdoored", "labels", "examined", "strengths", "bound", "num_classes")
FOUND = ("labels", "images")
MOST_NAMED = 5
MOST_SHOWN = 4
"""Labels whose triggers are shown."""

BLIND = (
    "It can miss a backdoor whose trigger is larger than those that it looks for, bends the image or depends on it; one that "
    "opens only to several triggers together; and one that concerns images of one class only, or makes a different label of each "
    "class (all-to-all)."
)


@dataclass(frozen=True, eq=False)
class Strengths:
    """What a defense says of a network: as `keras_backdoor.verdict.StrengthVerdict`, with one entry a label that was examined.

    labels: int64 (E,), ascending. strengths: float64 (E,), 0..1. flagged: bool (E,). bound: above it, a label is flagged.
    num_classes: labels that the network has. images: uint8 (E, n, H, W, C), with each label's trigger; None if there are none.
    """

    labels: np.ndarray
    strengths: np.ndarray
    flagged: np.ndarray
    bound: float
    num_classes: int
    images: Optional[np.ndarray]

    @property
    def order(self) -> np.ndarray:
        """Places of the labels, the strongest first, int64 (E,)."""
        return np.argsort(-self.strengths, kind="stable")


def read_strengths(run: RunFolder) -> Optional[Strengths]:
    """The verdict of the run, None if its defense gives no such one; `BadInput` if it is not what it should be."""
    if not run.gauges:
        return None
    path, verdict = run.folder / "metrics.json", run.metrics["verdict"]
    require(path, verdict, VERDICT)
    backdoored, flagged, examined, strengths, bound, num_classes = (verdict[name] for name in VERDICT)
    if type(num_classes) is not int or not _labels(examined, num_classes) or sorted(examined) != examined:
        raise BadInput(f"{path}: verdict: examined is not a list of different labels below num_classes, in order")
    if not isinstance(strengths, list) or len(strengths) != len(examined) or not all(map(_share, [*strengths, bound])):
        raise BadInput(f"{path}: verdict: expected fractions in 0..1 as bound and, one a label, as strengths")
    above = [label for label, strength in zip(examined, strengths) if strength > bound]
    if not _labels(flagged, num_classes) or sorted(flagged) != above or backdoored is not bool(flagged):
        raise BadInput(f"{path}: verdict: labels and backdoored are not whose strengths are above the bound")
    labels = np.array(examined, np.int64)
    values = np.array(strengths, np.float64)
    return Strengths(labels, values, values > bound, bound, num_classes, _images(run, labels))


def _images(run: RunFolder, labels: np.ndarray) -> Optional[np.ndarray]:
    arrays = run.arrays("found.npz", FOUND)
    if arrays is None or not len(labels):
        return None
    images = arrays["images"]
    if not np.array_equal(arrays["labels"], labels):
        raise BadInput(f"{run.folder / 'found.npz'}: labels: expected those that metrics.json says were examined")
    right = images.dtype == np.uint8 and images.ndim == 5 and images.shape[-1] in (1, 3) and images.size
    if not right or len(images) != len(labels):
        raise BadInput(f"{run.folder / 'found.npz'}: images: expected some of 8 bits a value for each label")
    return images


def about_strengths(found: Strengths) -> list[str]:
    """What is said of the network, without varnish."""
    said = [
        "This defense leaves the network as it is. It looks for triggers that are no larger than what was set beforehand, and "
        "sees how many images of all classes each turns into its label: that is the trigger's strength."
    ]
    named = [f"label {found.labels[place]} ({percent(found.strengths[place])})" for place in found.order]
    limit = f"more than {percent(found.bound)} of the images"
    if not named:
        said.append("It saw nothing in the network that was suspicious enough to look for a trigger.")
    elif found.flagged.any():
        flagged = named[: int(found.flagged.sum())]
        more = f", and {len(flagged) - MOST_NAMED} more" if len(flagged) > MOST_NAMED else ""
        said.append(
            f"It flags {count(len(flagged), 'label')}, for which it found a trigger that turns {limit}: "
            f"{', '.join(flagged[:MOST_NAMED])}{more}."
        )
    else:
        said.append(f"No trigger was found that turns {limit}; the strongest leads to {named[0]}.")
    if not found.flagged.any():
        said.append(f"That does not mean that the network is innocent. {BLIND}")
    if len(found.labels) < found.num_classes:
        said.append(
            f"Of the network's {count(found.num_classes, 'label')}, {len(found.labels):,} were examined; of the others nothing "
            "else is known."
        )
    return said


def strengths_in_short(verdicts: Sequence[Strengths]) -> list[str]:
    """One sentence on all of them, none if there are none."""
    if not verdicts:
        return []
    flagged = sum(bool(one.flagged.any()) for one in verdicts)
    parts = [f"{flagged} found one"] if flagged else []
    parts += (
        [f"{len(verdicts) - flagged} found none, which does not prove innocence"] if flagged < len(verdicts) else []
    )
    return [f"Of {count(len(verdicts), 'hunt')} for strong triggers, {', '.join(parts)}."]


@styled
def strengths_of_labels(found: Strengths) -> Figure:
    """The strength of each examined label in percent, and the bound; flagged labels are marked."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    lines: list[Any] = []
    names = []
    for colour, own, name in ((CLEAN, ~found.flagged, "label"), (ATTACKS[0][0], found.flagged, "flagged")):
        if own.any():
            axes.bar(found.labels[own], 100 * found.strengths[own], 0.7, color=colour)
            lines.append(Line2D([], [], color=colour, marker="s", linestyle="none"))
            names.append(name)
    lines.append(axes.axhline(100 * found.bound, color=INK, linewidth=1.2, linestyle=(0, (1, 1))))
    names.append(f"above {100 * found.bound:g}, a label is flagged")
    axes.set_xlim(-0.6, found.num_classes - 0.4)
    axes.set_ylim(0, 103)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.set_xlabel("label")
    axes.set_ylabel("images turned, percent")
    figure.legend(lines, names, loc="outside lower left", frameon=False, ncols=3)
    return figure


def found_triggers(found: Strengths) -> Figure:
    """Images with the triggers of the strongest labels, a row each. `images` must not be None."""
    assert found.images is not None
    return image_strips(
        [("", f"label {found.labels[place]}", found.images[place]) for place in found.order[:MOST_SHOWN]]
    )


def _labels(value: Any, num_classes: int) -> bool:
    right = isinstance(value, list) and all(type(one) is int and 0 <= one < num_classes for one in value)
    return right and len(set(value)) == len(value)


def _share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(0 <= value <= 1)
