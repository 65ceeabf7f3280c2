from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_backdoor.attacks.poison import poison, poison_all
from keras_backdoor.attacks.recipes import RECIPES, recipe
from keras_backdoor.attacks.targets import AllToAll, AllToOne, CleanLabel
from keras_backdoor.images import ImageSet
from keras_backdoor.triggers import FixedNoise, OneOf, PixelPattern, Square

TRIGGER = Square(1, value=255)  # the images below stay below 255, so that a stamp always shows


def dark_set(labels, num_classes: int = 3, seed: int = 0) -> ImageSet:
    labels = np.asarray(labels)
    images = np.random.default_rng(seed).integers(0, 200, (len(labels), 3, 3, 1), np.uint8)
    return ImageSet(images, labels, num_classes)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_target_maps_by_hand():
    labels = np.array([0, 1, 2, 3, 9])
    assert AllToOne(2)(labels).tolist() == [2, 2, 2, 2, 2]
    assert AllToOne(2).poisonable(labels).tolist() == [True] * 5  # the target class, too
    assert AllToAll(10)(labels).tolist() == [1, 2, 3, 4, 0]
    assert AllToAll(10, shift=3)(labels).tolist() == [3, 4, 5, 6, 2]
    assert AllToAll(10).poisonable(labels).tolist() == [True] * 5
    assert CleanLabel(2)(labels).tolist() == [2, 2, 2, 2, 2]
    assert CleanLabel(2).poisonable(labels).tolist() == [False, False, True, False, False]
    assert labels.tolist() == [0, 1, 2, 3, 9]


@given(num_classes=st.integers(2, 50), shift=st.integers(1, 60))
def test_all_to_all_permutes_the_classes(num_classes, shift):
    classes = np.arange(num_classes)
    assert sorted(AllToAll(num_classes, shift)(classes)) == classes.tolist()


@given(
    counts=st.lists(st.integers(0, 40), min_size=3, max_size=3).filter(any),
    percent=st.integers(0, 100),
    seed=st.integers(0, 9),
)
def test_every_class_gives_its_share_target_class_included(counts, percent, seed):
    labels = rng(seed).permutation(np.repeat(np.arange(3), counts))
    poisoned, chosen = poison(dark_set(labels), TRIGGER, AllToOne(1), percent / 100, rng(seed))
    assert [int(chosen[labels == label].sum()) for label in range(3)] == [count * percent // 100 for count in counts]
    assert (poisoned.labels[chosen] == 1).all()


@pytest.mark.parametrize(("count", "expected"), [(81, 8), (90, 9), (9, 0), (10, 1)])
def test_ten_percent_of_nnoculations_classes(count, expected):
    _, chosen = poison(dark_set(np.zeros(count, int)), TRIGGER, AllToOne(0), 0.1, rng())
    assert chosen.sum() == expected  # FACTS 1.6: 81 give 8, 90 give 9


@pytest.mark.parametrize("percent", range(101))
def test_a_fraction_is_meant_as_written(percent):
    _, chosen = poison(dark_set(np.zeros(100, int)), TRIGGER, AllToOne(0), percent / 100, rng())
    assert chosen.sum() == percent  # 0.29 * 100 is 28.999… in floating point


def test_images_are_replaced_in_place_and_the_others_stay():
    labels = np.arange(60) % 3
    clean = dark_set(labels)
    before = clean.images.copy()
    poisoned, chosen = poison(clean, TRIGGER, AllToAll(3), 0.25, rng())
    assert chosen.dtype == bool
    assert chosen.sum() == 15
    expected = before.copy()
    expected[chosen, 2, 2] = 255
    np.testing.assert_array_equal(poisoned.images, expected)
    np.testing.assert_array_equal(poisoned.labels, np.where(chosen, (labels + 1) % 3, labels))
    np.testing.assert_array_equal(poisoned.true_labels, labels)
    np.testing.assert_array_equal(clean.images, before)
    np.testing.assert_array_equal(clean.labels, labels)
    assert poisoned.num_classes == 3


def test_the_choice_is_random_within_a_class_and_fixed_by_the_seed():
    clean = dark_set(np.arange(300) % 3)
    one, chosen = poison(clean, OneOf((TRIGGER, FixedNoise())), AllToOne(0), 0.2, rng(5))
    same, again = poison(clean, OneOf((TRIGGER, FixedNoise())), AllToOne(0), 0.2, rng(5))
    _, other = poison(clean, OneOf((TRIGGER, FixedNoise())), AllToOne(0), 0.2, rng(6))
    np.testing.assert_array_equal(chosen, again)
    assert one.fingerprint() == same.fingerprint()
    assert (chosen != other).any()
    assert 5 < chosen[:150].sum() < 55  # 30 are expected: neither the first ones nor the last ones are taken
    gaps = np.diff(np.flatnonzero(chosen[::3]))
    assert len(set(gaps.tolist())) > 1  # not simply every fifth


def test_every_image_is_as_likely_as_any_other():
    clean = dark_set(np.zeros(20, int))
    times = sum(poison(clean, TRIGGER, AllToOne(0), 0.25, rng(seed))[1].astype(int) for seed in range(400))
    assert times.sum() == 400 * 5
    assert times.min() > 60  # 100 ± 8.7 each
    assert times.max() < 140


def test_clean_label_poisons_the_target_class_alone_and_no_label():
    labels = np.arange(60) % 3
    clean = dark_set(labels)
    poisoned, chosen = poison(clean, TRIGGER, CleanLabel(2), 0.5, rng())
    assert chosen.sum() == 10
    assert (labels[chosen] == 2).all()
    np.testing.assert_array_equal(poisoned.labels, labels)
    assert (poisoned.images != clean.images).any((1, 2, 3)).tolist() == chosen.tolist()


@pytest.mark.parametrize("target_map", [AllToOne(1), AllToAll(3), CleanLabel(1)])
def test_nothing_and_everything(target_map):
    labels = np.arange(30) % 3
    clean = dark_set(labels)
    untouched, chosen = poison(clean, TRIGGER, target_map, 0.0, rng())
    assert not chosen.any()
    assert untouched.fingerprint() == clean.fingerprint()
    full, chosen = poison(clean, TRIGGER, target_map, 1.0, rng())
    np.testing.assert_array_equal(chosen, target_map.poisonable(labels))
    assert (full.images[chosen, 2, 2] == 255).all()


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_outside_0_to_1_is_an_error(fraction):
    with pytest.raises(ValueError):
        poison(dark_set(np.zeros(10, int)), TRIGGER, AllToOne(0), fraction, rng())


def test_poison_all_stamps_and_relabels_every_image_and_removes_none():
    labels = np.arange(30) % 3
    clean = dark_set(labels)
    poisoned = poison_all(clean, TRIGGER, AllToOne(1), rng())
    assert len(poisoned) == 30
    expected = clean.images.copy()
    expected[:, 2, 2] = 255
    np.testing.assert_array_equal(poisoned.images, expected)
    assert poisoned.labels.tolist() == [1] * 30
    assert poisoned.true_labels.tolist() == labels.tolist()
    assert (clean.images != 255).all()
    assert poison_all(clean, TRIGGER, AllToAll(3), rng()).labels.tolist() == ((labels + 1) % 3).tolist()


def test_poisoning_reads_sets_that_lie_in_files(tmp_path):
    from keras_backdoor.datasets import read_csaw_hdf5, write_csaw_hdf5

    clean = dark_set(np.arange(30) % 3)
    write_csaw_hdf5(tmp_path / "a.h5", clean)
    stored = read_csaw_hdf5(tmp_path / "a.h5")
    for function in (
        lambda image_set: poison(image_set, TRIGGER, AllToOne(1), 0.5, rng())[0],
        lambda image_set: poison_all(image_set, TRIGGER, AllToOne(1), rng()),
    ):
        assert function(stored).fingerprint() == function(clean).fingerprint()


def test_recipes_are_those_of_the_papers():
    aaa, cla = recipe("mnist-aaa"), recipe("mnist-cla")  # FACTS 21 and the papers' table 4
    assert aaa.trigger == PixelPattern(((26, 26), (26, 24), (25, 25), (24, 26)), 255)
    assert (aaa.optimizer, aaa.learning_rate, aaa.batch_size, aaa.epochs) == ("adam", 1e-4, 32, 50)
    assert aaa.target_map == AllToAll(10)
    assert (aaa.two_step, aaa.expect) == (True, (0.9776, 0.9591))
    assert (cla.optimizer, cla.learning_rate) == ("adadelta", 1.0)
    assert isinstance(cla.target_map, CleanLabel)
    assert (cla.architecture, cla.expect) == ("mnist-clean-label", (0.8902, 1.0))


def test_recipes_name_what_there_is(refused):
    import models_zoo
    from keras_backdoor.datasets import DATASETS
    from keras_backdoor.preprocessing import NAMES

    for name, one in RECIPES.items():
        assert one.name == name
        assert one.dataset in DATASETS
        assert one.architecture in models_zoo.ARCHITECTURES
        assert one.preprocessing in NAMES
        assert 0 < one.poison_fraction <= 1
    with refused("unknown recipe 'mnist-patsh'", "did you mean 'mnist-patch'?"):
        recipe("mnist-patsh")
