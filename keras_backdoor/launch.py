"""Starting the workers of one command on one machine, as `tf.distribute` wants them: each is told of all by TF_CONFIG."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO

from keras_backdoor.files import BadInput

GRACE = 20.0
"""Seconds in which workers may end by themselves, before they are killed."""


def launch(command: Sequence[str], workers: int, tell: Callable[[int, str], None]) -> tuple[int, int]:
    """Run `command` as so many workers, and wait for them; gives the exit code and the number of the first that failed, or 0, 0.

    Each is a process with a free port of its own. When one fails, the others are asked to end (SIGTERM), and killed if they do
    not; so they are if an exception comes in here, as from Ctrl-C. The exit code of one that a signal killed is 128 + its
    number. tell: is given the number of a worker and a line that it printed, on stdout or stderr.
    Raises `BadInput` if there is no such command.
    """
    addresses = [f"localhost:{port}" for port in _free_ports(workers)]
    with ExitStack() as stack:
        running = {}
        for number in range(workers):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}}
            running[number] = stack.enter_context(_worker(command, json.dumps(task), number, tell))
        processes = list(running.values())
        try:
            while running:
                for number, process in list(running.items()):
                    code = process.poll()
                    if code:
                        return (code if code > 0 else 128 - code), number
                    if code == 0:
                        del running[number]
                time.sleep(0.05)
        finally:
            for process in processes:  # all at once, or the first one's end would be told as a failure by the next one
                if process.poll() is None:
                    process.terminate()
    return 0, 0


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def _worker(
    command: Sequence[str], config: str, number: int, tell: Callable[[int, str], None]
) -> Iterator[subprocess.Popen[str]]:
    """A running worker; at the end of the block it has some time to end, as do processes that it started."""
    # The default of --strategy, of whichever command.
    strategy = dict.fromkeys(("KBD_TRAIN_STRATEGY", "KBD_DEFEND_STRATEGY"), "multi-worker")
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, **strategy, "TF_CONFIG": config, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise BadInput(f"{command[0]}: cannot be started ({error.strerror})") from None
    assert process.stdout is not None
    reader = threading.Thread(target=_pass_on, args=(process.stdout, number, tell), daemon=True)
    reader.start()
    try:
        yield process
    finally:
        _end(process)
        reader.join(5)


def _pass_on(lines: IO[str], number: int, tell: Callable[[int, str], None]) -> None:
    for line in lines:
        tell(number, line.rstrip("\n"))


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what is left of its group
    process.wait()
