"""Where networks are trained, and in which numbers: on one device, on all of a machine, or on several machines.

Several machines run the same program, each one whole. What is spread (`replicas`) they compute together; what is not, every
worker computes by itself, with the same result. The first worker, the chief, is the only one to leave files and figures
(`own_folder`). All of it is `tf.distribute`.

TensorFlow is imported when it is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from keras_backdoor.files import BadInput, PathLike, lookup

if TYPE_CHECKING:
    import tensorflow as tf

AUTO, NONE, MIRRORED, MULTI_WORKER = STRATEGIES = ("auto", "none", "mirrored", "multi-worker")
FLOAT32, *_ = PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
"""Of training. (`precision.PRECISIONS` are those of the passes of finished networks.)"""


class WorkerLost(RuntimeError):
    """Another worker has ended in the middle of the work, so that this one cannot go on."""


@dataclass(frozen=True)
class Setup:
    """How networks are trained, and what `replicas` spreads is computed.

    strategy: None is one device. precision: one of `PRECISIONS`; weights stay float32. jit: compile steps with XLA.
    """

    strategy: Optional[tf.distribute.Strategy] = None
    precision: str = FLOAT32
    jit: bool = False

    @property
    def replicas(self) -> int:
        """Into how many parts a batch is split."""
        return 1 if self.strategy is None else self.strategy.num_replicas_in_sync

    def sharing(self, images: int) -> Setup:
        """This one, or one device if the replicas cannot share a batch of so many images equally."""
        return self if images % self.replicas == 0 else ONE_DEVICE

    def scope(self) -> AbstractContextManager[Any]:
        """In the block variables are made on all replicas."""
        return nullcontext() if self.strategy is None or self.replicas == 1 else self.strategy.scope()


ONE_DEVICE = Setup()
_SETUP: ContextVar[Setup] = ContextVar("setup", default=ONE_DEVICE)


def active() -> Setup:
    """What is in use now: one device, float32 and no XLA, unless `using` says otherwise."""
    return _SETUP.get()


def strategy(name: str) -> Optional[tf.distribute.Strategy]:
    """The strategy called `name`, one of `STRATEGIES`; None if it comes to one device.

    auto: all visible GPUs. mirrored: the same, or without GPUs all logical CPUs. multi-worker: what TF_CONFIG says; it waits for
    the other workers, and must come before anything else that TensorFlow does.
    Raises `BadInput` for another name, or if TF_CONFIG is missing or wrong.
    """
    import tensorflow as tf

    if lookup(name, STRATEGIES, "strategy") == NONE:
        return None
    if name == MULTI_WORKER:
        _check_cluster(os.environ.get("TF_CONFIG", ""))
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = tf.config.list_logical_devices("GPU")
    if name == MIRRORED and not devices:
        devices = tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices]) if len(devices) > 1 else None


def _check_cluster(text: str) -> None:
    """`BadInput` unless `text` is a TF_CONFIG of workers."""
    example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(text)
        workers, task = config["cluster"]["worker"], config["task"]
        known = list(config["cluster"]) == ["worker"] and task["type"] == "worker"
        known = known and 0 <= int(task["index"]) < len(workers)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        what = "is not the description of a cluster of workers" if text else "is not set"
        raise BadInput(
            f"multi-worker: the variable TF_CONFIG {what}, expected on the first worker such as {example}; "
            "kbd launch starts workers on one machine"
        )


@contextmanager
def using(name: str, precision: str = FLOAT32, jit: bool = False) -> Iterator[Setup]:
    """In the block networks are trained, and triggers reversed, by the strategy called `name`, as `strategy` and `Setup` have it.

    Raises `BadInput` as `strategy`, or if jit is asked with several replicas; `WorkerLost` if another worker ends in the block.
    """
    import tensorflow as tf

    lookup(precision, PRECISIONS, "precision")
    setup = Setup(strategy(name), precision, jit)
    if jit and setup.replicas > 1:
        raise BadInput(f"jit: is for one device, but strategy {name} has {setup.replicas}")
    token = _SETUP.set(setup)
    try:
        yield setup
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        if name != MULTI_WORKER:
            raise
        raise WorkerLost("another worker has ended") from error
    finally:
        _SETUP.reset(token)


def is_chief() -> bool:
    """Whether this worker leaves files and figures: the first one, or the only one."""
    setup = active()
    return (
        setup.strategy is None
        or setup.strategy.cluster_resolver is None
        or setup.strategy.cluster_resolver.task_id == 0
    )


@contextmanager
def own_folder(folder: PathLike) -> Iterator[Path]:
    """Where this worker writes: `folder` for the chief, for the others a copy of it that is removed in the end.

    So all workers find the same files before the block, whatever the chief writes in it. Raises `BadInput` if they do not, as the
    machines have no folder in common: an unfinished run can only be taken up by workers that all see it.
    """
    setup, folder = active(), Path(folder)
    if setup.strategy is None or setup.strategy.cluster_resolver is None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="kbd-worker-") as scratch:
        place = folder if is_chief() else Path(scratch) / "run"
        if not is_chief() and folder.exists():
            shutil.copytree(folder, place)
        if not _agreed(setup.strategy, place):
            raise BadInput(f"{folder}: the workers find different files in it; they need a folder that all of them see")
        yield place


def _agreed(strategy: tf.distribute.Strategy, folder: Path) -> bool:
    """Whether all workers have files of the same names and sizes in their folder; waits until all have looked."""
    import tensorflow as tf

    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    listing = repr([(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths])
    number = int.from_bytes(hashlib.sha256(listing.encode()).digest()[:7], "big")

    @tf.function
    def everyones() -> Any:
        return strategy.run(lambda: tf.distribute.get_replica_context().all_gather(tf.constant([number], tf.int64), 0))

    values = strategy.experimental_local_results(everyones())[0].numpy()
    return bool((values == number).all())
