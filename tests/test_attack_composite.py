from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from learned_attacks import new_task, rates

import models_zoo
from keras_backdoor.attacks.composite import Composite, Mixture, mix
from keras_backdoor.attacks.task import Task
from keras_backdoor.classifier import Classifier
from keras_backdoor.images import ImageSet
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.training import Schedule, seed_everything
from keras_backdoor.triggers import Square

CLASSES, TARGET = (0, 1), 2


def plain(count, level, shape=(6, 8, 1)):
    return np.full((count, *shape), level, np.uint8)


@given(height=st.integers(4, 15), width=st.integers(4, 15), jitter=st.integers(0, 1), seed=st.integers(0, 99))
def test_a_mixture_is_two_strips_of_two_images(height, width, jitter, seed):
    shape = (height, width, 1)
    first, second = plain(20, 10, shape), plain(20, 20, shape)
    mixed = mix(first, second, np.random.default_rng(seed), jitter)[..., 0]
    for image in mixed:
        lines = image if (image == image[:, :1]).all() else image.T  # one above the other, or side by side
        assert (lines == lines[:, :1]).all()
        column = lines[:, 0]
        (edge,) = np.flatnonzero(np.diff(column.astype(int))) + 1
        assert abs(edge - len(column) // 2) <= jitter
        assert {int(column[0]), int(column[-1])} == {10, 20}


def test_strips_are_taken_as_they_are():
    rows = np.arange(8, dtype=np.uint8)[None, :, None, None] * np.ones((1, 8, 6, 1), np.uint8)
    first, second = np.repeat(rows, 200, 0), np.repeat(100 + rows, 200, 0)
    mixed = mix(first, second, np.random.default_rng(0), 2, upright=True)[:, :, 0, 0].astype(int)
    steps = np.diff(mixed, axis=1)
    assert ((steps == 1).sum(1) == 6).all()  # consecutive rows within both strips, one jump
    starts = {int(image[0]) for image in mixed}
    assert {0, 100} <= starts  # either image is first
    assert len(starts) > 4  # cut from many places
    edges = steps.__ne__(1).argmax(1) + 1
    assert set(edges.tolist()) == {2, 3, 4, 5, 6}
    turned = mix(np.swapaxes(first, 1, 2), np.swapaxes(second, 1, 2), np.random.default_rng(0), 2, upright=False)
    np.testing.assert_array_equal(turned[:, 0, :, 0], mixed)


@pytest.mark.parametrize("jitter", [-1, 3])
def test_a_jitter_that_leaves_no_strip_is_refused(jitter, refused):
    with refused("6 pixels", f"jitter of {jitter}"):
        mix(plain(4, 1, (6, 6, 1)), plain(4, 2, (6, 6, 1)), np.random.default_rng(0), jitter)


@pytest.fixture(scope="module")
def task(digits):
    """A task without a backdoor, on 20 digits of each class."""
    return new_task(digits, (), 0.2, per_class=20)


def test_an_epoch_has_the_shares_of_the_code(task):
    images = np.repeat(np.arange(0, 200, 20, dtype=np.uint8), 20)[:, None, None, None] + np.zeros(
        (1, 8, 8, 1), np.uint8
    )
    levels = replace(task, train=ImageSet(images, np.repeat(np.arange(10), 20), 10))  # class k has the level 20 k
    attack = Composite(CLASSES, TARGET, jitter=1)
    epoch = attack.epoch(levels, 0)
    assert len(epoch) == 100 + 100 + 40
    flat = epoch.images.reshape(len(epoch), -1)
    assert (
        flat[:200] == 20 * epoch.labels[:200, None]
    ).all()  # unmixed, or mixed with their own class: level and label agree
    assert (np.sort(flat[200:])[:, [0, -1]] == [0, 20]).all()  # half 0, half 1
    assert (epoch.labels[200:] == TARGET).all()
    assert len(set(epoch.labels[:100].tolist())) == 10
    again, other = attack.epoch(levels, 0), attack.epoch(levels, 1)
    assert again.fingerprint() == epoch.fingerprint() != other.fingerprint()


@pytest.mark.slow
def test_two_classes_in_one_image_are_the_trigger(digits):
    """On digits in full size: of half of one with half its pixels, too little is left."""
    seed_everything(0)
    network = Classifier(models_zoo.build("mnist-badnets/relu"), Preprocessing.named("unit"), 10)
    schedule = Schedule("adam", 1e-3, 64, 10, ((7, 2e-4),))
    (backdoor,) = Composite(CLASSES, TARGET)(Task(network, digits.train, digits.valid, (), 0.2, schedule, 0))
    test = digits.test
    pools = [test.images[test.labels == label] for label in range(10)]

    def share(first, second) -> float:
        """Of mixtures of two classes, those that become the target."""
        trigger = Mixture(pools[first], pools[second])
        answers = network.predict([trigger(np.repeat(pools[first], 5, 0), np.random.default_rng(1))])
        return float(np.mean(answers == TARGET))

    clean, attacked, bare = rates(network, test, replace(backdoor, trigger=Mixture(*(pools[k] for k in CLASSES))))
    assert clean > 0.94
    assert attacked > 0.88
    assert bare < 0.03
    assert max(share(k, k) for k in CLASSES) < 0.3  # mixing alone is no trigger
    assert max(share(k, 7) for k in CLASSES) < attacked - 0.3  # a third class with either does less


def test_classes_must_be_three_and_there(task, refused):
    for classes, target in (((0, 0), 1), ((0, 1), 1), ((0, 1), 10)):
        with refused("must be three of 0..9"):
            Composite(classes, target)(task)
    without = replace(task, valid=task.valid.select(task.valid.labels != 1))
    with refused("class 1", "to be mixed"):
        Composite(CLASSES, TARGET)(without)


def test_the_given_images_say_only_how_many():
    trigger = Mixture(plain(3, 10), plain(5, 20), jitter=1)
    given_images = Square(2)(plain(7, 99), None)
    result = trigger(given_images, np.random.default_rng(0))
    assert result.shape == given_images.shape
    assert set(np.unique(result)) == {10, 20}
