"""Histograms: scores of clean and triggered inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from keras_backdoor.files import printable
from keras_backdoor.report.drawing import ATTACKS, CLEAN, INK, styled

BINS = 40


@styled
def score_histograms(clean: np.ndarray, triggered: Mapping[str, np.ndarray], threshold: float, score: str) -> Figure:
    """How the scores of clean and triggered inputs are distributed; each set's bars add up to 100 percent.

    clean, and each of `triggered`, by name: float (N,), not empty; all have the same bins. threshold: at or below it, an input is
    stopped. score: what is measured, and its unit.
    """
    sets = {
        "clean inputs": clean,
        **{f"with the trigger {printable(name, 40)}": own for name, own in triggered.items()},
    }
    everything = np.concatenate(list(sets.values()))
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low, high if high > low else low + (abs(low) or 1), BINS + 1)
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    lines = []
    for index, values in enumerate(sets.values()):
        share = 100 * np.histogram(values, edges)[0] / len(values)
        colour, dash = ATTACKS[(index - 1) % len(ATTACKS)] if index else (CLEAN, "-")
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(share, edges, color=colour, linestyle=dash, linewidth=1.3)
        lines.append(Line2D([], [], color=colour, linestyle=dash))
    lines.append(axes.axvline(threshold, color=INK, linewidth=1.2, linestyle=(0, (1, 1))))
    names = [*sets, f"threshold, {threshold:.3g}: at or below it, an input is stopped"]
    axes.set_ylim(bottom=0)
    axes.set_xlabel(score)
    axes.set_ylabel("percent of the inputs")
    figure.legend(lines, names, loc="outside lower left", frameon=False)
    return figure
