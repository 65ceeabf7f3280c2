"""A run: one folder that says what was asked, with what, and what came of it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras_backdoor
from keras_backdoor.files import TEMPORARY, BadInput, PathLike, read_json, write_json

PACKAGES = ("tensorflow", "keras", "numpy", "h5py")


@dataclass(frozen=True)
class Run:
    """A run folder. `run.json` in it has `command`, `started`, `asked`, `reproduce`, `versions`, `finished`."""

    folder: Path

    @classmethod
    def start(
        cls, folder: PathLike, command: str, asked: Mapping[str, Any], resume: bool = False, reproduce: str = ""
    ) -> Run:
        """Make the folder, or with `resume` take up the run in it.

        asked: everything that the results depend on (settings, seed, fingerprints of inputs), as JSON holds it.
        reproduce: the command line that does the same.

        Raises `BadInput` if the folder is in use: not empty, or with `resume` not a run of the same command and settings.
        """
        folder = Path(folder)
        check_output_folder(folder, resume)
        record = folder / "run.json"
        if record.exists():
            previous = _read_record(record)
            changed = [key for key in {**previous["asked"], **asked} if previous["asked"].get(key) != asked.get(key)]
            if previous["command"] != command or changed:
                what = f"other settings ({', '.join(changed)})" if changed else f"kbd {previous['command']}"
                raise BadInput(f"{folder}: was started with {what}; it can only be resumed as it was started")
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.rglob(f"{TEMPORARY}*"):
            leftover.unlink()
        run = cls(folder)
        if not record.exists():
            versions = {"python": platform.python_version(), "keras-backdoor": keras_backdoor.__version__}
            versions |= {package: version(package) for package in PACKAGES}
            started = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            facts: dict[str, Any] = {
                "command": command,
                "started": started,
                "asked": dict(asked),
                "reproduce": reproduce,
            }
            facts |= {"versions": versions, "finished": False}
            run.write("run.json", facts)
        return run

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(_read_record(self.folder / "run.json")["finished"])

    def finish(self) -> None:
        """Mark the run as ended well."""
        self.write("run.json", {**self.read("run.json"), "finished": True})

    def read(self, name: str) -> Any:
        """The contents of a JSON file of the run; `BadInput` if it is missing."""
        return read_json(self.folder / name)

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file of the run."""
        write_json(self.folder / name, value)


def check_output_folder(folder: PathLike, resume: bool = False) -> None:
    """`BadInput` unless results may be written to `folder`: it is new, empty, or with `resume` holds a run."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder}: is a file, expected a folder for the results")
    contents = [p for p in folder.iterdir() if not p.name.startswith(TEMPORARY)] if folder.exists() else []
    if not contents:
        return
    record = folder / "run.json"
    if resume and not record.exists():
        raise BadInput(f"{folder}: holds no run that could be resumed (no run.json)")
    if not resume:
        unfinished = record.exists() and not _read_record(record)["finished"]
        hint = ", or continue the unfinished run in it with --resume" if unfinished else ""
        raise BadInput(f"{folder}: the output folder is not empty; choose another with -o{hint}")


def _read_record(path: Path) -> dict[str, Any]:
    record = read_json(path)
    if not isinstance(record, dict) or not {"command", "asked", "finished"} <= record.keys():
        raise BadInput(f"{path}: is not the record of a run")
    return record
