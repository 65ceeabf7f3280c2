"""What channels of a network do: shared by the defenses that look at neurons, and by attackers who know them."""

from __future__ import annotations

from typing import Callable, Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet


def convolution(model: keras.Model, name: Optional[str] = None) -> keras.layers.Layer:
    """The convolution called `name`, by default the last one that every path from input to output passes.

    For DeepID that is conv_3, not conv_4: a branch goes round the latter. Raises `BadInput` if there is none.
    """
    convolutions = {layer.name: layer for layer in model.layers if type(layer) is keras.layers.Conv2D}
    if name is None:
        passed = [layer for layer in convolutions.values() if not path_around(model, layer)]
        if not passed:
            raise BadInput("the network has no convolution that every path passes; name one with --layer")
        return passed[-1]
    if name not in convolutions:
        raise BadInput(f"the network has no convolution {name!r}; choose from {', '.join(convolutions)}")
    return convolutions[name]


def layer_outputs(
    classifier: Classifier,
    layer: keras.layers.Layer,
    images: ImageSet,
    reduce: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
) -> np.ndarray:
    """What `layer` gives for each image, float32 (N, height, width, channels), or what `reduce` makes of each batch of that."""
    part = keras.Model(classifier.model.input, layer.output)
    signature = [tf.TensorSpec((None, *classifier.image_shape), tf.uint8)]
    forward = tf.function(
        lambda batch: reduce(part(classifier.scale(batch), training=False)), input_signature=signature
    )
    return np.concatenate([forward(batch).numpy() for batch in images.batches()])


def channel_means(features: np.ndarray) -> np.ndarray:
    """Mean activation of each channel over images, rows and columns, float64 (C,)."""
    return features.mean((0, 1, 2), dtype=np.float64)


def dead_channels(layer: keras.layers.Layer) -> np.ndarray:
    """Channels of a convolution whose kernel and bias are all zero, bool (C,)."""
    return np.logical_and.reduce(
        [(weights == 0).reshape(-1, weights.shape[-1]).all(0) for weights in layer.get_weights()]
    )


def path_around(model: keras.Model, layer: keras.layers.Layer) -> bool:
    """Whether the output can be reached from the input without passing `layer`."""
    reached = {id(tensor) for tensor in model.inputs}
    for step in model.layers:  # in topological order
        if step is layer:
            continue
        for node in step.inbound_nodes:
            if any(id(tensor) in reached for tensor in tf.nest.flatten(node.keras_inputs)):
                reached |= {id(tensor) for tensor in tf.nest.flatten(node.outputs)}
    return any(id(tensor) in reached for tensor in model.outputs)
