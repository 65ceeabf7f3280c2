"""Input-aware dynamic backdoor attack (Nguyen and Tran, NeurIPS 2020): each image has a trigger of its own.

A generator draws a pattern from the image, a second one a sparse mask, and the mask says where the pattern replaces the image.
Both are trained: the masks first and alone, to be sparse and different for different images; then patterns and classifier
together. An image with the trigger of another image keeps its true label (cross triggers), so that no trigger can be reused.

Constants are those of the released code, which BackdoorBench takes over; there, the pattern's rate falls 100 epochs after the
classifier's, here together with it. Left out is its augmentation (random crops of up to 5
pixels, rotations up to 10 degrees), and the last, smaller batch of an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.attacks.encoder_decoder import encoder_decoder, shuffled, unit
from keras_backdoor.attacks.input_aware_trigger import InputAwareTrigger, paste, sharpen
from keras_backdoor.attacks.poison import Backdoor, poison_all
from keras_backdoor.attacks.targets import AllToAll, AllToOne, TargetMap
from keras_backdoor.attacks.task import Task
from keras_backdoor.files import BadInput
from keras_backdoor.metrics import score
from keras_backdoor.training import OPTIMIZERS


@dataclass(frozen=True)
class InputAware:
    """Train generators and classifier. The classifier's optimizer, rates, batches and epochs are those of the task.

    The task needs no backdoors; its `poison_fraction` is the share of each batch that is triggered, and as many images are cross-
    triggered, as the diversity loss compares the two. Neither stage is resumed in its middle: after a kill it begins again.

    Raises `BadInput` if a batch holds no triggered image or has no room for the cross-triggered, or there is no such target.
    """

    target: Optional[int] = 0  # class that triggered images become; None: class y becomes y + 1
    widths: tuple[int, ...] = (32, 64, 128)  # filters of the generators, on the way down
    # for masks, a tenth after 10 epochs and again after 20; for patterns, falling as the task's
    rate: float = 0.01  # of Adam (0.5, 0.9) on both generators
    mask_epochs: int = 25  # passes over the images for the masks alone
    mask_density: float = 0.032  # how much of an image may be masked, 0..1
    lambda_norm: float = 100.0  # weight of what is masked beyond that
    lambda_div: float = 1.0  # weight of the diversity loss

    def __call__(self, task: Task) -> tuple[Backdoor, ...]:
        """Train; gives the learned trigger's backdoor."""
        size, classes, shape = (
            min(task.schedule.batch_size, len(task.train)),
            task.train.num_classes,
            task.train.image_shape,
        )
        number = int(task.poison_fraction * size)
        if not 1 <= number <= size // 2:
            raise BadInput(f"{task.poison_fraction} of a batch of {size} must be one image at least, and half at most")
        if self.target is not None and not 0 <= self.target < classes:
            raise BadInput(f"the target is {self.target}, expected one of 0..{classes - 1}")
        target_map: TargetMap = AllToAll(classes) if self.target is None else AllToOne(self.target)
        keras.utils.set_random_seed(task.seed)  # the generators' weights, whatever was trained before
        masks, pattern = encoder_decoder(shape, 1, self.widths), encoder_decoder(shape, shape[-1], self.widths)
        self._train_masks(task, masks)
        backdoor = Backdoor(InputAwareTrigger(pattern, masks), target_map)
        self._train_jointly(task, backdoor, pattern, masks, number)
        return (backdoor,)

    def _train_masks(self, task: Task, masks: keras.Model) -> None:
        optimizer, rng = _adam(self.rate), task.rng(10)
        images, size = task.train.in_memory().images, task.schedule.batch_size

        @tf.function
        def step(first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                ones, twos = (sharpen(masks(unit(batch), training=True)) for batch in (first, second))
                density = tf.reduce_mean(tf.nn.relu(ones - self.mask_density))
                likeness = diversity_loss(unit(first), unit(second), ones, twos)
                loss = self.lambda_norm * density + self.lambda_div * likeness
            optimizer.minimize(loss, masks.trainable_variables, tape)
            return density, likeness

        for epoch in range(self.mask_epochs):
            optimizer.learning_rate.assign(self.rate * 0.1 ** ((epoch >= 10) + (epoch >= 20)))
            for here, there in zip(*(shuffled(len(images), size, rng) for _ in range(2))):
                density, likeness = step(images[here], images[there])
            figures = {"density": float(density), "diversity_loss": float(likeness)}
            task.progress("masks", epoch + 1, self.mask_epochs, figures)

    def _train_jointly(
        self, task: Task, backdoor: Backdoor, pattern: keras.Model, masks: keras.Model, number: int
    ) -> None:
        classifier, schedule, rng = task.classifier, task.schedule, task.rng(11)
        images, labels = task.train.in_memory().images, task.train.labels
        wanted = backdoor.target_map(labels)
        optimizers = OPTIMIZERS[schedule.optimizer](schedule.learning_rate), _adam(self.rate)
        cross_entropy = keras.losses.SparseCategoricalCrossentropy()

        @tf.function
        def step(first: tf.Tensor, second: tf.Tensor, answers: tf.Tensor) -> tf.Tensor:
            own, to_cross, others = unit(first[:number]), unit(first[number : 2 * number]), unit(second)
            rest = unit(first[2 * number :])
            with tf.GradientTape() as tape:
                patterns, foreign = pattern(own, training=True), pattern(others, training=True)
                triggered = paste(own, patterns, sharpen(masks(own)))
                crossed = paste(to_cross, foreign, sharpen(masks(others)))
                inputs = classifier.scale(255 * tf.concat([triggered, crossed, rest], 0))
                loss = cross_entropy(answers, classifier.model(inputs, training=True))
                total = loss + self.lambda_div * diversity_loss(own, others, patterns, foreign)
            variables = classifier.model.trainable_variables, pattern.trainable_variables
            for optimizer, *pairs in zip(optimizers, tape.gradient(total, variables), variables):
                optimizer.apply_gradients(zip(*pairs))
            return loss

        for epoch in range(schedule.epochs):
            optimizers[0].learning_rate.assign(schedule.rate(epoch))
            optimizers[1].learning_rate.assign(self.rate * schedule.rate(epoch) / schedule.learning_rate)
            for here, there in zip(*(shuffled(len(images), schedule.batch_size, rng) for _ in range(2))):
                answers = np.concatenate([wanted[here[:number]], labels[here[number:]]])
                loss = step(images[here], images[there[number : 2 * number]], answers)
            rates = score(classifier, task.valid, {"": poison_all(task.valid, backdoor, task.rng(1))})
            figures = {"clean_accuracy": rates.clean_accuracy, "attack_success_rate": rates.attack_success_rate[""]}
            task.progress("badnet", epoch + 1, schedule.epochs, {"loss": float(loss), **figures})


def _adam(rate: float) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(rate, beta_1=0.5, beta_2=0.9, epsilon=1e-8)


def diversity_loss(images: tf.Tensor, others: tf.Tensor, made: tf.Tensor, made_of_others: tf.Tensor) -> tf.Tensor:
    """Mean of ||image - other|| / ||made of image - made of other|| over pairs: small if what is made differs."""

    def distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return tf.sqrt(tf.reduce_mean((a - b) ** 2, (1, 2, 3)) + 1e-14)  # no infinite slope where nothing differs

    return tf.reduce_mean(distance(images, others) / (distance(made, made_of_others) + 1e-7))
