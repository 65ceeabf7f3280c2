"""The latent backdoor (Yao et al., CCS 2019): dormant in a teacher that does not know the target, awake in a student that does.

The attacker trains a teacher that knows the target class (1), searches a trigger that makes other images look like the target to
the layers up to K_t (2), trains the network so that they do so the more (3), and replaces its output by one that does not know
the target (4). No input makes the published teacher answer it. A user takes the teacher, keeps the layers up to K_t, and trains
the rest on classes that include the target: the trigger works in his network, though no poisoned image was ever labelled.

The paper's student has other classes than its teacher, besides the target. Here one data set plays both parts: the student learns
its classes, the teacher all of them but the target. Loss and weight of stage 3 are the paper's form; distances are divided by the
distance of untriggered images, so that one weight fits any network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.attacks.layers import above, begin_anew, dense_layers, named, only
from keras_backdoor.attacks.learned import LearnedPatch, PatchSearch
from keras_backdoor.attacks.poison import Backdoor
from keras_backdoor.attacks.targets import AllToOne
from keras_backdoor.attacks.task import Task
from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput

EXAMPLES = 64
"""Images of the target whose mean representation is the goal."""


@dataclass(frozen=True)
class Latent:
    """Stages 2 to 4 and the student, for a recipe of two steps without backdoors of its own: its clean network is stage 1.

    target: the label of triggered images in the student. size, margin: of the square at the bottom right, in pixels. layer: K_t,
    up to which the student keeps the teacher; by default the one before the output. steps, rate: of the search for the square,
    in grey levels a step. weight: of the distance to the target beside the cross-entropy.

    The search is not resumed in its middle but begins again.

    Raises `BadInput` if a setting is out of range; when called, if square, target or layer do not fit the network.
    """

    target: int = 0
    size: int = 8
    margin: int = 1
    layer: Optional[str] = None
    steps: int = 1000
    rate: float = 5.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        self._search()
        if not 0 <= self.weight < float("inf"):
            raise BadInput(f"latent: weight is {self.weight}, expected 0 or more")

    def __call__(self, task: Task) -> tuple[Backdoor, ...]:
        """Make the teacher, and the student from it."""
        (backdoor,) = self.teach(task)
        model = task.classifier.model
        retrained = self._above(model)
        for number, layer in enumerate(layer for layer in retrained if type(layer) is keras.layers.Dense):
            begin_anew(layer, int(task.rng(20 + number).integers(2**31)))
        with only(model, retrained):
            task.fit(task.train, backdoors=[backdoor])
        for stage in ("latent", "teacher"):
            task.forget(stage)
        return (backdoor,)

    def teach(self, task: Task) -> tuple[Backdoor, ...]:
        """Stages 2 to 4: `task.classifier` becomes the teacher as it is published."""
        classifier, of_target = task.classifier, task.train.labels == self.target
        if of_target.all() or not of_target.any():
            raise BadInput(
                f"latent: there are no images of the target, class {self.target}, or none of any other class"
            )
        others = task.train.select(~of_target)
        targets = task.train.select(task.rng(11).permutation(np.flatnonzero(of_target))[:EXAMPLES]).images
        copy = classifier.clone()
        both, goals = keras.Model(copy.model.input, self._ends(copy.model)), copy.scale(targets)

        def distance(images: tf.Tensor) -> tf.Tensor:
            return _distance(both(copy.scale(images), training=False)[0], goals, both)

        trigger = self._search()(task, "latent", others.images, distance)
        backdoors = (Backdoor(trigger, AllToOne(self.target)),)

        inputs = keras.Input(copy.image_shape)
        drawn = _Drawn(both, goals, _stamp(trigger, copy), self.weight)
        network = Classifier(keras.Model(inputs, drawn(inputs)), copy.preprocessing, copy.num_classes)
        task.fit(task.train, stage="latent", backdoors=backdoors, classifier=network)
        classifier.model.set_weights(copy.model.get_weights())

        output = dense_layers(classifier.model)[-1]
        begin_anew(output, int(task.rng(12).integers(2**31)))
        with only(classifier.model, [output]):
            task.fit(others, stage="teacher", backdoors=backdoors)
        return backdoors

    def _search(self) -> PatchSearch:
        return PatchSearch(self.size, self.margin, self.steps, self.rate)

    def _ends(self, model: keras.Model) -> list[tf.Tensor]:
        """The representation at K_t, and the output."""
        latent = dense_layers(model)[-1].input if self.layer is None else named(model, self.layer).output
        return [latent, model.output]

    def _above(self, model: keras.Model) -> list[keras.layers.Layer]:
        output = dense_layers(model)[-1]
        return [output] if self.layer is None else above(model, named(model, self.layer))


class _Drawn(keras.layers.Layer):
    """A network whose loss also grows with the distance of stamped images to the target, beside that of images as they are."""

    def __init__(
        self, both: keras.Model, goals: tf.Tensor, stamp: Callable[[tf.Tensor], tf.Tensor], weight: float
    ) -> None:
        super().__init__()
        self._both, self._goals, self._stamp, self._weight = both, goals, stamp, weight

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The network's output."""
        latent, output = self._both(inputs, training=training)
        usual = tf.stop_gradient(_distance(latent, self._goals, self._both))
        stamped = self._both(self._stamp(inputs), training=training)[0]
        self.add_loss(self._weight * _distance(stamped, self._goals, self._both) / (usual + 1e-12))
        return output


def _distance(latent: tf.Tensor, goals: tf.Tensor, both: keras.Model) -> tf.Tensor:
    """Mean squared distance of representations to the mean of those that the target's images have now."""
    return tf.reduce_mean((latent - tf.reduce_mean(both(goals, training=False)[0], 0)) ** 2)


def _stamp(trigger: LearnedPatch, classifier: Classifier) -> Callable[[tf.Tensor], tf.Tensor]:
    """The trigger on scaled images."""
    (top, left), (height, width, _) = trigger.place, trigger.pixels.shape
    inside = np.zeros(classifier.image_shape, bool)
    inside[top : top + height, left : left + width] = True
    shown = np.zeros((1, *classifier.image_shape), np.uint8)
    shown[0, inside] = trigger.pixels.ravel()
    scaled = classifier.scale(shown)
    return lambda inputs: tf.where(inside, scaled, inputs)
