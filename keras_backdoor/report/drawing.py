"""What all figures share: their style, and the ways to save one: as text of a page (SVG), as files (PNG, SVG)."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from keras_backdoor.files import PathLike, atomic

INK = "#010203"
"""Drawn wherever the page's text colour shall be: the SVG says `currentColor` instead, light on dark pages."""

CLEAN, LOSS = "#2b83c6", "#8a6fc4"
ATTACKS = (("#dd4f2f", "-"), ("#c78a00", "--"), ("#b0488f", "-."), ("#8c6d4f", ":"))
"""Colour and dashes of the first trigger, the second …; beyond the last, they start again."""

NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
"""Of an SVG: the same figure gives the same bytes."""

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
    "grid.color": "#808080",
    "grid.alpha": 0.33,
}

styled = matplotlib.rc_context(STYLE)
"""Decorates what draws curves."""

styled_map = matplotlib.rc_context(
    {**STYLE, "axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}
)
"""Decorates what draws maps."""


@styled
def svg(figure: Figure) -> str:
    """A figure as text that goes straight into a page, in the page's text colour and on its ground."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=NO_METADATA)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # Several figures share a page, where an id may occur once. Nothing refers to those of groups.
    return re.sub(r'<g id="[^"]*"', "<g", text)


@styled
def save_png(figure: Figure, path: PathLike) -> None:
    """A figure as a PNG file, dark on white, 200 pixels an inch."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=200, facecolor="white", metadata={"Software": None})


@styled
def save_figure(figure: Figure, path: PathLike) -> None:
    """A figure as two files, `path` with the suffixes .png and .svg, dark on white; their folder is made where it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(figure, path.with_name(f"{path.name}.png"))
    with atomic(path.with_name(f"{path.name}.svg")) as temporary:
        figure.savefig(temporary, format="svg", facecolor="white", metadata=NO_METADATA)


def image_uri(image: np.ndarray) -> str:
    """An image, uint8 (H, W, 1 or 3), as the data URI of a PNG of the same size in pixels."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
