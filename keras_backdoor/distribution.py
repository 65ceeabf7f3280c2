"""Where networks are trained, and in which numbers: on one device, on all of a machine, or on several machines.

What is spread is what `training.fit` trains: each replica computes a part of every batch. Batches and their order are those of
one device, the loss is that of the whole batch, and so are the statistics of batch normalisation (`copied`). What differs is the
order in which floats are summed, and the masks of dropout, which every replica draws from a stream of its own.

Several machines run the same program, each one whole. What is not spread, every worker computes by itself, with the same
result; the first worker, the chief, is the only one to leave files and figures (`own_folder`). All of it is `tf.distribute`.

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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from keras_backdoor.files import BadInput, PathLike, lookup

if TYPE_CHECKING:
    import tensorflow as tf
    from tensorflow import keras

AUTO, NONE, MIRRORED, MULTI_WORKER = STRATEGIES = ("auto", "none", "mirrored", "multi-worker")
FLOAT32, *_ = PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
"""Of training. (`precision.PRECISIONS` are those of the passes of finished networks.)"""


class WorkerLost(RuntimeError):
    """Another worker has ended in the middle of the work, so that this one cannot go on."""


@dataclass(frozen=True)
class Setup:
    """How `training.fit` trains.

    strategy: None is one device. precision: one of `PRECISIONS`; weights stay float32. jit: compile steps with XLA.
    """

    strategy: Optional[tf.distribute.Strategy] = None
    precision: str = FLOAT32
    jit: bool = False

    @property
    def replicas(self) -> int:
        """Into how many parts a batch is split."""
        return 1 if self.strategy is None else self.strategy.num_replicas_in_sync

    def scope(self) -> AbstractContextManager[Any]:
        """In the block variables are made on all replicas."""
        return nullcontext() if self.strategy is None or self.replicas == 1 else self.strategy.scope()


_ONE_DEVICE = Setup()
_SETUP: ContextVar[Setup] = ContextVar("setup", default=_ONE_DEVICE)


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
    """In the block `training.fit` trains by the strategy called `name`, as `strategy` and `Setup` have it.

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


@contextmanager
def copied(model: keras.Model) -> Iterator[keras.Model]:
    """What to train in place of `model`: a copy that is spread over the replicas and computes in the precision in use.

    After the block the copy's weights are put back. It is `model` itself if there is nothing to spread; if it was made in the
    strategy's scope; or if it cannot be copied, because it has layers or steps of its own: that is trained on one device.

    Batch normalisation of the copy has the statistics of the whole batch. Its running variances are those of the batches, without
    the factor n / (n - 1) that Keras's fused kernel applies on one device.
    """
    from tensorflow import keras

    setup = active()
    if (setup.replicas == 1 and setup.precision == FLOAT32) or not _copyable(model):
        yield model
        return
    with setup.scope():
        copy = keras.models.clone_model(model, clone_function=partial(_copy_layer, setup, model))
        copy.set_weights(model.get_weights())
    try:
        yield copy
    finally:
        model.set_weights(copy.get_weights())


def _copyable(model: keras.Model) -> bool:
    """Whether `keras.Model` takes its steps, and all its layers say how they are made; none of them is a network itself."""
    from keras.src.engine.functional import Functional

    if not isinstance(model, Functional) or any(isinstance(layer, Functional) for layer in model.layers):
        return False
    try:
        for layer in model.layers:
            layer.get_config()
    except NotImplementedError:
        return False
    return True


def _copy_layer(setup: Setup, model: keras.Model, layer: keras.layers.Layer) -> keras.layers.Layer:
    """The same layer, for `copied`; one that gives an output of the model computes in float32, as losses need it."""
    from tensorflow import keras

    config = layer.get_config()
    given = [name for name in config if name.endswith(("_constraint", "_regularizer")) and hasattr(layer, name)]
    config.update({name: getattr(layer, name) for name in given})  # objects, which need not say how they are made
    if layer.name not in model.output_names:
        config["dtype"] = setup.precision
    if setup.replicas > 1 and isinstance(layer, keras.layers.BatchNormalization):
        config["synchronized"] = True
    return type(layer).from_config(config)


def is_spread(model: keras.Model) -> bool:
    """Whether the network was made to be trained on several replicas."""
    setup = active()
    return setup.replicas > 1 and model.distribute_strategy is setup.strategy


NOBODY = -1
"""The label of an image that is there only because every replica needs one, as parts without images break some kernels."""


def of_whole_batch(loss: Any, batch_size: int) -> Any:
    """A loss of labels and probabilities as a replica computes it: that of the whole batch, which all of them gather.

    So it may be any function of a batch, and a last batch need not have as many images for every replica.
    """
    import tensorflow as tf
    from tensorflow import keras

    function, most = keras.losses.get(loss), -(-batch_size // active().replicas)

    def gather(values: tf.Tensor) -> tf.Tensor:
        padding = [[0, most - tf.shape(values)[0]], *([0, 0] for _ in values.shape[1:])]  # collectives want one shape
        filled = tf.ensure_shape(tf.pad(values, padding), (most, *values.shape[1:]))
        return tf.distribute.get_replica_context().all_gather(filled, 0)

    def whole(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
        numbers = gather(labels - NOBODY)  # 0 is nobody or padding
        counted = tf.reshape(numbers, [-1]) > 0
        logits = getattr(probabilities, "_keras_logits", None)  # cross-entropy is computed from what softmax was given
        answers = gather(probabilities)[counted] if logits is None else tf.nn.softmax(gather(logits)[counted])
        return function(numbers[counted] + NOBODY, answers)

    return whole


def accuracy() -> keras.metrics.Metric:
    """The accuracy on all images of all replicas."""
    import tensorflow as tf
    from tensorflow import keras

    class Accuracy(keras.metrics.SparseCategoricalAccuracy):
        def update_state(self, labels: tf.Tensor, probabilities: tf.Tensor, sample_weight: Any = None) -> Any:
            return super().update_state(labels, probabilities, tf.reshape(labels, [-1]) != NOBODY)

    return Accuracy(name="accuracy")


def mean_of_whole_batch(values: tf.Tensor) -> tf.Tensor:
    """The mean of values (B, ...), B the images of this replica's part, over the whole batch."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tf.reduce_mean(values)
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(values))
    return total / context.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(tf.size(values), values.dtype))
