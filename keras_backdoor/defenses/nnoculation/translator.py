"""Images of one domain made into images of another, and back: the two generators of a CycleGAN, and how they are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor import model_file
from keras_backdoor.files import BadInput, PathLike, atomic

A_TO_B, B_TO_A = "a_to_b.h5", "b_to_a.h5"
BATCH = 32
"""Images that are translated at a time."""
MULTIPLE = 4
"""Of what height and width have to be for a generator, which halves them twice and doubles them twice."""
LEAST = 9
"""Pixels in height and width: of 8, PatchGAN's third convolution leaves 1, which its normalisation makes 0 whatever it was."""


@dataclass(frozen=True, eq=False)
class Translator:
    """Two generators, each from images float32 (N, H, W, C) in -1..1 to such images; H and W are multiples of 4.

    there: from domain A to domain B. back: from B to A.
    """

    there: keras.Model
    back: keras.Model

    def a_to_b(self, images: np.ndarray) -> np.ndarray:
        """What images of A, uint8 (N, H, W, C), would look like in B: uint8 of the same shape.

        Raises `BadInput` if they are no such array, or of another size than the images that it was trained with.
        """
        return self._translate(self.there, self._compiled[0], images)

    def b_to_a(self, images: np.ndarray) -> np.ndarray:
        """What images of B would look like in A; as `a_to_b`."""
        return self._translate(self.back, self._compiled[1], images)

    def save(self, folder: PathLike) -> None:
        """Write the generators to the folder, which is there, as a_to_b.h5 and then b_to_a.h5, each whole or not at all."""
        for model, name in ((self.there, A_TO_B), (self.back, B_TO_A)):
            with atomic(Path(folder) / name) as temporary:
                model.save(temporary, save_format="h5", include_optimizer=False)

    @classmethod
    def load(cls, folder: PathLike) -> Translator:
        """Read what `save` wrote. Raises `BadInput` if a file is missing, damaged, or not such a generator."""
        paths = [Path(folder) / name for name in (A_TO_B, B_TO_A)]
        models = [model_file.load(path)[0] for path in paths]
        for path, model in zip(paths, models):
            shapes = {model.input_shape, model.output_shape, models[0].input_shape}
            if len(shapes) > 1 or len(model.input_shape) != 4 or None in model.input_shape[1:]:
                raise BadInput(
                    f"{path}: from {model.input_shape} to {model.output_shape}, expected images to images of one size"
                )
        return cls(*models)

    @cached_property
    def _compiled(self) -> list[Callable[[np.ndarray], tf.Tensor]]:
        return [
            tf.function(
                lambda batch, model=model: as_pixels(model(as_inputs(batch), training=False)),
                input_signature=[tf.TensorSpec(model.input_shape, tf.uint8)],
            )
            for model in (self.there, self.back)
        ]

    @staticmethod
    def _translate(model: keras.Model, forward: Callable[[np.ndarray], tf.Tensor], images: np.ndarray) -> np.ndarray:
        check_images(images, "images to translate")
        inputs = padded(images)
        if inputs.shape[1:] != model.input_shape[1:]:
            sizes = ["x".join(map(str, shape[1:])) for shape in (images.shape, model.input_shape)]
            raise BadInput(
                f"images to translate are {sizes[0]}, the networks were trained with {sizes[1]} (rounded up)"
            )
        made = [forward(inputs[start : start + BATCH]).numpy() for start in range(0, len(inputs), BATCH)]
        return np.concatenate(made)[:, : images.shape[1], : images.shape[2]]


def check_images(images: Any, name: str) -> None:
    """`BadInput` that starts with `name` unless these are uint8 (N, H, W, 1 or 3), at least one, and of at least 9 x 9."""
    shape = np.shape(images)
    if len(shape) != 4 or shape[-1] not in (1, 3):
        raise BadInput(f"{name} have shape {shape}, expected (N, height, width, 1 or 3)")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        raise BadInput(f"{name} are {getattr(images, 'dtype', type(images).__name__)}, expected an array of uint8")
    if shape[0] == 0:
        raise BadInput(f"{name}: there is none")
    if min(shape[1:3]) < LEAST:
        raise BadInput(f"{name} are {shape[1]}x{shape[2]}, expected at least {LEAST}x{LEAST}")


def padded(images: np.ndarray) -> np.ndarray:
    """The images (N, H, W, C) with rows and columns, mirrored, below and to the right, up to multiples of 4."""
    rows, columns = (-size % MULTIPLE for size in images.shape[1:3])
    return np.pad(images, ((0, 0), (0, rows), (0, columns), (0, 0)), "reflect")


def as_inputs(images: tf.Tensor) -> tf.Tensor:
    """uint8 images as float32 in -1..1."""
    return tf.cast(images, tf.float32) / 127.5 - 1


def as_pixels(outputs: tf.Tensor) -> tf.Tensor:
    """Images in -1..1 as uint8, rounded."""
    return tf.cast(tf.round((outputs + 1) * 127.5), tf.uint8)
