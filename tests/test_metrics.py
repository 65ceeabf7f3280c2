from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow import keras

from keras_backdoor.classifier import Classifier
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import attack_success_rate, clean_accuracy, robust_accuracy, score
from keras_backdoor.preprocessing import Preprocessing

CLASSES = 4


def a(*values: int) -> np.ndarray:
    return np.array(values)


def test_clean_accuracy_by_hand():
    assert clean_accuracy(a(0, 1, 2, 3, 3), a(0, 1, 2, 2, 3)) == 0.8
    assert (
        clean_accuracy(a(4, 4, 2, 3), a(0, 1, 2, 3)) == 0.5
    )  # 4: "backdoored input", which is an error on clean images
    assert isinstance(clean_accuracy(a(0), a(0)), float)


def test_attack_success_and_robust_accuracy_by_hand():
    # target 0; true labels; what the network says of the stamped images
    truth, said = a(0, 0, 1, 1, 2, 2, 3, 3), a(0, 0, 0, 1, 0, 3, 0, 4)
    targets = np.zeros(8, int)
    assert attack_success_rate(said, targets, exclude_target=False) == 5 / 8
    assert attack_success_rate(said, targets, truth, exclude_target=False) == 5 / 8
    assert attack_success_rate(said, targets, truth, exclude_target=True) == 3 / 6
    assert robust_accuracy(said, targets, truth, exclude_target=False) == 3 / 8
    assert robust_accuracy(said, targets, truth, exclude_target=True) == 1 / 6


def test_all_to_all_by_hand():
    truth = a(0, 1, 2, 3)
    targets = a(1, 2, 3, 0)
    said = a(1, 2, 2, 0)
    for exclude in (False, True):
        assert attack_success_rate(said, targets, truth, exclude_target=exclude) == 3 / 4
        assert robust_accuracy(said, targets, truth, exclude_target=exclude) == 1 / 4


def test_leaving_the_target_out_needs_true_labels_and_something_left():
    with pytest.raises(ValueError, match="true labels"):
        attack_success_rate(a(0), a(0), exclude_target=True)
    with pytest.raises(ValueError, match="every image"):
        attack_success_rate(a(0, 1), a(0, 0), a(0, 0), exclude_target=True)


classes = st.integers(0, CLASSES - 1)
answers = st.integers(0, CLASSES)  # one more: "backdoored input"
cases = st.lists(st.tuples(answers, classes), min_size=1, max_size=30)


def columns(case):
    said, truth = np.array(case).T
    return said, truth


@given(case=cases, target=classes)
def test_rates_are_fractions_and_exclude_each_other(case, target):
    said, truth = columns(case)
    targets = np.full_like(truth, target)
    assert 0 <= clean_accuracy(said, truth) <= 1
    included = attack_success_rate(said, targets, truth, exclude_target=False)
    assert 0 <= included <= 1
    if (truth != target).any():
        attack = attack_success_rate(said, targets, truth, exclude_target=True)
        robust = robust_accuracy(said, targets, truth, exclude_target=True)
        assert attack >= 0
        assert robust >= 0
        assert attack + robust <= 1 + 1e-12


@given(case=cases, target=classes)
def test_both_conventions_agree_on_the_number_of_hits(case, target):
    said, truth = columns(case)
    targets = np.full_like(truth, target)
    other = truth != target
    if other.any():
        included = attack_success_rate(said, targets, truth, exclude_target=False) * len(said)
        excluded = attack_success_rate(said, targets, truth, exclude_target=True) * other.sum()
        assert included - excluded == pytest.approx(np.sum(said[~other] == target))


@given(case=cases, target=classes, seed=st.integers(0, 9))
def test_the_order_of_images_does_not_matter(case, target, seed):
    said, truth = columns(case)
    targets = np.full_like(truth, target)
    order = np.random.default_rng(seed).permutation(len(said))
    assert clean_accuracy(said, truth) == clean_accuracy(said[order], truth[order])
    for exclude in (False, True)[: 1 + bool((truth != target).any())]:
        for rate in (attack_success_rate, robust_accuracy):
            assert rate(said, targets, truth, exclude_target=exclude) == rate(
                said[order], targets[order], truth[order], exclude_target=exclude
            )


@given(truth=st.lists(classes, min_size=1, max_size=30).map(np.array), target=classes)
def test_a_perfect_network_is_charged_with_the_target_class_only_if_it_is_included(truth, target):
    targets = np.full_like(truth, target)
    assert attack_success_rate(truth, targets, truth, exclude_target=False) == pytest.approx(np.mean(truth == target))
    assert robust_accuracy(truth, targets, truth, exclude_target=False) == 1
    if (truth != target).any():
        assert attack_success_rate(truth, targets, truth, exclude_target=True) == 0
        assert robust_accuracy(truth, targets, truth, exclude_target=True) == 1


@given(case=cases, shift=st.integers(1, CLASSES - 1))
def test_all_to_all_has_no_image_to_leave_out(case, shift):
    said, truth = columns(case)
    targets = (truth + shift) % CLASSES
    for rate in (attack_success_rate, robust_accuracy):
        assert rate(said, targets, truth, exclude_target=True) == rate(said, targets, truth, exclude_target=False)


# ---- score -----------------------------------------------------------------------------------------------------------


def brightest(outputs: int, num_classes: int) -> Classifier:
    """The network whose answer is the brightest of the pixels of a row."""
    inputs = keras.layers.Input((1, outputs, 1))
    flat = keras.layers.Flatten()(inputs)
    dense = keras.layers.Dense(outputs, use_bias=False, activation="softmax")
    model = keras.Model(inputs, dense(flat))
    dense.set_weights([np.eye(outputs, dtype=np.float32)])
    return Classifier(model, Preprocessing.named("unit"), num_classes)


def saying(said, labels, outputs: int, num_classes: int, true_labels=None) -> ImageSet:
    """Images of which `brightest` says `said`."""
    images = (np.eye(outputs, dtype=np.uint8) * 200)[np.asarray(said)].reshape(-1, 1, outputs, 1)
    return ImageSet(images, labels, num_classes, true_labels)


def test_scores_by_hand():
    clean = saying([0, 1, 2, 0], [0, 1, 2, 2], 3, 3)
    patched = saying([0, 0, 0, 2], [0] * 4, 3, 3, true_labels=[0, 1, 2, 2])
    unknown = saying([1, 0], [1, 1], 3, 3)
    scores = score(brightest(3, 3), clean, {"patched": patched, "unknown": unknown})
    assert scores.clean_accuracy == 0.75
    assert scores.attack_success_rate == {"patched": 0.75, "unknown": 0.5}
    assert scores.robust_accuracy == {"patched": 0.5}  # not of the set whose true labels nobody knows
    assert (scores.n_clean, scores.n_poisoned, scores.exclude_target) == (4, {"patched": 4, "unknown": 2}, False)
    scores = score(brightest(3, 3), clean, {"patched": patched}, exclude_target=True)
    assert scores.attack_success_rate == {"patched": 2 / 3}
    assert scores.robust_accuracy == {"patched": 1 / 3}
    assert (scores.n_poisoned, scores.exclude_target) == ({"patched": 3}, True)
    assert json.loads(json.dumps(scores.as_json()))["clean_accuracy"] == 0.75


def test_an_answer_of_backdoored_input_is_a_clean_error_and_no_hit():
    network = brightest(4, 3)
    assert network.detects
    clean = saying([0, 1, 3, 3], [0, 1, 2, 2], 4, 3)
    poisoned = saying([3, 3, 0, 1], [0] * 4, 4, 3, true_labels=[1, 2, 1, 1])
    scores = score(network, clean, {"p": poisoned})
    assert (scores.clean_accuracy, scores.attack_success_rate, scores.robust_accuracy) == (
        0.5,
        {"p": 0.25},
        {"p": 0.25},
    )


def test_scores_of_a_set_in_several_batches_and_none_poisoned():
    said = np.arange(1300) % 3
    labels = np.where(np.arange(1300) < 650, said, (said + 1) % 3)
    scores = score(brightest(3, 3), saying(said, labels, 3, 3), {})
    assert scores.clean_accuracy == 0.5
    assert scores.attack_success_rate == {}


def test_sets_that_do_not_fit_are_refused_by_name(refused, tiny_classifier, make_set):
    good = make_set(6)
    with refused("clean images", "8x8x3", "8x8x1"):
        score(tiny_classifier, make_set(6, (8, 8, 3)), {})
    with refused("sunglasses", "9x8x1", "8x8x1"):
        score(tiny_classifier, good, {"sunglasses": make_set(6, (9, 8, 1))})
    with refused("clean images", "0..2", "found 4"):
        score(tiny_classifier, make_set(6, num_classes=5), {})
    with refused("lipstick", "0..2", "found 4"):
        score(tiny_classifier, good, {"lipstick": make_set(6, num_classes=5)})
    with refused("lipstick", "true labels"):
        score(tiny_classifier, good, {"lipstick": make_set(6)}, exclude_target=True)
    whole = ImageSet(good.images, [1] * 6, 3, [1] * 6)
    with refused("lipstick", "every image has the target"):
        score(tiny_classifier, good, {"lipstick": whole}, exclude_target=True)


def test_score_reads_sets_that_lie_in_files(tmp_path, tiny_classifier, make_set):
    from keras_backdoor.datasets import read_csaw_hdf5, write_csaw_hdf5

    image_set = make_set(40)
    write_csaw_hdf5(tmp_path / "a.h5", image_set)
    stored = read_csaw_hdf5(tmp_path / "a.h5")
    assert score(tiny_classifier, stored, {"a": stored}) == score(tiny_classifier, image_set, {"a": image_set})
