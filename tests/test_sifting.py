"""Activation clustering and spectral signatures: which images of a training set were poisoned."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import ROOT

from kbd import _method_options
from keras_backdoor.attacks.poison import poison
from keras_backdoor.attacks.recipes import recipe
from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import write_csaw_hdf5
from keras_backdoor.defenses import SIFTING, TRAINING, find
from keras_backdoor.defenses.activation_clustering import ActivationClustering
from keras_backdoor.defenses.spectral_signatures import SpectralSignatures
from keras_backdoor.images import ImageSet
from keras_backdoor.sifted import Sifted

PRETRAINED = ROOT / "models_zoo" / "pretrained"
METHODS = (ActivationClustering(), SpectralSignatures())


class Given:
    """Stands for the second to last layer: activations that the test gives."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = np.asarray(values, np.float32)

    def activations(self, images: ImageSet) -> np.ndarray:
        assert len(images) == len(self.values)
        return self.values


@pytest.fixture
def sift(tiny_classifier, monkeypatch):
    """`sift(defense, activations, labels)`: what a defense says if the network's activations are these."""

    def run(defense, activations, labels):
        monkeypatch.setattr(f"{type(defense).__module__}.units", lambda classifier, layer: Given(activations))
        images = np.zeros((len(labels), 8, 8, 1), np.uint8)
        return defense.sift(tiny_classifier, ImageSet(images, np.asarray(labels), 3))

    return run


@pytest.fixture
def lively(tiny_classifier):
    """The tiny network, none of whose neurons is dead."""
    for name in ("conv_1", "conv_2"):
        kernel, bias = tiny_classifier.model.get_layer(name).get_weights()
        tiny_classifier.model.get_layer(name).set_weights([kernel, bias + 0.5])
    return tiny_classifier


def groups(*sizes_and_centres, spread=0.1, seed=0):
    """Points (N, 3) round centres: `(size, centre)` after each other."""
    rng = np.random.default_rng(seed)
    return np.concatenate([centre + spread * rng.standard_normal((size, 3)) for size, centre in sizes_and_centres])


# --- what both give -------------------------------------------------------------------------------------------------------


def test_rates_by_hand():
    flags = np.array([True, True, True, False, False, False, False, False])
    poisoned = np.array([True, True, False, True, False, False, False, False])
    found = Sifted(np.arange(8.0), flags)
    assert found.rates(poisoned) == {"recall": 2 / 3, "precision": 2 / 3, "false_flags": 1 / 5}
    assert found.rates(np.zeros(8, bool)) == {"recall": None, "precision": 0.0, "false_flags": 3 / 8}
    none = Sifted(np.arange(8.0), np.zeros(8, bool))
    assert none.rates(np.ones(8, bool)) == {"recall": 0.0, "precision": None, "false_flags": None}


@pytest.mark.parametrize("method", [*SIFTING, *TRAINING])
def test_options_can_be_read_from_the_source(method):
    options = {option.name: option for option in _method_options.method_options(method)}
    assert {name: option.default for name, option in options.items()} == {
        field.name: field.default for field in dataclasses.fields(find(method))
    }
    assert all(len(option.help) > 8 for option in options.values())
    assert _method_options.method_summary(method)


@pytest.mark.parametrize("defense", METHODS, ids=lambda defense: type(defense).__name__)
def test_images_that_do_not_fit_are_refused(defense, tiny_classifier, make_set, refused):
    with refused("training images", "9x8x1", "8x8x1"):
        defense.sift(tiny_classifier, make_set(shape=(9, 8, 1)))
    with refused("training images", "0..2"):
        defense.sift(tiny_classifier, make_set(num_classes=5))
    with refused("no convolution 'conv_9'", "conv_1, conv_2"):
        dataclasses.replace(defense, layer="conv_9").sift(tiny_classifier, make_set(60))


@pytest.mark.parametrize("defense", METHODS, ids=lambda defense: type(defense).__name__)
def test_the_same_answer_every_time_and_progress_of_every_class(defense, lively, make_set):
    told, images = [], make_set(90)
    first = defense.sift(lively, images, lambda *what: told.append(what[1:3]))
    second = defense.sift(lively, images)
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.flags, second.flags)
    assert first.scores.dtype == np.float64 and first.flags.dtype == bool
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_convolution_can_be_looked_at_instead(lively, make_set):
    from keras_backdoor.defenses.units import units

    images = make_set(60)
    own = SpectralSignatures(layer="conv_1").sift(lively, images).scores
    means = units(lively, "conv_1").activations(images)
    of_first = images.labels == 0
    np.testing.assert_array_equal(own[of_first], SpectralSignatures().scores(means[of_first])[0])
    assert not np.allclose(own, SpectralSignatures().sift(lively, images).scores)


# --- spectral signatures --------------------------------------------------------------------------------------------------


def test_a_score_is_the_squared_projection_by_hand():
    """Centre (5, 1); the class varies by 4, 4 along the first axis and by 1, 1 along the second."""
    activations = np.array([[1.0, 1.0], [9.0, 1.0], [5.0, 0.0], [5.0, 2.0]])
    scores, variance = SpectralSignatures(centred=True).scores(activations)
    np.testing.assert_allclose(scores, [16, 16, 0, 0], atol=1e-12)
    assert variance == pytest.approx(32 / 34)
    uncentred, same = SpectralSignatures().scores(activations)
    np.testing.assert_allclose(uncentred, [1, 81, 25, 25])
    assert same == variance


def test_each_class_has_the_top_right_singular_vector_of_its_own(sift):
    rng = np.random.default_rng(0)
    activations = (rng.standard_normal((80, 12)) * rng.uniform(0.5, 3, 12) + rng.uniform(0, 5, 12)).astype(np.float32)
    labels = rng.integers(0, 3, 80)
    for centred in (True, False):
        found = sift(SpectralSignatures(centred=centred), activations, labels)
        for label in range(3):
            own = activations[labels == label].astype(np.float64)
            middle = own - own.mean(0)
            _, values, vectors = np.linalg.svd(middle, full_matrices=False)
            wanted = ((middle if centred else own) @ vectors[0]) ** 2
            np.testing.assert_allclose(found.scores[labels == label], wanted, rtol=1e-6, atol=1e-9)
            assert found.by_class["variance"][label] == pytest.approx(values[0] ** 2 / (values**2).sum())


@pytest.mark.parametrize(
    ("expected", "multiple", "wanted"), [(0.1, 1.5, (15, 30)), (0.29, 1.0, (29, 58)), (0.8, 1.5, (100, 200))]
)
def test_so_many_of_each_class_are_flagged_and_those_with_the_highest_scores(sift, expected, multiple, wanted):
    labels = np.repeat([0, 1], [100, 200])
    activations = np.random.default_rng(0).standard_normal((300, 5))
    found = sift(SpectralSignatures(expected=expected, multiple=multiple), activations, labels)
    for label, count in enumerate(wanted):
        flags, scores = found.flags[labels == label], found.scores[labels == label]
        assert flags.sum() == count
        assert flags.all() or scores[flags].min() > scores[~flags].max()
    assert np.isnan(found.by_class["variance"][2])


def test_poison_near_the_origin_is_found_by_the_papers_score_alone(sift):
    """Nine in ten lie at 10, the poisoned ones at 2: far from the centre, and with a small projection."""
    activations = groups((90, (10, 0, 0)), (10, (2, 0, 0)))
    poisoned = np.arange(100) >= 90
    assert sift(SpectralSignatures(centred=True), activations, np.zeros(100)).rates(poisoned)["recall"] == 1
    assert sift(SpectralSignatures(), activations, np.zeros(100)).rates(poisoned)["recall"] == 0


def test_half_a_class_far_from_the_origin_is_found_by_the_codes_score_alone(sift):
    activations = groups((48, (2, 0, 0)), (52, (10, 0, 0)))
    poisoned = np.arange(100) >= 48
    half = SpectralSignatures(expected=0.4)  # 60 are flagged
    assert sift(half, activations, np.zeros(100)).rates(poisoned)["recall"] == 1
    assert sift(dataclasses.replace(half, centred=True), activations, np.zeros(100)).rates(poisoned)["recall"] < 0.7


def test_the_oracle_looks_at_one_class(sift, tiny_classifier, make_set, refused):
    labels = np.arange(60) % 2
    found = sift(SpectralSignatures(target=1), groups((60, (0, 0, 0))), labels)
    assert found.flags.sum() == 4  # 0.15 of 30
    assert not found.flags[labels == 0].any()
    np.testing.assert_array_equal(np.isnan(found.scores), labels == 0)
    with refused("none has the label 2"):
        sift(SpectralSignatures(target=2), groups((60, (0, 0, 0))), labels)


def test_a_class_of_equal_images_scores_nothing(sift):
    found = sift(SpectralSignatures(centred=True), np.full((20, 4), 7.0), np.zeros(20))
    np.testing.assert_array_equal(found.scores, np.zeros(20))
    assert found.by_class["variance"][0] == 0


@pytest.mark.parametrize("bad", [{"expected": 0.0}, {"expected": 1.1}, {"multiple": 0.0}, {"multiple": float("nan")}])
def test_spectral_settings_out_of_range_are_refused(bad, refused):
    with refused(next(iter(bad)), "expected"):
        SpectralSignatures(**bad)


# --- activation clustering ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["pca", "ica"])
def test_the_smaller_cluster_is_flagged_where_it_stands_apart(sift, reduction):
    """Class 0 has 20 images of 100 elsewhere; class 1 is one heap."""
    activations = groups((80, (0, 0, 0)), (20, (3, 3, 0)), (100, (0, 5, 0)))
    labels, poisoned = np.repeat([0, 1], 100), np.arange(200) // 20 == 4
    found = sift(ActivationClustering(reduction=reduction), activations, labels)
    np.testing.assert_array_equal(found.flags, poisoned)
    assert found.by_class["share"][0] == 0.2
    assert found.by_class["silhouette"][0] > 0.28 > found.by_class["silhouette"][1]
    assert np.isnan(found.by_class["share"][2])
    np.testing.assert_array_equal(found.scores[:100] > 0, poisoned[:100])


def test_shares_silhouette_and_scores_by_hand():
    """Three images at 0, 1, 2 and one at 10 on a line; centres 1 and 10."""
    points = np.array([[0.0], [1.0], [2.0], [10.0]])
    halves = ActivationClustering().clusters(points)
    np.testing.assert_allclose(halves.scores(points), [(1 - 10) / 11, -1, (1 - 8) / 9, 1])
    assert halves.share == 0.25
    # mean distance to the own cluster against that to the other one; alone in a cluster counts 0
    assert halves.silhouette == pytest.approx(((10 - 1.5) / 10 + (9 - 1) / 9 + (8 - 1.5) / 8 + 0) / 4)


def test_each_rule_alone(sift):
    apart, heap = groups((70, (0, 0, 0)), (30, (3, 0, 0))), groups((100, (0, 0, 0)), seed=1)
    labels = np.zeros(100)
    flagged = {
        (name, rule): int(
            sift(ActivationClustering(largest=largest, silhouette=silhouette), values, labels).flags.sum()
        )
        for name, values in (("apart", apart), ("heap", heap))
        for rule, largest, silhouette in (
            ("size", 0.35, -1),
            ("both", 0.25, 0.4),
            ("apart", 0.5, 0.4),
            ("any", 0.5, -1),
        )
    }
    assert [flagged["apart", rule] for rule in ("size", "both", "apart", "any")] == [30, 0, 30, 30]
    assert flagged["heap", "apart"] == flagged["heap", "both"] == 0
    assert 30 < flagged["heap", "any"] <= 50


def test_the_first_components_are_those_of_most_variance():
    values = np.random.default_rng(0).standard_normal((60, 8)) * [1, 9, 2, 8, 3, 7, 4, 5] + 3
    reduced = ActivationClustering(components=4)._reduction(values)(values)
    wanted = np.linalg.svd(values - values.mean(0))[1][:4]
    np.testing.assert_allclose(np.sqrt((reduced**2).sum(0)), wanted)
    np.testing.assert_allclose(reduced.mean(0), 0, atol=1e-9)


@pytest.fixture
def sift_trusting(tiny_classifier, monkeypatch, tmp_path):
    """`sift_trusting(activations, labels, trusted activations, trusted labels)`."""

    def run(activations, labels, seen, truth, reduction="pca"):
        given = {len(labels): activations, len(truth): seen}
        both = type("Both", (), {"activations": lambda _, images: np.asarray(given[len(images)], np.float32)})()
        monkeypatch.setattr("keras_backdoor.defenses.activation_clustering.units", lambda classifier, layer: both)
        path = tmp_path / "trusted.h5"
        write_csaw_hdf5(path, ImageSet(np.zeros((len(truth), 8, 8, 1), np.uint8), np.asarray(truth), 3))
        images = ImageSet(np.zeros((len(labels), 8, 8, 1), np.uint8), np.asarray(labels), 3)
        return ActivationClustering(reduction=reduction, trusted=str(path)).sift(tiny_classifier, images)

    return run


@pytest.mark.parametrize("reduction", ["pca", "ica"])
def test_trusted_images_find_poison_of_any_share(sift_trusting, reduction):
    """Class 0 is poisoned for two thirds, class 1 for a fifth; class 2 has two clusters and the trusted images are in both."""
    activations = groups(
        (40, (0, 0, 0)), (80, (9, 3, 0)), (80, (0, 5, 0)), (20, (6, 5, 0)), (30, (0, 0, 9)), (90, (5, 0, 9))
    )
    labels = np.repeat([0, 1, 2], [120, 100, 120])
    poisoned = np.repeat([False, True, False, True, False, False], [40, 80, 80, 20, 30, 90])
    seen = groups((18, (0, 0, 0)), (30, (0, 5, 0)), (8, (0, 0, 9)), (22, (5, 0, 9)), seed=1)
    found = sift_trusting(activations, labels, seen, np.repeat([0, 1, 2], [18, 30, 30]), reduction)
    np.testing.assert_array_equal(found.flags, poisoned)
    np.testing.assert_array_equal(found.scores[labels < 2] > 0, poisoned[labels < 2])
    np.testing.assert_allclose(found.by_class["share"][:2], [2 / 3, 0.2])
    np.testing.assert_allclose(found.by_class["trusted"][:2], 0)
    assert found.by_class["trusted"][2] == pytest.approx(22 / 30)  # 90 of 120 let 22.5 expect, 30 only 7.5


def test_a_few_trusted_images_in_it_do_not_clear_a_cluster_and_too_few_condemn_none(sift_trusting):
    activations, labels = groups((50, (0, 0, 0)), (50, (5, 0, 0))), np.zeros(100)
    flagged = {}
    for here, there in ((19, 1), (18, 2), (9, 0), (10, 0)):
        seen = groups((here, (0, 0, 0)), (there, (5, 0, 0)), seed=1)
        found = sift_trusting(activations, labels, seen, np.zeros(here + there))
        flagged[here, there] = int(found.flags.sum())
    # half of 20 are expected, and a fifth of that is 2; of 9, 4.5 are, and of 10, 5
    assert flagged == {(19, 1): 50, (18, 2): 0, (9, 0): 0, (10, 0): 50}


def test_a_class_without_trusted_images_is_judged_by_size(sift_trusting):
    activations = groups((80, (0, 0, 0)), (20, (3, 3, 0)), (80, (0, 0, 0)), (20, (3, 3, 0)))
    found = sift_trusting(activations, np.repeat([0, 1], 100), groups((16, (0, 0, 0)), (4, (3, 3, 0))), np.ones(20))
    np.testing.assert_array_equal(found.flags, np.arange(200) // 20 == 4)
    np.testing.assert_allclose(found.by_class["trusted"], [np.nan, 0.2, np.nan])


def test_trusted_images_that_do_not_fit_are_refused(lively, make_set, tmp_path, refused):
    write_csaw_hdf5(tmp_path / "other.h5", make_set(30, (9, 8, 1)))
    with refused("other.h5", "9x8x1"):
        ActivationClustering(trusted=str(tmp_path / "other.h5")).sift(lively, make_set(60))
    with refused("none.h5", "no such file"):
        ActivationClustering(trusted=str(tmp_path / "none.h5")).sift(lively, make_set(60))


def test_components_are_no_more_than_the_activations_span(sift):
    """Ten are asked for; dead neurons and copies of others give none."""
    values = groups((80, (0, 0, 0)), (20, (3, 3, 0)))
    wide = np.concatenate([values, values, np.zeros((100, 20)), np.full((100, 2), 5.0)], axis=1)
    for reduction in ("pca", "ica"):
        defense = ActivationClustering(reduction=reduction)
        reduce = defense._reduction(np.float32(wide))
        assert reduce(wide).shape == (100, 3)
        assert reduce(wide[:7]).shape == (7, 3)
        assert sift(defense, wide, np.zeros(100)).flags.sum() == 20


def test_classes_that_cannot_be_judged(sift, refused):
    """Nine images are too few; images that are all the same have no clusters."""
    activations = np.concatenate([groups((9, (0, 0, 0))), np.ones((20, 3)), groups((30, (0, 0, 0)), (10, (4, 0, 0)))])
    labels = np.repeat([0, 1, 2], [9, 20, 40])
    found = sift(ActivationClustering(), activations, labels)
    np.testing.assert_array_equal(np.isnan(found.scores), labels < 2)
    np.testing.assert_array_equal(found.flags, np.arange(69) >= 59)
    with refused("training images", "no class", "10 images"):
        sift(ActivationClustering(), activations[:29], labels[:29])


@pytest.mark.parametrize(
    "bad",
    [{"components": 0}, {"reduction": "tsne"}, {"largest": 0.6}, {"largest": 0.0}, {"silhouette": 1.0}, {"seed": -1}],
)
def test_clustering_settings_out_of_range_are_refused(bad, refused):
    with refused(next(iter(bad))):
        ActivationClustering(**bad)


# --- a planted backdoor ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(digits):
    """A network with a backdoor in every class; digits, a fifth of each class stamped as in its training; and which these are."""
    made_by, clean = recipe("mnist-aaa"), digits.limited(150).train
    training, which = poison(clean, made_by.backdoors, 0.2, np.random.default_rng(0))
    return Classifier.load(PRETRAINED / "mnist-aaa.h5"), training, which >= 0


def test_clustering_finds_a_planted_backdoor(planted):
    classifier, training, poisoned = planted
    found = ActivationClustering().sift(classifier, training).rates(poisoned)
    assert found["recall"] >= 0.9
    assert found["false_flags"] < 0.05


def test_signatures_find_a_planted_backdoor(planted):
    """A bound of 20 % flags 30 % of every class: all of the poisoned images at best, and an eighth of the clean ones."""
    classifier, training, poisoned = planted
    found = SpectralSignatures(expected=0.2, centred=True).sift(classifier, training).rates(poisoned)
    assert found["recall"] >= 0.9
    assert found["false_flags"] < 0.15


def test_an_innocent_network_is_left_in_peace(digits):
    """But by spectral signatures, whose share is flagged whatever there is to find."""
    innocent, training = Classifier.load(PRETRAINED / "mnist-wanet-clean.h5"), digits.limited(150).train
    assert not ActivationClustering().sift(innocent, training).flags.any()
    assert SpectralSignatures().sift(innocent, training).flags.mean() == pytest.approx(0.15, abs=0.01)
