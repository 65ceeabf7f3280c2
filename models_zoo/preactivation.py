"""The parts of pre-activation residual networks (He et al. 2016), with padding and normalisation as in PyTorch.

There a 3x3 convolution of stride 2 pads one pixel on every side. Keras's "same" would pad an image of even size at the bottom
and on the right alone, and so move what each output sees by one pixel; hence the explicit padding.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow.keras import layers


def convolution(x: tf.Tensor, filters: int, stride: int, name: str, use_bias: bool = False) -> tf.Tensor:
    """A 3x3 convolution with a padding of 1, called `name`."""
    if stride == 1:
        return layers.Conv2D(filters, 3, padding="same", use_bias=use_bias, name=name)(x)
    x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return layers.Conv2D(filters, 3, stride, use_bias=use_bias, name=name)(x)


def norm_relu(x: tf.Tensor, number: int, prefix: str = "") -> tf.Tensor:
    """Batch normalisation `norm_<number>` and ReLU `relu_<number>`."""
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{prefix}norm_{number}")(x)
    return layers.Activation("relu", name=f"{prefix}relu_{number}")(x)


def group(x: tf.Tensor, filters: int, stride: int, name: str) -> tf.Tensor:
    """Two residual blocks, the first with `stride`; the layer called `name` is the output of the group, not normalised."""
    x = _block(x, filters, stride, f"{name}_block_1_", f"{name}_block_1")
    return _block(x, filters, 1, f"{name}_block_2_", name)


def _block(x: tf.Tensor, filters: int, stride: int, prefix: str, name: str) -> tf.Tensor:
    shortcut, y = x, norm_relu(x, 1, prefix)
    if stride != 1 or x.shape[-1] != filters:
        shortcut = layers.Conv2D(filters, 1, stride, use_bias=False, name=f"{prefix}shortcut")(y)
    y = convolution(y, filters, stride, f"{prefix}conv_1")
    y = convolution(norm_relu(y, 2, prefix), filters, 1, f"{prefix}conv_2")
    return layers.Add(name=name)([y, shortcut])
