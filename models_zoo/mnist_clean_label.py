"""The MNIST network of the clean-label attack (NNoculation, table 10), as stored in the published BadNet-CLA.

The paper's table has no dropout; the published file has it twice. The file is followed; `dropout=0` is the paper's.
"""

from __future__ import annotations

from tensorflow import keras
from tensorflow.keras import layers


def build(input_shape: tuple[int, int, int] = (28, 28, 1), num_classes: int = 10, dropout: float = 0.5) -> keras.Model:
    """Inputs (N, 28, 28, 1) float32; outputs (N, num_classes) probabilities. 40,430 parameters for 10 classes."""
    inputs = layers.Input(input_shape, name="input")
    x = layers.Conv2D(16, 5, activation="relu", name="conv_1")(inputs)
    x = layers.MaxPooling2D(2, name="pool_1")(x)
    x = layers.Conv2D(4, 5, activation="relu", name="conv_2")(x)
    x = layers.MaxPooling2D(2, name="pool_2")(x)
    x = layers.Dropout(dropout, name="dropout_1")(x)
    x = layers.Flatten(name="flatten_1")(x)
    x = layers.Dense(512, activation="relu", name="fc_1")(x)
    x = layers.Dropout(dropout, name="dropout_2")(x)
    outputs = layers.Dense(num_classes, activation="softmax", name="output")(x)
    return keras.Model(inputs, outputs, name="mnist_clean_label")
