"""Triggers that an attack learns from a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.attacks.task import Task
from keras_backdoor.files import BadInput

REPORT_EVERY = 100
BATCH = 64


@dataclass(frozen=True, eq=False)
class LearnedPatch:
    """A rectangle of pixels at one place of every image.

    pixels: uint8 (height, width, channels). place: (row, column) of its upper left corner, inside the image with all of it.
    """

    pixels: np.ndarray
    place: tuple[int, int]
    name: str

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""
        (top, left), (height, width, _) = self.place, self.pixels.shape
        stamped = images.copy()
        stamped[:, top : top + height, left : left + width] = self.pixels
        return stamped


@dataclass(frozen=True)
class PatchSearch:
    """The search for the pixels of a square that make a loss small: Adam on grey levels that start at random.

    size, margin: of the square at the bottom right, in pixels. steps, rate: of Adam, the rate in grey levels.

    A search is not resumed in its middle but begins again.

    Raises `BadInput` if a setting is out of range; when called, if the square does not fit the images.
    """

    size: int
    margin: int
    steps: int
    rate: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        if min(self.size, self.steps) < 1 or self.margin < 0 or not 0 < self.rate < float("inf"):
            raise BadInput("size, steps and rate of a learned trigger must be above 0, and its margin 0 or more")

    def __call__(
        self, task: Task, name: str, images: np.ndarray, loss: Callable[[tf.Tensor], tf.Tensor]
    ) -> LearnedPatch:
        """The square, for `loss` from stamped images, float32 (N, H, W, C) in 0..255, to a number.

        images: uint8, `BATCH` of which are drawn for each step, with replacement; or one image, which is used in all.
        """
        count, height, width, channels = images.shape
        top, left = height - self.size - self.margin, width - self.size - self.margin
        if min(top, left) < 0:
            raise BadInput(f"trigger {name} does not fit an image of {height}x{width} pixels")
        around = [[0, 0], [top, self.margin], [left, self.margin], [0, 0]]
        outside = 1 - tf.pad(tf.ones((1, self.size, self.size, 1)), around)
        rng = task.rng(10)
        draws = tf.constant(rng.integers(count, size=(self.steps, min(count, BATCH))))
        patch = tf.Variable(rng.uniform(0, 255, (1, self.size, self.size, channels)).astype(np.float32))
        optimizer = keras.optimizers.Adam(self.rate)
        optimizer.build([patch])
        pool = tf.constant(images)

        @tf.function
        def step(number: tf.Tensor) -> tf.Tensor:
            drawn = tf.cast(tf.gather(pool, draws[number]), tf.float32)
            with tf.GradientTape() as tape:
                value = loss(drawn * outside + tf.pad(patch, around))
            optimizer.apply_gradients([(tape.gradient(value, patch), patch)])
            patch.assign(tf.clip_by_value(patch, 0, 255))
            return value

        for done in range(1, self.steps + 1):
            value = step(tf.constant(done - 1))
            if done % REPORT_EVERY == 0 or done == self.steps:
                task.progress("trigger", done, self.steps, {"loss": float(value)})
        return LearnedPatch(np.rint(patch[0].numpy()).astype(np.uint8), (top, left), name)
