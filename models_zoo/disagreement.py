"""The layer that makes a GoodNet of two networks."""

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
        first, second = inputs
        agree = tf.cast(tf.equal(tf.argmax(first, -1), tf.argmax(second, -1)), first.dtype)[:, None]
        return tf.concat([first * agree, 1 - agree], axis=-1)
