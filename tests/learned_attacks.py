"""What the tests of learned triggers share: every second pixel of the digits, and a network that sees their corners well."""

from __future__ import annotations

import numpy as np
from tensorflow import keras
from tensorflow.keras import layers

from keras_backdoor.attacks.poison import Backdoor, poison_all
from keras_backdoor.attacks.task import Task
from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import Splits
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import clean_accuracy
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.training import Schedule, fit, seed_everything


def small(image_set: ImageSet, per_class: int = 40) -> ImageSet:
    """The first `per_class` images of each class, every second row and column."""
    keep = np.concatenate([np.flatnonzero(image_set.labels == label)[:per_class] for label in range(10)])
    images = np.ascontiguousarray(image_set.in_memory().images[keep][:, ::2, ::2])
    return ImageSet(images, image_set.labels[keep], image_set.num_classes)


def padded_network() -> Classifier:
    """A seeded, untrained network from 14x14x1 to 10 classes."""
    seed_everything(0)
    x = inputs = layers.Input((14, 14, 1), name="input")
    for i, filters in enumerate((16, 32), 1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv_{i}")(x)
        x = layers.MaxPooling2D(2, name=f"pool_{i}")(x)
    x = layers.Dense(64, activation="relu", name="fc_1")(layers.Flatten(name="flatten_1")(x))
    outputs = layers.Dense(10, activation="softmax", name="output")(x)
    return Classifier(keras.Model(inputs, outputs, name="padded"), Preprocessing.named("unit"), 10)


def new_task(
    digits: Splits,
    backdoors: tuple[Backdoor, ...] = (),
    fraction: float = 0.1,
    *,
    epochs: int = 8,
    batch_size: int = 32,
    per_class: int = 150,
    clean_epochs: int = 0,
    **rest,
) -> Task:
    """A task on small digits; `clean_epochs`: of a clean step before."""
    train, classifier = small(digits.train, per_class), padded_network()
    if clean_epochs:
        fit(classifier, train, Schedule("adam", 2e-3, 32, clean_epochs), seed=0, stage="clean")
    schedule = Schedule("adam", 2e-3, batch_size, epochs)
    return Task(classifier, train, small(digits.valid, 25), backdoors, fraction, schedule, seed=0, **rest)


def rates(classifier: Classifier, test: ImageSet, backdoor: Backdoor) -> tuple[float, float, float]:
    """Clean accuracy; share of images of other classes that become the target with the trigger; and without."""
    triggered = poison_all(test, backdoor, np.random.default_rng(0))
    others, answers = triggered.labels != test.labels, classifier.predict(test.batches())
    attacked = classifier.predict(triggered.batches()) == triggered.labels
    bare = answers == triggered.labels
    return clean_accuracy(answers, test.labels), float(attacked[others].mean()), float(bare[others].mean())
