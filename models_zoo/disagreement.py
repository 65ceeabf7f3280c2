"""The layers that make a GoodNet of two networks."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras


@keras.saving.register_keras_serializable("keras_backdoor")
class Disagreement(keras.layers.Layer):
    """From the probabilities of two networks, two tensors (N, C) float32, to (N, C+1).

    Where both have the same largest class, the first network's probabilities and 0; where they differ, all of the
    probability on the last class, `C`, which stands for "backdoored input".
    """

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """(N, C+1) probabilities."""
        return _unless(inputs[0], tf.logical_not(_same_class(*inputs)))


@keras.saving.register_keras_serializable("keras_backdoor")
class Agreement(keras.layers.Layer):
    """The same the other way round: class `C` where both networks have the same largest class."""

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """(N, C+1) probabilities."""
        return _unless(inputs[0], _same_class(*inputs))


def _same_class(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    return tf.equal(tf.argmax(first, -1), tf.argmax(second, -1))


def _unless(probabilities: tf.Tensor, flagged: tf.Tensor) -> tf.Tensor:
    flag = tf.cast(flagged, probabilities.dtype)[:, None]
    return tf.concat([probabilities * (1 - flag), flag], axis=-1)
