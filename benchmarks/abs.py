"""ABS's stimulation of all neurons at all levels, beside one forward pass of the network for each neuron and level.

    python benchmarks/abs.py

The networks are untrained, and the images noise: what is computed is the same for all.
"""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from tensorflow import keras

import models_zoo
from keras_backdoor.activations import beside, without_softmax
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.artificial_brain_stimulation.neurons import Neurons, layers_of_neurons
from keras_backdoor.defenses.artificial_brain_stimulation.stimulation import Stimulation
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.trigger_inversion import images_at_once

NETWORKS = {"mnist-badnets": (28, 28, 1), "gtsrb": (32, 32, 3), "deepid": (32, 32, 3)}
COUNT, LEVELS, REACH = 50, 5, 8.0
SAMPLED = 2
"""Neurons of each layer that the forward passes are made for; their time is multiplied."""


def table() -> str:
    """The table, as Markdown."""
    load = os.getloadavg()[0]
    lines = [
        "### Stimulation of ABS",
        "",
        f"All neurons of a network at {LEVELS} levels, on {COUNT} images; one run. The baseline is a forward pass of the whole",
        f"network on all images for each neuron and level, with the neuron's value put in; it is made for {SAMPLED} neurons of",
        "each layer, and multiplied. Both are compiled before; how long that takes for the stimulation stands beside it.",
        f"Load of the machine at the start: {load:.1f} on {os.cpu_count()} cores.",
        "",
        "| network | neurons | forward passes, s | stimulation, s | compilation, s | faster | difference of logits | wanted |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    return "\n".join([*lines, *map(row, NETWORKS)])


def row(name: str) -> str:
    """One line of the table."""
    shape = NETWORKS[name]
    network = models_zoo.build(name, input_shape=shape, num_classes=43 if name == "gtsrb" else 10)
    classifier = Classifier(network, Preprocessing.named("unit"), network.output_shape[-1])
    model = without_softmax(network)
    model.set_weights(network.get_weights())
    images = np.random.default_rng(0).integers(0, 256, (COUNT, *shape), np.uint8)
    layers, at_once = layers_of_neurons(model), images_at_once(classifier, 512)
    passes, batched, compiling, difference = 0.0, 0.0, 0.0, 0.0
    for neurons in layers:
        started = time.perf_counter()
        stimulation = Stimulation(classifier, model, neurons, LEVELS, REACH)
        stimulation.response(images, at_once)
        compiled = time.perf_counter()
        stimulation.response(images, at_once)
        now = time.perf_counter() - compiled
        batched, compiling = batched + now, compiling + max(0.0, compiled - started - now)
        chosen = np.linspace(0, neurons.count - 1, SAMPLED).astype(np.int32)
        values = np.arange(LEVELS, dtype=np.float32)
        whole = forward(classifier, model, neurons)
        whole(images, chosen[0], values[0])  # compiled
        started = time.perf_counter()
        logits = np.array([[whole(images, number, value) for value in values] for number in chosen])
        passes += (time.perf_counter() - started) * neurons.count / SAMPLED
        ours = stimulation.logits(images, chosen, values).transpose(1, 2, 0, 3)
        difference = max(difference, float(abs(ours - logits).max() / abs(logits).max()))
    faster, count = passes / batched, sum(neurons.count for neurons in layers)
    verdict = f"10 ×: {'yes' if faster >= 10 else '**no**'}"
    times = f"{passes:.1f} | {batched:.2f} | {compiling:.1f} | {faster:.1f} ×"
    return f"| {name} | {count} | {times} | {difference:.0e} of the largest | {verdict} |"


def forward(classifier: Classifier, model: keras.Model, neurons: Neurons) -> tf.types.experimental.GenericFunction:
    """From images, the number of a neuron and its value to logits, with the whole network."""
    around = beside(model, neurons.after)
    below = keras.Model(model.inputs, [neurons.after, *around])
    above = keras.Model([neurons.after, *around], model.output)

    @tf.function(reduce_retracing=True)
    def whole(images: tf.Tensor, number: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        after, *rest = tf.nest.flatten(below(classifier.scale(images), training=False))
        one = tf.one_hot(number, neurons.count, on_value=True, off_value=False)
        inputs = [tf.where(one, value, after), *rest]
        return above(inputs if rest else inputs[0], training=False)

    return lambda images, number, value: whole(tf.constant(images), tf.constant(number), tf.constant(value)).numpy()


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
