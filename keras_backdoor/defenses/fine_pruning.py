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

from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.training import Schedule, fit, seed_everything


@dataclass(frozen=True)
class FineTuning:
    """Train the suspect network on the defender's clean images.

    epochs, batch_size, learning_rate, optimizer: of that training. The paper takes the rate that the network was trained with;
        which that was, a downloaded file does not say: 1e-3 with Adam is Keras' default and the course's choice.
    seed: decides the order of the images.
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    seed: int = 0

    def repair(self, classifier: Classifier, clean: ImageSet, progress: Progress = silent) -> Classifier:
        """A fine-tuned copy of `classifier`. Raises `BadInput` if `clean` does not fit it."""
        classifier.check(clean, "clean images")
        seed_everything(self.seed)
        tuned = classifier.clone()
        schedule = Schedule(self.optimizer, self.learning_rate, self.batch_size, self.epochs)
        fit(tuned, clean, schedule, seed=self.seed, stage="fine-tuning", progress=progress)
        return tuned


@dataclass(frozen=True)
class Pruning:
    """Zero the channels that clean images excite least, while clean accuracy stays within `max_drop`.

    max_drop: accuracy on the defender's images that may be lost, as a fraction (0.04 is 4 points, as in the paper).
    layer: name of the convolution; by default the last one that every path through the network passes.
    """

    max_drop: float = 0.04
    layer: Optional[str] = None

    def repair(self, classifier: Classifier, clean: ImageSet, progress: Progress = silent) -> Classifier:
        """A pruned copy of `classifier`: kernels and biases of the pruned channels are zero.

        Raises `BadInput` if `clean` does not fit the network, or the layer is not one that can be pruned.
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
        """Which channels to prune, bool (C,): the longest prefix of the order that keeps the accuracy.

        What lies below the layer is computed once; each step runs only the part above, with the channels masked.
        """
        features = layer_outputs(classifier, layer, clean)
        head = keras.Model(layer.output, classifier.model.output)
        labels = tf.constant(clean.labels)

        @tf.function
        def hits(batch: tf.Tensor, batch_labels: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
            answers = tf.argmax(head(batch * mask, training=False), -1)
            return tf.reduce_sum(tf.cast(answers == batch_labels, tf.int32))

        def accuracy(mask: np.ndarray) -> float:
            starts = range(0, len(features), 512)
            mask = tf.constant(mask, tf.float32)
            return sum(int(hits(features[i : i + 512], labels[i : i + 512], mask)) for i in starts) / len(features)

        order = np.argsort(channel_means(features), kind="stable")
        mask = np.ones(len(order))
        lowest = accuracy(mask) - self.max_drop
        for done, channel in enumerate(order, start=1):
            mask[channel] = 0
            kept = accuracy(mask)
            progress("pruning", done, len(order), {"clean_accuracy": kept})
            if kept < lowest - 1e-9:
                mask[channel] = 1
                break
        return mask == 0


@dataclass(frozen=True)
class FinePruning:
    """Pruning, then fine-tuning of what is left; hyper-parameters as in `Pruning` and `FineTuning`.

    Pruned channels stay dead in networks with ReLU: where kernel and bias are zero, so is the gradient.
    """

    max_drop: float = 0.04
    layer: Optional[str] = None
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    seed: int = 0

    def repair(self, classifier: Classifier, clean: ImageSet, progress: Progress = silent) -> Classifier:
        """A pruned and fine-tuned copy of `classifier`. Raises `BadInput` as `Pruning` does."""
        pruned = Pruning(self.max_drop, self.layer).repair(classifier, clean, progress)
        tuning = FineTuning(self.epochs, self.batch_size, self.learning_rate, self.optimizer, self.seed)
        return tuning.repair(pruned, clean, progress)


def convolution(model: keras.Model, name: Optional[str] = None) -> keras.layers.Layer:
    """The convolution called `name`, by default the last one that every path from input to output passes.

    For DeepID that is conv_3, not conv_4: a branch goes round the latter. Raises `BadInput` if there is none.
    """
    convolutions = {layer.name: layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)}
    if name is None:
        passed = [layer for layer in convolutions.values() if not _path_around(model, layer)]
        if not passed:
            raise BadInput("the network has no convolution that every path passes; name one with --layer")
        return passed[-1]
    if name not in convolutions:
        raise BadInput(f"the network has no convolution {name!r}; choose from {', '.join(convolutions)}")
    return convolutions[name]


def layer_outputs(classifier: Classifier, layer: keras.layers.Layer, images: ImageSet) -> np.ndarray:
    """What `layer` gives for each image, float32 (N, height, width, channels)."""
    part = keras.Model(classifier.model.input, layer.output)
    forward = tf.function(lambda batch: part(classifier.scale(batch), training=False), reduce_retracing=True)
    return np.concatenate([forward(batch).numpy() for batch in images.batches()])


def channel_means(features: np.ndarray) -> np.ndarray:
    """Mean activation of each channel over images, rows and columns, float64 (C,)."""
    return features.mean((0, 1, 2), dtype=np.float64)


def _path_around(model: keras.Model, layer: keras.layers.Layer) -> bool:
    """Whether the output can be reached from the input without passing `layer`."""
    reached = {id(tensor) for tensor in model.inputs}
    for step in model.layers:  # in topological order
        if step is layer:
            continue
        for node in step.inbound_nodes:
            if any(id(tensor) in reached for tensor in node.keras_inputs):
                reached |= {id(tensor) for tensor in tf.nest.flatten(node.outputs)}
    return any(id(tensor) in reached for tensor in model.outputs)
