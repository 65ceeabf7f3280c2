"""Triggers that are a filter: each pixel becomes a linear map of itself, and of the largest, smallest and mean one around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf

from keras_backdoor.defenses.artificial_brain_stimulation.reversal import Variables

WINDOW = 12
"""Edge of what is around a pixel."""
SIMILAR = 0.2
"""Similarity (SSIM) below which an image is another one. The code has 2 for all images together, of which it had 10 once."""
COST, HIGH_COST = 10.0, 10_000.0
"""Of the similarity that is lost; the second where the images are other ones."""
SSIM_WINDOW = 11


@dataclass(frozen=True)
class FeatureFilter:
    """A linear map for images with so many channels."""

    name: ClassVar[str] = "filters"
    rate: ClassVar[float] = 2e-3
    weight: ClassVar[float] = 0.01
    others: ClassVar[float] = 1e-5

    channels: int

    def start(self, generators: Sequence[np.random.Generator]) -> Variables:
        """The identity, (R, 4C, C): the generators play no part."""
        return (tf.eye(4 * self.channels, self.channels, [len(generators)]),)

    def features(self, pixels: tf.Tensor) -> tf.Tensor:
        """Each pixel, and the largest, smallest and mean one of each channel around it, (N, H, W, 4C)."""
        largest, smallest = (sign * tf.nn.max_pool2d(sign * pixels, WINDOW, 1, "SAME") for sign in (1, -1))
        return tf.concat([pixels, largest, smallest, tf.nn.avg_pool2d(pixels, WINDOW, 1, "SAME")], -1)

    def stamped(self, variables: Variables, features: tf.Tensor) -> tf.Tensor:
        """The map of each pixel."""
        return tf.clip_by_value(tf.einsum("nhwf,rfc->rnhwc", features, variables[0]), -2.0, 2.0)

    def penalty(self, variables: Variables, features: tf.Tensor, stamped: tf.Tensor) -> tf.Tensor:
        """Similarity, as a gain."""
        images = features[..., : self.channels]
        window = min(SSIM_WINDOW, *images.shape[1:3])
        similar = tf.reduce_sum(tf.image.ssim(images, stamped, 4.0, filter_size=window), 1)
        other = similar < SIMILAR * tf.cast(tf.shape(images)[0], tf.float32)
        return -tf.where(other, HIGH_COST, COST) * similar

    def bounded(self, variables: Variables) -> Variables:
        """Within -1..1."""
        return (tf.clip_by_value(variables[0], -1.0, 1.0),)
