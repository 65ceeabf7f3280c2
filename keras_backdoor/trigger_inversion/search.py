"""The optimisation itself: many labels in one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Callable, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor import distribution, replicas
from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput, lookup
from keras_backdoor.images import ImageSet
from keras_backdoor.precision import FLOAT32, computed_in
from keras_backdoor.progress import Progress, silent
from keras_backdoor.trigger_inversion.candidates import EPSILON, Candidates, ReversedTrigger
from keras_backdoor.trigger_inversion.control import FAST, Control, InversionSchedule


def _linear(labels: tf.Tensor, answers: tf.Tensor) -> tf.Tensor:
    return -np.log(EPSILON) * (1 - tf.gather(answers, labels, batch_dims=1))


LOSSES: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "cross-entropy": keras.losses.sparse_categorical_crossentropy,
    "linear": _linear,
}
"""From labels (N,) and probabilities (N, K) to what an image's answer costs, (N,).

`cross-entropy` is -log p, taken from the logits where the network ends in a softmax: it does not run dry at p = 0. `linear` is
the released code, 16.118 (1 - p): there the arguments are swapped, and cross-entropy takes the network's answer for the truth.
"""


class _State(NamedTuple):
    """The labels in the batch, int32 (L,), where they are, and their best masks and patterns (before tanh), and success."""

    labels: tf.Tensor
    candidates: Candidates
    control: Control
    best: tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def images_at_once(classifier: Classifier, memory: int) -> int:
    """How many images take `memory` MiB on their way through the network and back."""
    floats = sum(
        int(np.prod(one.shape[1:]))
        for layer in classifier.model.layers
        for node in layer.inbound_nodes
        for one in tf.nest.flatten(node.outputs)
    )
    return (memory << 20) // (2 * 4 * floats)  # values and their gradients


class TriggerInversion:
    """Reverses triggers of one network."""

    def __init__(
        self,
        classifier: Classifier,
        clean: ImageSet,
        schedule: InversionSchedule = FAST,
        loss: str = "cross-entropy",
        seed: int = 0,
        memory: int = 512,
        precision: str = FLOAT32,
    ) -> None:
        """clean: images to stamp; their labels play no part. seed: decides their order and where labels start.

        memory: MiB that the labels that are optimised at once may take in the network, on each device. precision: in which it
        computes.
        Raises `BadInput` if the images do not fit the network, or there is no such loss.
        """
        classifier.check(clean, "clean images")
        self._loss = LOSSES[lookup(loss, LOSSES, "loss", f"choose from {', '.join(LOSSES)}")]
        self._classifier = replace(classifier, model=replicas.replicated(classifier.model))
        self._images = clean.sample()
        self._schedule, self._seed, self._precision = schedule, seed, precision
        at_once = max(1, images_at_once(classifier, memory) // schedule.batch_size)
        self._at_once = at_once * distribution.active().replicas

    def chunks(self, labels: Sequence[int], progress: Progress = silent) -> Iterator[list[ReversedTrigger]]:
        """The triggers of `labels`, in that order, as many at once as the memory allows.

        What is found for a label depends on seed, network and images, and not on the company, up to rounding. A label that comes
        several times starts from somewhere else each time. Progress counts finished triggers, and has the smallest norm of one
        that works so far.
        Raises `BadInput` if the network has no such label.
        """
        for label in labels:
            if not 0 <= label < self._classifier.num_classes:
                raise BadInput(f"label {label}: the network has the labels 0..{self._classifier.num_classes - 1}")
        done, smallest = 0, np.inf

        def report(more: int, norm: float) -> None:
            nonlocal smallest
            smallest = min(smallest, norm)
            progress("reversing triggers", done + more, len(labels), {"norm": smallest} if smallest < np.inf else {})

        times = [labels[:place].count(label) for place, label in enumerate(labels)]
        size = max(1, self._at_once // self._schedule.starts)
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            chunk = self._together(labels[part], times[part], report)
            done += len(chunk)
            yield chunk

    def _together(
        self, labels: Sequence[int], times: Sequence[int], report: Callable[[int, float], None]
    ) -> list[ReversedTrigger]:
        """The triggers of labels that are optimised at once, from the starts that `Candidates.start` gives them."""
        starts = self._schedule.starts
        pairs = [(label, starts * time + start) for label, time in zip(labels, times) for start in range(starts)]
        state, rows = self._start(*map(list, zip(*pairs))), np.arange(len(pairs))
        history = np.empty((len(pairs), self._schedule.steps, 3), np.float32)
        found: dict[int, ReversedTrigger] = {}
        for step, images in zip(range(1, self._schedule.steps + 1), self._stream()):
            with computed_in(self._precision):
                state, figures, finished = self._step(state, images)
            history[rows, step - 1] = figures
            over, smallest = finished.numpy() | (step == self._schedule.steps), state.control.best.numpy()
            if len(rows) > len(labels):  # each label has all its starts, and none is over before the trial
                over[:] = False
                if step == min(self._schedule.trial, self._schedule.steps - 1):
                    sizes = np.where(np.isfinite(smallest), smallest, 1e9 + figures.numpy()[:, 2])
                    leading = np.arange(0, len(rows), starts) + sizes.reshape(-1, starts).argmin(1)
                    state, rows, over = _rows(state, leading), rows[leading], over[leading]
            if over.any():
                for row, one in zip(rows[over], self._found(_rows(state, np.flatnonzero(over)))):
                    place = row // starts
                    found[place] = ReversedTrigger(labels[place], *one, history[row, :step].copy())
                state, rows = _rows(state, np.flatnonzero(~over)), rows[~over]
            if over.any() or step % max(1, self._schedule.steps // 20) == 0:
                report(len(found), float(smallest.min()))
            if not len(rows):
                break
        return [found[place] for place in range(len(labels))]

    def _start(self, labels: Sequence[int], times: Sequence[int] = ()) -> _State:
        candidates = Candidates.start(labels, self._classifier.image_shape, self._seed, times)
        nothing = (candidates.mask, candidates.pattern, tf.zeros(len(labels)))
        return _State(tf.constant(labels, tf.int32), candidates, Control.start(len(labels), self._schedule), nothing)

    def _stream(self) -> Iterator[np.ndarray]:
        """The images of each step, uint8 (updates, batch, H, W, C): all in random order, then all in another one, and so on."""
        generator, waiting = np.random.default_rng([self._seed, 0]), np.empty(0, np.int64)
        while True:
            while len(waiting) < self._schedule.images:
                waiting = np.concatenate([waiting, generator.permutation(len(self._images))])
            now, waiting = np.split(waiting, [self._schedule.images])
            shape = self._schedule.updates, self._schedule.batch_size, *self._classifier.image_shape
            yield self._images[now].reshape(shape)

    @cached_property
    def _step(self) -> Callable[[_State, np.ndarray], tuple[_State, tf.Tensor, tf.Tensor]]:
        """One step of all labels; cost, success and norm of each in it, float32 (L, 3), and which are finished, bool (L,)."""
        schedule = self._schedule
        enough = int(np.ceil(schedule.success * schedule.images - 1e-9))
        signature = [
            tf.nest.map_structure(lambda one: tf.TensorSpec((None, *one.shape[1:]), one.dtype), self._start([0])),
            tf.TensorSpec((schedule.updates, schedule.batch_size, *self._classifier.image_shape), tf.uint8),
        ]

        def step(state: _State, images: tf.Tensor) -> tuple[_State, tf.Tensor, tf.Tensor]:
            candidates, control = state.candidates, state.control
            hits, norms = tf.zeros_like(state.labels), tf.zeros_like(control.cost)
            for update in tf.range(schedule.updates):
                candidates, hit, norm = self._update(candidates, state.labels, control.cost, images[update])
                hits, norms = hits + hit, norms + tf.cast(norm, tf.float64)
            norm, success = norms / schedule.updates, tf.cast(hits, tf.float32) / schedule.images
            after, better, finished = control.step(schedule, hits >= enough, norm)
            take = better | tf.math.is_inf(after.best)  # while none works, the last one is the best
            now = (candidates.mask, candidates.pattern, success)
            best = tuple(tf.where(_like(take, new), new, old) for new, old in zip(now, state.best))
            figures = tf.stack([tf.cast(control.cost, tf.float32), success, tf.cast(norm, tf.float32)], 1)
            return _State(state.labels, candidates, after, best), figures, finished

        return replicas.by_rows(step, signature)

    def _update(
        self, candidates: Candidates, labels: tf.Tensor, cost: tf.Tensor, images: tf.Tensor
    ) -> tuple[Candidates, tf.Tensor, tf.Tensor]:
        """One update; before it, how many images get the labels, int32 (L,), and the norms of the masks, float32 (L,)."""
        pixels = tf.cast(images, tf.float32)
        size = self._schedule.batch_size
        wanted = tf.repeat(labels, size)
        variables = candidates.mask, candidates.pattern
        with tf.GradientTape(watch_accessed_variables=False) as bounds:
            bounds.watch(variables)
            mask, pattern = candidates.bounded
        stamped = pixels + mask[:, None, ..., None] * (pattern[:, None] - pixels)
        with tf.GradientTape(watch_accessed_variables=False) as network:
            network.watch(stamped)
            inputs = self._classifier.scale(tf.reshape(stamped, (-1, *self._classifier.image_shape)))
            answers = self._classifier.model(inputs, training=False)
            loss = self._loss(wanted, answers)
        slope = network.gradient(loss, stamped)
        # By hand, as sums over the batch come first: what the tape does with these shapes takes a quarter of the network's time.
        total = tf.reduce_sum(slope, 1)
        by_mask = tf.reduce_sum(pattern * total - tf.reduce_sum(slope * pixels, 1), -1)
        by_mask += tf.cast(size * cost[:, None, None], tf.float32) * tf.sign(mask)
        by_pattern = mask[..., None] * total
        gradients = bounds.gradient((mask, pattern), variables, output_gradients=(by_mask, by_pattern))
        hits = tf.reshape(tf.cast(tf.argmax(answers, -1, tf.int32) == wanted, tf.int32), (-1, size))
        after = candidates.descend(gradients, self._schedule.learning_rate)
        return after, tf.reduce_sum(hits, 1), tf.reduce_sum(tf.abs(mask), (1, 2))

    def _found(self, state: _State) -> Iterator[tuple[np.ndarray, np.ndarray, float, bool]]:
        """Mask, pattern, success and whether it works, of each label."""
        raw_mask, raw_pattern, success = state.best
        mask, pattern = state.candidates._replace(mask=raw_mask, pattern=raw_pattern).bounded
        works = np.isfinite(state.control.best.numpy())
        return zip(np.clip(mask, 0, 1), np.clip(pattern, 0, 255), map(float, success), map(bool, works))


def _rows(state: Any, rows: np.ndarray) -> Any:
    return tf.nest.map_structure(lambda one: tf.gather(one, rows), state)


def _like(flags: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """`flags` (L,), with as many axes as `values` (L, ...)."""
    return tf.reshape(flags, (-1, *[1] * (len(values.shape) - 1)))
