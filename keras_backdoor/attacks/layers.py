"""Layers of a network by their kind, and training of some of them alone: for attacks that reach into networks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from tensorflow import keras

from keras_backdoor.files import BadInput


def dense_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The fully connected layers in order, the last of them the output. Raises `BadInput` if the output is none."""
    dense = [layer for layer in model.layers if type(layer) is keras.layers.Dense]
    if not dense or dense[-1] is not model.layers[-1]:
        raise BadInput(f"the network ends in {model.layers[-1].name}, the attack needs a fully connected layer there")
    return dense


@contextlib.contextmanager
def only(model: keras.Model, layers: Iterable[keras.layers.Layer]) -> Iterator[None]:
    """Within the block, training changes `layers` and nothing else; batch normalisation that is frozen keeps its averages."""
    names = {layer.name for layer in layers}
    before = {layer: layer.trainable for layer in model.layers}
    for layer in model.layers:
        layer.trainable = layer.name in names
    try:
        yield
    finally:
        for layer, trainable in before.items():
            layer.trainable = trainable


def begin_anew(layer: keras.layers.Layer, seed: int) -> None:
    """Give a fully connected layer fresh weights, as Keras draws them by default, from `seed`."""
    layer.kernel.assign(keras.initializers.GlorotUniform(seed)(layer.kernel.shape))
    layer.bias.assign(layer.bias * 0)


def named(model: keras.Model, name: str) -> keras.layers.Layer:
    """The layer called `name`; `BadInput` if there is none."""
    layers = {layer.name: layer for layer in model.layers}
    if name not in layers:
        raise BadInput(f"the network has no layer {name!r}; choose from {', '.join(layers)}")
    return layers[name]


def above(model: keras.Model, layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that come after `layer` in the network's order."""
    return model.layers[model.layers.index(layer) + 1 :]
