"""The one training loop: `model.fit` on a `tf.data` pipeline, reproducible to the bit and safe to kill at any moment."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor import distribution, replicas
from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput, atomic, lookup
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import score
from keras_backdoor.progress import Progress, silent

# Every default is pinned: Keras has changed them between versions (Adadelta's rate from 1.0 to 0.001).
OPTIMIZERS = {
    "adam": lambda rate: keras.optimizers.Adam(rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7, amsgrad=False),
    "adadelta": lambda rate: keras.optimizers.Adadelta(rate, rho=0.95, epsilon=1e-7),
    "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.0, nesterov=False),
    # PyTorch's weight decay (WaNet's 5e-4, NAD's and ABL's 1e-4) goes through the momentum of 0.9, which makes it ten times
    # as strong; Keras's does not.
    "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9, nesterov=False, weight_decay=5e-3),
    "nesterov": lambda rate: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=1e-3),
}


CROSS_ENTROPY = "sparse_categorical_crossentropy"
Loss = Union[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]]
"""A name that Keras knows, or a function of labels int64 (B,) and probabilities float32 (B, K) that gives (B,), or one number."""


@dataclass(frozen=True)
class Schedule:
    """How to train.

    optimizer: a name of `OPTIMIZERS`. learning_rate: at the start. batch_size: images a step. epochs: passes over the set.
    steps: (epoch, learning rate) pairs; from that epoch on (0-based), that rate.
    """

    optimizer: str
    learning_rate: float
    batch_size: int
    epochs: int
    steps: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        """`BadInput` if a number is out of its range, or the optimizer unknown."""
        lookup(self.optimizer, OPTIMIZERS, "optimizer")
        if self.epochs < 1 or self.batch_size < 1 or not 0 < self.learning_rate < float("inf"):
            raise BadInput(
                f"epochs ({self.epochs}) and batch size ({self.batch_size}) must be at least 1, "
                f"and the learning rate ({self.learning_rate}) above 0"
            )

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, 0-based."""
        return [self.learning_rate, *(rate for start, rate in self.steps if start <= epoch)][-1]


@dataclass(frozen=True)
class Monitor:
    """What to measure after each epoch: a clean set, and poisoned ones by name. See `metrics.score`."""

    clean: ImageSet
    poisoned: Mapping[str, ImageSet]
    exclude_target: bool = False


def check_seed(seed: int) -> None:
    """`BadInput` unless `seed` is one that all of the libraries take."""
    if not 0 <= seed < 2**31:
        raise BadInput(f"seed is {seed}, expected 0..{2**31 - 1}")


def seed_everything(seed: int) -> None:
    """Make all that follows a function of `seed` alone: initial weights, order of images, dropout; one seed, the same bits."""
    check_seed(seed)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    # Layers that are built from here on have a random state that `_EpochStart` can set.
    keras.backend.experimental.enable_tf_random_generator()


def fit(
    classifier: Classifier,
    image_set: Union[ImageSet, Callable[[int], ImageSet]],
    schedule: Schedule,
    *,
    seed: int,
    stage: str = "training",
    monitor: Optional[Monitor] = None,
    folder: Optional[Path] = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    loss: Loss = CROSS_ENTROPY,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Train `classifier.model` in place; gives one row of figures an epoch.

    image_set: uint8 images and labels, held in memory unless they are too many (`images.IN_MEMORY`); or a function that gives
        those of an epoch (0-based), as many every time. seed: decides the order of the images in every epoch.
    stage: names the phase in progress, in the history and in TensorBoard.
    monitor: if given, each row also has `clean_accuracy` and, by name of the poisoned set, `attack_success_rate/NAME` and
        `robust_accuracy/NAME`; callbacks (`EarlyStopping`) can watch them.
    loss: what is made small.
    folder: if given, checkpoints, `history.csv` and TensorBoard logs are kept there, and a call with the same arguments after
        a kill continues with the last whole epoch and ends with the same weights. The checkpoint is dropped by
        `forget_checkpoint`, once the result is safe.
    """
    setup = distribution.active()
    with replicas.copied(classifier.model) as model:
        copied, spread = model is not classifier.model, replicas.is_spread(model)
        trained = replace(classifier, model=model) if copied else classifier
        epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        every: list[keras.callbacks.Callback] = [_EpochStart(schedule, seed, epoch)]
        drawn = image_set(0) if callable(image_set) else image_set
        if spread:
            assert setup.strategy is not None
            parts = partial(_parts, trained, image_set, drawn, schedule, seed, _epochs_done(folder, stage))
            data = {
                "x": setup.strategy.distribute_datasets_from_function(parts),
                "steps_per_epoch": -(-len(drawn) // schedule.batch_size),
            }
        else:
            labels = tf.constant(drawn.labels)
            images = tf.constant(drawn.in_memory().images) if drawn.fits_in_memory else drawn.images
            if callable(image_set):
                images, labels = tf.Variable(images, trainable=False), tf.Variable(labels, trainable=False)
                every.append(_Redraw(image_set, images, labels))
            data = {"x": _pipeline(trained, images, labels, schedule.batch_size, seed, epoch)}
        every += [BackdoorMonitor(trained, monitor), *callbacks, _Report(stage, schedule.epochs, progress)]
        history = _History(stage, folder and folder / "history.csv")
        every.append(history)
        if folder:
            every.append(keras.callbacks.TensorBoard(folder / "tensorboard" / stage, write_graph=False))
            # Last, so that whatever an epoch leaves behind is written before the epoch counts as done.
            every.append(keras.callbacks.BackupAndRestore(str(_checkpoints(folder, stage)), delete_checkpoint=False))
        with setup.scope() if spread else nullcontext():
            optimizer = OPTIMIZERS[schedule.optimizer](schedule.learning_rate)
            if copied and setup.precision == "mixed_float16":  # small gradients would be lost
                optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
            model.compile(
                optimizer,
                replicas.of_whole_batch(loss, schedule.batch_size) if spread else loss,
                metrics=[replicas.accuracy() if spread else "accuracy"],
                steps_per_execution=16,  # less of Python between steps: small networks gain a sixth, the weights are the same
                jit_compile=setup.jit or None,
            )
        model.fit(**data, epochs=schedule.epochs, callbacks=every, verbose=0)
    return history.rows


def forget_checkpoint(folder: Path, stage: str) -> None:
    """Remove the checkpoint of a stage whose result has been saved."""
    path = _checkpoints(folder, stage)
    shutil.rmtree(path, ignore_errors=True)
    if path.parent.exists() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def _checkpoints(folder: Path, stage: str) -> Path:
    return folder / "checkpoints" / stage


def _epochs_done(folder: Optional[Path], stage: str) -> int:
    """How many epochs the checkpoint of a stage holds."""
    latest = tf.train.latest_checkpoint(str(_checkpoints(folder, stage) / "chief")) if folder else None
    if latest is None:
        return 0
    return int(tf.train.load_variable(latest, "ckpt_saved_epoch/.ATTRIBUTES/VARIABLE_VALUE")) + 1


def _pipeline(
    classifier: Classifier, images: Any, labels: Any, batch_size: int, seed: int, epoch: tf.Variable
) -> tf.data.Dataset:
    """Batches of one epoch, in an order that depends on `seed` and the epoch's number alone. Images stay uint8 to the end."""
    count = labels.shape[0]
    batches = tf.data.Dataset.from_tensors(0).flat_map(lambda _: _order(count, seed, epoch)).batch(batch_size)
    steps = -(-count // batch_size)
    batches = batches.map(_taker(classifier, images, labels), num_parallel_calls=1)
    return batches.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(8)


def _order(count: int, seed: int, epoch: Any) -> tf.data.Dataset:
    """The places of the images of an epoch, one after the other."""
    return tf.data.Dataset.from_tensor_slices(
        tf.random.experimental.stateless_shuffle(tf.range(count), seed=[seed, epoch])
    )


def _taker(classifier: Classifier, images: Any, labels: Any) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """A function from places to the network's inputs and labels."""

    def take(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if hasattr(images, "take"):  # they are read when they are needed, by Python
            chosen = tf.ensure_shape(tf.numpy_function(images.take, [indices], tf.uint8), (None, *images.shape[1:]))
        else:
            chosen = tf.gather(images, indices)
        return classifier.scale(chosen), tf.gather(labels, indices)

    return take


def _parts(
    classifier: Classifier,
    image_set: Union[ImageSet, Callable[[int], ImageSet]],
    drawn: ImageSet,
    schedule: Schedule,
    seed: int,
    first: int,
    context: tf.distribute.InputContext,
) -> tf.data.Dataset:
    """The batches of `_pipeline` for the replicas of one worker: a part of each for every replica, from epoch `first` on.

    Parts differ by one image at most. Where a last batch has fewer images than there are replicas, some get one of them that is
    another's, labelled `replicas.NOBODY`; it counts for the statistics of batch normalisation alone.
    """
    every = context.num_replicas_in_sync
    own = every // context.num_input_pipelines
    mine = context.input_pipeline_id * own + tf.range(own)

    def draw(epoch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert callable(image_set)
        images = image_set(int(epoch))
        return images.in_memory().images, images.labels

    def of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        images, labels = fixed
        if callable(image_set):
            images, labels = tf.numpy_function(draw, [epoch], [tf.uint8, tf.int64])
            images, labels = tf.ensure_shape(images, drawn.images.shape), tf.ensure_shape(labels, drawn.labels.shape)
        take = _taker(classifier, images, labels)

        def take_part(indices: tf.Tensor, whose: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            inputs, wanted = take(indices)
            return inputs, tf.where(whose, wanted, replicas.NOBODY)

        batches = _order(len(drawn), seed, epoch).batch(schedule.batch_size)
        return batches.flat_map(split).map(take_part, num_parallel_calls=1)

    def split(indices: tf.Tensor) -> tf.data.Dataset:
        size = tf.size(indices)

        def part(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            start, end = size * number // every, size * (number + 1) // every
            return indices[start : tf.maximum(end, start + 1)], end > start

        return tf.data.Dataset.from_tensor_slices(mine).map(part)

    fixed = (tf.constant(drawn.in_memory().images) if drawn.fits_in_memory else drawn.images, tf.constant(drawn.labels))
    epochs = tf.data.Dataset.range(first, schedule.epochs).flat_map(of_epoch)
    # As if without end: where it may end, all workers ask each other before every step whether there is another one.
    endless = epochs.repeat().apply(tf.data.experimental.assert_cardinality(tf.data.experimental.INFINITE_CARDINALITY))
    return endless.prefetch(8 * own)


class BackdoorMonitor(keras.callbacks.Callback):
    """After each epoch, adds the rates of a `Monitor` to the logs, where other callbacks find them (nothing if it is None)."""

    def __init__(self, classifier: Classifier, monitor: Optional[Monitor]) -> None:
        super().__init__()
        self._classifier, self._monitor = classifier, monitor

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Measure."""
        if self._monitor is None:
            return
        rates = score(self._classifier, self._monitor.clean, self._monitor.poisoned, self._monitor.exclude_target)
        logs["clean_accuracy"] = rates.clean_accuracy
        logs |= {f"attack_success_rate/{name}": rate for name, rate in rates.attack_success_rate.items()}
        logs |= {f"robust_accuracy/{name}": rate for name, rate in rates.robust_accuracy.items()}


class _EpochStart(keras.callbacks.Callback):
    """Sets all that an epoch depends on besides the weights: its number, the learning rate, and the state of dropout.

    Keras keeps the last out of checkpoints on purpose; as a function of the seed and the epoch it need not be in them.
    """

    def __init__(self, schedule: Schedule, seed: int, epoch: tf.Variable) -> None:
        super().__init__()
        self._schedule, self._seed, self._epoch = schedule, seed, epoch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch.assign(epoch)
        self.model.optimizer.learning_rate.assign(self._schedule.rate(epoch))
        states = [
            layer._random_generator._generator for layer in self.model.submodules if hasattr(layer, "_random_generator")
        ]
        for index, state in enumerate(state for state in states if state is not None):
            state.reset_from_seed(int(np.random.SeedSequence([self._seed, epoch, index]).generate_state(1)[0]))


class _Redraw(keras.callbacks.Callback):
    """Puts the images of an epoch in the place of the last one's."""

    def __init__(self, draw: Callable[[int], ImageSet], images: tf.Variable, labels: tf.Variable) -> None:
        super().__init__()
        self._draw, self._images, self._labels = draw, images, labels

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        drawn = self._draw(epoch)
        self._images.assign(drawn.in_memory().images)
        self._labels.assign(drawn.labels)


class _Report(keras.callbacks.Callback):
    """Hands each epoch's figures to the caller's progress."""

    def __init__(self, stage: str, epochs: int, progress: Progress) -> None:
        super().__init__()
        self._stage, self._epochs, self._progress = stage, epochs, progress

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self._progress(self._stage, epoch + 1, self._epochs, logs)


class _History(keras.callbacks.Callback):
    """Collects a row an epoch, and keeps them in a CSV file that several stages share; survives being killed."""

    def __init__(self, stage: str, path: Optional[Path]) -> None:
        super().__init__()
        self._stage, self._path = stage, path
        self._earlier, self.rows = self._read()

    def _read(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if self._path is None or not self._path.exists():
            return [], []
        with open(self._path, newline="", encoding="utf-8") as file:
            rows = [{name: _number(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
        return [row for row in rows if row["stage"] != self._stage], [
            row for row in rows if row["stage"] == self._stage
        ]

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        rate = float(self.model.optimizer.learning_rate.numpy())
        # A killed run may have written rows of epochs that are now trained again.
        self.rows[epoch:] = [{"stage": self._stage, "epoch": epoch, "learning_rate": rate, **logs}]
        if self._path is None:
            return
        rows = [*self._earlier, *self.rows]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with atomic(self._path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


def _number(text: str) -> Any:
    """A figure of the history as it was before it was written; a stage's name stays text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
