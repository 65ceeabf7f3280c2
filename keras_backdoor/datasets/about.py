"""What `kbd data list` tells about a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional


@dataclass(frozen=True)
class About:
    """A data set in figures and words; None: it depends on the files.

    name: for `--data` and recipes. title: for people. classes: how many. shape: (height, width, channels).
    counts: images for training, for the defender, and for testing, as `load` splits them. papers: who uses it.
    needs: what must be there, one of them. prepared: the usual name of the file that `kbd data import` writes; None: of another
    kind than other files, and told apart by its contents.
    """

    name: str
    title: str
    classes: Optional[int]
    shape: Optional[tuple[int, int, int]]
    counts: Optional[tuple[int, int, int]]
    papers: str
    needs: tuple[str, ...]
    prepared: Optional[str] = None

    @property
    def wanted(self) -> str:
        """What must be there, in words."""
        return ", or ".join(filter(None, (self.prepared, *self.needs)))

    def as_json(self) -> dict[str, Any]:
        """The same as JSON knows it, the counts by name."""
        counts = None if self.counts is None else dict(zip(("train", "valid", "test"), self.counts))
        shape = None if self.shape is None else list(self.shape)
        return {**vars(self), "shape": shape, "counts": counts, "needs": list(self.needs)}
