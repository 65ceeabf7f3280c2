"""The runner's side of a cell's process: started, watched, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from keras_backdoor.benchmark.child import FAILED

PROGRAM = "import sys; sys.path[:] = {path!r}; from keras_backdoor.benchmark.work import main; main()"
TICK = 0.1
"""Seconds between two looks at a process."""
LOOK = 0.5
"""Seconds between two looks at its memory, which take milliseconds."""
ENDED = "ended"
"""Of a failure: the runner was told to stop."""


@dataclass(frozen=True)
class Limits:
    """Of one process. seconds: by the clock. memory: resident, in MiB; None: no limit. The system's own are not touched."""

    seconds: Optional[float] = None
    memory: Optional[float] = None


@dataclass(frozen=True)
class Failure:
    """Why there is no figure. kind: one of `child`'s, or ENDED. attempts: how often a process was started."""

    kind: str
    reason: str
    attempts: int = 1


def command() -> list[str]:
    """What starts a cell's process, with the folders that this one imports from."""
    return [sys.executable, "-c", PROGRAM.format(path=sys.path)]


def run(
    words: Sequence[str],
    job: Mapping[str, Any],
    log: Path,
    limits: Limits,
    stop: threading.Event,
    environment: Mapping[str, str],
    keep_open: Sequence[int] = (),
) -> Optional[Failure]:
    """Run one process to its end; None if that is a good one.

    words: the command. job: what it is told. log: gets what it prints. stop: when set, the process is killed.
    keep_open: file descriptors that it inherits.

    It gets a process group of its own, which is killed with it. The memory is that of the whole group, read from /proc; where
    there is none, the limit has no effect.
    """
    with open(log, "ab") as out:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=out,
            env={**os.environ, **environment},
            start_new_session=True,
            pass_fds=keep_open,
        )
    assert process.stdin and process.stdout
    started, looked, broken = time.monotonic(), 0.0, None
    try:
        with contextlib.suppress(BrokenPipeError):  # it ended at once, for which there is another reason
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        while broken is None and not _ended(process):
            now = time.monotonic()
            look = limits.memory is not None and now - looked >= LOOK
            looked = now if look else looked
            broken = _beyond(limits, now - started, group_memory(process.pid) if look else 0.0, stop)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        said = process.stdout.read()
        process.stdout.close()
    if broken or process.returncode == 0:
        return broken
    return _failure(said, process.returncode)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(TICK)
        return True
    return False


def _beyond(limits: Limits, seconds: float, memory: float, stop: threading.Event) -> Optional[Failure]:
    """Which limit a running process has passed."""
    if stop.is_set():
        return Failure(ENDED, "interrupted")
    if limits.seconds is not None and seconds > limits.seconds:
        return Failure(FAILED, f"took longer than {limits.seconds / 60:g} min")
    if limits.memory is not None and memory > limits.memory:
        return Failure(FAILED, f"out of memory: took {memory:.0f} MiB, of {limits.memory:.0f} that it may take")
    return None


def group_memory(group: int) -> float:
    """MiB that the processes of a group have in memory, pages that they share counted once; 0 where that is not known."""
    try:
        members = [pid for pid in os.listdir("/proc") if pid.isdecimal() and _group(pid) == group]
    except OSError:
        return 0.0
    used = sum(map(_resident, members))
    return used if len(members) < 2 else min(used, sum(map(_share, members)) or used)


def _group(pid: str) -> int:
    """The process group of a process, 0 if there is none any more."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[2])
    except (OSError, IndexError):
        return 0


def _resident(pid: str) -> float:
    """MiB that a process has in memory, in part with others."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def _share(pid: str) -> float:
    """MiB that a process has in memory, its part of what it shares with others; 0 if the system does not say so."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


def _failure(said: bytes, code: int) -> Failure:
    try:
        return Failure(**json.loads(said))
    except (ValueError, TypeError):
        return Failure(FAILED, f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}")
