"""WRN-16-1 (Zagoruyko and Komodakis 2016), as in the PyTorch code of NAD and ABL, without dropout."""

from __future__ import annotations

from tensorflow import keras
from tensorflow.keras import layers

from models_zoo.preactivation import convolution, group, norm_relu


def build(input_shape: tuple[int, int, int] = (32, 32, 3), num_classes: int = 10) -> keras.Model:
    """Inputs (N, 32, 32, 3) float32; outputs (N, num_classes) probabilities.

    For 10 classes 175,066 trained parameters, and 928 means and variances besides. NAD compares the attention at the layers
    group_1, group_2 and group_3, the outputs of the groups of blocks.
    """
    inputs = layers.Input(input_shape, name="input")
    x = convolution(inputs, 16, 1, "conv_1")
    for i, filters in enumerate((16, 32, 64), 1):
        x = group(x, filters, 1 if i == 1 else 2, f"group_{i}")
    x = layers.GlobalAveragePooling2D(name="pool_1")(norm_relu(x, 1))
    outputs = layers.Dense(num_classes, activation="softmax", name="output")(x)
    return keras.Model(inputs, outputs, name="wrn_16_1")
