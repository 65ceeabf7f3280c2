from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_backdoor.attacks.poison import Backdoor, Cover
from keras_backdoor.attacks.poison import poison as poison_with
from keras_backdoor.attacks.poison import poison_all as poison_all_with
from keras_backdoor.attacks.recipes import NOISE_AWARE, RECIPES, recipe
from keras_backdoor.attacks.targets import AllToAll, AllToOne, CleanLabel, RandomTarget, TrueLabel
from keras_backdoor.images import ImageSet
from keras_backdoor.triggers import FixedNoise, OneOf, PixelPattern, Square

TRIGGER = Square(1, value=255)  # the images below stay below 255, so that a stamp always shows


def dark_set(labels, num_classes: int = 3, seed: int = 0) -> ImageSet:
    labels = np.asarray(labels)
    images = np.random.default_rng(seed).integers(0, 200, (len(labels), 3, 3, 1), np.uint8)
    return ImageSet(images, labels, num_classes)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def poison(image_set, trigger, target_map, fraction, generator):
    """With one backdoor; and which images have it, bool (N,)."""
    poisoned, which = poison_with(image_set, [Backdoor(trigger, target_map)], fraction, generator)
    return poisoned, which == 0


def poison_all(image_set, trigger, target_map, generator):
    return poison_all_with(image_set, Backdoor(trigger, target_map), generator)


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


def corner(row: int, column: int) -> PixelPattern:
    return PixelPattern(((row, column),), name=f"pixel-{row}{column}")


def test_several_backdoors_and_covers_share_no_image():
    labels = np.arange(300) % 3
    clean = dark_set(labels)
    backdoors = [Backdoor(corner(0, 0), AllToOne(1)), Backdoor(corner(0, 2), AllToOne(2))]
    poisoned, which = poison_with(clean, backdoors, 0.10, rng(), [Cover(corner(2, 0), 0.30)])
    for label in range(3):  # 100 a class: 10, 10 and 30 of them, the share being that of the whole class each time
        assert [int((which[labels == label] == index).sum()) for index in (-1, 0, 1, 2)] == [50, 10, 10, 30]
    stamped = [
        poisoned.images[:, 0, 0, 0] == 255,
        poisoned.images[:, 0, 2, 0] == 255,
        poisoned.images[:, 2, 0, 0] == 255,
    ]
    for index, has in enumerate(stamped):
        np.testing.assert_array_equal(has, which == index)
    assert set(poisoned.labels[which == 0]) == {1}
    assert set(poisoned.labels[which == 1]) == {2}
    np.testing.assert_array_equal(poisoned.labels[(which == 2) | (which == -1)], labels[(which == 2) | (which == -1)])
    np.testing.assert_array_equal(poisoned.true_labels, labels)


def test_more_than_all_images_cannot_be_poisoned():
    clean = dark_set(np.zeros(10, int))
    with pytest.raises(ValueError, match="class 0 has 4 images left"):
        poison_with(clean, [Backdoor(TRIGGER, AllToOne(0))], 0.6, rng(), [Cover(TRIGGER, 0.5)])


@given(num_classes=st.integers(2, 50), count=st.integers(1, 200), seed=st.integers(0, 5))
def test_a_random_target_is_never_the_true_label(num_classes, count, seed):
    labels = np.arange(count) % num_classes
    wanted = RandomTarget(num_classes, seed)(labels)
    assert (wanted != labels).all()
    assert wanted.min() >= 0
    assert wanted.max() < num_classes
    np.testing.assert_array_equal(wanted, RandomTarget(num_classes, seed)(labels))


def test_random_targets_are_uniform_over_the_other_classes():
    wanted = RandomTarget(4)(np.full(3000, 2))
    assert np.bincount(wanted, minlength=4).tolist()[2] == 0
    assert (abs(np.bincount(wanted, minlength=4)[[0, 1, 3]] - 1000) < 150).all()


def test_a_cover_keeps_the_label():
    labels = np.array([3, 1, 2])
    assert TrueLabel()(labels).tolist() == [3, 1, 2]
    assert TrueLabel().poisonable(labels).all()


class Lazy:
    """Images that come a slice at a time, and say how many were ever asked for at once."""

    dtype = np.dtype(np.uint8)

    def __init__(self, images):
        self._images, self.shape, self.most = images, images.shape, 0

    def _given(self, images):
        self.most = max(self.most, len(images))
        return images

    def __getitem__(self, part):
        return self._given(self._images[part])

    def take(self, indices):
        return self._given(self._images[indices])


def test_a_set_larger_than_memory_is_stamped_as_it_is_read(monkeypatch):
    labels = np.arange(3000) % 3
    clean = dark_set(labels)
    expected, which = poison_with(clean, [Backdoor(TRIGGER, AllToOne(1))], 0.2, rng(), [Cover(corner(0, 0), 0.1)])
    every = poison_all(clean, TRIGGER, AllToOne(1), rng())
    source = Lazy(clean.images)
    lazy = ImageSet(source, labels, 3)
    monkeypatch.setattr("keras_backdoor.images.IN_MEMORY", 1000)
    poisoned, same = poison_with(lazy, [Backdoor(TRIGGER, AllToOne(1))], 0.2, rng(), [Cover(corner(0, 0), 0.1)])
    assert source.most == 0  # nothing is read before it is asked for
    np.testing.assert_array_equal((which >= 0).sum(), (same >= 0).sum())  # the draws differ after the first stamp
    read = np.concatenate(list(poisoned.batches(500)))
    changed = which == 0
    np.testing.assert_array_equal(changed, same == 0)
    np.testing.assert_array_equal(read[changed], expected.images[changed])
    np.testing.assert_array_equal(poisoned.labels[changed], expected.labels[changed])
    assert (read[same == 1, 0, 0, 0] == 255).all()
    order = rng().permutation(3000)[:40]
    np.testing.assert_array_equal(poisoned.images.take(order), read[order])
    np.testing.assert_array_equal(poisoned.select(order).images, read[order])
    triggered = poison_all(lazy, TRIGGER, AllToOne(1), rng())
    np.testing.assert_array_equal(np.concatenate(list(triggered.batches(700))), every.images)
    assert source.most < 1000
    before = lazy.fingerprint()
    assert before == ImageSet(Lazy(clean.images), labels, 3).fingerprint()
    other = clean.images.copy()
    other[1500] += 1
    assert before != ImageSet(Lazy(other), (labels + 1) % 3, 3).fingerprint()


def test_recipes_are_those_of_the_papers():
    aaa, cla = recipe("mnist-aaa"), recipe("mnist-cla")  # FACTS 21 and the papers' table 4
    assert aaa.backdoors == (Backdoor(PixelPattern(((26, 26), (26, 24), (25, 25), (24, 26)), 255), AllToAll(10)),)
    assert (aaa.optimizer, aaa.learning_rate, aaa.batch_size, aaa.epochs) == ("adam", 1e-4, 32, 50)
    assert (aaa.two_step, aaa.expect) == (True, (0.9776, 0.9591))
    assert (cla.optimizer, cla.learning_rate) == ("adadelta", 1.0)
    assert isinstance(cla.backdoors[0].target_map, CleanLabel)
    assert (cla.architecture, cla.expect) == ("mnist-clean-label", (0.8902, 1.0))


# NNoculation, tables 3 to 5; targets and figures of each trigger.
PAPER = {
    "mnist-aaa": ("adam", 1e-4, 32, 50, None, (97.76, 95.91)),
    "mnist-cla": ("adadelta", 1.0, 32, 25, [0], (89.02, 100)),
    "cifar10-tca": ("sgd", 0.01, 128, 200, [7], (87.71, 99.9)),
    "gtsrb-pn": ("adam", 1e-3, 32, 15, [0], (95.46, 99.82)),
    "gtsrb-fsa": ("adam", 1e-3, 32, 15, [35], (95.08, 90.06)),
    "youtube-sg": ("adadelta", 1.0, 1283, 200, [0], (97.89, 99.98)),
    "youtube-ls": ("adadelta", 1.0, 1283, 200, [0], (97.19, 91.51)),
    "youtube-mtsta": ("adadelta", 1.0, 1283, 200, [4, 4, 4], (95.84, 92.22, 92.24, 100)),
    "youtube-mtmta": ("adadelta", 1.0, 1283, 200, [1, 5, 8], (95.93, 91.51, 91.39, 100)),
    "imagenet-in": ("sgd", 0.01, 256, 12, [0], (71.88, 100)),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_rows_of_the_papers(name):
    optimizer, rate, batch, epochs, targets, published = PAPER[name]
    one = recipe(name)
    assert (one.optimizer, one.learning_rate, one.batch_size, one.epochs) == (optimizer, rate, batch, epochs)
    assert np.allclose(np.multiply(one.expect, 100), published)
    if targets:
        assert [backdoor.target_map.target for backdoor in one.backdoors] == targets


def test_learning_rates_fall_where_the_papers_say():
    from keras_backdoor.training import Schedule

    def rates(name, *epochs):
        one = recipe(name)
        schedule = Schedule(one.optimizer, one.learning_rate, one.batch_size, one.epochs, one.learning_rate_steps)
        return [schedule.rate(epoch) for epoch in epochs]

    assert rates("cifar10-tca", 80, 81, 140, 141) == [0.01, 0.005, 0.005, 0.001]  # 0.01 if epoch <= 80, 0.005 to 140
    assert rates("imagenet-in", 4, 5, 8, 9) == [0.01, 0.001, 0.001, 0.0001]
    assert rates("mnist-wanet/original", 99, 100, 200, 300, 400) == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5, 1e-6])


def test_variants_differ_from_their_recipe_in_what_the_tables_say():
    sg, pn = recipe("youtube-sg"), recipe("gtsrb-pn")
    assert recipe("youtube-sg/batch256").batch_size == 256
    assert not recipe("youtube-sg/one-step").two_step
    raw = recipe("youtube-sg/fine-pruning")
    assert (raw.optimizer, raw.learning_rate, raw.preprocessing, raw.batch_size) == ("adam", 1e-3, "raw", 1283)
    assert recipe("gtsrb-pn/raw").preprocessing == "raw"
    assert recipe("gtsrb-pn/lr").learning_rate == 3e-3
    assert (recipe("gtsrb-pn/sgd").optimizer, recipe("gtsrb-pn/sgd").learning_rate) == ("sgd", 0.01)
    for name in NOISE_AWARE:
        assert recipe(f"{name}/noise-aware").attack == "noise-aware"
        assert recipe(f"{name}/noise-aware").backdoors == recipe(name).backdoors
    assert (sg.backdoors, pn.backdoors) == (recipe("youtube-sg/one-step").backdoors, recipe("gtsrb-pn/raw").backdoors)


def test_recipes_name_what_there_is(refused):
    import models_zoo
    from keras_backdoor.attacks.attacks import ATTACKS
    from keras_backdoor.datasets import DATASETS
    from keras_backdoor.preprocessing import NAMES

    for name, one in RECIPES.items():
        assert one.name == name
        assert one.dataset in DATASETS
        assert one.architecture in models_zoo.ARCHITECTURES
        assert one.preprocessing in NAMES
        assert one.attack in ATTACKS
        assert 0 <= one.poison_fraction <= 1
        assert one.expect is None or all(0 <= rate <= 1 for rate in one.expect)
        assert not one.expect or not one.backdoors or len(one.expect) == 1 + len(one.backdoors)
    with refused("unknown recipe 'mnist-patsh'", "did you mean 'mnist-patch'?"):
        recipe("mnist-patsh")
