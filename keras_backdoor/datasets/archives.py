"""Official archives (.zip, .tar.gz) and the folders that come out of them, read without extracting anything."""

from __future__ import annotations

import contextlib
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from keras_backdoor.files import BadInput, PathLike

LARGEST = 1 << 26
"""Bytes of one file; the largest that is expected, a part of CIFAR-10, has half as many."""


class Files:
    """Files by their name below a folder or in an archive; such archives at the top of a folder count as folders."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: dict[str, Callable[[], Any]] = {}

    def __iter__(self) -> Iterator[str]:
        """The names, those of an archive in its order: to read a .tar.gz in another takes very long."""
        return iter(self._open)

    def __contains__(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self._open

    def read(self, name: str) -> bytes:
        """The contents of a file; `BadInput` if it is not there, damaged or too large."""
        if name not in self._open:
            raise BadInput(f"{self.path}: holds no file {name}")
        with _refusing(f"{self.path}: {name}"):
            file = self._open[name]()
            if file is None:  # a link in an archive
                raise BadInput(f"{self.path}: {name}: not a regular file")
            with file:
                contents = file.read(LARGEST + 1)
        if len(contents) > LARGEST:
            raise BadInput(f"{self.path}: {name}: has more than {LARGEST} bytes")
        return contents

    def add_folder(self, folder: Path) -> None:
        """Add the files below a folder."""
        for here, folders, names in os.walk(folder):
            folders.sort()
            for path in (Path(here, name) for name in sorted(names)):
                self._open.setdefault(path.relative_to(folder).as_posix(), partial(path.open, "rb"))

    def add_archive(self, path: Path, stack: contextlib.ExitStack) -> None:
        """Add the files of an archive, which stays open until `stack` closes."""
        if zipfile.is_zipfile(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            for info in archive.infolist():
                if not info.is_dir():
                    self._open.setdefault(info.filename, partial(archive.open, info))
            return
        tar = stack.enter_context(tarfile.open(path, "r:gz"))  # noqa: SIM115
        for member in tar:
            if not member.isdir():
                name = member.name[2:] if member.name.startswith("./") else member.name
                self._open.setdefault(name, partial(tar.extractfile, member))


@contextlib.contextmanager
def open_files(path: PathLike, prefix: str) -> Iterator[Files]:
    """The files of an archive, or of a folder and those archives in it whose names begin with `prefix`, in any case.

    Damaged ones are refused with `BadInput`.
    """
    path = Path(path)
    files = Files(path)
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            files.add_folder(path)
        for archive in sorted(path.iterdir()) if path.is_dir() else [path]:
            name = archive.name.lower()
            if archive == path or (name.startswith(prefix) and name.endswith((".zip", ".tar.gz", ".tgz"))):
                with _refusing(str(archive)):
                    files.add_archive(archive, stack)
        yield files


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except BadInput:
        raise
    except PermissionError:
        raise BadInput(f"{what}: cannot be read (permission denied)") from None
    except Exception as error:  # damaged archives raise a dozen kinds
        detail = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{what}: not a whole file of a .zip or .tar.gz archive ({detail})") from None
