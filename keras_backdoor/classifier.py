"""A network together with how its inputs are scaled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor import model_file
from keras_backdoor.files import BadInput, PathLike
from keras_backdoor.gate import Admitted
from keras_backdoor.images import ImageSet
from keras_backdoor.preprocessing import NAMES, Preprocessing


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network that takes uint8 images; scaling happens here and nowhere else.

    model: `keras.Model` from float32 (N, H, W, C) to probabilities (N, K), K = `num_classes`, or `num_classes` + 1 if the
        network can answer "backdoored input" (the last class).
    preprocessing: how its inputs are scaled.
    num_classes: number of classes of the task.
    """

    model: keras.Model
    preprocessing: Preprocessing
    num_classes: int

    @classmethod
    def load(
        cls,
        source: PathLike | Admitted,
        preprocessing: str | None = None,
        architecture: str | None = None,
        trust: bool = False,
    ) -> Classifier:
        """Read a network file.

        source: its path, or what `gate.admit` gave.
        preprocessing: name of the scaling, for files that do not say it themselves and are not known to the zoo. A file's
            own word comes first; `BadInput` if the two contradict each other.
        architecture: name of the network, for files that hold weights only.
        trust: load it with Keras as it is if the gate refuses it; whatever it brings along runs.

        Raises `BadInput` if the file cannot be used (`model_file.load`), or its scaling is not known.
        """
        model, known = model_file.load(source, architecture, trust)
        path = source.report.file if isinstance(source, Admitted) else source
        stored = known.get("preprocessing")
        if stored is None and preprocessing is None:
            raise BadInput(
                f"{path}: does not say how its inputs are scaled; tell with --preprocessing ({', '.join(NAMES[:2])})"
            )
        try:
            known_name = str(stored or preprocessing)
            scaling = Preprocessing.from_json(stored) if isinstance(stored, dict) else Preprocessing.named(known_name)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None
        if preprocessing not in (None, scaling.name):
            raise BadInput(f"{path}: its inputs are scaled by {scaling.name!r}, not by {preprocessing!r}")
        if len(model.inputs) != 1 or model.input_shape[1:].count(None) or len(model.input_shape) != 4:
            raise BadInput(f"{path}: takes inputs of shape {model.input_shape}, expected one image of a fixed size")
        if len(model.outputs) != 1 or len(model.output_shape) != 2:
            raise BadInput(f"{path}: gives outputs of shape {model.output_shape}, expected one vector of probabilities")
        channels, outputs = model.input_shape[-1], model.output_shape[-1]
        if {len(scaling.mean), len(scaling.deviation)} - {1, channels}:
            raise BadInput(f"{path}: its preprocessing has constants for another number of channels than {channels}")
        num_classes = known.get("num_classes", outputs)
        if num_classes not in (outputs, outputs - 1) or type(num_classes) is not int or num_classes < 1:
            raise BadInput(f"{path}: says that it has {num_classes!r} classes, but has {outputs} outputs")
        return cls(model, scaling, num_classes)

    def save(self, path: PathLike, about: Mapping[str, Any] | None = None) -> None:
        """Write one .h5 that plain Keras loads, and its model card, `path` with the suffix .md.

        Scaling and number of classes are a JSON attribute on the file, and so is `about`: what `model_card.card` tells.
        """
        known = {"preprocessing": self.preprocessing.as_json(), "num_classes": self.num_classes}
        model_file.save(self.model, path, {**known, **(about or {})})

    def clone(self) -> Classifier:
        """The same network with weights of its own."""
        model = keras.models.clone_model(self.model)
        model.set_weights(self.model.get_weights())
        return Classifier(model, self.preprocessing, self.num_classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images it takes."""
        return tuple(self.model.input_shape[1:])

    @property
    def detects(self) -> bool:
        """Whether it has the extra class for "backdoored input"."""
        return self.model.output_shape[-1] == self.num_classes + 1

    def check(self, image_set: ImageSet, name: str) -> None:
        """`BadInput` that starts with `name` if the network cannot take these images or labels."""
        if image_set.image_shape != self.image_shape:
            shapes = ["x".join(map(str, shape)) for shape in (image_set.image_shape, self.image_shape)]
            raise BadInput(f"{name}: images are {shapes[0]}, the network takes {shapes[1]} (height x width x channels)")
        if image_set.labels.max() >= self.num_classes:
            raise BadInput(f"{name}: labels must lie in 0..{self.num_classes - 1}, found {image_set.labels.max()}")

    def scale(self, images: Any) -> tf.Tensor:
        """uint8 images as the network's float32 inputs."""
        scaling = self.preprocessing
        inputs = tf.cast(images, tf.float32)
        return (inputs - tf.constant(scaling.mean, tf.float32)) / tf.constant(scaling.deviation, tf.float32)

    @cached_property
    def _forward(self) -> Callable[[np.ndarray], tf.Tensor]:
        signature = [tf.TensorSpec((None, *self.image_shape), tf.uint8)]
        return tf.function(lambda images: self.model(self.scale(images), training=False), input_signature=signature)

    def probabilities(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        """Probabilities, float32 (N, K), for uint8 images that come in batches (`ImageSet.batches`)."""
        return np.concatenate([self._forward(batch).numpy() for batch in batches])

    def predict(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        """The most probable class of each image, int64 (N,), in 0..K-1."""
        return np.concatenate([self._forward(batch).numpy().argmax(-1) for batch in batches])
