"""Instance normalisation (Ulyanov et al. 2016), in two forms that differ in where epsilon stands.

keras-contrib, which CycleGAN-Keras uses, adds it to the standard deviation; TensorFlow Addons adds it to the variance, under the
root. Both learn a factor and an offset for each channel.
"""

from __future__ import annotations

import warnings
from typing import Any

import tensorflow as tf
from tensorflow import keras


@keras.saving.register_keras_serializable("keras_backdoor")
class InstanceNormalization(keras.layers.Layer):
    """gamma * (x - mean) / (standard deviation + epsilon) + beta, over rows and columns of each image and channel.

    From (N, height, width, C) to the same; epsilon is 1e-5 in CycleGAN-Keras.
    """

    def __init__(self, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Create `gamma` and `beta`, both (C,)."""
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="ones")
        self.beta = self.add_weight(name="beta", shape=(input_shape[-1],), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The normalised images."""
        mean, variance = tf.nn.moments(inputs, (1, 2), keepdims=True)
        deviation = tf.sqrt(tf.maximum(variance, 1e-30))  # the gradient of the root of 0 is infinite
        return self.gamma * ((inputs - mean) / (deviation + self.epsilon)) + self.beta

    def get_config(self) -> dict[str, Any]:
        """What Keras stores of it."""
        return {**super().get_config(), "epsilon": self.epsilon}


def addons(epsilon: float = 1e-5, **kwargs: Any) -> keras.layers.Layer:
    """The layer of TensorFlow Addons, gamma * (x - mean) / sqrt(variance + epsilon) + beta. Its own epsilon would be 1e-3."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its development has ended
        from tensorflow_addons.layers import InstanceNormalization as Addons
    return Addons(epsilon=epsilon, **kwargs)


NORMALISATIONS = {"keras-contrib": InstanceNormalization, "addons": addons}
"""The two forms by name: functions of the layer's name that make a layer with an epsilon of 1e-5."""
