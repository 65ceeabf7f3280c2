"""Clean accuracy against attack success, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from keras_backdoor.files import printable
from keras_backdoor.pareto import pareto_front
from keras_backdoor.report.drawing import ATTACKS, CLEAN, INK, styled

ROW = 0.17
"""Inches between two names."""
LEADER = {"arrowstyle": "-", "color": INK, "linewidth": 0.5, "alpha": 0.5, "shrinkA": 0, "shrinkB": 3}
LEAST = 5.0
"""Points of accuracy that the axis spans at least."""


@styled
def trade_off(
    names: Sequence[str],
    clean_accuracy: Sequence[float],
    attack_success: Sequence[float],
    front: Optional[Sequence[bool]] = None,
    before: Optional[tuple[float, float]] = None,
) -> Figure:
    """Networks as points: at the left attacks fail, at the top clean images are answered as they should be.

    names: of the networks, N of them. clean_accuracy, attack_success: fractions, (N,). front: which of them are on the Pareto
    front, bool (N,); by default all that `pareto_front` finds. before: clean accuracy and attack success of the network that all
    these were made of.
    """
    points = 100 * np.stack([np.asarray(attack_success, float), np.asarray(clean_accuracy, float)], 1)
    best = pareto_front(clean_accuracy, attack_success) if front is None else np.asarray(front, bool)
    figure = Figure(figsize=(5, max(3.2, 1.2 + ROW * len(names))), layout="constrained")
    axes = figure.subplots()
    everything = points if before is None else np.concatenate([points, [[100 * before[1], 100 * before[0]]]])
    low, high = everything[:, 1].min(), everything[:, 1].max()
    spare = max(LEAST - (high - low), 0) / 2 + 0.06 * max(high - low, LEAST)
    axes.set_xlim(-4, 104)
    axes.set_ylim(low - spare, high + spare)
    steps = points[best][np.lexsort((points[best, 1], points[best, 0]))]
    axes.plot(*steps.T, color=CLEAN, linewidth=1, drawstyle="steps-post", zorder=1)
    axes.plot(*points[~best].T, "o", color=CLEAN, markerfacecolor="none", markersize=5)
    axes.plot(*points[best].T, "D", color=CLEAN, markersize=6)
    lines = [Line2D([], [], color=CLEAN, marker="D", linewidth=1), Line2D([], [], color=CLEAN, marker="o", linewidth=0)]
    lines[1].set_markerfacecolor("none")
    labels = ["Pareto front: no other has more accuracy and less attack success", "others"]
    if before is not None:
        lines += axes.plot(*everything[-1], "X", color=ATTACKS[0][0], markersize=8)
        labels.append("before any defense")
    _name_at_the_right(axes, points, names, best)
    axes.set_xlabel("attack success rate, percent")
    axes.set_ylabel("clean accuracy, percent")
    figure.legend(lines, labels, loc="outside lower left", frameon=False)
    return figure


def _name_at_the_right(axes: Axes, points: np.ndarray, names: Sequence[str], best: np.ndarray) -> None:
    """Write the names in a column beside the axes, from top to bottom as the points are, with a thin line to each."""
    order = np.lexsort((points[:, 0], -points[:, 1]))
    low, high = axes.get_ylim()
    gap = 1 / max(len(names), 8)
    heights = (points[order, 1] - low) / (high - low)
    for place in range(1, len(order)):  # downwards, each as near to its point as the one above leaves room
        heights[place] = min(heights[place], heights[place - 1] - gap)
    for place in reversed(range(len(order))):  # and up again from the lower edge
        heights[place] = max(heights[place], (len(order) - 1 - place) * gap)
    for place, height in zip(order, heights):
        axes.annotate(
            printable(names[place], 30),
            points[place],
            (1.05, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            fontweight="bold" if best[place] else "normal",
            arrowprops={**LEADER, "relpos": (0, 0.5)},
        )
