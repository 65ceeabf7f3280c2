"""Feature collision (Shafahi et al., NeurIPS 2018, Poison Frogs), used as a backdoor.

A base image of the target class is moved so that the network's features of it become those of an image t of another class, while
it stays near to what it was: minimise ||f(x) - f(t)||^2 + beta ||x - base||^2 by forward-backward splitting (algorithm 1), a
step down the first term and then a proximal step of the second. Both terms are relative to ||f(t)||^2 and ||base||^2 here, so
that one beta fits all networks and sizes; the paper scales its 0.25 by (features / pixels)^2. The proximal step is exact; that
of algorithm 1 lacks a factor of 2, as if beta were half as large.

The label stays, and is right. The paper wants a single image t to be misclassified; the lecture's table, which is ABL's, has the
attack among backdoors, without saying how. Here the images t are images of other classes with the trigger on them, one for each
base: what collides is what triggered images have in common, as in hidden-trigger attacks (Saha et al. 2020).

f is what enters the last layer. As in section 4.2 of the paper (end-to-end training), each base first gets a watermark: opacity
t + (1 - opacity) base.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.attacks.choice import choose
from keras_backdoor.attacks.encoder_decoder import in_batches
from keras_backdoor.attacks.poison import Backdoor
from keras_backdoor.attacks.task import Task
from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet


@dataclass(frozen=True)
class FeatureCollision:
    """Make the poison with the clean network, and go on training it on all the data.

    `task.classifier` must hold a clean network, so recipes are two-step. The task has one backdoor, which sends everything to one
    class; `poison_fraction` is the share of that class that is moved. Making the poison is not resumed: after a kill it is made
    again, with the same result.

    Raises `BadInput` if a setting is out of range, or the task has other backdoors.
    """

    opacity: float = 0.3  # of the watermark, 0..1; 0 leaves it out
    beta: float = 0.25  # weight of staying near
    steps: int = 100  # of forward-backward splitting
    rate: float = (
        1.0  # first step size; a step that raises the objective is undone and halves it, another grows it by a tenth
    )
    epochs: int = 10  # of going on, at most those of the task
    learning_rate: float = 0.0  # of going on, throughout; 0: the task's
    layer: str = ""  # whose outputs the features are; "": what enters the last layer

    def __post_init__(self) -> None:
        """`BadInput` if a number is out of its range."""
        if not 0 <= self.opacity <= 1 or not 0 <= self.beta < float("inf") or self.steps < 1 or not self.rate > 0:
            raise BadInput(
                f"opacity ({self.opacity}) must lie in 0..1, beta ({self.beta}) must not be negative, "
                f"and steps ({self.steps}) and rate ({self.rate}) must be positive"
            )

    def __call__(self, task: Task) -> tuple[Backdoor, ...]:
        """Train on the data with the moved images in it."""
        schedule = replace(task.schedule, epochs=min(self.epochs, task.schedule.epochs))
        if self.learning_rate:
            schedule = replace(schedule, learning_rate=self.learning_rate, steps=())
        task.fit(self.poisoned(task), schedule=schedule)
        return task.backdoors

    def poisoned(self, task: Task) -> ImageSet:
        """The training set with the moved images in the place of their bases."""
        labels, classes = task.train.labels, task.train.num_classes
        targets = {int(label) for backdoor in task.backdoors for label in backdoor.target_map(np.arange(classes))}
        if len(task.backdoors) != 1 or len(targets) != 1:
            raise BadInput("feature collision needs one backdoor that sends all images to one class")
        rng, images = task.rng(10), task.train.in_memory().images.copy()
        of_target = labels == targets.pop()
        chosen = np.flatnonzero(choose(labels, classes, of_target, task.poison_fraction, rng))
        others = np.flatnonzero(~of_target)
        sources = rng.choice(others, len(chosen), replace=len(chosen) > len(others))
        triggered = task.backdoors[0].trigger(images[sources], rng)
        images[chosen] = self.collide(task.classifier, images[chosen], triggered)
        return ImageSet(images, labels, classes, labels)

    def collide(self, classifier: Classifier, bases: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """`bases`, uint8 (N, H, W, C), moved so that the network's features of them become those of `targets`; uint8."""
        model = classifier.model
        tensor = model.get_layer(self.layer).output if self.layer else model.layers[-1].input
        part = keras.Model(model.input, tensor)

        def features(x: tf.Tensor) -> tf.Tensor:
            outputs = part(classifier.scale(255 * x), training=False)
            return tf.reshape(outputs, (tf.shape(x)[0], -1))

        @tf.function(reduce_retracing=True)
        def split(base: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
            base, target = tf.cast(base, tf.float32) / 255, tf.cast(target, tf.float32) / 255
            goal = features(target)
            length = tf.reduce_sum(goal**2, 1) + 1e-6
            base = self.opacity * target + (1 - self.opacity) * base
            beta = self.beta / (tf.reduce_sum(base**2, (1, 2, 3), keepdims=True) + 1e-6)

            def parts(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    far = tf.reduce_sum((features(x) - goal) ** 2, 1) / length
                return far + tf.reduce_sum(beta * (x - base) ** 2, (1, 2, 3)), tape.gradient(far, x)

            best, rate = base, tf.fill((tf.shape(base)[0], 1, 1, 1), self.rate)
            objective, slope = parts(best)
            for _ in tf.range(self.steps):
                forward = best - rate * slope
                moved = tf.clip_by_value((forward + 2 * rate * beta * base) / (1 + 2 * rate * beta), 0, 1)
                value, new_slope = parts(moved)
                better = value < objective
                wide = better[:, None, None, None]
                best, slope = tf.where(wide, moved, best), tf.where(wide, new_slope, slope)
                objective, rate = tf.where(better, value, objective), tf.where(wide, 1.1 * rate, rate / 2)
            return best

        return np.rint(255 * in_batches(split, bases, targets)).astype(np.uint8)
