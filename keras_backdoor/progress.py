"""How long work tells its caller how far it is; who shows it, and how, is the caller's affair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""`progress(stage, done, total, values)`: `done` of `total` steps of `stage` are finished; `values` are its latest figures."""


def silent(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
    """Show nothing."""
