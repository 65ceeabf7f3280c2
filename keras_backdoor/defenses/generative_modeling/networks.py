"""Generators of patches, and the networks that estimate their entropy: small dense networks, many side by side.

All have a first axis R, one network each, through which nothing passes from one to another: a network becomes what it would
become alone, up to rounding. Sizes and starts are those of the released code, which are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

NOISE = 64
"""Numbers that a patch is made of."""
PARTS = 4
"""A quarter of the noise enters each layer of a generator."""
MOMENTUM, EPSILON = 0.9, 1e-5
"""Of batch normalisation."""
AVERAGE_RATE = 0.001
"""Of the moving average in `Statistics.bound`."""

Arrays = list[np.ndarray]
"""The weights of one network, in order."""


class SideBySide:
    """Networks of one kind. weights: one variable a weight, float32 (R, ...); the last `BUFFERS` are remembered, not trained."""

    BUFFERS = 0

    def __init__(self, networks: Sequence[Arrays]) -> None:
        """networks: one at least, all of the same shapes."""
        self.weights = [tf.Variable(np.stack(arrays), dtype=tf.float32) for arrays in zip(*networks)]

    @property
    def trainable(self) -> list[tf.Variable]:
        """Weights that are trained."""
        return self.weights[: len(self.weights) - self.BUFFERS]

    def each(self) -> list[Arrays]:
        """The weights of each network."""
        return [list(arrays) for arrays in zip(*(weight.numpy() for weight in self.weights))]


class Generators(SideBySide):
    """From noise, float32 (R, N, NOISE), uniform in 0..1, to patches, float32 (R, N, numbers), 0..1.

    Three layers with batch normalisation and LeakyReLU 0.2, and a last one with a sigmoid. Buffers: means and variances.
    """

    BUFFERS = 2 * (PARTS - 1)

    @staticmethod
    def start(rng: np.random.Generator, numbers: int, hidden: int) -> Arrays:
        """An untrained generator of `numbers` numbers."""
        more = NOISE // PARTS
        sizes = [(more, hidden), (hidden + more, hidden), (hidden + more, hidden), (hidden + more, numbers)]
        layers = [array for size in sizes for array in _dense(rng, *size)]
        norms = [array for _ in sizes[:-1] for array in (np.ones((1, hidden)), np.zeros((1, hidden)))]
        seen = [array for _ in sizes[:-1] for array in (np.zeros((1, hidden)), np.ones((1, hidden)))]
        return [array.astype(np.float32) for array in (*layers, *norms, *seen)]

    def __call__(self, noise: tf.Tensor, training: bool) -> tf.Tensor:
        """training: normalise each batch by itself, and remember its mean and variance."""
        dense, norms = _pairs(self.weights[: 2 * PARTS]), _pairs(self.weights[2 * PARTS : -self.BUFFERS])
        seen = _pairs(self.weights[-self.BUFFERS :])
        first, *rest = tf.split(noise, PARTS, axis=-1)
        x = _product(first, *dense[0])
        for part, layer, (scale, offset), (mean, variance) in zip(rest, dense[1:], norms, seen):
            if training:
                now = tf.nn.moments(x, axes=[1], keepdims=True)
                for old, new in zip((mean, variance), now):
                    old.assign(MOMENTUM * old + (1 - MOMENTUM) * tf.stop_gradient(new))
                mean, variance = now
            x = tf.nn.batch_normalization(x, mean, variance, offset, scale, EPSILON)
            x = _product(tf.concat([tf.nn.leaky_relu(x, 0.2), part], -1), *layer)
        return tf.sigmoid(x)


class Statistics(SideBySide):
    """MINE (Belghazi et al., ICML 2018): a lower bound of how much patches tell of the noise that they were made of.

    As a patch is a function of its noise, that is their entropy. Two layers with LeakyReLU 0.2, and one, with it too, for the
    result. Buffer: a moving average, 0 before it has begun.
    """

    BUFFERS = 1

    @staticmethod
    def start(rng: np.random.Generator, numbers: int, hidden: int) -> Arrays:
        """An untrained network for patches of `numbers` numbers."""
        (noise, _), (patch, _) = (_dense(rng, size, hidden) for size in (NOISE, numbers))
        weights = (noise, patch, np.zeros((1, hidden)), *_dense(rng, hidden, hidden), *_dense(rng, hidden, 1))
        return [array.astype(np.float32) for array in (*weights, np.zeros(()))]

    def information(self, own: tf.Tensor, other: tf.Tensor, patches: tf.Tensor) -> tf.Tensor:
        """The bound, float32 (R,), for patches (R, N, numbers), the noise that they were made of, and other noise."""
        joint, apart = self._means(own, other, patches)
        return joint - tf.math.log(apart + 1e-8)

    def bound(self, own: tf.Tensor, other: tf.Tensor, patches: tf.Tensor) -> tf.Tensor:
        """What has the gradient of the bound by these networks, corrected for small batches (section 3.2 of MINE)."""
        joint, apart = self._means(own, other, patches)
        now, average = tf.stop_gradient(apart), self.weights[-1]
        average.assign(tf.where(average == 0, now, average + AVERAGE_RATE * (now - average)))
        return joint - tf.math.log(apart + 1e-8) * now / average

    def _means(self, own: tf.Tensor, other: tf.Tensor, patches: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        joint, apart = (self._score(noise, patches) for noise in (own, other))
        return tf.reduce_mean(joint, 1), tf.reduce_mean(tf.exp(apart), 1)

    def _score(self, noise: tf.Tensor, patches: tf.Tensor) -> tf.Tensor:
        of_noise, of_patch, offset, *layers = self.trainable
        x = tf.nn.leaky_relu(noise @ of_noise + patches @ of_patch + offset, 0.2)
        for kernel, offset in _pairs(layers):
            x = tf.nn.leaky_relu(_product(x, kernel, offset), 0.2)
        return x[..., 0]


def _dense(rng: np.random.Generator, inputs: int, outputs: int) -> Arrays:
    """Kernel and offset of a layer, uniform within one over the root of the number of inputs."""
    return [rng.uniform(-1, 1, shape) / np.sqrt(inputs) for shape in ((inputs, outputs), (1, outputs))]


def _product(x: tf.Tensor, kernel: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    return x @ kernel + offset


def _pairs(values: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(values[::2], values[1::2]))
