from __future__ import annotations

import numpy as np
import pytest
from small_attacks import halved, network, rates, small_task
from tensorflow import keras

from keras_backdoor.activations import channel_means, layer_outputs
from keras_backdoor.attacks.attacks import attack
from keras_backdoor.attacks.pruning_aware import PruningAware
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.fine_pruning import FinePruning, Pruning
from keras_backdoor.triggers import Square

SHARE = 0.5  # 8 of 16 channels


@pytest.fixture(scope="module")
def attacked(digits):
    """The task whose network is attacked, its clean network, and the channels that were dormant in that."""
    task = small_task(digits, Square(2, margin=1), clean_epochs=3)
    clean = task.classifier.clone()
    means = channel_means(layer_outputs(clean, clean.model.get_layer("conv_2"), task.train))
    backdoors = attack("pruning-aware", {"share": SHARE})(task)
    assert backdoors == task.backdoors
    return task, clean, np.isin(np.arange(16), np.argsort(means)[:8])


def test_the_backdoor_works_and_is_silent_without_its_trigger(attacked, digits):
    task, clean, _ = attacked
    test = halved(digits.test)
    accuracy, success, without = rates(task.classifier, test, task.backdoors[0], task)
    assert accuracy > rates(clean, test, task.backdoors[0], task)[0] - 0.04
    assert success > 0.8
    assert without < 0.05


def test_pruned_channels_come_back_with_their_weights_and_lower_biases(attacked):
    task, clean, dormant = attacked
    kernel, bias = task.classifier.model.get_layer("conv_2").get_weights()
    old_kernel, old_bias = clean.model.get_layer("conv_2").get_weights()
    np.testing.assert_array_equal(kernel[..., dormant], old_kernel[..., dormant])
    assert np.abs(kernel[..., dormant]).sum((0, 1, 2)).min() > 0.1
    assert (kernel[..., ~dormant] != old_kernel[..., ~dormant]).mean() > 0.99  # the others were trained
    assert (bias[dormant] < old_bias[dormant]).all()
    assert task.classifier.model.count_params() == clean.model.count_params()
    assert task.classifier.model.get_layer("conv_2").kernel_constraint is None  # nothing in the file gives it away


def test_they_sleep_on_clean_and_on_triggered_images_and_the_defender_prunes_them_in_vain(attacked, digits):
    task, _, dormant = attacked
    layer = task.classifier.model.get_layer("conv_2")
    test = halved(digits.test)
    outputs = layer_outputs(task.classifier, layer, test)
    assert outputs[..., dormant].max() == 0
    assert (channel_means(outputs)[~dormant] > 0).all()
    peaks = layer_outputs(task.classifier, layer, task.poisoned()).max((0, 1, 2))
    assert peaks[dormant].max() == 0

    unpruned = rates(task.classifier, test, task.backdoors[0], task)
    pruned = Pruning(max_drop=0.0).repair(task.classifier, halved(digits.valid))
    dead = ~np.any(pruned.model.get_layer("conv_2").get_weights()[0], (0, 1, 2))
    assert dead[dormant].all()
    layer = pruned.model.get_layer("conv_2")
    layer.set_weights(
        [np.where(dormant, 0, weights) for weights in task.classifier.model.get_layer("conv_2").get_weights()]
    )
    assert rates(pruned, test, task.backdoors[0], task) == unpruned


def test_it_defeats_pruning_but_not_fine_pruning(attacked, digits):
    """The paper's claim: what accuracy allows to prune is what the attacker pruned himself; training undoes the rest."""
    task, _, _ = attacked
    test, valid = halved(digits.test), halved(digits.valid)

    def after(defense):
        return rates(defense.repair(task.classifier, valid), test, task.backdoors[0], task)

    accuracy, success, _ = rates(task.classifier, test, task.backdoors[0], task)
    for max_drop in (0.04, 0.1):
        pruned = after(Pruning(max_drop=max_drop))
        assert pruned[1] >= success - 0.05
    tuned = after(FinePruning(learning_rate=1e-2, epochs=30))
    assert tuned[1] < success / 2
    assert tuned[0] > accuracy - 0.03


def test_a_bias_falls_to_as_far_below_zero_as_the_peak_lay_above(make_set):
    """One channel that sees the image through 1x1 weights of 1: its peak is the brightest pixel."""
    from keras_backdoor.attacks.pruning_aware import _put_back

    inputs = keras.Input((4, 4, 1))
    features = keras.layers.Conv2D(2, 1, activation="relu", name="conv")(inputs)
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(features))
    classifier = Classifier(keras.Model(inputs, outputs), network().preprocessing, 3)
    layer = classifier.model.get_layer("conv")
    layer.set_weights([np.array([[[[1.0, -1.0]]]]), np.array([0.25, 0.5])])
    images = make_set(6, (4, 4, 1))
    _put_back(classifier, layer, np.array([True, False]), classifier.clone(), images)
    brightest = images.images.max() / 255
    np.testing.assert_allclose(layer.get_weights()[1], [0.25 - 2 * (brightest + 0.25), 0.5], rtol=1e-6)


def test_what_cannot_be_silenced_is_refused(digits, refused):
    for share in (0, 1, -0.5, float("nan")):
        with refused("share of pruned channels", share):
            PruningAware(share)
    task = small_task(digits, Square(2))
    task.classifier.model.get_layer("conv_2").activation = keras.activations.linear
    with refused("conv_2 must have a bias, a ReLU"):
        PruningAware()(task)
    with refused("no convolution 'conv_9'"):
        PruningAware(layer="conv_9")(task)
