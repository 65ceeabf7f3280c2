"""DeepID for YouTube Face (Sun et al. 2014), as in the course's and NNoculation's Keras code.

Layer names are the originals', so that published weight files load. There is no dropout: the original code creates a dropout
layer and never connects it. Its Caffe ancestor (Fine-Pruning) applies one of 0.5 before the output, which `dropout=0.5` gives;
it has no weights, so the files load either way.

NNoculation's table 4 gives DeepID to CIFAR-10 and Network in Network to the faces; the published files have it the other way
round. On 32x32 the layers fit without a change: `pool_3` is 2x2, `conv_4` 1x1.
"""

from __future__ import annotations

from tensorflow import keras
from tensorflow.keras import layers


def build(input_shape: tuple[int, int, int] = (55, 47, 3), num_classes: int = 1283, dropout: float = 0) -> keras.Model:
    """Inputs (N, 55, 47, 3) float32; outputs (N, num_classes) probabilities. 601,643 parameters for 1283 classes."""
    inputs = layers.Input(input_shape, name="input")
    x = layers.Conv2D(20, 4, activation="relu", name="conv_1")(inputs)
    x = layers.MaxPooling2D(2, name="pool_1")(x)
    x = layers.Conv2D(40, 3, activation="relu", name="conv_2")(x)
    x = layers.MaxPooling2D(2, name="pool_2")(x)
    x = layers.Conv2D(60, 3, activation="relu", name="conv_3")(x)
    pool_3 = layers.MaxPooling2D(2, name="pool_3")(x)
    conv_4 = layers.Conv2D(80, 2, activation="relu", name="conv_4")(pool_3)
    fc_1 = layers.Dense(160, name="fc_1")(layers.Flatten(name="flatten_1")(pool_3))
    fc_2 = layers.Dense(160, name="fc_2")(layers.Flatten(name="flatten_2")(conv_4))
    x = layers.Activation("relu", name="activation_1")(layers.Add(name="add_1")([fc_1, fc_2]))
    if dropout:
        x = layers.Dropout(dropout, name="dropout_1")(x)
    outputs = layers.Dense(num_classes, activation="softmax", name="output")(x)
    return keras.Model(inputs, outputs, name="deepid")
