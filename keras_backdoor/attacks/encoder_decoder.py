"""Small convolutional networks from images to images, as attacks that learn their trigger train them; and how they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from tensorflow import keras
from tensorflow.keras import layers

BATCH = 512
"""Images that a learned trigger is computed for at a time."""


def encoder_decoder(input_shape: tuple[int, int, int], outputs: int, widths: tuple[int, ...]) -> keras.Model:
    """From images (N, H, W, C) in 0..1 to (N, H, W, `outputs`) in 0..1, both float32.

    The pattern and mask generators of the input-aware attack (Nguyen and Tran 2020, code): two convolutions of 3x3 for each of
    `widths` and a halving, one in the middle, and the mirror image with bilinear doubling; batch normalisation after each
    convolution, ReLU after all but the last, and tanh(x) / 2 + 1/2 at the end. The code's widths are (32, 64, 128), for MNIST
    (16, 32). Sizes that cannot be halved are rounded down, and restored on the way up.
    """

    def block(x: tf.Tensor, filters: int, activation: str = "relu") -> tf.Tensor:
        x = layers.BatchNormalization(momentum=0.95, epsilon=1e-5)(layers.Conv2D(filters, 3, padding="same")(x))
        return layers.Activation(activation)(x)

    x = inputs = layers.Input(input_shape)
    sizes = []
    for width in widths:
        sizes.append(x.shape[1:3])
        x = layers.MaxPooling2D(2)(block(block(x, width), width))
    x = block(x, widths[-1])
    for size, width, following in zip(reversed(sizes), reversed(widths), [*reversed(widths[:-1]), None]):
        x = block(layers.Resizing(*size)(x), width)
        x = block(x, outputs, "tanh") if following is None else block(x, following)
    return keras.Model(inputs, layers.Rescaling(0.5, 0.5)(x))


def u_net(x: tf.Tensor, width: int) -> tf.Tensor:
    """Images (N, H, W, C) with `width` features beside them, (N, H, W, `width` + C): two halvings and back.

    A U-Net (Ronneberger et al. 2015): what is lost in a halving is taken from before it.
    """

    def convolve(x: tf.Tensor, filters: int, stride: int = 1) -> tf.Tensor:
        return layers.Conv2D(filters, 3, stride, padding="same", activation="relu")(x)

    skips = [convolve(x, width)]
    skips.append(convolve(skips[0], 2 * width, 2))
    y = convolve(convolve(skips[1], 4 * width, 2), 4 * width)
    for skip in reversed(skips):
        y = convolve(layers.Resizing(*skip.shape[1:3])(y), skip.shape[-1])
        y = convolve(layers.Concatenate()([y, skip]), skip.shape[-1])
    return layers.Concatenate()([y, x])


def in_batches(function: Callable[..., tf.Tensor], *arrays: np.ndarray) -> np.ndarray:
    """What `function` of batches gives for whole arrays of equal length, whose types it must accept."""
    starts = range(0, len(arrays[0]), BATCH)
    return np.concatenate([np.asarray(function(*(array[i : i + BATCH] for array in arrays))) for i in starts])


def shuffled(count: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The numbers 0..count-1 in random order in batches of `size`, `count` if that is less; the rest is dropped."""
    size = min(size, count)
    return iter(rng.permutation(count)[: count // size * size].reshape(-1, size))


def unit(images: tf.Tensor) -> tf.Tensor:
    """uint8 images as float32 in 0..1."""
    return tf.cast(images, tf.float32) / 255


def as_pixels(images: np.ndarray) -> np.ndarray:
    """Images in 0..1 as uint8, rounded."""
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
