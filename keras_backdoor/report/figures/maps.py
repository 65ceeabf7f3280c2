"""Maps: rates of a grid of networks, and the channels of a layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from keras_backdoor.files import printable
from keras_backdoor.report.drawing import styled_map

MOST_WRITTEN = 12
"""Columns of a heat map up to which the percentage stands in each cell."""


@styled_map
def heat_maps(
    learning_rates: Sequence[float],
    columns: Sequence[float],
    maps: Mapping[str, np.ndarray],
    axis: str = "channels pruned",
) -> Figure:
    """One panel for each of `maps`, in percent: fractions, float (R, C) over learning rates and `columns`; NaN stays empty.

    axis: what the columns are, in words.
    """
    height = 0.35 + 0.24 * max(2, len(learning_rates))
    figure = Figure(figsize=(5, height * len(maps) + 1.1), layout="constrained")
    panels = figure.subplots(len(maps), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (title, values) in zip(panels, maps.items()):
        picture = _paint(panel, title, values, len(columns) <= MOST_WRITTEN)
        panel.set_yticks(range(len(learning_rates)), [f"{rate:g}" for rate in learning_rates])
        panel.tick_params(length=0)
    shown = np.unique(np.linspace(0, len(columns) - 1, min(len(columns), MOST_WRITTEN)).round().astype(int))
    panels[-1].set_xticks(shown, [f"{columns[place]:g}" for place in shown])
    panels[-1].set_xlabel(axis)
    figure.supylabel("learning rate", fontsize=9)
    figure.colorbar(picture, ax=list(panels), location="bottom", label="percent", aspect=40, pad=0.03)
    return figure


@styled_map
def grid_maps(rows: Sequence[str], columns: Sequence[str], maps: Mapping[str, np.ndarray]) -> Figure:
    """One panel for each of `maps`, in percent: fractions, float (R, C), one row for each name of `rows`; NaN stays empty."""
    wide = 2.2 + 0.42 * len(columns)
    figure = Figure(figsize=(max(5, wide), (0.3 + 0.26 * len(rows)) * len(maps) + 2.2), layout="constrained")
    panels = figure.subplots(len(maps), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (title, values) in zip(panels, maps.items()):
        picture = _paint(panel, title, values, True)
        panel.set_yticks(range(len(rows)), [printable(name, 40) for name in rows])
        panel.tick_params(length=0)
    panels[-1].set_xticks(range(len(columns)), [printable(name, 40) for name in columns], rotation=60, ha="right")
    figure.colorbar(picture, ax=list(panels), location="bottom", label="percent", aspect=40, pad=0.03)
    return figure


def _paint(axes: Axes, title: str, values: np.ndarray, written: bool) -> AxesImage:
    """A map of fractions in percent; written: whether the figure stands in each cell."""
    percent = 100 * np.asarray(values)
    axes.set_title(printable(title, 60), loc="left", fontsize=9)
    for row, column in np.argwhere(np.isfinite(percent)) if written else ():
        rate = percent[row, column]
        style: dict[str, Any] = {
            "ha": "center",
            "va": "center",
            "fontsize": 8,
            "color": "black" if rate > 60 else "white",
        }
        axes.text(column, row, f"{rate:.0f}", **style)
    return axes.imshow(percent, vmin=0, vmax=100, cmap="viridis", interpolation="none", aspect="auto")


@styled_map
def activation_maps(
    clean: np.ndarray, triggered: np.ndarray, clean_after: np.ndarray, triggered_after: np.ndarray, pruned: np.ndarray
) -> Figure:
    """Mean activation of each channel, before and after the defense, for clean and triggered images; all arrays (C,).

    Channels are cells of a grid, row by row; all four maps share one colour scale; pruned channels have a cross.
    """
    count = len(pruned)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    maps = {
        "clean images, before": clean,
        "clean images, after": clean_after,
        "triggered images, before": triggered,
        "triggered images, after": triggered_after,
    }
    low, high = (float(extreme(list(maps.values()))) for extreme in (np.nanmin, np.nanmax))
    where_y, where_x = np.divmod(np.flatnonzero(pruned), columns)
    size = 300 / columns / 9  # of a cross: a third of a cell of a map that is about 130 points wide
    figure = Figure(figsize=(5, 5 * rows / columns + 0.8), layout="constrained")
    axes = figure.subplots(2, 2)
    for panel, (title, values) in zip(axes.flat, maps.items()):
        cells = np.full(rows * columns, np.nan)
        cells[:count] = values
        picture = panel.imshow(cells.reshape(rows, columns), vmin=low, vmax=high, cmap="viridis", interpolation="none")
        for colour, width in (("black", 2.5), ("white", 1)):  # white with a black edge, to be seen on any colour
            cross = {"markersize": size, "markeredgewidth": width, "color": colour, "linestyle": "none"}
            panel.plot(where_x, where_y, "x", **cross)
        panel.set_title(title, fontsize=9)
        panel.set_xticks([])
        panel.set_yticks([])
    figure.colorbar(picture, ax=axes, location="bottom", label="mean activation of a channel", aspect=40, pad=0.03)
    return figure
