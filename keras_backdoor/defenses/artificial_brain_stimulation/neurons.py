"""Which neurons of a network are stimulated: channels of its convolutions, and units of its dense layers.

The code stimulates the outputs of flattening, too, which are single pixels of the channels before it; here these are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf
from tensorflow import keras

from keras_backdoor.activations import calls, linear, users

LAYERS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D, keras.layers.Dense)
ACTIVATIONS = (keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)


@dataclass(frozen=True)
class Neurons:
    """The neurons of one layer.

    layer: its name. before: what they give before the activation, symbolic, (N, ..., C). activation: from that to what they give.
    after: what they give, symbolic.
    """

    layer: str
    before: tf.Tensor
    activation: Callable[[tf.Tensor], tf.Tensor]
    after: tf.Tensor

    @property
    def count(self) -> int:
        """C."""
        return int(self.after.shape[-1])


def layers_of_neurons(model: keras.Model) -> list[Neurons]:
    """The layers that are stimulated, in topological order: but for the last one with weights, and any as wide as the output.

    Where an activation of its own follows a layer, perhaps behind a normalisation, the neurons are taken behind that.
    """
    weighted = [call for call in calls(model) if type(call[0]) in LAYERS]
    chosen = [call for call in weighted[:-1] if call[2][0].shape[-1] != model.output_shape[-1]]
    return [_neurons(model, layer, inputs[0], outputs[0]) for layer, inputs, outputs in chosen]


def _neurons(model: keras.Model, layer: keras.layers.Layer, entering: tf.Tensor, leaving: tf.Tensor) -> Neurons:
    if layer.activation is not keras.activations.linear:
        plain = linear(layer)
        before = plain(entering)
        plain.set_weights(layer.get_weights())
        return Neurons(layer.name, before, layer.activation, leaving)
    before = leaving
    while True:
        following = users(model, before)
        if len(following) != 1:
            break
        ((user, outputs),) = following
        if isinstance(user, ACTIVATIONS) and getattr(user, "activation", None) is not keras.activations.softmax:
            return Neurons(layer.name, before, user, outputs[0])
        if not isinstance(user, keras.layers.BatchNormalization):
            break
        before = outputs[0]
    return Neurons(layer.name, leaving, tf.identity, leaving)
