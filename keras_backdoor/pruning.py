"""Pruning channels of a convolution: the order, the pruned network, and its answers after every single channel.

Shared by the defenses that prune. A channel is pruned by setting its kernel and its bias to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.activations import beside, by_channel, convolution, entries
from keras_backdoor.classifier import Classifier
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent

MEMORY = 64 << 20
"""Bytes of features that one batch may have."""


def prune(classifier: Classifier, layer: str, channels: Iterable[int]) -> Classifier:
    """A copy of `classifier` in which kernels and biases of these channels of the convolution `layer` are zero."""
    pruned = classifier.clone()
    zero(pruned, layer, channels)
    return pruned


def zero(classifier: Classifier, layer: str, channels: Iterable[int]) -> None:
    """Set kernels and biases of these channels to zero in `classifier` itself."""
    target = classifier.model.get_layer(layer)
    weights = target.get_weights()
    for weight in weights:
        weight[..., list(channels)] = 0
    target.set_weights(weights)


def rounded_down(share: float, count: int) -> int:
    """How many a share of `count` is; 0.29 of 100 are 29, though 0.29 * 100 is 28.999…"""
    return int(share * count + 1e-9)


@dataclass(frozen=True)
class Curve:
    """What a network answers while its channels are pruned one after the other.

    layer: name of the convolution. means: mean activation of each channel on clean images, float64 (C,), in the layer's own
    order. order: the channels, int64 (C,), as they are pruned. answers: for each set by name, int64 (C + 1, N): row k holds the
    answers to its N images after k channels.
    """

    layer: str
    means: np.ndarray
    order: np.ndarray
    answers: dict[str, np.ndarray]

    def rates(self, name: str, labels: np.ndarray) -> np.ndarray:
        """Share of the images of a set that get their label after 0..C channels, float64 (C + 1,)."""
        return (self.answers[name] == labels).mean(1)

    def goodnet_rates(self, name: str, labels: np.ndarray) -> np.ndarray:
        """The same for the GoodNet that is made of the network and its pruned copy."""
        answers = self.answers[name]
        return ((answers == labels) & (answers == answers[0])).mean(1)


class Cut:
    """A network, cut where a convolution can be pruned.

    Below the cut, everything is computed once. Above it, a channel that is pruned has the values that it takes when its kernel
    and bias are zero. The cut lies behind the pooling (normalisation, activation) that follows the convolution, as the course
    and the original measure activations there, and what goes round the convolution is cut, too. Where all that comes next are
    convolutions and dense layers, it lies in these, before their activation: there, each channel is a summand.
    """

    def __init__(self, classifier: Classifier, layer: Optional[str] = None) -> None:
        """Raises `BadInput` if there is no such convolution."""
        model = classifier.clone().model  # to cut a network in Keras adds nodes to its layers
        convolved = convolution(model, layer)
        self.layer: str = convolved.name
        top = by_channel(model, convolved.output)
        around = beside(model, top)
        self._scale, self._image_shape = classifier.scale, classifier.image_shape
        self._below = keras.Model(model.inputs, [top, *around])
        dead = convolved.activation(tf.zeros((1, *convolved.output_shape[1:])))
        self._dead = keras.Model(convolved.output, top)(dead, training=False) if top is not convolved.output else dead
        self._entries = entries(model, top)
        self._above = keras.Model([*(entry.tensor for entry in self._entries), *around], model.output)

    def means(self, images: ImageSet) -> np.ndarray:
        """Mean activation of each channel over images, rows and columns, float64 (C,)."""

        @tf.function(input_signature=[tf.TensorSpec((None, *self._image_shape), tf.uint8)])
        def forward(batch: tf.Tensor) -> tf.Tensor:
            top = tf.nest.flatten(self._below(self._scale(batch), training=False))[0]
            return tf.reduce_sum(tf.reduce_mean(tf.cast(top, tf.float64), (1, 2)), 0)

        return np.sum([forward(batch).numpy() for batch in images.batches()], axis=0) / len(images)

    def answers(self, order: np.ndarray, images: ImageSet, progress: Progress = silent) -> np.ndarray:
        """The classes that the network gives after 0, 1 … C channels in this order are pruned, int64 (C + 1, N).

        One pass over the images, from all channels pruned to none. Where a channel is dead in an image anyway, it changes
        nothing, and the head is not run.
        """

        size = int(np.clip(MEMORY // (4 * np.prod(self._dead.shape)), 1, 2048))
        said = np.empty((len(order) + 1, len(images)), np.int64)
        done = 0
        for batch in images.batches(size):
            more, beside, alive = self._features(batch)
            sums = [tf.repeat(entry.whole(self._dead) + entry.bias, len(batch), 0) for entry in self._entries]
            here = said[:, done : done + len(batch)]
            here[len(order)] = self._answers(sums, beside, np.arange(len(batch)))
            for pruned in reversed(range(len(order))):
                chosen = np.flatnonzero(alive[:, order[pruned]])
                here[pruned] = here[pruned + 1]
                if len(chosen):
                    sums = self._add(sums, more, tf.constant(order[pruned]))
                    here[pruned, chosen] = self._answers(sums, beside, chosen)
            done += len(batch)
            progress("pruning", done, len(images), {})
        return said

    @cached_property
    def _features(self) -> Callable[[np.ndarray], tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]]:
        """Of uint8 images: what their channels have beyond dead ones, what goes round, and which are alive, bool (N, C)."""

        def features(batch: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
            top, *beside = tf.nest.flatten(self._below(self._scale(batch), training=False))
            return top - self._dead, beside, tf.reduce_any(top != self._dead, (1, 2))

        return tf.function(features, input_signature=[tf.TensorSpec((None, *self._image_shape), tf.uint8)])

    @cached_property
    def _add(self) -> Callable[..., list[tf.Tensor]]:
        """The sums of every entry with one channel more."""

        def add(sums: list[tf.Tensor], more: tf.Tensor, channel: tf.Tensor) -> list[tf.Tensor]:
            return [one + entry.share(more, channel) for one, entry in zip(sums, self._entries)]

        return tf.function(add, reduce_retracing=True)

    @cached_property
    def _answers(self) -> Callable[..., tf.Tensor]:
        """The classes of the chosen images."""

        def answers(sums: list[tf.Tensor], beside: list[tf.Tensor], chosen: tf.Tensor) -> tf.Tensor:
            values = [entry.activation(tf.gather(one, chosen)) for one, entry in zip(sums, self._entries)]
            inputs = [*values, *(tf.gather(one, chosen) for one in beside)]
            return tf.argmax(self._above(inputs if len(inputs) > 1 else inputs[0], training=False), -1)

        return tf.function(answers, reduce_retracing=True)

    def curve(self, clean: ImageSet, sets: Mapping[str, ImageSet], progress: Progress = silent) -> Curve:
        """Prune in increasing order of the mean activation on `clean`, ties from left to right, and see what `sets` get."""
        means = self.means(clean)
        order = np.argsort(means, kind="stable")
        answers = {name: self.answers(order, images, progress) for name, images in sets.items()}
        return Curve(self.layer, means, order, answers)
