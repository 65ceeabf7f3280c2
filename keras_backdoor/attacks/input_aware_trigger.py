"""The trigger of the input-aware attack (Nguyen and Tran, NeurIPS 2020): a pattern and a mask that depend on the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.attacks.encoder_decoder import as_pixels, in_batches, unit


@dataclass(frozen=True, eq=False)
class InputAwareTrigger:
    """x + (pattern(x) - x) mask(x), rounded to grey levels.

    pattern, masks: networks from images in 0..1 to images in 0..1, and to one channel before it is sharpened. cross: give each
    image the trigger of the one before it (the first that of the last) instead of its own; needs two images, or does not cross.
    """

    pattern: keras.Model
    masks: keras.Model
    cross: bool = False

    @property
    def name(self) -> str:
        """Short name for tables and files."""
        return "cross-input-aware" if self.cross else "input-aware"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image; nothing is random."""
        return as_pixels(in_batches(self._stamp, images, np.roll(images, 1, axis=0) if self.cross else images))

    def _stamp(self, images: np.ndarray, sources: np.ndarray) -> tf.Tensor:
        return paste(unit(images), self.pattern(unit(sources)), sharpen(self.masks(unit(sources))))


def sharpen(masks: tf.Tensor) -> tf.Tensor:
    """Masks in 0..1 pushed towards 0 and 1: tanh(20 m - 10) / 2 + 1/2."""
    return tf.tanh(20 * masks - 10) / 2 + 0.5


def paste(images: tf.Tensor, patterns: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
    """The pattern where the mask is 1, the image where it is 0."""
    return images + (patterns - images) * masks
