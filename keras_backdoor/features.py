"""What a network's last layer sees of images: shared by whoever wants to know where clean and triggered ones lie."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.activations import last_layer
from keras_backdoor.classifier import Classifier
from keras_backdoor.files import PathLike, write_arrays
from keras_backdoor.images import ImageSet

COUNT = 150
"""Images of each kind that are kept."""


def features(classifier: Classifier, images: ImageSet) -> np.ndarray:
    """What the last layer with weights takes in, float32 (N, D); of maps, the mean over rows and columns."""
    _, inputs = last_layer(classifier.model)
    below = keras.Model(classifier.model.inputs, inputs)
    axes = list(range(1, len(inputs.shape) - 1))
    forward = tf.function(
        lambda batch: tf.reduce_mean(below(classifier.scale(batch), training=False), axes),
        input_signature=[tf.TensorSpec((None, *classifier.image_shape), tf.uint8)],
    )
    return np.concatenate([forward(batch).numpy() for batch in images.batches()])


def save_features(path: PathLike, classifier: Classifier, clean: ImageSet, triggered: ImageSet) -> None:
    """Write the features of some clean images, and of some triggered ones, as .npz: those that the report draws.

    Arrays: `clean` and `triggered`, float32 (up to COUNT, D), and `labels` and `targets`, int64, of the former and the latter.
    The images are evenly spaced; triggered ones that belong to the target label anyway are left out, as far as that is known.
    """
    if triggered.true_labels is not None and (matter := triggered.true_labels != triggered.labels).any():
        triggered = triggered.select(np.flatnonzero(matter))
    arrays: dict[str, np.ndarray] = {}
    for name, labels, image_set in (("clean", "labels", clean), ("triggered", "targets", triggered)):
        chosen = np.unique(np.linspace(0, len(image_set) - 1, COUNT).round().astype(int))
        some = image_set.select(chosen)
        arrays |= {name: features(classifier, some), labels: some.labels}
    write_arrays(path, arrays)
