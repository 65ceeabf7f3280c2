"""Figures from plain arrays, as text that goes straight into a page: SVG for curves and maps, data URIs for images."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

INK = "#010203"
"""Drawn wherever the page's text colour shall be: the SVG says `currentColor` instead, light on dark pages."""

CLEAN, ATTACK, LOSS = "#2b83c6", "#dd4f2f", "#8a6fc4"
DASHES = ("-", "--", "-.", ":")

STYLE = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's colour
    "svg.hashsalt": "keras-backdoor",  # the same figure gives the same bytes
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,  # names of triggers are not formulas
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#80808055",
}


def image_uri(image: np.ndarray) -> str:
    """An image, uint8 (H, W, 1 or 3), as the data URI of a PNG of the same size in pixels."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def loss_curve(stages: Sequence[tuple[str, int]], loss: Sequence[float]) -> str:
    """The loss, one value an epoch. stages: (name, number of epochs) in order, together as long as `loss`."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _epoch_axes(stages)
        axes.plot(range(1, len(loss) + 1), loss, color=LOSS, marker=".")
        axes.set_title("training loss", loc="left", fontsize=9, pad=18)
        axes.set_ylim(bottom=0)
        return _svg(figure)


def rate_curves(
    stages: Sequence[tuple[str, int]], clean_accuracy: Sequence[float], attack_success: Mapping[str, Sequence[float]]
) -> str:
    """Clean accuracy, and attack success rate by name of the trigger, in percent; fractions, one an epoch."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _epoch_axes(stages)
        epochs = range(1, len(clean_accuracy) + 1)
        lines = axes.plot(epochs, 100 * np.asarray(clean_accuracy), color=CLEAN, marker=".")
        names = ["clean accuracy"]
        for index, (name, rates) in enumerate(attack_success.items()):
            dash = DASHES[index % len(DASHES)]
            lines += axes.plot(epochs, 100 * np.asarray(rates), dash, color=ATTACK, marker="x", markersize=4)
            names.append(f"attack success ({name})")
        axes.set_title("percent of held-out images", loc="left", fontsize=9, pad=18)
        axes.set_ylim(-3, 103)
        figure.legend(lines, names, loc="outside lower left", frameon=False, ncols=2 if len(names) == 2 else 1)
        return _svg(figure)


def activation_maps(
    clean: np.ndarray, triggered: np.ndarray, clean_after: np.ndarray, triggered_after: np.ndarray, pruned: np.ndarray
) -> str:
    """Mean activation of each channel, before and after pruning, for clean and triggered images; all arrays (C,).

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
    with matplotlib.rc_context({**STYLE, "axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(5, 5 * rows / columns + 0.8), layout="constrained")
        axes = figure.subplots(2, 2)
        for panel, (title, values) in zip(axes.flat, maps.items()):
            cells = np.full(rows * columns, np.nan)
            cells[:count] = values
            picture = panel.imshow(
                cells.reshape(rows, columns), vmin=low, vmax=high, cmap="viridis", interpolation="none"
            )
            for colour, width in (("black", 2.5), ("white", 1)):  # white with a black edge, to be seen on any colour
                cross = {"markersize": size, "markeredgewidth": width, "color": colour, "linestyle": "none"}
                panel.plot(where_x, where_y, "x", **cross)
            panel.set_title(title, fontsize=9)
            panel.set_xticks([])
            panel.set_yticks([])
        figure.colorbar(picture, ax=axes, location="bottom", label="mean activation of a channel", aspect=40, pad=0.03)
        return _svg(figure)


def _epoch_axes(stages: Sequence[tuple[str, int]]) -> tuple[Figure, Axes]:
    """A figure whose horizontal axis counts the epochs of all stages, with the stages named above it."""
    figure = Figure(figsize=(4.8, 3.1), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    total = sum(epochs for _, epochs in stages)
    axes.set_xlim(0.5, total + 0.5)
    start = 0
    for name, epochs in stages:
        if start:
            axes.axvline(start + 0.5, color=INK, linewidth=0.8, linestyle=":")
        if len(stages) > 1:
            middle = (start + epochs / 2) / total
            axes.text(
                middle, 1.01, f"stage: {name}", transform=axes.transAxes, ha="center", va="bottom", style="italic"
            )
        start += epochs
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # Several figures share a page, where an id may occur once. Nothing refers to those of groups.
    return re.sub(r'<g id="[^"]*"', "<g", svg)
