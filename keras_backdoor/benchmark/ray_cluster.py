"""Cells as tasks of a Ray cluster: each runs on one of its machines as it would here, in a process of its own.

The machines need this package in the same version, and see this folder, the bench's and the data at the same paths as here.
Ray lowers the priority of its tasks (to a niceness of 15, where the cluster was not started with RAY_worker_niceness).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from keras_backdoor.benchmark.child import FAILED
from keras_backdoor.benchmark.process import ENDED, TICK, Failure, Limits, command, run
from keras_backdoor.files import BadInput

Start = Callable[..., Optional[Failure]]
"""What `process.run` is: it takes and gives the same."""


@contextlib.contextmanager
def cluster(address: str) -> Iterator[tuple[Start, int]]:
    """Join the cluster at `address` (as `ray.init` takes it; `auto`: that of this machine); leave it after the block.

    Gives what runs a process there, one of the cluster's processors each, and how many processors it has.
    Raises `BadInput` if Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ImportError:
        raise BadInput("Ray is not installed: pip install keras-backdoor[ray]") from None
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInput(f"no Ray cluster at {address}: {str(error).splitlines()[0]}") from None
    task = ray.remote(num_cpus=1, max_retries=0)(_run)

    def start(
        words: Sequence[str],
        job: Mapping[str, Any],
        log: Path,
        limits: Limits,
        stop: threading.Event,
        environment: Mapping[str, str],
        keep_open: Sequence[int] = (),
    ) -> Optional[Failure]:
        """As `process.run`, without words what runs a cell; limits are those of the machine there, and nothing is kept open."""
        waiting = task.remote(os.getcwd(), words, job, log, limits, environment)
        try:
            while not ray.wait([waiting], timeout=TICK)[0]:
                if stop.is_set():
                    ray.cancel(waiting)
                    return Failure(ENDED, "interrupted")
            return ray.get(waiting)
        except ray.exceptions.RayError as error:  # a machine that went away, for instance
            return Failure(FAILED, f"Ray: {(str(error).strip().splitlines() or [type(error).__name__])[0]}")

    try:
        yield start, int(ray.cluster_resources().get("CPU", 1))
    finally:
        ray.shutdown()


def _run(
    home: str,
    words: Sequence[str],
    job: Mapping[str, Any],
    log: Path,
    limits: Limits,
    environment: Mapping[str, str],
) -> Optional[Failure]:
    """On the cluster: a process with one processor; a task that is cancelled takes it along."""
    os.chdir(home)
    here = {"TF_CPP_MIN_LOG_LEVEL": "3", **environment, "TF_NUM_INTRAOP_THREADS": "1"}
    return run(words or command(), job, log, limits, threading.Event(), here)
