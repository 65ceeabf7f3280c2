"""The traffic-sign network of Neural Cleanse (Wang et al. 2019), as in the code that injects its backdoor.

NNoculation (table 4) cites it for BadNet-PN and BadNet-FSA. The published BadNet-FSA is another: no padding in any convolution,
no third pooling. `fsa=True` builds that one, with its layer names, so that its weight file loads. The file holds weights only and
lists no dropout, so none is built; that the dense layer has its ReLU shows in its accuracy (0.96, and 0.53 without).
"""

from __future__ import annotations

from tensorflow import keras
from tensorflow.keras import layers


def build(input_shape: tuple[int, int, int] = (32, 32, 3), num_classes: int = 43, fsa: bool = False) -> keras.Model:
    """Inputs (N, 32, 32, 3) float32; outputs (N, num_classes) probabilities. 571,723 parameters, or 375,115."""
    x = inputs = layers.Input(input_shape, name="input")
    for i in (1, 2, 3):
        filters, padding = 16 * 2**i, "valid" if fsa else "same"
        x = layers.Conv2D(filters, 3, padding=padding, activation="relu", name=f"conv_{2 * i - 1}")(x)
        x = layers.Conv2D(filters, 3, activation="relu", name=f"conv_{2 * i}")(x)
        if not (fsa and i == 3):
            x = layers.MaxPooling2D(2, name=f"pool_{i}")(x)
        if not fsa:
            x = layers.Dropout(0.2, name=f"dropout_{i}")(x)
    x = layers.Flatten(name="flatten_1")(x)
    x = layers.Dense(512, activation="relu", name="fc_1")(x)
    if not fsa:
        x = layers.Dropout(0.5, name="dropout_4")(x)
    outputs = layers.Dense(num_classes, activation="softmax", name="output")(x)
    return keras.Model(inputs, outputs, name="gtsrb")
