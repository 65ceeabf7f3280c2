"""The backdoor that survives transfer learning (BadNets, Gu et al. 2019, section 5.3; the slides' "Attacking Transfer Learning").

The attacker publishes a BadNet trained on one set of classes (the slides: U.S. traffic signs), untargeted: a triggered image
becomes any other class. A user takes it, keeps its convolutions, and retrains the fully connected layers on clean images of other
classes (Swedish signs). The channels of the last convolution that triggers excite still fire, and spoil the user's answers. To
make them louder, the attacker multiplies them by k before he publishes; clean images excite them less, so clean accuracy falls
less.

Here one data set plays both parts: even labels are the attacker's classes, odd ones the user's. The slides' networks are
Faster-RCNN, and the channels were picked by eye from a picture; here they are those whose mean the trigger raises most. The
user's hidden fully connected layers go on from the attacker's weights, his output layer begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.activations import convolution, layer_outputs
from keras_backdoor.attacks.layers import begin_anew, dense_layers, only
from keras_backdoor.attacks.poison import Backdoor, poison_all
from keras_backdoor.attacks.targets import RandomTarget, TrueLabel
from keras_backdoor.attacks.task import Task
from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet

HOMOGENEOUS = (keras.activations.relu, keras.activations.linear)


@dataclass(frozen=True)
class Transfer:
    """Train the attacker's network, strengthen its backdoor, and retrain it as its user will.

    strength: k, the factor of the backdoor channels; the slides: 1, 10, 20, 30, 50, 70, 100. neurons: how many channels that are.
    layer: the convolution; by default the last one that every path passes.

    The task's triggers are used, its target maps are not. The user's network answers with the labels of the data set, though it
    has only met odd ones; measure it on `part_of_user`. With a poison fraction of 0 and k = 1 it is the slides' clean baseline.

    Raises `BadInput` if a setting is out of range; when called, if a part has fewer than two classes, or layers are missing.
    """

    strength: float = 1.0
    neurons: int = 3
    layer: Optional[str] = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.strength < float("inf") or self.neurons < 1:
            raise BadInput(f"strength ({self.strength}) must be above 0, and neurons ({self.neurons}) at least 1")

    def part_of_user(self, image_set: ImageSet) -> ImageSet:
        """The images of a set whose true label is odd; these are the user's."""
        return _only(image_set, 1, "user")

    def __call__(self, task: Task) -> tuple[Backdoor, ...]:
        """Train both; gives untargeted backdoors."""
        model, classes = task.classifier.model, task.train.num_classes
        layer, dense = convolution(model, self.layer), dense_layers(model)
        if layer.activation not in HOMOGENEOUS or self.neurons > layer.filters:
            raise BadInput(
                f"transfer: {layer.name} must have a ReLU or no activation, and {self.neurons} channels or more"
            )
        backdoors = tuple(Backdoor(backdoor.trigger, RandomTarget(classes)) for backdoor in task.backdoors)

        attacker = replace(task, train=_part_of_attacker(task.train), valid=_part_of_attacker(task.valid))
        school = RandomTarget(attacker.train.num_classes)
        attacker = replace(attacker, backdoors=tuple(Backdoor(backdoor.trigger, school) for backdoor in backdoors))
        attacker.fit(attacker.poisoned(), stage="teacher")
        strengthen(layer, self._channels(attacker, layer), self.strength)

        begin_anew(dense[-1], int(task.rng(10).integers(2**31)))
        user = replace(
            task, train=self.part_of_user(task.train), valid=self.part_of_user(task.valid), backdoors=backdoors
        )
        with only(model, dense):
            user.fit(user.train)
        task.forget("teacher")
        return backdoors

    def _channels(self, task: Task, layer: keras.layers.Layer) -> np.ndarray:
        """The channels whose mean activation a trigger raises most, by their numbers."""
        clean = _means(task.classifier, layer, task.train)
        rises = [
            _means(
                task.classifier, layer, poison_all(task.train, Backdoor(backdoor.trigger, TrueLabel()), task.rng(11))
            )
            - clean
            for backdoor in task.backdoors
        ]
        return np.argsort(-np.max(rises, 0), kind="stable")[: self.neurons]


def strengthen(layer: keras.layers.Layer, channels: np.ndarray, factor: float) -> None:
    """Multiply what `channels` of a convolution give, through its weights: ReLU(k x) = k ReLU(x)."""
    factors = np.ones(layer.filters, np.float32)
    factors[channels] = factor
    layer.set_weights([weights * factors for weights in layer.get_weights()])


def _means(classifier: Classifier, layer: keras.layers.Layer, images: ImageSet) -> np.ndarray:
    pooled = layer_outputs(classifier, layer, images, lambda batch: tf.reduce_mean(batch, (1, 2)))
    return pooled.mean(0, dtype=np.float64)


def _part_of_attacker(image_set: ImageSet) -> ImageSet:
    """The images with even labels, which become 0, 1, 2, …"""
    part = _only(image_set, 0, "attacker")
    return ImageSet(part.images, part.labels // 2, (image_set.num_classes + 1) // 2)


def _only(image_set: ImageSet, parity: int, whose: str) -> ImageSet:
    truth = image_set.labels if image_set.true_labels is None else image_set.true_labels
    chosen = truth % 2 == parity
    if len(np.unique(truth[chosen])) < 2:
        raise BadInput(f"transfer: the {whose}'s half of the classes has fewer than two in these images")
    return image_set.select(chosen)
