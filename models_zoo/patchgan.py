"""The discriminator of CycleGAN, a PatchGAN of 70x70 (Isola et al. 2017), as in CycleGAN-Keras, which NNoculation used.

NNoculation's table 17 has LeakyReLU with alpha = 2; the code (and CycleGAN's paper) has 0.2, and a slope of 2 would make negative
values larger: a slip of the pen. Both pad by "same", so that 256x256 gives 32x32; CycleGAN's own code pads by 1 and gives 30x30.
"""

from __future__ import annotations

from typing import Optional

from tensorflow import keras
from tensorflow.keras import layers

from models_zoo.instance_normalization import NORMALISATIONS


def build(
    input_shape: tuple[Optional[int], Optional[int], int] = (256, 256, 3),
    width: int = 64,
    normalisation: str = "keras-contrib",
) -> keras.Model:
    """From images (N, height, width, C) float32 in -1..1 to a number for each patch, towards 1 for real and 0 for made.

    The outputs are (N, height / 8, width / 8, 1), rounded up, without a sigmoid. 2,766,529 parameters for 3 channels.

    width: filters of the first layer. Height and width of the images may be None.
    """
    x = inputs = layers.Input(input_shape, name="input")
    for i, (filters, stride) in enumerate([(width, 2), (width * 2, 2), (width * 4, 2), (width * 8, 1)], 1):
        x = layers.Conv2D(filters, 4, stride, padding="same", name=f"conv_{i}")(x)
        if i > 1:
            x = NORMALISATIONS[normalisation](name=f"norm_{i}")(x)
        x = layers.LeakyReLU(0.2, name=f"relu_{i}")(x)
    return keras.Model(inputs, layers.Conv2D(1, 4, padding="same", name="output")(x), name="patchgan")
