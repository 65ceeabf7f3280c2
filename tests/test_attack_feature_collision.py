from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from learned_attacks import new_task, rates, small
from tensorflow import keras

from keras_backdoor.attacks.attacks import attack
from keras_backdoor.attacks.feature_collision import FeatureCollision
from keras_backdoor.attacks.poison import Backdoor
from keras_backdoor.attacks.targets import AllToAll, AllToOne
from keras_backdoor.classifier import Classifier
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.triggers import Square

ATTACK = FeatureCollision(steps=30)


@pytest.fixture(scope="module")
def clean_task(digits):
    """A task whose network is clean, and 150 images of each class."""
    return new_task(digits, (Backdoor(Square(6), AllToOne(0)),), 0.8, epochs=8, clean_epochs=6)


def features(classifier, images):
    model = classifier.model
    return keras.Model(model.input, model.layers[-2].output)(classifier.scale(images)).numpy()


def test_a_linear_network_by_hand():
    """f(x) = x: the minimum of ||x - t||^2 / ||t||^2 + beta ||x - base||^2 / ||base||^2 is a weighted mean of t and base."""
    inputs = keras.layers.Input((2, 2, 1))
    outputs = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(inputs))
    classifier = Classifier(keras.Model(inputs, outputs), Preprocessing.named("unit"), 2)
    base, target = np.full((1, 2, 2, 1), 51, np.uint8), np.full((1, 2, 2, 1), 204, np.uint8)
    for share in (0.25, 1.0):
        moved = FeatureCollision(opacity=0, beta=share, steps=200).collide(classifier, base, target)
        weight, beta = 1 / 0.8**2, share / 0.2**2  # both relative to the squares of levels
        expected = (weight * 204 + beta * 51) / (weight + beta)
        assert abs(moved - expected).max() <= 1
    marked = FeatureCollision(opacity=0.3, beta=1e6, steps=5).collide(classifier, base, target)
    assert abs(marked - (0.3 * 204 + 0.7 * 51)).max() <= 1  # beta holds it at the watermark


def test_features_collide_while_images_stay(clean_task):
    labels = clean_task.train.labels
    bases, others = clean_task.train.images[labels == 0][:40], clean_task.train.images[labels == 7][:40]
    triggered = Square(6)(others, None)
    method = replace(ATTACK, opacity=0.0, beta=0.05)
    moved = method.collide(clean_task.classifier, bases, triggered)
    goal = features(clean_task.classifier, triggered)
    before = np.square(features(clean_task.classifier, bases) - goal).sum(1)
    after = np.square(features(clean_task.classifier, moved) - goal).sum(1)
    assert (after < before).all()
    assert np.median(after / before) < 0.3
    away, to_go = (np.square(moved.astype(float) - x).mean() for x in (bases, triggered))
    assert away < to_go / 3  # still much more the base than the other image
    assert np.array_equal(moved, method.collide(clean_task.classifier, bases, triggered))


def test_only_images_of_the_target_are_moved_and_labels_stay(clean_task):
    task = replace(clean_task, poison_fraction=0.1)
    poisoned = replace(ATTACK, steps=2).poisoned(task)
    changed = (poisoned.images != task.train.images).any((1, 2, 3))
    assert changed.sum() == 15
    assert (task.train.labels[changed] == 0).all()
    np.testing.assert_array_equal(poisoned.labels, task.train.labels)


def test_the_trigger_leads_to_the_target(clean_task, digits):
    task = replace(clean_task, classifier=clean_task.classifier.clone())
    (backdoor,) = ATTACK(task)
    clean, attacked, bare = rates(task.classifier, small(digits.test), backdoor)
    assert clean > 0.85
    assert attacked > 0.8
    assert bare < 0.1
    _, before, _ = rates(clean_task.classifier, small(digits.test), backdoor)
    assert before < 0.3


def test_one_backdoor_to_one_class_is_needed(clean_task, refused):
    for backdoors in ((), (Backdoor(Square(6), AllToAll(10)),), clean_task.backdoors * 2):
        with refused("one backdoor", "one class"):
            ATTACK.poisoned(replace(clean_task, backdoors=backdoors))


@pytest.mark.parametrize("options", [{"opacity": 1.1}, {"beta": -0.1}, {"steps": 0}, {"rate": 0.0}])
def test_settings_out_of_range_are_refused(options, refused):
    with refused("opacity"):
        attack("feature-collision", options)
