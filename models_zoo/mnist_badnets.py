"""The MNIST network of BadNets (Gu et al. 2019, table 1), as stored in the published all-to-all network (BadNet-AAA).

Paper and file disagree: in the paper the dense layer of 512 has a ReLU and pooling takes averages; in the file the dense layer
is linear and pooling takes maxima. The file is followed; `activation="relu", pooling="average"` is the paper's network.
With the ReLU alone it is, layer for layer, the MNIST network of MNTD's code.

NNoculation (table 4) cites STRIP as the source of BadNet-AAA's network. That cannot be this one: STRIP's paper (table 1) has two
convolutions and two dense layers too, but 80,758 parameters. It does not say which layers, nor does STRIP's code, so the zoo does
not have that network.
"""

from __future__ import annotations

from tensorflow import keras
from tensorflow.keras import layers


def build(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    activation: str = "linear",
    pooling: str = "max",
) -> keras.Model:
    """Inputs (N, 28, 28, 1) float32; outputs (N, num_classes) probabilities. 281,034 parameters for 10 classes."""
    pool = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}[pooling]
    inputs = layers.Input(input_shape, name="input")
    x = layers.Conv2D(16, 5, activation="relu", name="conv_1")(inputs)
    x = pool(2, name="pool_1")(x)
    x = layers.Conv2D(32, 5, activation="relu", name="conv_2")(x)
    x = pool(2, name="pool_2")(x)
    x = layers.Flatten(name="flatten_1")(x)
    x = layers.Dense(512, activation=activation, name="fc_1")(x)
    outputs = layers.Dense(num_classes, activation="softmax", name="output")(x)
    return keras.Model(inputs, outputs, name="mnist_badnets")
