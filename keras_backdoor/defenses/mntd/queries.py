"""Queries: the pictures that a meta-classifier shows to a network, and what the network says to them.

They are tuned with the meta-classifier, so they are not uint8 but float32, pixel/255, and may leave 0..1, as in the code. They
are scaled as the network's images are. A network answers with its logits, what its softmax is made of.

The code leaves networks in training mode while they are queried, so that those with dropout answer at random. Here they are in
inference mode, or the same network would be judged in a different way each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_backdoor.activations import without_softmax
from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet


def first_queries(clean: ImageSet, count: int, rng: np.random.Generator) -> np.ndarray:
    """Normal noise with mean and deviation of each channel of the images, float32 (count, H, W, C), pixel/255."""
    images = clean.sample()
    mean, deviation = (statistic / 255 for statistic in (images.mean((0, 1, 2)), images.std((0, 1, 2))))
    return (rng.standard_normal((count, *clean.image_shape)) * deviation + mean).astype(np.float32)


Stack = list[tf.Tensor]
"""Several networks: each weight of all of them, float32 (N, ...)."""


def stacked(networks: Sequence[Sequence[np.ndarray]]) -> Stack:
    """Networks, given by their weights, as one."""
    return [tf.constant(np.stack(weights)) for weights in zip(*networks)]


class Respondent:
    """A network that is queried: its weights can be exchanged for those of others of its kind.

    Raises `BadInput` if the network is not one that ends in a softmax of its classes.
    """

    def __init__(self, network: Classifier) -> None:
        """Its weights are those of `network`, until others are put in."""
        if network.detects:
            raise BadInput(
                'MNTD: the network is a GoodNet, which says "backdoored input" itself; give the network it was made of'
            )
        self._network, self._model = network, without_softmax(network.model)
        self._model.set_weights(network.model.get_weights())
        self.outputs: int = self._model.output_shape[-1]

    def put(self, weights: Sequence[Any]) -> None:
        """Exchange the weights, in a graph or outside of one. Keras' order of them."""
        for variable, value in zip(self._model.weights, weights):
            variable.assign(value)

    def __call__(self, queries: tf.Tensor) -> tf.Tensor:
        """The logits of all queries in one row, float32 (queries * classes,)."""
        return tf.reshape(self._model(self._network.scale(255 * queries), training=False), (-1,))

    @property
    def signature(self) -> list[tf.TensorSpec]:
        """Shapes and types of the weights of several such networks, a `Stack`."""
        return [tf.TensorSpec((None, *variable.shape), variable.dtype) for variable in self._model.weights]
