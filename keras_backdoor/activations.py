"""What channels of a network do: shared by the defenses that look at neurons, and by attackers who know them."""

from __future__ import annotations

from typing import Callable, Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet


def convolutions(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The network's convolutions by name, in topological order."""
    return {layer.name: layer for layer in model.layers if type(layer) is keras.layers.Conv2D}


def convolution(model: keras.Model, name: Optional[str] = None) -> keras.layers.Layer:
    """The convolution called `name`, by default the last one before the head.

    The head begins where feature maps are flattened or pooled away. What is meant is the last convolution that everything which
    enters it depends on, and behind which there are still weights: for DeepID conv_3, as the head sees pool_3 itself beside
    conv_4, which is made of it; for Network in Network conv_8, as the maps of conv_9 are the classes already. Raises `BadInput`
    if there is none.
    """
    named = convolutions(model)
    if name is None:
        candidates = [layer for layer in named.values() if _feeds_all_of_the_head(model, layer)]
        if not candidates:
            raise BadInput("the network has no convolution before its head; name a layer with --layer")
        return candidates[-1]
    if name not in named:
        choice = f"; choose from {', '.join(named)}" if named else ", nor any other"
        raise BadInput(f"the network has no convolution {name!r}{choice}")
    return named[name]


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


def calls(model: keras.Model) -> list[tuple[keras.layers.Layer, list[tf.Tensor], list[tf.Tensor]]]:
    """Every call of a layer in the network, in topological order: the layer, its inputs and its outputs (symbolic tensors)."""
    return [
        (layer, tf.nest.flatten(node.keras_inputs), tf.nest.flatten(node.outputs))
        for layer in model.layers
        for node in layer.inbound_nodes
    ]


def derived(model: keras.Model, tensor: tf.Tensor) -> set[int]:
    """`id` of every tensor in the network that depends on `tensor`, which is one of them."""
    found = {id(tensor)}
    for _, inputs, outputs in calls(model):
        if any(id(one) in found for one in inputs):
            found |= {id(one) for one in outputs}
    return found


def _feeds_all_of_the_head(model: keras.Model, layer: keras.layers.Layer) -> bool:
    found = derived(model, layer.output)
    entering, weights_behind = [], False
    for step, inputs, outputs in calls(model):
        maps = [one for one in inputs if len(one.shape) == 4]
        if len(outputs[0].shape) != 4:
            entering += maps
        weights_behind |= bool(step.weights) and any(id(one) in found for one in inputs)
    return weights_behind and bool(entering) and all(id(one) in found for one in entering)
