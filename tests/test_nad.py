"""Neural attention distillation: maps and losses computed by hand, and a backdoor planted in real digits."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from normalised_badnet import normalised, planted, rates
from tensorflow import keras

import models_zoo
from keras_backdoor.augmentation import moved
from keras_backdoor.defenses.nad import AttentionDistillation, Attentive, attention, attention_layers, distance
from keras_backdoor.training import Schedule

SHORT = {"teacher_epochs": 1, "epochs": 2, "batch_size": 4, "learning_rate": 0.01, "shift": 1}


def weights(classifier) -> list[np.ndarray]:
    return [weight.copy() for weight in classifier.model.get_weights()]


def same(first, second) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second))


# --- which layers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [
        ("wrn-16-1", ["group_1", "group_2", "group_3"]),  # as in the released code
        ("preactresnet18", ["group_2", "group_3", "group_4"]),
        pytest.param("densenet121", ["pool3_relu", "pool4_relu", "relu"], marks=pytest.mark.slow),
        ("deepid", ["conv_2", "conv_3", "conv_4"]),
        ("deepid/cifar10", ["conv_1", "conv_2", "conv_3"]),  # the map of conv_4 is a single pixel
        ("nin", ["conv_3", "conv_6", "conv_9"]),
        ("gtsrb", ["conv_2", "conv_4", "conv_6"]),
        ("gtsrb/fsa", ["conv_2", "conv_4", "conv_5"]),
        ("mnist-badnets", ["conv_1", "conv_2"]),
        ("mnist-clean-label", ["conv_1", "conv_2"]),
        ("strip-cifar10", ["conv_2", "conv_4", "conv_6"]),
        ("mntd-cifar10", ["conv_2", "conv_4"]),
        ("wanet-mnist", ["relu_2", "relu_3", "conv_3"]),
        ("speechnet", ["conv_1", "conv_2", "conv_5"]),
    ],
)
def test_the_layers_of_the_zoo_that_are_compared_by_default(architecture, layers):
    assert attention_layers(models_zoo.build(architecture)) == layers


def test_layers_can_be_named_and_a_wrong_name_gets_the_right_ones(tiny_classifier, make_set, refused):
    model = tiny_classifier.model
    assert attention_layers(model, ("pool_1",)) == ["pool_1"]
    assert attention_layers(model, count=1) == ["conv_2"]
    for name in ("conv_3", "output", "input"):  # none such; no map; what all networks share
        with refused(repr(name), "choose from conv_1, pool_1, conv_2"):
            AttentionDistillation(layer=(name,)).repair(tiny_classifier, make_set())
    with refused("2 layers", "1 weights (beta)"):
        AttentionDistillation(layer=("conv_1", "conv_2"), beta=(1.0,)).repair(tiny_classifier, make_set())
    inputs = keras.Input((2, 2, 1))
    with refused("no convolution"):
        attention_layers(keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs))))


# --- by hand --------------------------------------------------------------------------------------------------------------


def test_an_attention_map_is_the_sum_of_squares_of_length_one():
    features = tf.constant([[[[1.0, 1.0], [-1.0, 0.0]], [[0.0, 0.0], [2.0, 0.0]]]])
    # squares: 2 1 / 0 4, length sqrt(4 + 1 + 16)
    np.testing.assert_allclose(attention(features)[0], np.array([[2, 1], [0, 4]]) / np.sqrt(21), rtol=1e-6)
    dead = attention(tf.zeros((1, 2, 2, 3))).numpy()
    assert (dead == 0).all()


def test_a_distance_is_the_mean_of_squares_over_images_and_pixels():
    # two images of two pixels: the first pair of maps is (1, 0) and (0, 1), the second is the same but for a factor
    features = tf.constant([[[[3.0], [0.0]]], [[[1.0], [2.0]]]])
    goal = tf.constant([[[[0.0], [1.0]]], [[[2.0], [4.0]]]])
    assert distance(features, goal).numpy() == pytest.approx((1 + 1 + 0 + 0) / 4, rel=1e-5)


def test_the_loss_has_each_layer_with_its_weight_and_leaves_the_teacher_alone(tiny_classifier, make_set):
    teacher, inputs = tiny_classifier.clone(), tiny_classifier.scale(make_set().images)
    kernel, bias = teacher.model.get_layer("conv_1").get_weights()
    teacher.model.get_layer("conv_1").set_weights([kernel[..., ::-1] * 2, bias])
    layer = Attentive(tiny_classifier.model, teacher.model, ["conv_1", "conv_2"], (5.0, 7.0))
    with tf.GradientTape() as tape:
        output = layer(inputs)
        loss = tf.add_n(layer.losses)
    parts = []
    for name in ("conv_1", "conv_2"):
        own, goal = (
            keras.Model(network.model.input, network.model.get_layer(name).output)(inputs)
            for network in (tiny_classifier, teacher)
        )
        parts.append(float(distance(own, goal)))
    assert min(parts) > 0
    assert float(loss) == pytest.approx(5 * parts[0] + 7 * parts[1], rel=1e-5)
    np.testing.assert_array_equal(output, tiny_classifier.model(inputs))
    assert [id(one) for one in layer.trainable_weights] == [id(one) for one in tiny_classifier.model.trainable_weights]
    gradients = tape.gradient(loss, tiny_classifier.model.trainable_weights)
    assert all(np.abs(one).max() > 0 for one in gradients[:2])


@pytest.mark.slow
def test_with_weights_of_zero_the_student_is_trained_as_the_teacher_is(make_set):
    network = normalised((8, 8, 1), 3, (3, 4))
    defense = AttentionDistillation(beta=(0.0,), **{**SHORT, "epochs": 1})
    teacher, student = (step.classifier for step in defense.steps(network, make_set()))
    for first, second in zip(weights(teacher), weights(student)):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)
    other = AttentionDistillation(beta=(1000.0,), **{**SHORT, "epochs": 1}).repair(network, make_set())
    assert not all(np.allclose(a, b, rtol=1e-3) for a, b in zip(weights(teacher), weights(other)))


def test_the_rates_of_the_released_code():
    schedule = AttentionDistillation()._schedule(21)
    assert schedule == Schedule("nesterov", 0.1, 64, 21, schedule.steps)
    rates_of = [schedule.rate(epoch) for epoch in (0, 1, 2, 19, 20)]
    assert rates_of == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-4])


def test_images_are_moved_mirrored_and_cut_out():
    image = np.arange(1, 13, dtype=np.uint8).reshape(1, 3, 4, 1)
    many = np.repeat(image, 400, 0)
    rng = np.random.default_rng(0)
    assert np.array_equal(moved(many, rng, 0, False, 0), many)
    mirrored = moved(many, rng, 0, True, 0)
    swapped = (mirrored == many[:, :, ::-1]).all((1, 2, 3))
    assert ((mirrored == many).all((1, 2, 3)) ^ swapped).all() and 150 < swapped.sum() < 250
    shifted = {one.tobytes() for one in moved(many, rng, 1, False, 0)}
    padded = np.pad(image[0, ..., 0], 1)
    assert shifted == {np.ascontiguousarray(padded[y : y + 3, x : x + 4]).tobytes() for y in range(3) for x in range(3)}
    cut = moved(many, rng, 0, False, 2)
    holes = {tuple(np.flatnonzero(one == 0)) for one in cut}
    assert (0, 1, 4, 5) in holes and (0,) in holes  # a whole one, and one of which a corner is in the image
    assert max(map(len, holes)) == 4 and all((one[one > 0] == image[0][one > 0]).all() for one in cut)


# --- as a defense ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_goes_on_where_it_was_killed_and_leaves_its_input_alone(make_set, tmp_path):
    network, defense = normalised((8, 8, 1), 3, (3, 4), dropout=0.2), AttentionDistillation(**SHORT)
    before = weights(network)
    whole = weights(defense.repair(network, make_set()))

    class Killed(Exception):
        pass

    def kill(stage, done, *_):
        if stage == "student" and done == 2:  # so that the first epoch has been kept
            raise Killed

    with pytest.raises(Killed):
        list(defense.steps(network, make_set(), kill, tmp_path))
    told = []
    steps = list(defense.steps(network, make_set(), lambda *what: told.append(what[:2]), tmp_path))
    assert same(weights(steps[-1].classifier), whole)
    assert told == [("student", 2)]
    assert not (tmp_path / "checkpoints").exists()
    assert same(weights(network), before) and not same(whole, before)
    other = next(AttentionDistillation(seed=1, **SHORT).steps(network, make_set()))
    assert not same(weights(other.classifier), weights(steps[0].classifier))


def test_impossible_settings_are_refused(refused, tiny_classifier, make_set):
    for settings, said in (
        ({"beta": ()}, "beta"),
        ({"beta": (-1.0,)}, "beta is -1.0"),
        ({"shift": -1}, "shift is -1"),
        ({"hole": -2}, "hole is -2"),
        ({"epochs": 0}, "epochs"),
        ({"teacher_epochs": 0}, "epochs"),
        ({"optimizer": "adamm"}, "adam"),
        ({"seed": -1}, "seed"),
    ):
        with refused(said):
            AttentionDistillation(**settings)
    with refused("clean images", "8x8x1"):
        AttentionDistillation().repair(tiny_classifier, make_set(shape=(9, 8, 1)))


def test_a_planted_backdoor_is_repaired():
    network, clean, test, triggered = planted()
    accuracy, success = rates(network, test, triggered)
    assert success > 0.9
    schedule = {"teacher_epochs": 4, "epochs": 6, "batch_size": 32, "learning_rate": 0.03}
    repaired = AttentionDistillation(mirror=False, shift=1, **schedule).repair(network, clean)
    after = rates(repaired, test, triggered)
    assert after[1] < success / 2
    assert after[0] > accuracy - 0.05
