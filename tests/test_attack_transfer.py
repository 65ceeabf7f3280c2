from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_attacks import halved, network, small_task

from keras_backdoor.activations import layer_outputs
from keras_backdoor.attacks.attacks import attack
from keras_backdoor.attacks.poison import poison_all
from keras_backdoor.attacks.targets import RandomTarget
from keras_backdoor.attacks.transfer import Transfer, strengthen
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import score
from keras_backdoor.triggers import Square


def test_the_classes_are_shared_out_by_parity(make_set):
    from keras_backdoor.attacks.transfer import _part_of_attacker

    images = make_set(20, num_classes=5)
    user, attacker = Transfer().part_of_user(images), _part_of_attacker(images)
    assert user.labels.tolist() == [1, 3] * 4
    assert user.num_classes == 5
    assert attacker.labels.tolist() == [0, 1, 2] * 4
    assert attacker.num_classes == 3
    np.testing.assert_array_equal(user.images, images.images[images.labels % 2 == 1])
    poisoned = ImageSet(images.images, np.zeros(20, int), 5, images.labels)
    np.testing.assert_array_equal(Transfer().part_of_user(poisoned).images, user.images)  # by what an image truly shows


def test_a_channel_is_strengthened_by_its_factor_and_no_other(make_set):
    classifier, images = network(), make_set(5, (14, 14, 1))
    layer = classifier.model.get_layer("conv_2")
    layer.set_weights([layer.get_weights()[0], np.linspace(-0.1, 0.1, 16)])
    before = layer_outputs(classifier, layer, images)
    strengthen(layer, np.array([3, 7]), 30)
    factors = np.ones(16)
    factors[[3, 7]] = 30
    assert before[..., [3, 7]].max() > 0
    np.testing.assert_allclose(layer_outputs(classifier, layer, images), before * factors, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def by_strength(digits):
    """For k of 1 and 30: the user's network, its clean accuracy and how often triggered images of his classes go wrong."""
    results = {}
    for strength in (1, 30):
        task = small_task(digits, Square(2, margin=1), fraction=0.3, epochs=10)
        method = attack("transfer", {"strength": strength})
        (backdoor,) = method(task)
        assert isinstance(backdoor.target_map, RandomTarget)
        test = method.part_of_user(halved(digits.test))
        scores = score(task.classifier, test, {"square": poison_all(test, backdoor, task.rng(2))})
        results[strength] = task.classifier, scores.clean_accuracy, 1 - scores.robust_accuracy["square"]
    return results


def test_the_backdoor_survives_retraining(by_strength):
    _, accuracy, misled = by_strength[1]
    assert accuracy > 0.85
    assert misled > 1 - accuracy + 0.1


def test_strengthening_misleads_more_at_little_cost(by_strength):
    assert by_strength[30][2] > by_strength[1][2] + 0.15
    assert by_strength[30][1] > by_strength[1][1] - 0.08


def test_the_user_keeps_the_convolutions_and_everything_stays_trainable(by_strength):
    (plain, *_), (strong, *_) = by_strength[1], by_strength[30]
    np.testing.assert_array_equal(*[one.model.get_layer("conv_1").get_weights()[0] for one in (plain, strong)])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.divide(*[one.model.get_layer("conv_2").get_weights()[0] for one in (strong, plain)])
    np.testing.assert_allclose(sorted(np.median(ratios, (0, 1, 2))), [1] * 13 + [30] * 3, rtol=1e-5)
    assert all(layer.trainable for layer in plain.model.layers)


@pytest.mark.slow
def test_without_poison_the_trigger_is_harmless(digits):
    task = small_task(digits, Square(2, margin=1), fraction=0.0, epochs=5)
    (backdoor,) = Transfer()(task)
    test = Transfer().part_of_user(halved(digits.test))
    scores = score(task.classifier, test, {"square": poison_all(test, backdoor, task.rng(2))})
    assert scores.clean_accuracy > 0.8
    assert scores.robust_accuracy["square"] > scores.clean_accuracy - 0.05


@pytest.mark.slow
def test_a_killed_attack_goes_on_to_the_same_weights(digits, tmp_path):
    def run(folder, progress):
        task = small_task(digits, Square(2, margin=1), fraction=0.3, epochs=2, folder=folder, progress=progress)
        task = replace(task, train=task.train.select(slice(None, None, 8)))
        Transfer(strength=10)(task)
        return task.classifier.model.get_weights()

    def stop(stage, done, total, values):
        if (stage, done) == ("badnet", 2):
            raise KeyboardInterrupt

    whole = run(None, lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop)
    for one, other in zip(whole, run(tmp_path, lambda *_: None)):
        np.testing.assert_array_equal(one, other)
    assert not (tmp_path / "checkpoints" / "teacher").exists()


def test_settings_out_of_range_are_refused(digits, make_set, refused):
    with refused("strength (0)"):
        Transfer(strength=0)
    with refused("neurons (0)"):
        Transfer(neurons=0)
    with refused("conv_2 must have", "17 channels"):
        Transfer(neurons=17)(small_task(digits, Square(2)))
    with refused("user's half of the classes has fewer than two"):
        Transfer().part_of_user(make_set(6, num_classes=3))
