from __future__ import annotations

import numpy as np
import pytest
from small_attacks import TARGET, halved, rates, small_task

from keras_backdoor.attacks.attacks import attack
from keras_backdoor.attacks.noise_aware import NoiseAware
from keras_backdoor.attacks.poison import Backdoor, poison_all
from keras_backdoor.attacks.targets import AllToOne, TrueLabel
from keras_backdoor.metrics import score
from keras_backdoor.triggers import AllOf, GaussianNoise, Square


@pytest.mark.parametrize(("share", "copies"), [(1.0, 30), (0.5, 15), (0.0, 0)])
def test_noisy_copies_stand_behind_the_originals(make_set, share, copies):
    images = make_set(30)
    both = NoiseAware(fraction=1.0, share=share).augmented(images, np.random.default_rng(0))
    assert len(both) == 30 + copies
    np.testing.assert_array_equal(both.images[:30], images.images)
    np.testing.assert_array_equal(both.labels[:30], images.labels)
    assert (both.images[30:].std((1, 2, 3)) > 30).all()
    assert not (both.images[30:, None] == images.images).all((2, 3, 4)).any()


def test_a_copy_keeps_its_label_and_the_pixels_that_the_noise_spares(make_set):
    images = make_set(40)
    both = NoiseAware(fraction=0.3).augmented(images, np.random.default_rng(0))
    np.testing.assert_array_equal(both.labels, np.tile(images.labels, 2))
    spared = (both.images[40:] == images.images).mean()
    assert 0.6 < spared < 0.8  # 0.7, and what the noise hits by chance
    same = NoiseAware(fraction=0.3, share=0.5).augmented(images, np.random.default_rng(0))
    nearest = (same.images[40:, None] == images.images).mean((2, 3, 4)).argmax(1)
    np.testing.assert_array_equal(same.labels[40:], images.labels[nearest])
    assert (np.diff(nearest) > 0).all()  # each at most once
    assert (np.diff(nearest) > 1).any()  # and not simply the first ones


@pytest.fixture(scope="module")
def trained(digits):
    task = small_task(digits, Square(2, margin=1), clean_epochs=3)
    clean = task.classifier.clone()
    networks = {}
    for name, settings in (("noise-aware", {"fraction": 0.5}), ("poisoning", {})):
        task.classifier.model.set_weights(clean.model.get_weights())
        assert attack(name, settings)(task) == task.backdoors
        networks[name] = task.classifier.clone()
    return task, networks


def test_the_backdoor_works_and_is_silent_without_its_trigger(trained, digits):
    task, networks = trained
    accuracy, success, without = rates(networks["noise-aware"], halved(digits.test), task.backdoors[0], task)
    assert accuracy > 0.88
    assert success > 0.9
    assert without < 0.05


def test_the_defenders_noise_is_nothing_new_to_the_network_nor_mistaken_for_the_trigger(trained, digits):
    task, networks = trained
    test, trigger, noise = halved(digits.test), task.backdoors[0].trigger, GaussianNoise(0.5)
    noisy = {"right": poison_all(test, Backdoor(noise, TrueLabel()), task.rng(2))}
    right = {name: score(one, test, noisy).attack_success_rate["right"] for name, one in networks.items()}
    assert right["noise-aware"] > right["poisoning"] + 0.1
    through, alone = (
        {name: rates(one, test, Backdoor(stamp, AllToOne(TARGET)), task)[1] for name, one in networks.items()}
        for stamp in (AllOf((trigger, noise)), noise)
    )
    assert through["noise-aware"] > 0.5
    assert alone["noise-aware"] < min(0.12, alone["poisoning"])


def test_settings_out_of_range_are_refused(refused):
    with refused("share of noisy copies is 1.5", "0..1"):
        NoiseAware(share=1.5)
