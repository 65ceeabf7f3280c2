"""Network in Network (Lin et al. 2014) for CIFAR-10, as in the published trigger-combination network (BadNet-TCA).

NNoculation's table 4 gives this network to the faces and DeepID to CIFAR-10; the published files have it the other way round.
The files are followed by default. For the faces the last convolution has 1283 channels; no more is known of that network.

The file holds weights only, and names its layers (conv2d_1, activation_1, ...) in the order of the Network in Network of
BIGBALLON/cifar-10-cnn, whose learning rates and batch size are those of table 4. What the file does not say is taken from there:
dropout 0.5 (as in the original paper) and a weight decay of 1e-4. The last convolution has a ReLU before the averages, as there.
"""

from __future__ import annotations

from tensorflow import keras
from tensorflow.keras import layers


def build(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    dropout: float = 0.5,
    weight_decay: float = 1e-4,
) -> keras.Model:
    """Inputs (N, 32, 32, 3) float32, standardised; outputs (N, num_classes) probabilities. 966,986 parameters."""
    blocks = [((192, 5), (160, 1), (96, 1)), ((192, 5), (192, 1), (192, 1)), ((192, 3), (192, 1), (num_classes, 1))]
    x = inputs = layers.Input(input_shape, name="input")
    for i, block in enumerate(blocks):
        for j, (filters, kernel) in enumerate(block, 3 * i + 1):
            decay = keras.regularizers.L2(weight_decay)
            x = layers.Conv2D(
                filters, kernel, padding="same", activation="relu", kernel_regularizer=decay, name=f"conv_{j}"
            )(x)
        if i < 2:
            x = layers.MaxPooling2D(3, 2, padding="same", name=f"pool_{i + 1}")(x)
            x = layers.Dropout(dropout, name=f"dropout_{i + 1}")(x)
    x = layers.GlobalAveragePooling2D(name="pool_3")(x)
    return keras.Model(inputs, layers.Activation("softmax", name="output")(x), name="nin")
