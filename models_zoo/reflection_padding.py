"""Padding by reflection, as around the convolutions of CycleGAN."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import keras


@keras.saving.register_keras_serializable("keras_backdoor")
class ReflectionPadding2D(keras.layers.Layer):
    """From (N, height, width, C) to (N, height + 2 padding, width + 2 padding, C), the border mirrored and not repeated."""

    def __init__(self, padding: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding = padding

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The padded images."""
        sides = [self.padding, self.padding]
        return tf.pad(inputs, [[0, 0], sides, sides, [0, 0]], "REFLECT")

    def get_config(self) -> dict[str, Any]:
        """What Keras stores of it."""
        return {**super().get_config(), "padding": self.padding}
