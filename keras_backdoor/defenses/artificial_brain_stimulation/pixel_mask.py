"""Triggers that are a patch: a mask and a pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf

from keras_backdoor.defenses.artificial_brain_stimulation.reversal import Variables

SEEN = 0.01
"""The mask from which on a pixel counts as a part of the trigger."""
COST = 500.0
"""Of the mask's sum where it has too many pixels; twice that where they are many more."""
EDGE = 2.0
"""What the mask begins with, before tanh: this in a square in the upper left corner, and its negative elsewhere."""
MORE = 2
"""How much longer the edge of a square of many more pixels is."""


@dataclass(frozen=True)
class PixelMask:
    """A trigger of about `size` pixels at most, on images of this shape (H, W, C)."""

    name: ClassVar[str] = "patches"
    rate: ClassVar[float] = 0.1
    weight: ClassVar[float] = 1.0
    others: ClassVar[float] = 1e-4

    size: int
    shape: tuple[int, int, int]

    def start(self, generators: Sequence[np.random.Generator]) -> Variables:
        """The masks before tanh, (R, H, W), and patterns, (R, H, W, C), normally distributed."""
        edge = int(self.size**0.5)
        mask = np.full((len(generators), *self.shape[:2]), -EDGE, np.float32)
        mask[:, :edge, :edge] = EDGE
        pattern = np.stack([one.standard_normal(self.shape, np.float32) for one in generators])
        return tf.constant(mask), tf.constant(pattern)

    def features(self, pixels: tf.Tensor) -> tf.Tensor:
        """The images themselves."""
        return pixels

    def stamped(self, variables: Variables, features: tf.Tensor) -> tf.Tensor:
        """(1 - mask) x + mask * pattern."""
        mask, pattern = _masks(variables)[:, None, ..., None], variables[1][:, None]
        return features + mask * (pattern - features)

    def penalty(self, variables: Variables, features: tf.Tensor, stamped: tf.Tensor) -> tf.Tensor:
        """None up to `size` pixels."""
        masks = _masks(variables)
        pixels = tf.reduce_sum(tf.cast(masks > SEEN, tf.int32), (1, 2))
        many = int((self.size**0.5 + MORE) ** 2)
        cost = tf.where(pixels > many, 2 * COST, tf.where(pixels > self.size, COST, 0.0))
        return cost * tf.reduce_sum(masks, (1, 2))

    def bounded(self, variables: Variables) -> Variables:
        """Patterns of pixels that there are."""
        mask, pattern = variables
        return mask, tf.clip_by_value(pattern, -2.0, 2.0)


def _masks(variables: Variables) -> tf.Tensor:
    """(R, H, W), 0..1."""
    return tf.tanh(variables[0]) / 2 + 0.5
