"""Writes the golden files beside it. They are to stay as they are: run this only to add a file, and never over an old one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tensorflow import keras

import models_zoo
from keras_backdoor.classifier import Classifier
from keras_backdoor.goodnet import GoodNet
from keras_backdoor.preprocessing import Preprocessing

HERE = Path(__file__).parent


def tiny(name: str) -> keras.Model:
    inputs = keras.layers.Input((28, 28, 1), name="input")
    x = keras.layers.Conv2D(4, 5, strides=3, activation="relu", name="conv_1")(inputs)
    x = keras.layers.Flatten(name="flatten_1")(keras.layers.BatchNormalization(name="norm_1")(x))
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax", name="output")(x), name=name)


def main() -> None:
    keras.utils.set_random_seed(0)
    classifier, other = (Classifier(tiny(name), Preprocessing.named("unit"), 10) for name in ("one", "other"))
    goodnet = GoodNet.combine(classifier, other)
    published = models_zoo.build("mnist-clean-label")
    about = {"kind": "badnet", "recipe": "golden", "summary": "untrained, for the tests of this project", "seed": 0}
    classifier.save(HERE / "classifier.h5", about)
    goodnet.save(HERE / "goodnet.h5", {**about, "kind": "goodnet"})
    classifier.model.save(HERE / "network.keras")
    published.save_weights(HERE / "weights.h5")
    published.save_weights(HERE / "network.weights.h5")
    inputs = np.random.default_rng(0).random((4, 28, 28, 1)).astype(np.float32)
    models = {"classifier.h5": classifier.model, "goodnet.h5": goodnet.model, "network.keras": classifier.model}
    models |= {"weights.h5": published, "network.weights.h5": published}
    np.savez(HERE / "predictions.npz", inputs=inputs, **{name: model(inputs).numpy() for name, model in models.items()})


if __name__ == "__main__":
    main()
