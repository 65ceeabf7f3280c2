"""The MNIST network of WaNet (Nguyen and Tran 2021), as in its PyTorch code.

Only the first convolution has a bias. Nothing stands between the last convolution and the dense layer, no ReLU either.
"""

from __future__ import annotations

from tensorflow import keras
from tensorflow.keras import layers

from models_zoo.preactivation import convolution, norm_relu


def build(input_shape: tuple[int, int, int] = (28, 28, 1), num_classes: int = 10) -> keras.Model:
    """Inputs (N, 28, 28, 1) float32; outputs (N, num_classes) probabilities. 585,930 parameters, 585,738 of them trained."""
    inputs = layers.Input(input_shape, name="input")
    x = convolution(inputs, 32, 2, "conv_1", use_bias=True)
    x = layers.Activation("relu", name="relu_1")(x)
    x = convolution(norm_relu(x, 2), 64, 2, "conv_2")
    x = convolution(norm_relu(x, 3), 64, 2, "conv_3")
    x = layers.Flatten(name="flatten_1")(x)
    x = layers.Dense(512, activation="relu", name="fc_1")(x)
    x = layers.Dropout(0.3, name="dropout_1")(x)
    outputs = layers.Dense(num_classes, activation="softmax", name="output")(x)
    return keras.Model(inputs, outputs, name="wanet_mnist")
