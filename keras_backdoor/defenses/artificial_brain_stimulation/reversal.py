"""Reversing triggers out of neurons: Adam on what a candidate gives with the trigger, many candidates of a layer in one batch.

What is maximised is the neuron, and not the answer of the network: whether a trigger turns images into the candidate's label is
looked at in the end. The neuron counts before and after its activation: before it, so that there is a slope where it is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.artificial_brain_stimulation.neurons import Neurons
from keras_backdoor.trigger_inversion import adam

BETAS = (0.9, 0.999)
"""Of Adam."""
CENTRE, UNIT = 127.5, 63.75
"""The code's triggers are in units of CIFAR-10's deviation, which puts pixels in about -2..2. Here, all networks have that."""
REPORTED = 200
"""Updates between two reports of progress."""

Variables = tuple[tf.Tensor, ...]
"""What is optimised, one row a candidate: each (R, ...)."""


class Kind(Protocol):
    """A kind of triggers.

    name: for files. rate: of Adam. weight: of the neurons, against the penalty. others: of the layer's other neurons, against the
    candidate.
    """

    name: ClassVar[str]
    rate: ClassVar[float]
    weight: ClassVar[float]
    others: ClassVar[float]

    def start(self, generators: Sequence[np.random.Generator]) -> Variables:
        """Where rows begin, one a generator."""

    def features(self, pixels: tf.Tensor) -> tf.Tensor:
        """What is needed of images, in -2..2, (N, H, W, C), and stays the same: (N, ...)."""

    def stamped(self, variables: Variables, features: tf.Tensor) -> tf.Tensor:
        """The images of `features` with each row's trigger, (R, N, H, W, C), in -2..2."""

    def penalty(self, variables: Variables, features: tf.Tensor, stamped: tf.Tensor) -> tf.Tensor:
        """What each row's trigger costs, (R,)."""

    def bounded(self, variables: Variables) -> Variables:
        """After an update: within the range that they may have."""


@dataclass(frozen=True, eq=False)
class Reversal:
    """Reverses triggers of one kind out of neurons of one layer.

    classifier: the network. model: the same without its softmax, that `neurons` are a layer of. updates: of Adam.
    """

    classifier: Classifier
    model: keras.Model
    neurons: Neurons
    kind: Kind
    updates: int

    def triggers(
        self,
        numbers: Sequence[int],
        generators: Sequence[np.random.Generator],
        images: np.ndarray,
        report: Callable[[int], None],
    ) -> Variables:
        """Triggers that raise the neurons `numbers` in uint8 images (N, H, W, C), from starts that the generators decide on.

        report: is told how many updates are done.
        """
        features, wanted = self.kind.features(to_units(images)), tf.constant(numbers, tf.int32)
        variables = self.kind.start(generators)
        moments = tuple(tf.zeros_like(one) for one in (*variables, *variables))
        for done in range(0, self.updates, REPORTED):
            count = min(REPORTED, self.updates - done)
            variables, moments = self._descend(variables, moments, features, wanted, tf.range(count) + (done + 1))
            report(done + count)
        return variables

    def stamped(self, variables: Variables, images: np.ndarray) -> np.ndarray:
        """Images with each row's trigger, uint8 (R, N, H, W, C)."""
        features = self.kind.features(to_units(images))
        rows = [tuple(part[row : row + 1] for part in variables) for row in range(len(variables[0]))]
        return np.concatenate([np.rint(to_pixels(self.kind.stamped(row, features))).astype(np.uint8) for row in rows])

    @cached_property
    def _descend(self) -> Callable[..., tuple[Variables, Variables]]:
        """Updates of Adam, of these numbers."""

        def descend(
            variables: Variables, moments: Variables, features: tf.Tensor, wanted: tf.Tensor, updates: tf.Tensor
        ) -> tuple[Variables, Variables]:
            for update in updates:
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(variables)
                    stamped = self.kind.stamped(variables, features)
                    loss = self.kind.penalty(variables, features, stamped)
                    loss -= self.kind.weight * self._raised(stamped, wanted)
                gradients = tape.gradient(loss, variables)
                variables, moments = adam(variables, gradients, moments, update, self.kind.rate, BETAS)
                variables = self.kind.bounded(variables)
            return variables, moments

        return tf.function(descend, reduce_retracing=True)

    @cached_property
    def _below(self) -> keras.Model:
        return keras.Model(self.model.inputs, self.neurons.before)

    def _raised(self, stamped: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
        """What each row's neuron gives in its images, summed, less a little of what the others of its layer give, (R,)."""
        inputs = self.classifier.scale(to_pixels(tf.reshape(stamped, (-1, *self.classifier.image_shape))))
        before = self._below(inputs, training=False)
        given = before + self.neurons.activation(before)
        given = tf.reduce_sum(tf.reshape(given, (len(wanted), -1, given.shape[-1])), 1)
        own = tf.gather(given, wanted, batch_dims=1)
        return own - self.kind.others * (tf.reduce_sum(given, 1) - own)


def to_units(images: np.ndarray) -> tf.Tensor:
    """Pixels, 0..255, in -2..2."""
    return (tf.cast(images, tf.float32) - CENTRE) / UNIT


def to_pixels(units: tf.Tensor) -> tf.Tensor:
    """The inverse of `to_units`."""
    return tf.clip_by_value(CENTRE + UNIT * units, 0.0, 255.0)
