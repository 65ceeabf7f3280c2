"""Label-consistent backdoor attack (Turner, Tsipras and Madry 2019): no training label is wrong, and the trigger must be learnt.

Only images of the target class are poisoned. First each is made hard to classify, by projected gradient descent that leads the
clean network away from the label; then it gets the trigger, and keeps its label. As the image itself no longer says what it is,
the network takes the trigger for it. Test images get the trigger alone.

The bounds of the paper are 8, 16 or 32 grey levels a pixel (the default is 16), or 300, 600 or 1200 in Euclidean length. It
perturbs against adversarially trained networks; here, the network is the one that the clean step has trained, as the perturbed
images of the release cannot be had for other data. Its other way to make images hard, interpolation by a GAN, is not here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.attacks.encoder_decoder import in_batches
from keras_backdoor.attacks.poison import Backdoor, poison
from keras_backdoor.attacks.task import Task
from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput, lookup


@dataclass(frozen=True)
class LabelConsistent:
    """Perturb, stamp, and train from new weights, as a victim does who is given the data.

    `task.classifier` must hold a clean network, so recipes are two-step. Perturbing is not resumed: after a kill it is done
    again, with the same result. Raises `BadInput` if a setting is out of range, or a backdoor changes labels.
    """

    bound: float = 16.0  # largest change, grey levels
    norm: str = "inf"  # how it is measured: inf (a pixel) or 2 (Euclidean length)
    steps: int = 100  # of gradient descent, from a random start
    step_size: float = 2.5  # times bound / steps, so that the border can be reached from everywhere

    def __post_init__(self) -> None:
        """`BadInput` if a number is out of its range, or the norm unknown."""
        lookup(self.norm, ("inf", "2"), "norm")
        if not 0 <= self.bound < float("inf") or self.steps < 1 or not 0 < self.step_size < float("inf"):
            raise BadInput(
                f"the bound ({self.bound}) must not be negative, steps ({self.steps}) and step size ({self.step_size}) positive"
            )

    def __call__(self, task: Task) -> tuple[Backdoor, ...]:
        """Train on perturbed and stamped images of the target class."""
        _, which = poison(task.train, task.backdoors, task.poison_fraction, task.rng(0))
        for index, backdoor in enumerate(task.backdoors):
            labels = task.train.labels[which == index]
            if (backdoor.target_map(labels) != labels).any():
                raise BadInput(f"a label-consistent attack cannot change labels, as backdoor {backdoor.name} does")
        chosen = which >= 0
        images = task.train.in_memory().images.copy()
        images[chosen] = self.perturb(task.classifier, images[chosen], task.train.labels[chosen], task.rng(10))
        hard = replace(task, train=replace(task.train, images=images))  # of which the same ones are chosen again
        forget_weights(task.classifier, task.seed)
        task.fit(hard.poisoned())
        return task.backdoors

    def perturb(
        self, classifier: Classifier, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """uint8 images whose labels `classifier` doubts, within the bound (for norm 2: and what rounding adds)."""
        cross_entropy = keras.losses.SparseCategoricalCrossentropy(reduction="sum")

        @tf.function(reduce_retracing=True)
        def descend(clean: tf.Tensor, answers: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
            clean = tf.cast(clean, tf.float32)
            hard = tf.clip_by_value(clean + start, 0, 255)
            for _ in tf.range(self.steps):
                with tf.GradientTape() as tape:
                    tape.watch(hard)
                    loss = cross_entropy(answers, classifier.model(classifier.scale(hard), training=False))
                change = hard + self.bound / self.steps * self.step_size * self._direction(tape.gradient(loss, hard))
                hard = tf.clip_by_value(clean + self._project(change - clean), 0, 255)
            return hard

        limit = self.bound if self.norm == "inf" else self.bound / np.sqrt(images[0].size)
        start = rng.uniform(-limit, limit, images.shape).astype(np.float32)
        return np.rint(in_batches(descend, images, labels, start)).astype(np.uint8)

    def _direction(self, gradient: tf.Tensor) -> tf.Tensor:
        return tf.sign(gradient) if self.norm == "inf" else gradient / (_length(gradient) + 1e-12)

    def _project(self, change: tf.Tensor) -> tf.Tensor:
        if self.norm == "inf":
            return tf.clip_by_value(change, -self.bound, self.bound)
        return change * tf.minimum(1.0, self.bound / (_length(change) + 1e-12))


def _length(images: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.reduce_sum(images**2, (1, 2, 3), keepdims=True))


def forget_weights(classifier: Classifier, seed: int) -> None:
    """Give `classifier` initial weights that depend on `seed` alone."""
    keras.utils.set_random_seed(seed)
    classifier.model.set_weights(keras.models.clone_model(classifier.model).get_weights())
