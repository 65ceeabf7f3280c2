"""Where the official files of data sets are: `sources.json`, and what of them was downloaded.

An entry has `set` (whose file it is), `name`, `file` (as it is called in the cache), `licence`, and then what
`models_zoo.artifacts` has for a download: `size`, `sha256` (None where we could not make certain of it: the user accepts what
comes), `git_blob`, `urls`, and perhaps `redirects`, further hosts that the first one may hand over to.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from keras_backdoor.files import BadInput
from keras_backdoor.progress import Progress, silent
from models_zoo.artifacts import cache_folder


@lru_cache(maxsize=1)
def entries() -> tuple[dict[str, Any], ...]:
    """All entries, in the order of the file."""
    return tuple(json.loads(Path(__file__).with_name("sources.json").read_text(encoding="utf-8")))


def files_of(name: str) -> list[dict[str, Any]]:
    """The entries of a data set's files; none if it cannot be downloaded."""
    return [entry for entry in entries() if entry["set"] == name]


def folder_of(name: str) -> Path:
    """Where the files of a data set are kept; what `--data` takes once they are there."""
    return cache_folder() / "data" / name


def is_cached(name: str) -> bool:
    """Whether all files of a data set have been downloaded."""
    files = files_of(name)
    return bool(files) and all((folder_of(name) / entry["file"]).is_file() for entry in files)


def fetch(name: str, offline: bool = False, accept_hash: bool = False, progress: Progress = silent) -> list[Path]:
    """Download the files of a data set into its folder, and verify them; see `downloads.fetch`.

    Raises `BadInput` if there is nothing to download, or as `downloads.fetch` does.
    """
    from keras_backdoor import downloads
    from keras_backdoor.datasets import ABOUT

    if not files_of(name):
        raise BadInput(f"{name}: nobody offers it for download; needed is {ABOUT[name].wanted}")
    return [
        downloads.fetch(entry, folder_of(name), offline, accept_hash, progress=progress) for entry in files_of(name)
    ]
