"""TrojanNN (Liu et al., NDSS 2018): a trigger made for the network, from its own neurons.

The attacker takes a clean network, chooses the neurons of a layer that are tied most strongly to the layer before (largest sum of
absolute weights), and searches the pixels of a small square that drive them to a large value. Then a little training ties them to
the target. As the network fires at the trigger from the start, the layers above suffice; those below stay as they are.

Choices where the paper leaves them open, or is about other networks: its masks are a square, an apple and a watermark, of 7 % of
the image; here it is a square, of 8 of 32 pixels. The search is Adam on pixels in 0..255, on an otherwise black image. Neurons
are driven before their activation function, as a silent ReLU has no slope. The paper invents its training images; here they are
given.
The attack called Trojan in Anti-Backdoor Learning's table stamps a ready trigger and trains everything: `whole=True`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.attacks.layers import above, only
from keras_backdoor.attacks.learned import PatchSearch
from keras_backdoor.attacks.poison import Backdoor
from keras_backdoor.attacks.targets import AllToOne
from keras_backdoor.attacks.task import Task
from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput

WITH_NEURONS = (keras.layers.Dense, keras.layers.Conv2D)


@dataclass(frozen=True)
class Trojan:
    """Search the trigger, then retrain; for a recipe of two steps without backdoors of its own.

    target: the label of triggered images. size, margin: of the square at the bottom right, in pixels. layer: where neurons are
    chosen; by default the last one with weights before the output. neurons: how many; their value: 2 and 100 in BackdoorBench.
    steps, rate: of the search, in grey levels a step. whole: train all layers, not those above `layer` alone.

    The search is not resumed in its middle but begins again.

    Raises `BadInput` if a setting is out of range; when called, if square, target or layer do not fit the network.
    """

    target: int = 0
    size: int = 8
    margin: int = 1
    layer: Optional[str] = None
    neurons: int = 2
    value: float = 100.0
    steps: int = 1000
    rate: float = 5.0
    whole: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        self._search()
        if self.neurons < 1:
            raise BadInput(f"trojan: neurons is {self.neurons}, expected at least 1")

    def __call__(self, task: Task) -> tuple[Backdoor, ...]:
        """Make the trigger and retrain."""
        classifier = task.classifier
        if not 0 <= self.target < classifier.num_classes:
            raise BadInput(f"trojan: target is {self.target}, expected 0..{classifier.num_classes - 1}")
        layer = self._layer(classifier.model)
        strongest = connections(layer).argsort(kind="stable")[::-1][: self.neurons]
        black = np.zeros((1, *classifier.image_shape), np.uint8)
        trigger = self._search()(task, "trojan", black, self._loss(classifier, layer, strongest))
        backdoors = (Backdoor(trigger, AllToOne(self.target)),)
        trained = classifier.model.layers if self.whole else above(classifier.model, layer)
        with only(classifier.model, trained):
            task.fit(task.poisoned(backdoors), backdoors=backdoors)
        return backdoors

    def _search(self) -> PatchSearch:
        return PatchSearch(self.size, self.margin, self.steps, self.rate)

    def _layer(self, model: keras.Model) -> keras.layers.Layer:
        weighty = {layer.name: layer for layer in model.layers[:-1] if isinstance(layer, WITH_NEURONS)}
        if self.layer is None and weighty:
            return list(weighty.values())[-1]
        if self.layer not in weighty:
            raise BadInput(
                f"trojan: the network has no layer {self.layer!r} of neurons; choose from {', '.join(weighty)}"
            )
        return weighty[self.layer]

    def _loss(self, classifier: Classifier, layer: keras.layers.Layer, chosen: np.ndarray) -> Callable[..., tf.Tensor]:
        """How far the `chosen` neurons (of a convolution: channels, on average) are from the value on stamped images."""
        probe = classifier.clone()
        neurons = probe.model.get_layer(layer.name)
        neurons.activation = keras.activations.linear
        part = keras.Model(probe.model.input, neurons.output)

        def loss(stamped: tf.Tensor) -> tf.Tensor:
            outputs = tf.gather(part(probe.scale(stamped), training=False), chosen, axis=-1)
            values = tf.reduce_mean(tf.reshape(outputs, (-1, len(chosen))), 0)
            return tf.reduce_sum((values - self.value) ** 2)

        return loss


def connections(layer: keras.layers.Layer) -> np.ndarray:
    """How strongly each neuron or channel is tied to the layer before: the sum of its absolute weights, float (C,)."""
    kernel = layer.get_weights()[0]
    return np.abs(kernel).sum(tuple(range(kernel.ndim - 1)))
