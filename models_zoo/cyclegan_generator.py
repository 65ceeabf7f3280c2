"""The generator of CycleGAN (Zhu et al. 2017) with 9 residual blocks, as in CycleGAN-Keras, which NNoculation used.

Code and NNoculation's table 18 disagree:
- the first layer has 32 filters in the code and 64 in the table; `width=64` is the table's;
- the code normalises all but the last convolution, which ends in tanh; the table calls each row "Convolution-InstanceNorm-ReLU";
- the code's transposed convolutions have padding "same", the table's "valid", which would give images of another size (only the
  code's other way to upsample, `resize_convolution=True`, has valid convolutions, after reflection padding).
The code is followed. Its normalisation is that of keras-contrib; `normalisation="addons"` is TensorFlow Addons'.

Sizes that 4 does not divide come out larger: the course's faces, 55x47, as 56x48, so that no cycle closes. How NNoculation's
authors dealt with that is not known.
"""

from __future__ import annotations

from typing import Optional

from tensorflow import keras
from tensorflow.keras import layers

from models_zoo.instance_normalization import NORMALISATIONS
from models_zoo.reflection_padding import ReflectionPadding2D


def build(
    input_shape: tuple[Optional[int], Optional[int], int] = (256, 256, 3),
    width: int = 32,
    blocks: int = 9,
    normalisation: str = "keras-contrib",
    resize_convolution: bool = False,
) -> keras.Model:
    """From images (N, height, width, C) float32 in -1..1 to such images. 2,855,811 parameters for 3 channels.

    width: filters of the first layer. blocks: residual blocks. Height and width may be None.
    """
    normalise = NORMALISATIONS[normalisation]

    def padded(x, filters, kernel, name, **kwargs):
        x = ReflectionPadding2D(kernel // 2, name=f"{name}_pad")(x)
        return layers.Conv2D(filters, kernel, name=name, **kwargs)(x)

    def norm_relu(x, name):
        return layers.Activation("relu", name=f"{name}_relu")(normalise(name=f"{name}_norm")(x))

    inputs = layers.Input(input_shape, name="input")
    x = norm_relu(padded(inputs, width, 7, "conv_1"), "conv_1")
    for i in (1, 2):
        x = norm_relu(layers.Conv2D(width * 2**i, 3, 2, padding="same", name=f"down_{i}")(x), f"down_{i}")
    for i in range(1, blocks + 1):
        first, second = f"residual_{i}_conv_1", f"residual_{i}_conv_2"
        y = norm_relu(padded(x, width * 4, 3, first), first)
        y = normalise(name=f"{second}_norm")(padded(y, width * 4, 3, second))
        x = layers.Add(name=f"residual_{i}")([y, x])
    for i, filters in ((1, width * 2), (2, width)):
        if resize_convolution:
            x = padded(layers.UpSampling2D(2, name=f"up_{i}_resize")(x), filters, 3, f"up_{i}")
        else:
            x = layers.Conv2DTranspose(filters, 3, 2, padding="same", name=f"up_{i}")(x)
        x = norm_relu(x, f"up_{i}")
    outputs = padded(x, input_shape[-1], 7, "output", activation="tanh")
    return keras.Model(inputs, outputs, name="cyclegan_generator")
