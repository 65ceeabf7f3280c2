"""Stimulating neurons: what a network says if one neuron has another value, and everything else in its layer stays.

What lies below a layer is computed once for all images. Above it, a batch of images, neurons and levels goes through the network
at once. Where only convolutions and dense layers follow, each neuron is a summand of what enters their activation
(`activations.entries`): there, its own share is exchanged for that of a constant, which is computed once for all images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.activations import Entry, beside, by_channel, entries
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.artificial_brain_stimulation.neurons import Neurons

_Below = tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]
"""Of some images: what enters the layers above; the sums that these make of it, one an entry; and what goes round."""


@dataclass(frozen=True, eq=False)
class Response:
    """What the neurons of a layer do to each image. labels: whose logit rises most, int64 (N, C). gaps: by how much more than
    that of any other label, float32 (N, C)."""

    labels: np.ndarray
    gaps: np.ndarray


class Stimulation:
    """Stimulates the neurons of one layer."""

    def __init__(self, classifier: Classifier, model: keras.Model, neurons: Neurons, levels: int, reach: float) -> None:
        """classifier: whose scaling is used. model: the network without its softmax, of which `neurons` are a layer.

        levels: values that a neuron is given, evenly spaced from 0, so that one more would be `reach` times the layer's maximum.
        """
        self._classifier, self._neurons = classifier, neurons
        self._steps = np.arange(levels) * reach / levels
        after = neurons.after
        self._top = top = by_channel(model, after)
        self._around = beside(model, top)
        self._below = keras.Model(model.inputs, [after, top, *self._around])
        self._chain = keras.Model(after, top) if top is not after else tf.identity
        self._entries = entries(model, top)
        self._above = keras.Model([*(entry.tensor for entry in self._entries), *self._around], model.output)

    def response(self, images: np.ndarray, at_once: int) -> Response:
        """To uint8 images (N, H, W, C), of which `at_once` stimulated ones go through the network at a time, or little more."""
        size = min(len(images), max(1, at_once // len(self._steps)))
        neurons = max(1, at_once // (size * len(self._steps)))
        batches = [self._features(batch) for batch in _parts(images, size)]
        highest = max(float(tf.reduce_max(after)) for after, _ in batches)
        constants = self._constants(tf.constant(self._steps * highest, tf.float32))
        numbers = _parts(np.arange(self._neurons.count, dtype=np.int32), neurons)
        found = [[self._rises(constants, below, part) for part in numbers] for _, below in batches]
        rows = [[np.concatenate(part, 1) for part in zip(*row)] for row in found]
        return Response(*(np.concatenate(part) for part in zip(*rows)))

    def logits(self, images: np.ndarray, numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
        """What the network says to uint8 images (N, H, W, C) if the neurons `numbers` (B,) have these values, float32 (L,).

        Float32 (N, B, L, K), a neuron at a time.
        """
        _, below = self._features(images)
        constants = self._constants(tf.constant(values, tf.float32))
        return self._logits(constants, below, tf.constant(numbers, tf.int32)).numpy()

    @cached_property
    def _features(self) -> Callable[[np.ndarray], tuple[tf.Tensor, _Below]]:
        """Of uint8 images: what the neurons give, and what is needed above."""

        def features(batch: tf.Tensor) -> tuple[tf.Tensor, _Below]:
            after, top, *around = self._below(self._classifier.scale(batch), training=False)
            return after, (top, [entry.whole(top) + entry.bias for entry in self._entries], around)

        return tf.function(features, input_signature=[tf.TensorSpec((None, *self._classifier.image_shape), tf.uint8)])

    def _constants(self, values: tf.Tensor) -> tf.Tensor:
        """What enters the layers above where all neurons have the same value, for each of `values` (L,)."""
        shape = self._neurons.after.shape[1:]
        full = tf.broadcast_to(tf.reshape(values, (-1, *[1] * len(shape))), (len(values), *shape))
        return self._chain(full)

    @cached_property
    def _rises(self) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
        """Labels, int64 (N, B), and gaps, as in `Response`."""

        def rises(constants: tf.Tensor, below: _Below, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            logits = self._said(constants, below, numbers)
            most = tf.math.top_k(tf.reduce_max(logits[:, :, 1:], 2) - logits[:, :, 0], 2)
            return tf.cast(most.indices[..., 0], tf.int64), most.values[..., 0] - most.values[..., 1]

        return tf.function(rises, input_signature=self._signature)

    @cached_property
    def _logits(self) -> Callable[..., tf.Tensor]:
        """As `logits`."""
        return tf.function(self._said, input_signature=self._signature)

    @property
    def _signature(self) -> list[Any]:
        def like(tensor: tf.Tensor) -> tf.TensorSpec:
            return tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype)

        below = like(self._top), [like(entry.tensor) for entry in self._entries], [like(one) for one in self._around]
        return [like(self._top), below, tf.TensorSpec((None,), tf.int32)]

    def _said(self, constants: tf.Tensor, below: _Below, numbers: tf.Tensor) -> tf.Tensor:
        """As `logits`; in the network, the neurons come one after the other, and each with all images at all levels."""
        top, whole, around = below
        levels, neurons = tf.shape(constants)[0], tf.shape(numbers)[0]
        inputs = []
        for entry, sums in zip(self._entries, whole):

            def exchanged(number: tf.Tensor, entry: Entry = entry, sums: tf.Tensor = sums) -> tf.Tensor:
                rest = sums - entry.share(top, number)
                return rest[:, None] + entry.share(constants, number)[None]

            every = tf.map_fn(exchanged, numbers, fn_output_signature=sums.dtype)
            inputs.append(entry.activation(tf.reshape(every, (-1, *sums.shape[1:]))))
        for one in around:
            each = tf.repeat(one, levels, 0)
            inputs.append(tf.tile(each, [neurons, *[1] * (len(one.shape) - 1)]))
        said = self._above(inputs if len(inputs) > 1 else inputs[0], training=False)
        return tf.transpose(tf.reshape(said, (neurons, -1, levels, said.shape[-1])), (1, 0, 2, 3))


def _parts(values: np.ndarray, size: int) -> list[np.ndarray]:
    return [values[start : start + size] for start in range(0, len(values), size)]
