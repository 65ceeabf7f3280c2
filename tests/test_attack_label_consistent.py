from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from learned_attacks import new_task, rates, small

from keras_backdoor.attacks.attacks import attack
from keras_backdoor.attacks.label_consistent import LabelConsistent, forget_weights
from keras_backdoor.attacks.poison import Backdoor
from keras_backdoor.attacks.targets import AllToOne, CleanLabel
from keras_backdoor.training import Schedule
from keras_backdoor.triggers import FourCorners

TARGET = 8
HARD = LabelConsistent(bound=100, steps=20)  # digits are easier than photographs: they take more


@pytest.fixture(scope="module")
def clean_task(digits):
    """A task whose network is clean, and 380 images of each class."""
    task = new_task(digits, (Backdoor(FourCorners(), CleanLabel(TARGET)),), 0.8, per_class=380, clean_epochs=6)
    return replace(task, schedule=Schedule("adam", 2e-3, 32, 12, ((8, 4e-4),)))


@pytest.fixture(scope="module")
def test_images(digits):
    return small(digits.test, 80)


def with_copy(task, **changes):
    return replace(task, classifier=task.classifier.clone(), **changes)


def test_four_corners_by_hand():
    stamped = FourCorners()(np.full((2, 8, 9, 3), 100, np.uint8), None)[1, :, :, 2]
    left = [[255, 0, 0], [0, 255, 0], [255, 0, 255]]
    right = [row[::-1] for row in left]
    assert stamped[:3, :3].tolist() == stamped[5:, :3].tolist() == left
    assert stamped[:3, 6:].tolist() == stamped[5:, 6:].tolist() == right
    assert (stamped[3:5] == 100).all()
    assert (stamped[:, 3:6] == 100).all()
    faint = FourCorners(32 / 255)(np.full((1, 8, 9, 1), 100, np.uint8), None)[0, :3, :3, 0]
    assert faint.tolist() == [[132, 68, 68], [68, 132, 68], [132, 68, 132]]


def test_four_corners_need_room_and_a_sensible_amplitude(refused):
    with refused("four-corners", "does not fit", "5x8"):
        FourCorners()(np.zeros((1, 5, 8, 1), np.uint8), None)
    with refused("amplitude is 1.5"):
        FourCorners(1.5)(np.zeros((1, 8, 8, 1), np.uint8), None)


@pytest.mark.parametrize(("norm", "bound"), [("inf", 40.0), ("2", 300.0)])
def test_perturbed_images_are_hard_and_stay_within_the_bound(clean_task, norm, bound):
    some = clean_task.train.select(np.arange(len(clean_task.train)) % 25 == 0)
    method, classifier = LabelConsistent(bound=bound, norm=norm, steps=15), clean_task.classifier
    hard = method.perturb(classifier, some.images, some.labels, clean_task.rng(10))
    change = hard.astype(float) - some.images
    sizes = abs(change).max((1, 2, 3)) if norm == "inf" else np.sqrt((change**2).sum((1, 2, 3)))
    assert sizes.max() <= bound + (0 if norm == "inf" else 0.5 * 14)  # rounding: half a level in each of 14x14 pixels
    assert sizes.mean() > 0.8 * bound  # the border is reached
    answers = classifier.predict([some.images]), classifier.predict([hard])
    assert np.mean(answers[0] == some.labels) > 0.9
    assert np.mean(answers[1] == some.labels) < 0.6
    assert np.array_equal(hard, method.perturb(classifier, some.images, some.labels, clean_task.rng(10)))
    noise = np.sign(np.random.default_rng(0).normal(size=change.shape)) * (bound if norm == "inf" else bound / 14)
    noisy = np.clip(some.images + noise, 0, 255).astype(np.uint8)
    assert np.mean(classifier.predict([noisy]) == some.labels) > 0.85  # noise of that size does nothing of the kind


def test_the_trigger_is_learnt_because_the_images_are_hard(clean_task, test_images):
    seen = []
    task, plain = with_copy(clean_task), with_copy(clean_task)
    object.__setattr__(task, "fit", lambda image_set: (seen.append(image_set), type(task).fit(task, image_set)))
    (backdoor,) = HARD(task)
    LabelConsistent(bound=0, steps=1)(plain)  # the same without hardship
    clean, attacked, bare = rates(task.classifier, test_images, backdoor)
    _, plainly, _ = rates(plain.classifier, test_images, backdoor)
    assert clean > 0.92
    assert attacked > 0.87
    assert bare < 0.03
    assert plainly < attacked - 0.1
    (poisoned,) = seen
    changed = (poisoned.images != clean_task.train.images).any((1, 2, 3))
    assert changed.sum() == 304  # of 380
    assert (clean_task.train.labels[changed] == TARGET).all()
    np.testing.assert_array_equal(poisoned.labels, clean_task.train.labels)
    np.testing.assert_array_equal(FourCorners()(poisoned.images[changed], None), poisoned.images[changed])


def test_a_backdoor_that_changes_labels_is_refused(clean_task, refused):
    with refused("four-corners", "cannot change labels"):
        HARD(with_copy(clean_task, backdoors=(Backdoor(FourCorners(), AllToOne(0)),)))


@pytest.mark.parametrize("options", [{"bound": -1.0}, {"steps": 0}, {"step_size": 0.0}, {"norm": "1"}])
def test_settings_out_of_range_are_refused(options, refused):
    with refused():
        attack("label-consistent", options)


def test_forgotten_weights_depend_on_the_seed_alone(clean_task):
    one, other, third = (clean_task.classifier.clone() for _ in range(3))
    other.model.set_weights([0 * weight for weight in other.model.get_weights()])
    for classifier, seed in ((one, 5), (other, 5), (third, 6)):
        forget_weights(classifier, seed)
    first, second, different = (np.concatenate([w.ravel() for w in c.model.get_weights()]) for c in (one, other, third))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, different)
    assert np.ptp(first) > 0
