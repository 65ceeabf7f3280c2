"""The attacker who knows fine-pruning: the pruning-aware attack in four stages (Liu, Dolan-Gavitt and Garg, RAID 2018).

Pruning removes channels that clean images do not excite, as a backdoor likes to live there. So the attacker trains a clean
network (1), prunes those channels himself (2), trains what is left on poisoned data (3), so that the backdoor has to share
channels with clean behaviour, and puts the pruned channels back with their weights, but with lower biases, so that they stay
dormant (4). A defender then prunes what does nothing. Against fine-tuning the attack is no better than any other.

The paper gives back a pruned channel and trains again if what is left cannot learn the backdoor; here the share is a setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.activations import convolution, layer_outputs
from keras_backdoor.attacks.poison import Backdoor
from keras_backdoor.attacks.task import Task
from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet


@dataclass(frozen=True)
class PruningAware:
    """Stages 2 to 4, for a recipe of two steps: the first is stage 1.

    share: of the layer's channels that are pruned, between 0 and 1; the original's 48 of 60 (DeepID). At least one is, one stays.
    layer: the convolution; by default the last one that every path passes, as in the defense.

    Raises `BadInput` if `share` is out of range; when called, if there is no such convolution, or it has no bias or no ReLU, so
    that a lower bias would not keep a channel silent.
    """

    share: float = 0.8
    layer: Optional[str] = None

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.share < 1:
            raise BadInput(f"share of pruned channels is {self.share}, expected a fraction between 0 and 1")

    def __call__(self, task: Task) -> tuple[Backdoor, ...]:
        """Prune, train, and put the pruned channels back."""
        layer = convolution(task.classifier.model, self.layer)
        if not layer.use_bias or layer.activation is not keras.activations.relu or layer.filters < 2:
            raise BadInput(
                f"pruning-aware: {layer.name} must have a bias, a ReLU and two channels, to silence some of them"
            )
        means = layer_outputs(task.classifier, layer, task.train, lambda batch: tf.reduce_mean(batch, (1, 2)))
        count = int(np.clip(round(self.share * layer.filters), 1, layer.filters - 1))
        dormant = np.zeros(layer.filters, bool)
        dormant[np.argsort(means.mean(0, dtype=np.float64), kind="stable")[:count]] = True

        poisoned = task.poisoned()
        pruned = _pruned(task.classifier, layer, dormant)
        task.fit(poisoned, classifier=pruned)
        _put_back(task.classifier, layer, dormant, pruned, poisoned)
        return task.backdoors


class _Hold(keras.constraints.Constraint):
    """Keeps channels at zero, whatever the optimizer does: momentum or a layer behind may move them without a gradient."""

    def __init__(self, zero: np.ndarray) -> None:
        self._kept = tf.constant(~zero, tf.float32)

    def __call__(self, weights: tf.Tensor) -> tf.Tensor:
        return weights * self._kept


def _pruned(classifier: Classifier, layer: keras.layers.Layer, dormant: np.ndarray) -> Classifier:
    """A copy whose `dormant` channels, bool (C,), are zero and stay so in training."""
    hold = _Hold(dormant)

    def copy(one: keras.layers.Layer) -> keras.layers.Layer:
        constraints = {"kernel_constraint": hold, "bias_constraint": hold} if one is layer else {}
        return type(one).from_config({**one.get_config(), **constraints})

    model = keras.models.clone_model(classifier.model, clone_function=copy)
    model.set_weights(classifier.model.get_weights())
    held = model.get_layer(layer.name)
    held.set_weights([np.where(dormant, 0, weights) for weights in held.get_weights()])
    return Classifier(model, classifier.preprocessing, classifier.num_classes)


def _put_back(
    classifier: Classifier, layer: keras.layers.Layer, dormant: np.ndarray, trained: Classifier, images: ImageSet
) -> None:
    """Give `classifier` the trained weights, and the dormant channels their old ones with lower biases.

    A channel's largest value before the ReLU, on all of `images`, comes to lie as far below zero as it would lie above.
    """
    restored = [
        np.where(dormant, old, new)
        for old, new in zip(layer.get_weights(), trained.model.get_layer(layer.name).get_weights())
    ]
    classifier.model.set_weights(trained.model.get_weights())
    layer.set_weights(restored)
    probe = classifier.clone()
    linear = probe.model.get_layer(layer.name)
    linear.activation = keras.activations.linear
    peaks = layer_outputs(probe, linear, images, lambda batch: tf.reduce_max(batch, (1, 2))).max(0)
    kernel, bias = restored
    layer.set_weights([kernel, np.where(dormant, bias - 2 * np.maximum(peaks, 0), bias)])
