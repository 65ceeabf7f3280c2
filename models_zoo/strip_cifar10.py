"""The CIFAR-10 network of STRIP (Gao et al. 2019), as in its notebook.

Paper and notebook disagree: the paper (table 1) has 8 convolutions, the notebook 6. Both count 308,394 parameters (the trained
ones), so the notebook's layers are those of the paper's measurements.
"""

from __future__ import annotations

from tensorflow import keras
from tensorflow.keras import layers


def build(input_shape: tuple[int, int, int] = (32, 32, 3), num_classes: int = 10) -> keras.Model:
    """Inputs (N, 32, 32, 3) float32; outputs (N, num_classes) probabilities. 309,290 parameters, 308,394 of them trained."""
    x = inputs = layers.Input(input_shape, name="input")
    for i, (filters, dropout) in enumerate([(32, 0.2), (64, 0.3), (128, 0.4)], 1):
        for j in (2 * i - 1, 2 * i):
            decay = keras.regularizers.L2(1e-4)
            x = layers.Conv2D(filters, 3, padding="same", activation="elu", kernel_regularizer=decay, name=f"conv_{j}")(
                x
            )
            x = layers.BatchNormalization(name=f"norm_{j}")(x)
        x = layers.MaxPooling2D(2, name=f"pool_{i}")(x)
        x = layers.Dropout(dropout, name=f"dropout_{i}")(x)
    x = layers.Flatten(name="flatten_1")(x)
    outputs = layers.Dense(num_classes, activation="softmax", name="output")(x)
    return keras.Model(inputs, outputs, name="strip_cifar10")
