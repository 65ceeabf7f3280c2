"""Files that commands write."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from keras_backdoor.files import BadInput


def check_output_file(path: str) -> None:
    """`BadInput` unless a file can be written at `path`: its folder is there and may be written to."""
    folder = Path(path).parent
    if Path(path).is_dir():
        raise BadInput(f"{path}: is a folder, expected the name of a file")
    if not folder.is_dir():
        raise BadInput(f"{path}: there is no folder {folder} to write it to")
    if not os.access(folder, os.W_OK):
        raise BadInput(f"{path}: cannot be written, the folder {folder} is read-only")


def check_new_file(path: str) -> None:
    """The same, and there is nothing yet at `path`."""
    check_output_file(path)
    if os.path.lexists(path):
        raise BadInput(f"{path}: exists already; choose another name, or remove it first")


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """What the system refuses in the block (a full disk) becomes `BadInput`."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror or error})") from None
