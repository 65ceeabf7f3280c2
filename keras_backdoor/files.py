"""Files: written whole or not at all, and refused with one clear line."""

from __future__ import annotations

import contextlib
import csv
import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Union

import h5py
import numpy as np

PathLike = Union[str, "os.PathLike[str]"]

TEMPORARY = ".unfinished-"
"""Prefix of files that are still being written; a killed process may leave one behind, never a half-written result."""


class BadInput(ValueError):
    """What the caller gave cannot be used. The message is one line: which file or option, what is wrong, what is right."""


@contextlib.contextmanager
def atomic(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its name when the block ends well, and is removed otherwise.

    The data is flushed to disk before the rename, so that `path` holds either its old or its whole new contents, whenever
    the process or the machine stops.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: PathLike, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: PathLike, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_arrays(path: PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` as one .npz file, atomically."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def add_row(path: PathLike, row: Mapping[str, Any]) -> None:
    """Append the row of an epoch to a CSV file, in place of what a killed run has written of that epoch and of later ones."""
    earlier: list[dict[str, Any]] = []
    if Path(path).exists():
        with open(path, newline="", encoding="utf-8") as file:
            earlier = [old for old in csv.DictReader(file) if int(old["epoch"]) < row["epoch"]]
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerows([*earlier, row])


def read_json(path: PathLike) -> Any:
    """Read a JSON file; `BadInput` if it is missing or not JSON."""
    check_file(path)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not a JSON file ({error})") from None


def check_file(path: PathLike) -> Path:
    """`path` as a `Path`, if it is a readable regular file; `BadInput` otherwise."""
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"{path}: is a directory, expected a file")
    if not path.exists():
        raise BadInput(f"{path}: no such file")
    if not path.is_file():
        raise BadInput(f"{path}: not a regular file")
    if not os.access(path, os.R_OK):
        raise BadInput(f"{path}: cannot be read (permission denied)")
    return path


@contextlib.contextmanager
def open_hdf5(path: PathLike) -> Iterator[h5py.File]:
    """An HDF5 file, open to be read. Whatever h5py raises in the block on a damaged file becomes `BadInput`."""
    check_file(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except BadInput:
        raise
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{path}: not a whole HDF5 file ({detail})") from None


def sha256(path: PathLike) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def lookup(name: str, known: Iterable[str], kind: str, otherwise: str = "") -> str:
    """`name` if it is among `known`; otherwise `BadInput` with the nearest known name, or `otherwise`, or all of them."""
    known = list(known)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else otherwise or f"choose from {', '.join(known)}"
    raise BadInput(f"unknown {kind} {name!r}: {hint}")


def printable(text: str, most: int = 240) -> str:
    """`text` on one line, not too long, and without characters that move a terminal's cursor or reverse its text."""
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"
