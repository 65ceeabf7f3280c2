"""The registry of published network files."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any


@lru_cache(maxsize=1)
def _by_hash() -> dict[str, dict[str, Any]]:
    entries = json.loads(Path(__file__).with_name("artifacts.json").read_text(encoding="utf-8"))
    return {entry["sha256"]: entry for entry in entries}


def by_hash(sha256: str) -> dict[str, Any] | None:
    """The entry of a published file with that SHA-256 (hexadecimal), or None.

    An entry has `name`, `what` (for people), `sha256`, `preprocessing`, `num_classes` and, for files that hold weights only,
    `architecture`.
    """
    return _by_hash().get(sha256)
