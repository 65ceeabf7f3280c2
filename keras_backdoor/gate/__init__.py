"""The gate: what stands between a stranger's network file and TensorFlow.

Keras 2.15 runs code from an .h5 file, whatever `safe_mode` says. So no file is given to Keras: it is copied to a private place,
taken apart in a process of its own (`sandbox`), and what comes out is plain data, which was checked in this order: one container
and nothing besides (`hdf5`, `archive`); strict JSON (`strict_json`); classes on the allow-list alone (`config`); shapes and
weights by arithmetic (`network`, `layers`). Everything else is refused. docs/security.md says what that stops and what not.

None of this imports TensorFlow.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Optional

from keras_backdoor.files import PathLike, check_file
from keras_backdoor.gate import archive, hdf5
from keras_backdoor.gate.contents import Contents
from keras_backdoor.gate.report import Report, Stop
from keras_backdoor.gate.sandbox import Sandbox, private_folder

__all__ = ["Admitted", "Report", "admit", "scan", "scan_all"]

MOST_BYTES = 4 << 30
_BLOCK = 1 << 20

_OTHER_FORMATS = (
    (b"\x80", "code", "is a pickle, which runs code when it is read"),
    (b"\x93NUMPY", "format", "is a NumPy array, which may hold a pickle"),
    (b"\x1f\x8b", "format", "is a packed archive; unpack it and give the network file in it"),
    (b"{", "format", "is JSON: an architecture without weights"),
    (b"version https://git-lfs", "format", "is a Git LFS pointer, not the file itself; fetch it with git lfs pull"),
    (b"<", "format", "is a page of HTML or XML, not a network; was it downloaded from the wrong address?"),
)


class Admitted:
    """A file that was found harmless, or that is trusted in spite of what was found.

    report: what was found. trusted: whether somebody vouched for it with `trust`, and something was found. contents: what it
    holds, if it is not trusted. copy: the private copy that was vetted; it lives as long as this object.
    """

    def __init__(self, report: Report, trusted: bool, folder: tempfile.TemporaryDirectory[str], copy: Path) -> None:
        self.report, self.trusted, self._folder, self.copy = report, trusted, folder, copy
        self.contents = None if trusted else Contents.read(copy.parent)


def scan(path: PathLike) -> Report:
    """What the gate finds in a file; nothing of it is kept. Raises `BadInput` only if it cannot be read."""
    return next(iter(scan_all([path])))


def scan_all(paths: Iterable[PathLike]) -> Iterator[Report]:
    """Reports on many files, one after the other."""
    with Sandbox() as box:
        for path in paths:
            with private_folder() as folder:
                yield _look(path, Path(folder), box, keep=False)[0]


def admit(path: PathLike, trust: bool = False) -> Admitted:
    """Take a file through the gate.

    trust: admit it in spite of what is found. It will be given to Keras as it is and can do whatever it likes.

    Raises `BadInput`, one line with the worst that was found, if the file is refused or cannot be used.
    """
    folder = private_folder()
    with Sandbox() as box:
        report, copy = _look(path, Path(folder.name), box, keep=True)
    trusted = trust and report.refusal is not None and copy is not None
    if not trusted:
        report.check()
    assert copy is not None
    return Admitted(report, trusted, folder, copy)


def _look(path: PathLike, folder: Path, box: Sandbox, keep: bool) -> tuple[Report, Optional[Path]]:
    """A report, and the private copy, if the file is of a kind that Keras reads."""
    name, digest = str(path), ""
    try:
        copy, digest = _private_copy(Path(path), folder)
        kind, findings = box.take_apart(copy, folder, keep)
    except Stop as stop:
        return Report(name, digest, "", [stop.finding]), None
    return Report(name, digest, kind, findings), copy


def _private_copy(path: Path, folder: Path) -> tuple[Path, str]:
    """Copy a file where nobody can change it any more, and give its SHA-256; what is loaded later is this copy."""
    if (path / "saved_model.pb").exists():
        raise Stop("format", "", "is a SavedModel: a program for TensorFlow, which may read and write any file")
    check_file(path)
    if path.is_symlink():
        raise Stop("format", "", f"is a link; give the file itself, {os.path.realpath(path)}")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as source:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise Stop("format", "", "is not a regular file")
        if facts.st_size > MOST_BYTES:
            raise Stop("bomb", "", f"is larger than {MOST_BYTES >> 30} GiB")
        head = source.read(hdf5.HEAD)
        _check_magic(head)
        if head.startswith(hdf5.MAGIC):
            hdf5.check_container(head, facts.st_size, "")  # again for the copy; this saves copying gigabytes of nothing
        copy = folder / ("network.keras" if head.startswith(archive.MAGIC) else "network.h5")
        digest, left = hashlib.sha256(), MOST_BYTES
        with open(copy, "wb") as target:
            block = head
            while block and left >= 0:
                digest.update(block)
                target.write(block)
                left -= len(block)
                block = source.read(_BLOCK)
    return copy, digest.hexdigest()


def _check_magic(head: bytes) -> None:
    if head.startswith((hdf5.MAGIC, archive.MAGIC)):
        return
    for magic, rule, what in _OTHER_FORMATS:
        if head.startswith(magic):
            raise Stop(rule, "", what)
    raise Stop("malformed", "", "is not a whole HDF5 file" if head else "is empty, not a network")
