"""Fine-pruning (Liu, Dolan-Gavitt and Garg, RAID 2018), and its two halves alone.

A backdoor is thought to live in channels of the last convolution that clean images do not excite. Pruning zeroes channels in
increasing order of their mean activation on clean images, as long as clean accuracy allows; fine-tuning then trains the rest
on clean images. Assumed: a small set of clean, labelled images. No trigger and no target label need to be known.

Both papers that compare it find that it fails where clean and triggered images excite the same channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.activations import channel_means, convolution, layer_outputs, path_around
from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.training import Schedule, check_seed, fit, seed_everything

# The paper fine-tunes at the rate that the network was trained with. A file does not say which that was; 1e-3 with Adam is the
# course's choice.


@dataclass(frozen=True)
class FineTuning:
    """Train the suspect network on clean images.

    Raises `BadInput` if a hyper-parameter is out of its range, as the other two do.
    """

    epochs: int = 10  # passes over the clean images
    batch_size: int = 32  # images a step
    learning_rate: float = 1e-3  # of the optimizer
    optimizer: str = "adam"  # adam, adadelta or sgd
    seed: int = 0  # decides the order of the images

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_seed(self.seed)
        self._schedule()

    def repair(self, classifier: Classifier, clean: ImageSet, progress: Progress = silent) -> Classifier:
        """A fine-tuned copy of `classifier`. Raises `BadInput` if `clean` does not fit it."""
        classifier.check(clean, "clean images")
        seed_everything(self.seed)
        tuned = classifier.clone()
        fit(tuned, clean, self._schedule(), seed=self.seed, stage="fine-tuning", progress=progress)
        return tuned

    def _schedule(self) -> Schedule:
        return Schedule(self.optimizer, self.learning_rate, self.batch_size, self.epochs)


@dataclass(frozen=True)
class Pruning:
    """Zero the channels that clean images excite least, while clean accuracy allows."""

    max_drop: float = 0.04  # accuracy on the clean images that may be lost, as a fraction (the paper: 4 points)
    layer: Optional[str] = None  # convolution to prune; by default the last one that every path passes

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 <= self.max_drop <= 1:
            raise BadInput(f"max_drop is {self.max_drop}, expected a fraction in 0..1")

    def repair(self, classifier: Classifier, clean: ImageSet, progress: Progress = silent) -> Classifier:
        """A copy of `classifier` in which kernels and biases of the pruned channels are zero.

        Raises `BadInput` if `clean` does not fit the network, or it has no such layer.
        """
        classifier.check(clean, "clean images")
        layer = convolution(classifier.model, self.layer)
        pruned = self._channels(classifier, layer, clean, progress)
        repaired = classifier.clone()
        target = repaired.model.get_layer(layer.name)
        target.set_weights([np.where(pruned, 0, weights) for weights in target.get_weights()])
        return repaired

    def _channels(
        self, classifier: Classifier, layer: keras.layers.Layer, clean: ImageSet, progress: Progress
    ) -> np.ndarray:
        """Which channels to prune, bool (C,): as many, in order, as keep the accuracy.

        What lies below the layer is computed once; each step runs only what lies above it or beside it, with the channels set to
        what they give when their kernels and biases are zero.
        """
        features = layer_outputs(classifier, layer, clean)
        beside = path_around(classifier.model, layer)
        rest = keras.Model(
            [layer.output, *classifier.model.inputs] if beside else layer.output, classifier.model.output
        )
        dead = layer.activation(tf.zeros(features.shape[-1]))

        @tf.function(reduce_retracing=True)
        def answers(images: tf.Tensor, batch: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
            masked = batch * mask + dead * (1 - mask)
            return tf.argmax(rest([masked, classifier.scale(images)] if beside else masked, training=False), -1)

        def accuracy(mask: np.ndarray) -> float:
            pairs = zip(clean.batches(512), np.split(features, range(512, len(features), 512)))
            parts = [answers(images, batch, mask).numpy() for images, batch in pairs]
            return float(np.mean(np.concatenate(parts) == clean.labels))

        order = np.argsort(channel_means(features), kind="stable")
        mask = np.ones(len(order), np.float32)
        lowest = accuracy(mask) - self.max_drop - 1e-9
        for done, channel in enumerate(order, start=1):
            mask[channel] = 0
            kept = accuracy(mask)
            progress("pruning", done, len(order), {"clean_accuracy": kept})
            if kept < lowest:
                mask[channel] = 1
                break
        return mask == 0


@dataclass(frozen=True)
class FinePruning:
    """Prune, then fine-tune what is left.

    Pruned channels stay dead in networks with ReLU: where kernel and bias are zero, so is the gradient.
    """

    max_drop: float = 0.04  # accuracy on the clean images that pruning may lose, as a fraction (the paper: 4 points)
    layer: Optional[str] = None  # convolution to prune; by default the last one that every path passes
    epochs: int = 10  # passes over the clean images in fine-tuning
    batch_size: int = 32  # images a step
    learning_rate: float = 1e-3  # of the optimizer
    optimizer: str = "adam"  # adam, adadelta or sgd
    seed: int = 0  # decides the order of the images

    def __post_init__(self) -> None:
        """Check the ranges."""
        self._halves()

    def repair(self, classifier: Classifier, clean: ImageSet, progress: Progress = silent) -> Classifier:
        """A pruned and fine-tuned copy of `classifier`. Raises `BadInput` as `Pruning` and `FineTuning` do."""
        pruning, tuning = self._halves()
        return tuning.repair(pruning.repair(classifier, clean, progress), clean, progress)

    def _halves(self) -> tuple[Pruning, FineTuning]:
        tuning = FineTuning(self.epochs, self.batch_size, self.learning_rate, self.optimizer, self.seed)
        return Pruning(self.max_drop, self.layer), tuning
