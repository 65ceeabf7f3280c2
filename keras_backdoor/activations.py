"""What channels of a network do: shared by the defenses that look at neurons, and by attackers who know them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet

BY_CHANNEL = (
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
    keras.layers.BatchNormalization,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
)
"""Layers in which each channel of the output depends on the same channel of the input alone."""


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


def last_layer(model: keras.Model) -> tuple[keras.layers.Layer, tf.Tensor]:
    """The last layer with weights on the way to the answer, and what it takes in, symbolic."""
    made = {id(outputs[0]): (layer, inputs) for layer, inputs, outputs in calls(model)}
    layer, inputs = made[id(model.outputs[0])]
    while not layer.weights and len(inputs) == 1 and id(inputs[0]) in made:
        layer, inputs = made[id(inputs[0])]
    return layer, inputs[0]


def derived(model: keras.Model, tensor: tf.Tensor) -> set[int]:
    """`id` of every tensor in the network that depends on `tensor`, which is one of them."""
    found = {id(tensor)}
    for _, inputs, outputs in calls(model):
        if any(id(one) in found for one in inputs):
            found |= {id(one) for one in outputs}
    return found


def users(model: keras.Model, tensor: tf.Tensor) -> list[tuple[keras.layers.Layer, list[tf.Tensor]]]:
    """The layers that take `tensor` in, with what they give."""
    return [(layer, outputs) for layer, inputs, outputs in calls(model) if any(one is tensor for one in inputs)]


def beside(model: keras.Model, tensor: tf.Tensor) -> list[tf.Tensor]:
    """What the layers above `tensor` take in, too, and does not depend on it."""
    found = derived(model, tensor)
    others: dict[int, tf.Tensor] = {}
    for _, inputs, _ in calls(model):
        if any(id(one) in found for one in inputs):
            others |= {id(one): one for one in inputs if id(one) not in found}
    return list(others.values())


def by_channel(model: keras.Model, tensor: tf.Tensor) -> tf.Tensor:
    """The tensor at the end of the layers of `BY_CHANNEL` behind `tensor`, as far as nothing else uses what lies between."""
    while True:
        found = users(model, tensor)
        if len(found) != 1 or not _keeps_channels_apart(found[0][0]):
            return tensor
        (tensor,) = found[0][1]


def _keeps_channels_apart(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, keras.layers.Activation):
        return layer.activation is not keras.activations.softmax
    if isinstance(layer, keras.layers.BatchNormalization):
        return list(layer.axis) == [3]
    return isinstance(layer, BY_CHANNEL)


@dataclass(frozen=True)
class Entry:
    """A tensor above a cut: a sum of what each channel below gives, and a bias, then perhaps an activation.

    tensor: the symbolic one. whole: from what all channels have, (N, ..., C), the sum without the bias, (N, ...). share: from the
    same, and the number of a channel, what that one adds to it.
    """

    tensor: tf.Tensor
    whole: Callable[[tf.Tensor], tf.Tensor]
    share: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    bias: tf.Tensor = 0.0
    activation: Callable[[tf.Tensor], tf.Tensor] = tf.identity


def entries(model: keras.Model, top: tf.Tensor) -> list[Entry]:
    """What takes `top` in, if that is all convolutions and dense layers behind which there is more; else `top` itself."""
    found = []
    for layer, outputs in users(model, top):
        flat = isinstance(layer, keras.layers.Flatten)
        for user, results in users(model, outputs[0]) if flat else [(layer, outputs)]:
            plain = type(user) is (keras.layers.Dense if flat else keras.layers.Conv2D)
            if not plain or getattr(user, "groups", 1) != 1 or results[0] is model.output:
                return [Entry(top, tf.identity, lambda values, channel: values * tf.one_hot(channel, top.shape[-1]))]
            linear = _dense(user, top.shape) if flat else _convolution(user)
            found.append(Entry(results[0], *linear, user.bias if user.use_bias else 0.0, user.activation))
    return found


Linear = tuple[Callable[[tf.Tensor], tf.Tensor], Callable[[tf.Tensor, tf.Tensor], tf.Tensor]]
"""`whole` and `share` of an `Entry`."""


def _dense(layer: keras.layers.Dense, shape: tf.TensorShape) -> Linear:
    kernel = tf.reshape(layer.kernel, (shape[1] * shape[2], shape[3], -1))

    def share(values: tf.Tensor, channel: tf.Tensor) -> tf.Tensor:
        one = tf.reshape(tf.gather(values, channel, axis=-1), (-1, kernel.shape[0]))
        return one @ tf.gather(kernel, channel, axis=1)

    return lambda values: tf.reshape(values, (-1, layer.kernel.shape[0])) @ layer.kernel, share


def _convolution(layer: keras.layers.Conv2D) -> Linear:
    def convolved(values: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.nn.convolution(values, kernel, layer.strides, layer.padding.upper(), dilations=layer.dilation_rate)

    def share(values: tf.Tensor, channel: tf.Tensor) -> tf.Tensor:
        return convolved(tf.gather(values, [channel], axis=-1), tf.gather(layer.kernel, [channel], axis=2))

    return lambda values: convolved(values, layer.kernel), share


def without_softmax(model: keras.Model) -> keras.Model:
    """A copy of the network, with new weights, that gives logits. Raises `BadInput` if it does not end in a softmax."""
    last = model.output_layers[0] if hasattr(model, "output_layers") else model.layers[-1]
    softmax = type(last) is keras.layers.Softmax or getattr(last, "activation", None) is keras.activations.softmax
    if not softmax:
        raise BadInput(f"this defense looks at logits, and the network does not end in a softmax, but in {last.name!r}")

    def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer is not last:
            return type(layer).from_config(layer.get_config())
        if type(layer) is keras.layers.Softmax:
            return keras.layers.Activation("linear", name=layer.name)
        return linear(layer)

    return keras.models.clone_model(model, clone_function=copied)


def linear(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A new layer like `layer`, without its activation."""
    return type(layer).from_config({**layer.get_config(), "activation": "linear"})


def _feeds_all_of_the_head(model: keras.Model, layer: keras.layers.Layer) -> bool:
    found = derived(model, layer.output)
    entering, weights_behind = [], False
    for step, inputs, outputs in calls(model):
        maps = [one for one in inputs if len(one.shape) == 4]
        if len(outputs[0].shape) != 4:
            entering += maps
        weights_behind |= bool(step.weights) and any(id(one) in found for one in inputs)
    return weights_behind and bool(entering) and all(id(one) in found for one in entering)
