"""The process of one cell: it does what it is told on stdin, leaves a record, and ends when its runner does."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from keras_backdoor.files import BadInput, write_json

REFUSED, FULL, FAILED = "refused", "disk", "failed"
"""Why there is no record: the input cannot be used, so that another try is of no use; the disk is full; anything else."""
NO_SPACE = "No space left on device"


def serve(work: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Read a job, a JSON object on one line of stdin; write what `work` makes of it as the file `record` of the job; and end.

    To the record come `known` of the job, and of this process, imports included: `process_seconds` by the clock, beginning with
    `started` of the job, `cpu_seconds`, with those of its children, and `peak_memory_mib`, its own resident memory. Where there
    is none, stdout gets one JSON object with `kind` (as above) and `reason`; all else that is printed goes to stderr. stdin has
    to stay open: when it is closed, the process and its children are killed.
    """
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_runner, daemon=True).start()
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        figures = work(job)
        write_json(job["record"], {**job["known"], **figures, **_cost(job["started"])})
    except Exception as error:
        if not isinstance(error, BadInput):
            traceback.print_exc()
        os.write(answer, json.dumps(_told(error)).encode())
        sys.exit(1)


def _cost(started: float) -> dict[str, float]:
    used, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = sum(one.ru_utime + one.ru_stime for one in (used, children))
    return {
        "process_seconds": round(time.time() - started, 3),
        "cpu_seconds": round(cpu, 3),
        "peak_memory_mib": round(used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1),
    }


def _told(error: Exception) -> dict[str, str]:
    text = (str(error).strip().splitlines() or [""])[0][:500]
    if getattr(error, "errno", None) == errno.ENOSPC or NO_SPACE in str(error):
        return {"kind": FULL, "reason": NO_SPACE}
    if isinstance(error, BadInput):
        return {"kind": REFUSED, "reason": text}
    return {"kind": FAILED, "reason": f"{type(error).__name__}: {text}" if text else type(error).__name__}


def _end_with_runner() -> None:
    os.read(0, 1)  # nothing more is written: it returns when the other end is closed, also by a kill
    os.killpg(0, signal.SIGKILL)
