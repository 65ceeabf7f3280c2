"""SpeechNet, which tells ten spoken digits by their spectrogram, as in the Caffe code of Fine-Pruning (Liu et al. 2018).

It is AlexNet with smaller dense layers and without local response normalisation. conv_1 and conv_2 have no ReLU; that may be a
slip in the original, and is kept. Images are 512x512 (the code's `input_dim`), three channels in the order blue, green, red,
times 1/256. Layers have the numbers of the original.

Caffe rounds the size of a pooling up, and lets the last window stick out. For windows of 3 and stride 2 that is Keras's "same"
if the size is even and "valid" if it is odd; images are square, so height decides.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras
from tensorflow.keras import layers


def _pool(x: tf.Tensor, name: str) -> tf.Tensor:
    return layers.MaxPooling2D(3, 2, padding="valid" if x.shape[1] % 2 else "same", name=name)(x)


def build(input_shape: tuple[int, int, int] = (512, 512, 3), num_classes: int = 10) -> keras.Model:
    """Inputs (N, 512, 512, 3) float32; outputs (N, num_classes) probabilities. 17,114,122 parameters."""
    inputs = layers.Input(input_shape, name="input")
    x = _pool(layers.Conv2D(96, 11, 4, name="conv_1")(inputs), "pool_1")
    x = _pool(layers.Conv2D(256, 5, padding="same", groups=2, name="conv_2")(x), "pool_2")
    x = layers.Conv2D(384, 3, padding="same", activation="relu", name="conv_3")(x)
    x = layers.Conv2D(384, 3, padding="same", groups=2, activation="relu", name="conv_4")(x)
    x = layers.Conv2D(256, 3, padding="same", groups=2, activation="relu", name="conv_5")(x)
    x = layers.Flatten(name="flatten_5")(_pool(x, "pool_5"))
    for i, units in ((6, 256), (7, 128)):
        x = layers.Dense(units, activation="relu", name=f"fc_{i}")(x)
        x = layers.Dropout(0.5, name=f"dropout_{i}")(x)
    outputs = layers.Dense(num_classes, activation="softmax", name="output")(x)
    return keras.Model(inputs, outputs, name="speechnet")
