"""Runs cells, each in a process of its own, several at a time; what is there already is not run again."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

from keras_backdoor.benchmark.cells import NONE, Cell
from keras_backdoor.benchmark.child import FAILED, FULL, NO_SPACE
from keras_backdoor.benchmark.process import ENDED, Failure, Limits, command, run
from keras_backdoor.benchmark.results import DONE, record_path
from keras_backdoor.files import BadInput, read_json, write_json

TRIES = 2
LOGS = "logs"
NETWORKS, RUNS = "networks", "runs"
PATIENCE = 5.0
"""Seconds in which the processes of a runner that was killed have to end."""
SECOND = 1.0
"""Seconds that the main thread waits at most: a signal that another thread has caught is heeded by no other."""
LEAST_SPACE = 1 << 20
"""Bytes; with less, a failure is put down to the full disk, whatever it looked like."""


def usual_workers() -> int:
    """How many processes the machine takes at a time: one a core, and of 3 GiB each, but not more than 4."""
    return int(max(1, min(4, os.cpu_count() or 1, share_of_memory(1) // 3072)))


def share_of_memory(workers: int) -> float:
    """MiB of the machine's memory that each of so many processes may take."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 20) / workers


@dataclass(frozen=True)
class Runner:
    """How cells are run.

    folder: of the results; record and log of each cell, the run folders of networks and defenses. lock: see `owned`.
    workers: processes at a time. limits: of each. again: try cells that have failed. networks: places of networks that need not
    be trained, see `trained.take_over`. words: what starts a process. start: what runs it to its end, `process.run` or what gives
    and takes the same. tell: gets each record when it is written.
    """

    folder: Path
    lock: int
    workers: int = 1
    limits: Limits = field(default_factory=Limits)
    again: bool = False
    networks: Sequence[str] = ()
    words: Sequence[str] = field(default_factory=command)
    start: Callable[..., Optional[Failure]] = run
    tell: Callable[[Mapping[str, Any]], None] = lambda record: None

    def run(self, cells: Sequence[Cell]) -> None:
        """Run those that have no record yet, each when its network is there.

        What fails is tried once more, and then recorded with its reason; so is what cannot be tried as its network failed. An
        exception, such as an interrupt, ends the processes; their cells have no record, and are run when they are asked again.
        One of these is an OSError (ENOSPC) if the disk is full, which is no cell's failure.
        """
        for part in (LOGS, NETWORKS, RUNS, record_path(self.folder).name):
            (self.folder / part).mkdir(exist_ok=True)
        pending = [cell for cell in cells if self.open(cell)]
        stop, running = threading.Event(), dict[Future[Optional[Failure]], Cell]()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                while pending or running:
                    waiting = {cell.key for cell in (*pending, *running.values())}
                    ready = [cell for cell in pending if cell.defense == NONE or cell.network.key not in waiting]
                    for cell in ready[: self.workers - len(running)]:
                        pending.remove(cell)
                        running[pool.submit(self._try, cell, stop)] = cell
                    for future in wait(running, SECOND, return_when=FIRST_COMPLETED).done:
                        self._settle(running.pop(future), future.result())
            finally:
                stop.set()

    def open(self, cell: Cell) -> bool:
        """Whether the cell is to be run: it has no record, or one of a failure that is to be tried again."""
        path = record_path(self.folder, cell)
        if not path.exists():
            return True
        if read_json(path)["status"] != DONE:
            return self.again
        return cell.defense == NONE and not (self.folder / NETWORKS / cell.name).is_dir()

    def _try(self, cell: Cell, stop: threading.Event) -> Optional[Failure]:
        """Run a cell until there is a record, at most `TRIES` times."""
        network = cell.network
        if network.key != cell.key and read_json(record_path(self.folder, network))["status"] != DONE:
            reason = read_json(record_path(self.folder, network))["reason"]
            return Failure(FAILED, f"its network is not there ({reason})", attempts=0)
        for attempt in range(1, TRIES + 1):
            job = {
                "folder": str(self.folder.absolute()),
                "cell": cell.as_json(),
                "networks": [str(Path(place).absolute()) for place in self.networks],
                "record": str(record_path(self.folder, cell).absolute()),
                "known": {**self._known(cell), "status": DONE, "reason": None, "attempts": attempt},
                "started": time.time(),
            }
            log = self.folder.absolute() / LOGS / f"{cell.name}.log"
            failure = self.start(self.words, job, log, self.limits, stop, self._environment(), [self.lock])
            if failure is None or failure.kind != FAILED or self._full():
                break
        return failure and replace(failure, attempts=attempt)

    def _settle(self, cell: Cell, failure: Optional[Failure]) -> None:
        """Record a failure, unless it is none of the cell's."""
        if failure is not None:
            if failure.kind == FULL or self._full():
                raise OSError(errno.ENOSPC, NO_SPACE)
            if failure.kind == ENDED:
                return
            said = {"status": failure.kind, "reason": failure.reason, "attempts": failure.attempts}
            write_json(record_path(self.folder, cell), {**self._known(cell), **said})
        self.tell(read_json(record_path(self.folder, cell)))

    def _known(self, cell: Cell) -> dict[str, Any]:
        """What a record says of its cell, whatever comes of it."""
        place = NETWORKS if cell.defense == NONE else RUNS
        return {
            "key": cell.key,
            "recipe": cell.training.recipe,
            "dataset": cell.training.dataset,
            "miniature": cell.training.miniature,
            "limit": cell.training.limit,
            "innocent": cell.innocent,
            "defense": cell.defense,
            "seed": cell.training.seed,
            "settings": dict(cell.settings),
            "origins": dict(cell.origins),
            "identity": cell.identity,
            "run": f"{place}/{cell.name}",
            "log": f"{LOGS}/{cell.name}.log",
        }

    def _environment(self) -> dict[str, str]:
        """Processes side by side share the processor's cores, and a GPU's memory."""
        wanted = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        if self.workers > 1:
            wanted["TF_NUM_INTRAOP_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.workers))
        return {name: value for name, value in wanted.items() if name not in os.environ}

    def _full(self) -> bool:
        return shutil.disk_usage(self.folder).free < LEAST_SPACE


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[int]:
    """In the block the folder, which is made, is the caller's and its processes' alone; gives the lock, which these inherit.

    It holds as long as one of them lives, also if the caller is killed; no file is left of it.
    Raises `BadInput` if somebody else has the folder, or if the disk is full in the block.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
        try:
            _wait_for(lock, folder)
            yield lock
        finally:
            os.close(lock)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise BadInput(f"{folder}: the disk is full; the same command with --resume goes on when it is not") from None


def _wait_for(lock: int, folder: Path) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise BadInput(f"{folder}: another kbd bench is at work there") from None
            time.sleep(0.05)
