"""PreActResNet-18 (He et al. 2016) for 32x32 images, as in the PyTorch code of WaNet and BackdoorBench.

That code has no normalisation and no ReLU after the last block, unlike the paper on which it builds; the code is followed.
WaNet averages windows of 4x4, BackdoorBench whole channels; on 32x32 that is the same, and the latter fits other sizes too.
"""

from __future__ import annotations

from tensorflow import keras
from tensorflow.keras import layers

from models_zoo.preactivation import convolution, group


def build(input_shape: tuple[int, int, int] = (32, 32, 3), num_classes: int = 10) -> keras.Model:
    """Inputs (N, 32, 32, 3) float32; outputs (N, num_classes) probabilities.

    For 10 classes 11,171,146 trained parameters, and 6,784 means and variances besides. The outputs of the groups of blocks are
    the layers group_1 to group_4.
    """
    inputs = layers.Input(input_shape, name="input")
    x = convolution(inputs, 64, 1, "conv_1")
    for i, filters in enumerate((64, 128, 256, 512), 1):
        x = group(x, filters, 1 if i == 1 else 2, f"group_{i}")
    x = layers.GlobalAveragePooling2D(name="pool_1")(x)
    outputs = layers.Dense(num_classes, activation="softmax", name="output")(x)
    return keras.Model(inputs, outputs, name="preactresnet18")
