"""Figures of a scan, from plain arrays: the norms of all labels, the triggers that were found, and how they were found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from keras_backdoor.files import printable
from keras_backdoor.report.drawing import ATTACKS, CLEAN, INK, styled
from keras_backdoor.report.figures import picture_rows
from keras_backdoor.report.inspection import FoundTrigger, Inspection
from keras_backdoor.report.truth import Comparison, TrueTrigger

MOST_BARS = 60
"""Labels up to which each has a bar; more are points."""
MOST_TICKS = 12
MOST_WRITTEN = 3
"""Flagged labels whose names and norms are in the legend."""
MOST_COMPARED = 3
"""True triggers beside a reversed one."""
FLAGGED = ATTACKS[0][0]


@styled
def norms_of_labels(inspection: Inspection) -> Figure:
    """The norm of each examined label, the median, and the threshold if it is above zero; flagged labels are marked.

    Where only some labels were examined, those of the background are filled, as is what is flagged, and the others hollow.
    """
    labels, norms, flagged = inspection.labels, inspection.norms, inspection.flagged
    places, drawn = np.arange(len(labels)), inspection.background
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    lines, names = [], []
    calm = "label drawn at random" if inspection.selected else "label"
    for colour, marker, filled, own, name in (
        (CLEAN, "o", True, ~flagged & drawn, calm),
        (CLEAN, "o", False, ~flagged & ~drawn, "label that gave promise of a small trigger"),
        (FLAGGED, "D", True, flagged, "flagged"),
    ):
        if not own.any():
            continue
        face = colour if filled else "none"
        if len(labels) <= MOST_BARS:
            axes.bar(places[own], norms[own], 0.7, facecolor=face, edgecolor=colour, linewidth=0 if filled else 1)
            marker = "s"
        else:
            size = 3 if colour == CLEAN else 5
            axes.plot(places[own], norms[own], marker, color=colour, markerfacecolor=face, markersize=size)
        lines.append(Line2D([], [], color=colour, marker=marker, markerfacecolor=face, linestyle="none"))
        names.append(name)
    if flagged.any():
        leaders = inspection.leaders[:MOST_WRITTEN]
        more = ", …" if len(leaders) < flagged.sum() else ""
        named = ", ".join(f"{labels[place]} ({norms[place]:.1f})" for place in leaders)
        names[-1] = f"flagged, with norm: {named}{more}"
    lines.append(axes.axhline(inspection.median, color=INK, linewidth=1.2))
    names.append(f"median, {inspection.median:.1f}")
    if inspection.threshold > 0:
        lines.append(axes.axhline(inspection.threshold, color=INK, linewidth=1.2, linestyle=(0, (1, 1))))
        names.append(f"threshold, {inspection.threshold:.1f}: below it, a label is flagged")
    spread = np.linspace(0, len(labels) - 1, min(len(labels), MOST_TICKS)).round().astype(int)
    ticks: list[int] = []
    for place in [*(inspection.leaders if flagged.any() else ()), *spread]:
        if all(abs(place - tick) >= len(labels) / 20 for tick in ticks):  # nearer ones would overlap
            ticks.append(int(place))
    ticks.sort()
    axes.set_xticks(ticks, [str(labels[tick]) for tick in ticks])
    for tick, text in zip(ticks, axes.get_xticklabels()):
        if flagged[tick]:
            text.set(color=FLAGGED, fontweight="bold")
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_ylim(0, max(1.05 * float(norms.max()), 1.0))
    axes.set_axisbelow(True)
    axes.set_xlabel("label")
    axes.set_ylabel("norm of the smallest trigger")
    figure.legend(lines, names, loc="outside lower left", frameon=False)
    return figure


def trigger_pictures(
    found: Sequence[FoundTrigger],
    comparisons: Sequence[Comparison] = (),
    truths: Optional[Mapping[str, TrueTrigger]] = None,
) -> Figure:
    """A row for each trigger: its mask (white is 1), its pattern, and both multiplied, what it adds to an image.

    Below it a row for each true trigger that it is compared with, at most three, those with the largest overlap first: what it
    changes, on grey, an image with it, and the same image with the reversed one. truths: how they look, by their words.
    """
    rows = [row for trigger in found for row in _rows(trigger, comparisons, truths or {})]
    return picture_rows(rows, always_titled=len(rows) > len(found))


def _rows(
    found: FoundTrigger, comparisons: Sequence[Comparison], truths: Mapping[str, TrueTrigger]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Rows of pictures, float (H, W, C), 0..1, by title; each with its name."""
    mask, pattern = found.mask[..., None], found.pattern / 255.0
    reversed_pictures = {"mask": mask, "pattern": pattern, "mask × pattern": mask * pattern}
    yield f"label {found.label}, norm {found.norm:.1f}", reversed_pictures
    own = [one for one in comparisons if one.label == found.label and one.trigger in truths]
    for one in sorted(own, key=lambda one: -(one.overlap or 0))[:MOST_COMPARED]:
        truth = truths[one.trigger]
        name = printable(one.trigger, 24)
        yield (
            name if one.overlap is None else f"{name}\noverlap {one.overlap:.2f}",
            {
                "true trigger": truth.alone / 255.0,
                "image with it": truth.stamped / 255.0,
                "with what was found": (1 - mask) * truth.example / 255.0 + mask * pattern,
            },
        )


@styled
def search_curves(found: Sequence[FoundTrigger]) -> Figure:
    """How triggers were found: attack success in percent, norm, and cost of the mask, step by step; a line each."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    success, norm, cost = panels = figure.subplots(3, 1, sharex=True)
    lines = []
    for (colour, dash), trigger in zip(ATTACKS, found):
        costs, successes, norms = trigger.history.T.astype(np.float64)
        steps = np.arange(1, len(costs) + 1)
        style = {"color": colour, "linestyle": dash, "linewidth": 1.2}
        lines += success.plot(steps, 100 * successes, **style)
        norm.plot(steps, norms, **style)
        cost.plot(steps, np.where(costs > 0, costs, np.nan), **style)  # which starts at zero
    success.set_ylim(-3, 103)
    norm.set_ylim(bottom=0)
    costs = np.concatenate([trigger.history[:, 0] for trigger in found])
    costs = costs[costs > 0]
    if len(costs):
        cost.set_yscale("log")
        cost.minorticks_off()
        ends = np.unique([costs.min(), costs.max()])
        cost.set_yticks(ends, [f"{end:.3g}" for end in ends])
    for panel, title in zip(panels, ("attack success, percent", "norm of the mask", "cost of the mask")):
        panel.set_title(title, loc="left", fontsize=9)
    cost.set_xlim(0.5, max(len(trigger.history) for trigger in found) + 0.5)
    cost.set_xlabel("step")
    cost.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(
        lines, [f"label {trigger.label}" for trigger in found], loc="outside lower left", frameon=False, ncols=4
    )
    return figure
