"""The figures of a page: as text in it, and as files beside it; and how much room is left for more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from keras_backdoor.report.drawing import save_figure, svg

MOST = 4_000_000
"""Characters of figures and pictures after which a page takes no further run in detail, to stay below 5 MB."""
PROSE = 6_000
"""Characters that a run takes besides, about."""


class Album:
    """Collects what is drawn for a page."""

    def __init__(self) -> None:
        self._figures: dict[str, Figure] = {}
        self._taken = 0

    def add(self, name: str, figure: Figure) -> str:
        """A figure as SVG for the page, to be saved as `name`."""
        self._figures[name] = figure
        return svg(figure)

    def has_room(self) -> bool:
        """Whether the page takes another run in detail."""
        return self._taken < MOST

    def take(self, part: Any) -> None:
        """Note what a run takes: a dictionary of texts, figures among them, and of dictionaries of such."""
        self._taken += PROSE + _length(part)

    def save(self, folder: Path) -> None:
        """Write all figures into `folder`, each as PNG and as SVG."""
        for name, figure in self._figures.items():
            save_figure(figure, folder / name)


def _length(part: Any) -> int:
    if isinstance(part, str):
        return len(part)
    if isinstance(part, dict):
        return sum(map(_length, part.values()))
    return sum(map(_length, part)) if isinstance(part, (list, tuple)) else 0
