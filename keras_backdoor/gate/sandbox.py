"""The gate's own process: little memory, little time, no TensorFlow. What breaks there breaks nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Optional

from keras_backdoor.gate.report import Finding, Findings, Stop

MEMORY = 384 << 20
"""Bytes that vetting may take, besides what the process takes at its start."""
SECONDS = 1.25
BYTES_PER_SECOND = 40 << 20
"""Processor time to vet one file: `SECONDS`, and a second more for so many bytes of it. On some files libhdf5 never ends."""
PATIENCE = 20.0
"""How much longer it may take by the clock, on a machine that is busy with other things."""

# The folders that this process imports from, so that the other finds the same packages; nothing of the file is an argument.
_PROGRAM = "import sys; sys.path[:] = {path!r}; from keras_backdoor.gate.sandbox import serve; serve()"
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HDF5_USE_FILE_LOCKING": "FALSE"}


class Sandbox:
    """A process that vets files, one after the other; it is replaced when one of them ends it. For use in a `with` block."""

    def __init__(self) -> None:
        self._process: Optional[subprocess.Popen[str]] = None

    def take_apart(self, path: Path, folder: Path, keep: bool) -> tuple[str, list[Finding]]:
        """`contents.take_apart` over there: the format and what was found."""
        process = self._process or self._start()
        assert process.stdin and process.stdout
        seconds = SECONDS + path.stat().st_size / BYTES_PER_SECOND
        timer = threading.Timer(PATIENCE * seconds, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps([str(path), str(folder), keep, seconds]) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            process.wait()
            self._process = None
            return "", [Finding("bomb", "", "breaks the process that looks at it (out of memory or time, or a crash)")]
        answer = json.loads(line)
        return answer["format"], [Finding(*finding) for finding in answer["findings"]]

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM.format(path=[entry or os.getcwd() for entry in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **_ENVIRONMENT},
        )
        return self._process

    def __enter__(self) -> Sandbox:
        """Itself; the process is started when it is first needed."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def private_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that nobody else can read or write, removed with the object."""
    return tempfile.TemporaryDirectory(prefix="kbd-")


def serve() -> None:
    """Answer requests, one line of JSON each, until there are no more."""
    from keras_backdoor.gate.contents import take_apart

    _limit_memory()
    for line in sys.stdin:
        path, folder, keep, seconds = json.loads(line)
        findings, kind = Findings(), ""
        _limit_time(seconds)
        try:
            kind = take_apart(Path(path), Path(folder), findings, keep)
        except Stop as stop:
            findings.append(stop.finding)
        except MemoryError:
            findings.add("bomb", "", f"needs more than {MEMORY >> 20} MiB to look at")
        except Exception as error:  # libhdf5 and h5py raise all kinds on damaged files
            detail = (str(error).splitlines() or [""])[0]
            findings.add("malformed", "", f"is not a whole HDF5 file ({type(error).__name__}: {detail})")
        _limit_time(0)
        answer: dict[str, Any] = {"format": kind, "findings": [[f.rule, f.where, f.what] for f in findings]}
        print(json.dumps(answer), flush=True)


def _limit_time(seconds: float) -> None:
    """Let the system end this process after so much processor time from now; 0 for no limit."""
    if hasattr(signal, "setitimer"):  # not on Windows; there the clock of the other process remains
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows; there the time limit remains
        return
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
