"""What a defense can prune: neurons of a network's second to last layer, or channels of one of its convolutions."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Callable, Optional, Union

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor import pruning
from keras_backdoor.activations import calls, convolution, last_layer, layer_outputs
from keras_backdoor.classifier import Classifier
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent


def units(classifier: Classifier, layer: Optional[str] = None) -> Union[Neurons, Channels]:
    """Channels of the convolution `layer`; by default the neurons of the second to last layer.

    Where the last layer with weights is no dense one, as in Network in Network, that is the last convolution before the head.
    Raises `BadInput` if there is no such convolution.
    """
    last = _last_dense(classifier.model)
    if layer is None and last is not None:
        return Neurons(classifier, *last)
    return Channels(classifier, convolution(classifier.model, layer))


class Neurons:
    """What the last dense layer takes in. A pruned neuron gives zero, whatever its activation function.

    `name`: of the layer that they are in.
    """

    def __init__(self, classifier: Classifier, dense: keras.layers.Dense, neurons: tf.Tensor) -> None:
        """dense: the network's last layer with weights. neurons: its input (N, U), symbolic."""
        self._classifier, self._dense = classifier, dense
        self.name: str = next(layer.name for layer, _, outputs in calls(classifier.model) if outputs[0] is neurons)
        self._below = keras.Model(classifier.model.inputs, neurons)

    def activations(self, images: ImageSet) -> np.ndarray:
        """What each neuron gives for each image, float32 (N, U)."""
        return np.concatenate([self._forward(batch).numpy() for batch in images.batches()])

    def answers(self, order: np.ndarray, images: ImageSet, progress: Progress = silent) -> np.ndarray:
        """The classes that the network gives after 0, 1 … U neurons in this order are pruned, int64 (U + 1, N)."""
        values, kernel = self.activations(images), self._dense.kernel.numpy()
        bias = self._dense.bias.numpy() if self._dense.use_bias else 0.0
        sums = np.zeros((len(images), kernel.shape[1]), np.float32) + bias
        said = np.empty((len(order) + 1, len(images)), np.int64)
        said[len(order)] = self._answers(sums)
        for pruned in reversed(range(len(order))):
            sums += values[:, order[pruned], None] * kernel[order[pruned]]
            said[pruned] = self._answers(sums)
        progress("pruning", len(images), len(images), {})
        return said

    def prune(self, neurons: Iterable[int]) -> Classifier:
        """A copy of the network without these neurons: the weights of the last dense layer that they go through are zero."""
        pruned = self._classifier.clone()
        last = pruned.model.get_layer(self._dense.name)
        kernel, *bias = last.get_weights()
        kernel[list(neurons)] = 0
        last.set_weights([kernel, *bias])
        return pruned

    @cached_property
    def _forward(self) -> Callable[[np.ndarray], tf.Tensor]:
        signature = [tf.TensorSpec((None, *self._classifier.image_shape), tf.uint8)]
        scale = self._classifier.scale
        return tf.function(lambda images: self._below(scale(images), training=False), input_signature=signature)

    @cached_property
    def _answers(self) -> Callable[[np.ndarray], tf.Tensor]:
        """From the last dense layer's sums, float32 (N, K), to classes."""
        copy = self._classifier.clone().model  # to cut a network in Keras adds nodes to its layers
        last = copy.get_layer(self._dense.name)
        above = keras.Model(last.output, copy.output) if last.output is not copy.output else tf.identity
        signature = [tf.TensorSpec((None, self._dense.units), tf.float32)]
        return tf.function(lambda sums: tf.argmax(above(self._dense.activation(sums)), -1), input_signature=signature)


class Channels:
    """The channels of a convolution. A pruned channel has kernel and bias zero.

    `name`: of the convolution.
    """

    def __init__(self, classifier: Classifier, layer: keras.layers.Conv2D) -> None:
        self._classifier, self._layer = classifier, layer
        self.name: str = layer.name

    def activations(self, images: ImageSet) -> np.ndarray:
        """What each channel gives for each image, on average over rows and columns, float32 (N, U)."""
        return layer_outputs(self._classifier, self._layer, images, lambda maps: tf.reduce_mean(maps, (1, 2)))

    def answers(self, order: np.ndarray, images: ImageSet, progress: Progress = silent) -> np.ndarray:
        """The classes that the network gives after 0, 1 … U channels in this order are pruned, int64 (U + 1, N)."""
        return pruning.Cut(self._classifier, self.name).answers(order, images, progress)

    def prune(self, channels: Iterable[int]) -> Classifier:
        """A copy of the network without these channels."""
        return pruning.prune(self._classifier, self.name, channels)


def _last_dense(model: keras.Model) -> Optional[tuple[keras.layers.Dense, tf.Tensor]]:
    """The last layer with weights and its input, if it is a dense one that takes one value a neuron."""
    layer, inputs = last_layer(model)
    return (layer, inputs) if type(layer) is keras.layers.Dense and len(inputs.shape) == 2 else None
