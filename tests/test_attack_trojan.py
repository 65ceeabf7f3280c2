from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from small_attacks import TARGET, halved, rates, small_task
from tensorflow import keras

from keras_backdoor.attacks.attacks import attack
from keras_backdoor.attacks.learned import LearnedPatch, PatchSearch
from keras_backdoor.attacks.trojan import Trojan, connections

SETTINGS = {"target": TARGET, "size": 6, "margin": 2, "steps": 150}


def test_a_patch_is_stamped_at_its_place_and_nowhere_else(make_set):
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3, 1) + 100
    images = make_set(4).images
    stamped = LearnedPatch(pixels, (5, 1), "patch")(images, np.random.default_rng(0))
    expected = images.copy()
    expected[:, 5, 1:4, 0], expected[:, 6, 1:4, 0] = [100, 101, 102], [103, 104, 105]
    np.testing.assert_array_equal(stamped, expected)


def test_a_search_finds_the_pixels_of_a_known_optimum(digits):
    """Columns of the patch shall be 200, 40 and 300; grey levels end at 255."""
    task = small_task(digits)
    wanted = np.zeros((1, 14, 14, 1), np.float32)
    wanted[:, 10:13, 10:13, 0] = [200, 40, 300]
    black = np.zeros((1, 14, 14, 1), np.uint8)

    def loss(images):
        return tf.reduce_sum((images - wanted) ** 2)

    patch = PatchSearch(3, 1, steps=300, rate=5.0)(task, "known", black, loss)
    assert patch.place == (10, 10)
    np.testing.assert_allclose(patch.pixels[..., 0], np.tile([200, 40, 255], (3, 1)), atol=1)


def test_connections_by_hand(digits):
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    layer.set_weights([np.array([[1.0, -2.0], [-3.0, 0.0], [0.5, 0.25]]), np.array([9.0, 9.0])])
    assert connections(layer).tolist() == [4.5, 2.25]


@pytest.fixture(scope="module")
def trojaned(digits):
    task = small_task(digits, clean_epochs=4)
    clean = task.classifier.clone()
    (backdoor,) = attack("trojan", SETTINGS)(task)
    return task, clean, backdoor


def test_the_trigger_drives_the_chosen_neurons_of_the_clean_network(trojaned):
    _, clean, backdoor = trojaned
    layer = clean.model.get_layer("fc_1")
    chosen = connections(layer).argsort()[::-1][:2]
    layer.activation = keras.activations.linear
    part = keras.Model(clean.model.input, layer.output)
    black = np.zeros((1, 14, 14, 1), np.uint8)
    other = LearnedPatch(
        np.random.default_rng(1).integers(0, 256, (6, 6, 1), np.uint8), backdoor.trigger.place, "other"
    )
    with_trigger, with_other = (
        part(clean.scale(trigger(black, np.random.default_rng(0)))).numpy()[0, chosen].mean()
        for trigger in (backdoor.trigger, other)
    )
    layer.activation = keras.activations.relu
    assert with_trigger > with_other + 1


def test_the_backdoor_is_new_works_and_is_silent_without_its_trigger(trojaned, digits):
    task, clean, backdoor = trojaned
    test = halved(digits.test)
    before, after = (rates(one, test, backdoor, task) for one in (clean, task.classifier))
    assert after[0] > before[0] - 0.05
    assert after[1] > 0.85
    assert before[1] < 0.5
    assert after[2] < 0.06


def test_layers_up_to_the_neurons_stay_as_they_are(trojaned):
    task, clean, _ = trojaned
    changed = {
        layer.name: any((old != new).any() for old, new in zip(layer.get_weights(), again.get_weights()))
        for layer, again in zip(clean.model.layers, task.classifier.model.layers)
        if layer.weights
    }
    assert changed == {"conv_1": False, "conv_2": False, "fc_1": False, "output": True}
    assert all(layer.trainable for layer in task.classifier.model.layers)


@pytest.mark.slow
def test_the_same_seed_finds_the_same_trigger(digits):
    triggers = []
    for seed in (0, 0, 1):
        task = small_task(digits, fraction=0.01, epochs=1, seed=seed)
        task = replace(task, train=task.train.select(slice(None, None, 8)))
        (backdoor,) = Trojan(**{**SETTINGS, "steps": 20})(task)
        triggers.append((backdoor.trigger.pixels, task.classifier.model.get_weights()[-2]))
    for one, same, other in zip(*triggers):
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()


def test_settings_that_do_not_fit_are_refused(digits, refused):
    task = small_task(digits)
    with refused("trigger trojan does not fit an image of 14x14"):
        Trojan(size=14)(task)
    with refused("target is 10", "0..9"):
        Trojan(target=10, size=4)(task)
    with refused("no layer 'fc_9'", "conv_1, conv_2, fc_1"):
        Trojan(layer="fc_9", size=4)(task)
    with refused("neurons is 0"):
        Trojan(neurons=0)
    with refused("size, steps and rate"):
        Trojan(steps=0)
