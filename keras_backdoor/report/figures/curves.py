"""Curves: of training, epoch by epoch, and of pruning, channel by channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from keras_backdoor.files import printable
from keras_backdoor.report.drawing import ATTACKS, CLEAN, INK, LOSS, styled

Rates = tuple[Sequence[float], Mapping[str, Sequence[float]]]
"""Clean accuracy, and attack success rate by name of the trigger; fractions, as many in each."""


@styled
def loss_curve(stages: Sequence[tuple[str, int]], loss: Sequence[float]) -> Figure:
    """The loss, one value an epoch. stages: (name, number of epochs) in order, together as long as `loss`."""
    figure, (axes,) = epoch_axes(stages)
    axes.plot(range(1, len(loss) + 1), loss, color=LOSS, marker=".")
    axes.set_title("training loss", loc="left", fontsize=9, pad=18)
    axes.set_ylim(bottom=0)
    return figure


@styled
def rate_curves(stages: Sequence[tuple[str, int]], rates: Rates) -> Figure:
    """Clean accuracy and attack success, in percent, epoch by epoch."""
    figure, (axes,) = epoch_axes(stages)
    lines, names = _plot_rates(axes, range(1, len(rates[0]) + 1), rates, True)
    axes.set_title("percent of held-out images", loc="left", fontsize=9, pad=18)
    figure.legend(lines, names, loc="outside lower left", frameon=False, ncols=2 if len(names) == 2 else 1)
    return figure


@styled
def pruning_curve(rates: Rates, goodnet: Optional[Rates], marks: Mapping[int, str]) -> Figure:
    """Clean accuracy and attack success, in percent, against the number of channels pruned, which is the index.

    goodnet: the same of the GoodNet with each pruned network. marks: what the networks that were kept are called, by number of
    channels; each has a vertical line.
    """
    total = len(rates[0]) - 1
    figure = Figure(figsize=(5, 3.2 + 0.153 * len(marks)), layout="constrained")
    axes = figure.subplots()
    channels = range(total + 1)
    lines, names = _plot_rates(axes, channels, rates, False)
    if goodnet:
        _plot_rates(axes, channels, goodnet, False, linewidth=0.8)
        lines.append(Line2D([], [], color=INK, linewidth=0.8))
        names.append("thin: the GoodNet with the network pruned so far")
    # Each label has a line of its own, so that near marks do not overlap; those at the left edge come last, and run inwards.
    at_edge = sorted((count for count in marks if count < total / 4), reverse=True)
    for row, count in enumerate([*sorted(marks.keys() - set(at_edge)), *at_edge]):
        axes.axvline(count, color=INK, linewidth=0.8, linestyle=":")
        side, corner = ("left", (0, 0)) if count in at_edge else ("right", (1, 0))
        leader = {"arrowstyle": "-", "color": INK, "linewidth": 0.8, "linestyle": ":", "shrinkA": 0, "shrinkB": 0}
        axes.annotate(
            f" {printable(marks[count], 40)}: {count} ",
            (count, 1),
            (0, 3 + 11 * row),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            arrowprops={**leader, "relpos": corner},
            ha=side,
            va="bottom",
            fontsize=8,
        )
    axes.set_xlim(-0.5, total + 0.5)
    axes.set_xlabel("channels pruned")
    axes.set_ylabel("percent")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    figure.legend(lines, names, loc="outside lower left", frameon=False)
    return figure


def _plot_rates(
    axes: Axes, places: Sequence[int], rates: Rates, marked: bool, linewidth: float = 1.5
) -> tuple[list[Line2D], list[str]]:
    """Draw rates in percent at `places`; gives the lines and their names. marked: whether each value has a marker."""
    clean_accuracy, attack_success = rates
    markers = (".", "x") if marked else ("", "")
    values = 100 * np.asarray(clean_accuracy)
    lines = axes.plot(places, values, color=CLEAN, marker=markers[0], linewidth=linewidth)
    names = ["clean accuracy"]
    for index, (name, attack) in enumerate(attack_success.items()):
        colour, dash = ATTACKS[index % len(ATTACKS)]
        values = 100 * np.asarray(attack)
        lines += axes.plot(places, values, dash, color=colour, marker=markers[1], markersize=4, linewidth=linewidth)
        names.append(f"attack success ({printable(name, 40)})")
    axes.set_ylim(-3, 103)
    return lines, names


def epoch_axes(stages: Sequence[tuple[str, int]], rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure whose horizontal axis, shared by `rows` panels, counts the epochs of all stages, with these named above it."""
    figure = Figure(figsize=(4.8, 1.3 + 1.8 * rows), layout="constrained")
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0].tolist()
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    total = sum(epochs for _, epochs in stages)
    panels[-1].set_xlim(0.5, total + 0.5)
    start = 0
    for name, epochs in stages:
        for axes in panels if start else ():
            axes.axvline(start + 0.5, color=INK, linewidth=0.8, linestyle=":")
        if len(stages) > 1:
            middle = (start + epochs / 2) / total
            style = {"transform": panels[0].transAxes, "ha": "center", "va": "bottom", "style": "italic"}
            panels[0].text(middle, 1.01, f"stage: {name}", **style)
        start += epochs
    return figure, panels
