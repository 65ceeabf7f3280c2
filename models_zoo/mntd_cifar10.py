"""The CIFAR-10 network of the shadow models of MNTD (Xu et al. 2021), as in its PyTorch code.

The code never switches the shadow models to evaluation, so that their dropout acts while they are queried; that is up to who
calls the network. Its MNIST network is the one of BadNets with a ReLU (`mnist_badnets`).
"""

from __future__ import annotations

from tensorflow import keras
from tensorflow.keras import layers


def build(input_shape: tuple[int, int, int] = (32, 32, 3), num_classes: int = 10) -> keras.Model:
    """Inputs (N, 32, 32, 3) float32; outputs (N, num_classes) probabilities. 1,182,762 parameters for 10 classes."""
    x = inputs = layers.Input(input_shape, name="input")
    for i, filters in enumerate((32, 64), 1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv_{2 * i - 1}")(x)
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv_{2 * i}")(x)
        x = layers.MaxPooling2D(2, name=f"pool_{i}")(x)
    x = layers.Flatten(name="flatten_1")(x)
    x = layers.Dense(256, activation="relu", name="fc_1")(x)
    x = layers.Dense(256, activation="relu", name="fc_2")(x)
    x = layers.Dropout(0.5, name="dropout_1")(x)
    outputs = layers.Dense(num_classes, activation="softmax", name="output")(x)
    return keras.Model(inputs, outputs, name="mntd_cifar10")
