"""Many changes of images, optimised in one batch at fixed costs: what each is to reach, and how it goes there.

The images, in groups, are the same for all. For each group a change has labels to choose from; what the group is to become is the
softmax of its own mean log-probabilities of these: while a change has hardly begun, probability runs to the label with the
shortest way. A group with one label to choose from is to become that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Callable, NamedTuple, Protocol

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor import distribution, replicas
from keras_backdoor.classifier import Classifier
from keras_backdoor.precision import FLOAT32, computed_in
from keras_backdoor.progress import Progress, silent
from keras_backdoor.trigger_inversion.legs import Leg

RATE = 0.1  # of Adam
TINY = 1e-37  # least probability that has a logarithm
TAIL = 8  # updates at the end over which success and loss are averaged


class Change(Protocol):
    """What is optimised: R changes of images. A NamedTuple of tensors with R in front."""

    @property
    def variables(self) -> tuple[tf.Tensor, ...]:
        """What gradients are taken of."""

    def changed(self, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """All N images, float32 (N, H, W, C) in 0..255, changed by each, (R, N, H, W, C); and what the changes measure, (R,)."""

    def descend(self, gradients: Sequence[tf.Tensor], rate: float) -> Any:
        """After an update of Adam by the gradients of the variables."""


class Way(NamedTuple):
    """Rows that are on their way.

    change: of images. allowed: labels that each may choose, for each of G groups of images, bool (R, G, K). weights: of the
    groups, float32 (R, G), summing to one. labels: what they chose, int (R, G). history: cost, success, size and cross-entropy
    in every update so far, float32 (R, updates, 4); success and cross-entropy are means over the groups by their weights.
    """

    change: Any
    allowed: np.ndarray
    weights: np.ndarray
    labels: np.ndarray
    history: np.ndarray

    @classmethod
    def start(cls, change: Change, allowed: np.ndarray, weights: np.ndarray) -> Way:
        """Before the first update."""
        return cls(change, allowed, weights, allowed.argmax(-1), np.zeros((len(allowed), 0, 4), np.float32))

    def rows(self, rows: Any) -> Way:
        """Those of `rows`, a slice, indices or flags."""
        return tf.nest.map_structure(lambda one: np.asarray(one)[rows], self)

    @property
    def success(self) -> np.ndarray:
        """At the end, (R,)."""
        return self.history[:, -TAIL:, 1].mean(1)

    def costs(self, price: float) -> np.ndarray:
        """What is minimised at that price of a unit of size, at the end, (R,)."""
        return (self.history[:, -TAIL:] @ np.array([0, 0, price, 1])).mean(1)


_Step = tuple[Any, tf.Tensor, tf.Tensor]  # change, the labels they chose, and figures as in a history


class Descent:
    """Takes changes of images down their way, on one network."""

    def __init__(
        self, classifier: Classifier, like: Change, success: float = 0.8, at_once: int = 512, precision: str = FLOAT32
    ) -> None:
        """like: a change of the kind that is optimised. success: share of images that it must turn to count as working.

        at_once: changed images, on each device. precision: in which the network computes.
        """
        self._classifier = replace(classifier, model=replicas.replicated(classifier.model))
        self._like, self._success, self._precision = like, success, precision
        self._at_once = at_once * distribution.active().replicas
        self._outputs = int(classifier.model.output_shape[-1])

    def __call__(
        self,
        way: Way,
        legs: Sequence[Leg],
        draw: Callable[[Leg, int], np.ndarray],
        progress: Progress = silent,
        stage: str = "",
    ) -> Way:
        """The rows after `legs`, as many at a time as may be. Progress counts rows, in each leg anew.

        draw: from a leg, and how many updates were before it, to its images, uint8 (updates, G, `batch_size`, H, W, C).
        """
        smallest = np.inf
        for done, leg in enumerate(legs):
            images = draw(leg, way.history.shape[1])
            size, parts = max(1, self._at_once // (images.shape[1] * images.shape[2])), []
            for start in range(0, len(way.labels), size):
                part = way.rows(slice(start, start + size))
                with computed_in(self._precision):
                    change, labels, figures = self._leg(part[:3], leg.cost, images)
                parts.append(
                    Way(change, part.allowed, part.weights, labels, np.concatenate([part.history, figures], 1))
                )
                works = parts[-1].success >= self._success
                smallest = min([smallest, *parts[-1].history[works, -1, 2]])
                values = {"norm": float(smallest)} if smallest < np.inf else {}
                progress(stage, done * len(way.labels) + start + len(labels), len(legs) * len(way.labels), values)
            way = tf.nest.map_structure(lambda *each: np.concatenate(each), *parts)
        return way

    @cached_property
    def _leg(self) -> Callable[..., _Step]:
        """All updates of a leg, in one graph; labels (R, G), and history (R, updates, 4)."""
        spec = tf.TensorSpec
        change = tf.nest.map_structure(lambda one: spec((None, *one.shape[1:]), one.dtype), self._like)
        rows = (change, spec((None, None, self._outputs), tf.bool), spec((None, None), tf.float32))
        images = spec((None, None, None, *self._classifier.image_shape), tf.uint8)

        def leg(rows: tuple[Any, tf.Tensor, tf.Tensor], cost: tf.Tensor, images: tf.Tensor) -> _Step:
            change, allowed, weights = rows
            updates, labels = tf.shape(images)[0], tf.zeros(tf.shape(weights), tf.int32)
            history = tf.TensorArray(tf.float32, updates, element_shape=(None, 4))
            for update in tf.range(updates):
                change, labels, figures = self._update(change, allowed, weights, cost, images[update])
                history = history.write(update, figures)
            return change, labels, tf.transpose(history.stack(), (1, 0, 2))

        return replicas.by_rows(leg, [rows, spec((), tf.float32), images])

    def _update(self, change: Any, allowed: tf.Tensor, weights: tf.Tensor, cost: tf.Tensor, images: tf.Tensor) -> _Step:
        """One update; before it, each row's labels (R, G), and cost, success, size and cross-entropy (R, 4)."""
        groups, count = tf.shape(images)[0], tf.shape(images)[1]
        shape = self._classifier.image_shape
        pixels = tf.cast(tf.reshape(images, (-1, *shape)), tf.float32)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(change.variables)
            changed, size = change.changed(pixels)
            answers = self._classifier.model(self._classifier.scale(tf.reshape(changed, (-1, *shape))), training=False)
            of_groups = tf.reshape(answers, (-1, count, self._outputs))
            means, target = soft_target(of_groups, tf.reshape(allowed, (-1, self._outputs)))
            entropies = keras.losses.categorical_crossentropy(tf.repeat(target, count, axis=0), answers)
            entropy = tf.reduce_sum(weights * tf.reduce_mean(tf.reshape(entropies, (-1, groups, count)), 2), 1)
            loss = tf.reduce_sum(entropy + cost * size)
        gradients = tape.gradient(loss, change.variables)
        labels = tf.reshape(tf.argmax(means, -1, tf.int32), (-1, groups))
        same = tf.reshape(tf.argmax(answers, -1, tf.int32), (-1, groups, count)) == labels[..., None]
        success = tf.reduce_sum(weights * tf.reduce_mean(tf.cast(same, tf.float32), 2), 1)
        figures = [cost + tf.zeros_like(size), success, size, entropy]
        return change.descend(gradients, RATE), labels, tf.stack(figures, 1)


def soft_target(answers: tf.Tensor, allowed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean log-probabilities of the labels `allowed`, bool (R, K), -inf of others; and what to aim at: their softmax, (R, K).

    answers: probabilities (R, N, K) of each row's N changed images. The gradient does not pass through what is aimed at.
    """
    means = tf.reduce_mean(tf.math.log(tf.maximum(answers, TINY)), 1)
    means = tf.where(allowed, means, -np.inf)
    return means, tf.stop_gradient(tf.nn.softmax(means))
