"""MNTD: its trojans by hand, networks trained together, what is kept, queries, meta-classifiers, and the verdict."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_softmax
from tensorflow import keras

from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import write_csaw_hdf5
from keras_backdoor.defenses import find
from keras_backdoor.defenses.mntd import shadows as module
from keras_backdoor.defenses.mntd.jumbo import JumboTrigger, Trojan
from keras_backdoor.defenses.mntd.meta_classifier import MetaClassifiers, MetaTraining, percentile
from keras_backdoor.defenses.mntd.mntd import MNTD, bound
from keras_backdoor.defenses.mntd.queries import Respondent, first_queries, stacked
from keras_backdoor.defenses.mntd.shadows import Shadows, ShadowTraining
from keras_backdoor.detection import auc
from keras_backdoor.goodnet import GoodNet
from keras_backdoor.images import ImageSet
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.training import seed_everything
from keras_backdoor.verdict import NetworkVerdict

RNG = np.random.default_rng(0)
SHORT = ShadowTraining(epochs=2, batch_size=5)
SMALL = MNTD(shadows=2, held_out=2, epochs=1, batch_size=8, queries=2, meta_epochs=2, repeats=2)


@pytest.fixture
def clean(make_set):
    return make_set(12)


def same(one, other) -> bool:
    """Whether two lists of networks have the same weights to the bit."""
    return all(np.array_equal(a, b) for left, right in zip(one, other) for a, b in zip(left, right))


# The jumbo distribution


def test_a_trigger_is_laid_over_its_place_and_rounded():
    pattern = np.float32([[1, 0], [0, 1]])[..., None]
    images = np.full((2, 6, 7, 1), 100, np.uint8)
    stamped = JumboTrigger(pattern, top=1, left=4, alpha=0.25)(images, RNG)
    expected = images.copy()
    expected[:, 1, 4] = expected[:, 2, 5] = 139  # 63.75 + 75
    expected[:, 1, 5] = expected[:, 2, 4] = 75
    assert stamped.dtype == np.uint8
    assert np.array_equal(stamped, expected)
    assert (images == 100).all()
    opaque = JumboTrigger(np.float32([[[0.2, 0.4, 1]]]), 0, 0, 1.0)(np.full((1, 1, 1, 3), 9, np.uint8), RNG)
    assert opaque.tolist() == [[[[51, 102, 255]]]]


@given(st.integers(0, 10_000), st.sampled_from(["jumbo", "patch", "blend"]), st.sampled_from([1, 3]))
def test_trojans_are_of_the_distribution(seed, attack, channels):
    trojan = Trojan.draw(attack, (11, 9, channels), 4, np.random.default_rng(seed))
    trigger, (height, width, depth) = trojan.trigger, trojan.trigger.pattern.shape
    whole = (height, width) == (11, 9)
    assert depth == channels
    assert whole if attack == "blend" else attack == "jumbo" or not whole
    if whole:
        assert (trigger.top, trigger.left) == (0, 0)
        assert 0.05 <= trigger.alpha <= 0.2
    else:
        assert height == width and height in (2, 3, 4, 5)
        assert 0 <= trigger.top < 11 - height and 0 <= trigger.left < 9 - width  # never at the lower or right edge
        assert trigger.alpha == 1 or (attack == "jumbo" and 0.2 <= trigger.alpha <= 0.5)
    assert 0 <= trojan.target < 4 and 0.05 <= trojan.fraction <= 0.5
    if channels == 1:
        assert set(np.unique(trigger.pattern)) == {0, 1}  # some pixels, and not all
    else:
        assert trigger.pattern.min() >= 0 and trigger.pattern.max() <= 1


def test_every_kind_of_jumbo_trojan_is_drawn():
    drawn = [Trojan.draw("jumbo", (11, 9, 3), 4, np.random.default_rng(seed)) for seed in range(300)]
    sides = [one.trigger.pattern.shape[0] for one in drawn]
    shares = [sides.count(side) / 300 for side in (2, 3, 4, 5, 11)]
    assert np.allclose(shares, 0.2, atol=0.07)
    patches = [one for one in drawn if one.trigger.pattern.shape[0] < 11]
    assert np.mean([one.trigger.alpha == 1 for one in patches]) == pytest.approx(0.25, abs=0.1)  # (0.6 - 0.5) / 0.4
    assert {one.target for one in drawn} == {0, 1, 2, 3}
    clipped = [np.mean((one.trigger.pattern == 0) | (one.trigger.pattern == 1)) for one in drawn if one not in patches]
    # 2 eps / (1 + 2 eps), eps uniform in 0..1: 1 - ln(3) / 2 on average
    assert np.mean(clipped) == pytest.approx(1 - np.log(3) / 2, abs=0.08)


def test_copies_are_stamped_and_get_the_target(make_set):
    clean = make_set(30)
    trojan = Trojan(JumboTrigger(np.zeros((2, 2, 1), np.float32), 0, 0, 1.0), target=2, fraction=0.25)
    copies = trojan.copies(clean, np.random.default_rng(1))
    assert len(copies) == 7  # 7.5, rounded down
    assert (copies.labels == 2).all()
    originals = {image[2:].tobytes(): place for place, image in enumerate(clean.images)}
    places = [originals[image[2:].tobytes()] for image in copies.images]
    assert len(set(places)) == 7
    assert np.array_equal(copies.true_labels, clean.labels[places])
    assert np.array_equal(copies.images, trojan.trigger(clean.images[places], RNG))


# Training


def test_networks_that_are_trained_together_become_what_keras_makes_of_them_alone(tiny_classifier, clean):
    shadows = Shadows(tiny_classifier, clean, SHORT)
    together = shadows.networks("jumbo", [0, 3])
    for number, weights in zip((0, 3), together):
        keras.utils.set_random_seed(int(shadows._random("jumbo", number, "weights").integers(2**31)))
        alone = keras.models.clone_model(tiny_classifier.model)
        alone.compile(keras.optimizers.Adam(1e-3, epsilon=1e-7), "sparse_categorical_crossentropy")
        start = alone.get_weights()
        pool, (members,) = shadows._pool("jumbo", [number])
        assert len(members) == len(pool)
        order = shadows._random("jumbo", number, "order")
        for _ in range(SHORT.epochs):
            places = order.permutation(members)
            for first in range(0, len(places), SHORT.batch_size):
                batch = places[first : first + SHORT.batch_size]
                alone.train_on_batch(tiny_classifier.scale(pool.images[batch]), pool.labels[batch])
        for ours, theirs, before in zip(weights, alone.get_weights(), start):
            assert np.allclose(ours, theirs, atol=1e-5)
            assert np.abs(ours - before).max() > 1e-3


def test_jumbo_networks_learn_from_more_images_than_innocent_ones(tiny_classifier, clean):
    shadows = Shadows(tiny_classifier, clean, SHORT)
    pool, members = shadows._pool("jumbo", [0, 1])
    counts = [len(shadows.trojan(number).copies(clean, RNG)) for number in (0, 1)]
    assert [len(one) for one in members] == [12 + count for count in counts]
    for number, one in enumerate(members):
        assert np.array_equal(pool.images[one[:12]], clean.images)
        assert (pool.labels[one[12:]] == shadows.trojan(number).target).all()
    assert not set(members[0][12:]) & set(members[1][12:])
    assert len(shadows._pool("innocent", [0, 1])[0]) == 12


def with_dropout() -> Classifier:
    inputs = keras.layers.Input((8, 8, 1))
    x = keras.layers.Dense(6, activation="relu")(keras.layers.Flatten()(inputs))
    x = keras.layers.BatchNormalization()(x)
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.Dropout(0.5)(x))
    return Classifier(keras.Model(inputs, outputs), Preprocessing.named("unit"), 3)


def test_the_company_changes_nothing_not_even_with_dropout(clean):
    network = with_dropout()
    together, alone = (Shadows(network, clean, SHORT, at_once).networks("jumbo", range(2)) for at_once in (2, 1))
    assert same(together, alone)
    assert not np.array_equal(together[0][0], together[1][0])
    other = Shadows(network, clean, dataclasses.replace(SHORT, seed=1)).networks("jumbo", [0])
    assert not np.array_equal(together[0][0], other[0][0])


def test_a_scan_that_was_cut_short_goes_on_to_the_same_bits(tiny_classifier, clean, tmp_path):
    whole = Shadows(tiny_classifier, clean, SHORT).networks("jumbo", range(3))

    def interrupt(stage, done, total, values):
        if done > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Shadows(tiny_classifier, clean, SHORT, 1, tmp_path).networks("jumbo", range(3), interrupt)
    assert len(list(tmp_path.glob("*/jumbo-*.npz"))) == 1
    assert same(Shadows(tiny_classifier, clean, SHORT, 2, tmp_path).networks("jumbo", range(3)), whole)


def test_what_is_kept_is_not_trained_again_and_what_differs_is(tiny_classifier, clean, make_set, tmp_path, monkeypatch):
    first = Shadows(tiny_classifier, clean, SHORT, folder=tmp_path).networks("jumbo", range(2))

    def trained(*_):
        raise AssertionError("trained")

    monkeypatch.setattr(module, "_trainer", trained)
    suspect = tiny_classifier.clone()
    suspect.model.set_weights([weights + 1 for weights in suspect.model.get_weights()])
    assert same(Shadows(suspect, clean, SHORT, folder=tmp_path).networks("jumbo", range(2)), first)
    raw = Classifier(tiny_classifier.model, Preprocessing.named("raw"), 3)
    others = (
        Shadows(tiny_classifier, make_set(12, seed=1), SHORT, folder=tmp_path),
        Shadows(tiny_classifier, clean, ShadowTraining(3, 5), folder=tmp_path),
        Shadows(raw, clean, SHORT, folder=tmp_path),
        Shadows(with_dropout(), clean, SHORT, folder=tmp_path),
    )
    for shadows in others:
        with pytest.raises(AssertionError, match="trained"):
            shadows.networks("jumbo", range(2))
    for kind, numbers in (("innocent", [0]), ("jumbo", [0, 2])):
        with pytest.raises(AssertionError, match="trained"):
            Shadows(suspect, clean, SHORT, folder=tmp_path).networks(kind, numbers)


def test_what_is_kept_says_what_it_is_of(tiny_classifier, clean, tmp_path):
    Shadows(tiny_classifier, clean, SHORT, folder=tmp_path).networks("innocent", [0])
    (path,) = tmp_path.glob("*/shadows.json")
    about = json.loads(path.read_text())
    assert about["clean"] == clean.fingerprint()
    assert about["training"] == dataclasses.asdict(SHORT)


@pytest.mark.parametrize("damage", ["truncated", "shape", "nan"])
def test_a_damaged_network_is_refused(tiny_classifier, clean, tmp_path, refused, damage):
    shadows = Shadows(tiny_classifier, clean, SHORT, folder=tmp_path)
    weights = shadows.networks("innocent", [0])[0]
    (path,) = tmp_path.glob("*/innocent-0000.npz")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    else:
        weights[0] = weights[0][:-1] if damage == "shape" else weights[0] * np.nan
        np.savez(path, **{str(place): array for place, array in enumerate(weights)})
    with refused(path, "remove it to train it again"):
        shadows.networks("innocent", [0])


# Queries and meta-classifiers


@pytest.mark.parametrize("last", ["activation", "softmax"])
def test_a_respondent_gives_what_its_softmax_is_made_of(last):
    inputs = keras.layers.Input((4, 4, 1))
    x = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    outputs = keras.layers.Softmax()(x) if last == "softmax" else keras.layers.Activation("softmax")(x)
    network = Classifier(keras.Model(inputs, outputs), Preprocessing.named("raw"), 3)
    kernel, bias = RNG.normal(size=(16, 3)).astype(np.float32), np.float32([1, 2, 3])
    network.model.set_weights([kernel, bias])
    queries = RNG.random((2, 4, 4, 1), np.float32)
    respondent = Respondent(network)
    assert np.allclose(respondent(queries), (255 * queries.reshape(2, 16) @ kernel + bias).ravel(), rtol=1e-4)
    respondent.put([0 * kernel, bias])
    assert respondent(queries).numpy().tolist() == [1, 2, 3, 1, 2, 3]
    assert np.array_equal(network.model.get_weights()[0], kernel)


def test_a_respondent_of_a_dense_layer_with_a_softmax(tiny_classifier, make_set):
    images, model = make_set(4), tiny_classifier.model
    model.set_weights([RNG.normal(size=weights.shape) for weights in model.get_weights()])
    logits = np.reshape(Respondent(tiny_classifier)(images.images.astype(np.float32) / 255), (4, 3))
    assert np.allclose(log_softmax(logits, 1), np.log(tiny_classifier.probabilities(images.batches())), atol=1e-5)
    assert np.ptp(logits.sum(1)) > 1e-3


def test_queries_start_as_noise_like_the_images():
    images = np.concatenate([np.full((1, 40, 40, 2), level, np.uint8) for level in (51, 153)])
    images[..., 1] = 102
    queries = first_queries(ImageSet(images, np.zeros(2), 1), 10, RNG)
    assert queries.dtype == np.float32 and queries.shape == (10, 40, 40, 2)
    assert queries[..., 0].mean() == pytest.approx(0.4, abs=0.01)
    assert queries[..., 0].std() == pytest.approx(0.2, abs=0.01)
    assert np.allclose(queries[..., 1], 0.4)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30), st.integers(0, 5))
def test_percentile_is_numpys(values, more):
    rows = np.float32([[one, 2 * one] for one in values] + [[np.inf, np.inf]] * more)
    found = percentile(tf.constant(rows), tf.constant(len(values)), 0.1)
    assert np.allclose(found, np.percentile(rows[: len(values)], 10, axis=0), rtol=1e-4, atol=1e-4)


def linear() -> Classifier:
    inputs = keras.layers.Input((4, 4, 1))
    outputs = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(inputs))
    return Classifier(keras.Model(inputs, outputs), Preprocessing.named("unit"), 2)


def toy(count: int, rng: np.random.Generator):
    """Linear networks with random weights; the second half prefers class 0 where two pixels are bright."""
    kernels = rng.normal(size=(2 * count, 16, 2)).astype(np.float32)
    kernels[count:, 5:7, 0] += 1.5
    return stacked([[kernel, np.zeros(2, np.float32)] for kernel in kernels]), np.arange(2 * count) >= count


def area(scores: np.ndarray, trojaned: np.ndarray) -> float:
    return auc(-scores[~trojaned], -scores[trojaned])


def learners(seeds, training: MetaTraining, queries: int = 1, one_class: bool = False) -> MetaClassifiers:
    noise = [np.random.default_rng(seed).random((queries, 4, 4, 1), np.float32) for seed in seeds]
    seed_everything(0)
    return MetaClassifiers(Respondent(linear()), np.stack(noise), training, one_class, seed=1)


def test_queries_that_are_tuned_tell_networks_apart_better_than_noise():
    rng = np.random.default_rng(0)
    learned, held_out, others = toy(40, rng), toy(20, rng), toy(100, rng)
    areas = {}
    for tuned in (True, False):
        metas = learners(range(3), MetaTraining(20, 1e-2, tuned))
        noise = metas.queries
        metas.train(*learned, *held_out)
        areas[tuned] = np.array([area(scores, others[1]) for scores in metas.scores(others[0])])
        assert np.array_equal(metas.queries, noise) is not tuned
    assert areas[True].min() > 0.85
    assert (areas[True] > areas[False] + 0.05).all()


def test_each_keeps_the_epoch_in_which_it_was_best():
    rng = np.random.default_rng(0)
    learned, held_out, areas = toy(20, rng), toy(10, rng), []

    def now():
        return [area(scores, held_out[1]) for scores in metas.scores(held_out[0])]

    metas = learners(range(4), MetaTraining(8, 0.05))
    metas.train(*learned, *held_out, lambda epoch: areas.append(now()))
    assert np.array_equal(now(), np.max(areas, 0))
    assert (np.max(areas, 0) > areas[-1]).any()
    assert len(set(np.argmax(areas, 0))) > 1


def test_meta_classifiers_that_learn_side_by_side_do_not_meet():
    rng = np.random.default_rng(0)
    learned, held_out = toy(5, rng), toy(5, rng)
    for one_class in (False, True):
        pair, other = (learners(seeds, MetaTraining(2, 1e-2), 1, one_class) for seeds in ((0, 1), (0, 2)))
        for metas in (pair, other):
            metas.train(learned[0], learned[1] & (not one_class), *held_out)
        assert np.allclose(pair.scores(held_out[0])[0], other.scores(held_out[0])[0], atol=1e-6)
        assert not np.allclose(pair.scores(held_out[0])[1], other.scores(held_out[0])[1], atol=1e-2)


def test_the_bound_of_a_one_class_classifier_is_the_tenth_percentile():
    networks, _ = toy(20, np.random.default_rng(2))
    metas = learners([0, 1], MetaTraining(1, 1e-30), 2, one_class=True)  # stays as it is: values can be computed again
    values = metas._values(networks).numpy().T
    metas.train(networks, np.zeros(40, bool), networks, np.zeros(40, bool))
    assert np.allclose(metas.scores(networks), np.percentile(values, 10, axis=1, keepdims=True) - values, atol=1e-4)
    assert ((metas.scores(networks) > 0).sum(1) == 4).all()


def test_a_one_class_classifier_descends_on_the_papers_loss():
    networks, _ = toy(1, np.random.default_rng(2))
    rate = 1e-3
    metas = learners([0], MetaTraining(1, rate), 2, one_class=True)
    one = [weights[:1] for weights in networks]
    dense, bias, last, queries = (variable.numpy()[0].astype(np.float64) for variable in metas._variables)
    kernel, shift = (np.float64(weights[0]) for weights in networks)
    features = (queries.reshape(2, 16) @ kernel + shift).ravel()
    hidden = np.maximum(features @ dense + bias, 0)
    assert metas.score(Respondent(linear())).shape == (1,)
    assert float(hidden @ last) < 1  # below the first bound: the hinge acts
    metas.train(one, np.zeros(1, bool), one, np.zeros(1, bool))
    slope_last = last - hidden / 0.1
    slope_dense = dense - np.outer(features, (hidden > 0) * last) / 0.1
    after = [
        variable.numpy()[0] for variable in metas._variables
    ]  # Adam's first step: the rate, in the slope's direction
    assert np.allclose(after[2], last - rate * np.sign(slope_last), atol=1e-5)
    assert np.allclose(after[0], dense - rate * np.sign(slope_dense), atol=1e-5)


# The verdict


def network() -> Classifier:
    inputs = keras.layers.Input((8, 8, 1))
    x = keras.layers.Conv2D(2, 5, activation="relu")(inputs)
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(x))
    built = Classifier(keras.Model(inputs, outputs), Preprocessing.named("unit"), 3)
    rng = np.random.default_rng(0)
    built.model.set_weights([rng.normal(size=weights.shape) for weights in built.model.get_weights()])
    return built


@pytest.fixture(scope="module")
def detector(make_set):
    return SMALL.learn(network(), make_set(30))


def test_a_verdict_repeats_and_says_what_it_is_made_of(detector, make_set, tmp_path):
    told, first = [], detector.verdict(network())
    defense = find("mntd")(**dataclasses.asdict(SMALL))
    again = defense.inspect(network(), make_set(30), lambda *about: told.append(about[:3]), tmp_path)
    assert isinstance(first, NetworkVerdict) and first.flagged == ()
    for field in dataclasses.fields(first):
        assert np.array_equal(getattr(first, field.name), getattr(again, field.name)), field.name
    assert first.probability == pytest.approx(expit(first.score))
    assert first.backdoored is (first.score > 0)
    assert first.innocent.shape == first.trojaned.shape == (2,)
    assert first.auc == area(np.concatenate([first.innocent, first.trojaned]), np.array([0, 0, 1, 1], bool))
    stages = dict.fromkeys(stage for stage, _, _ in told)
    assert list(stages) == ["innocent shadow networks", "jumbo shadow networks", "meta-classifiers"]
    assert told[-1] == ("meta-classifiers", 2, 2)
    assert all(done <= total for _, done, total in told)
    assert len(list(tmp_path.glob("*/*.npz"))) == 8


def test_networks_of_other_weights_are_judged_by_what_was_learned_once(detector):
    before, other = detector.verdict(network()), network()
    other.model.set_weights([-2 * weights for weights in other.model.get_weights()])
    assert detector.verdict(other).score != before.score
    assert detector.verdict(network()).score == before.score
    assert isinstance(detector.verdict(with_dropout()).score, float)  # another architecture
    scores = detector.metas.score(Respondent(other))
    assert scores.shape == (2,) and scores[0] != scores[1]
    assert detector.verdict(other).score == pytest.approx(scores.mean())


def test_a_one_class_verdict_compares_with_innocent_networks(tiny_classifier, make_set, tmp_path):
    defense = dataclasses.replace(SMALL, one_class=True, cache=str(tmp_path / "kept"))
    detector = defense.learn(tiny_classifier, make_set(30), folder=tmp_path / "unused")
    verdict = detector.verdict(tiny_classifier)
    assert len(verdict.trojaned) == 0 and np.isnan(verdict.auc)
    assert verdict.probability == np.mean(verdict.innocent < verdict.score)
    assert verdict.backdoored is (verdict.score > 0)
    kept = [path.name for path in tmp_path.glob("kept/*/*.npz")]
    assert len(kept) == 4 and all(name.startswith("innocent") for name in kept)
    assert not (tmp_path / "unused").exists()


def test_the_bound_by_hand():
    """Mean 2, deviation 1; Student's t with 2 degrees of freedom exceeds 2.91999 in 5 % of cases."""
    assert bound(np.array([1.0, 2.0, 3.0])) == pytest.approx(2 + 2.91999 * np.sqrt(4 / 3), abs=1e-5)


def test_one_innocent_network_in_twenty_is_above_the_bound():
    scores = np.random.default_rng(0).normal(3, 2, (20_000, 6))
    above = np.mean([one[-1] > bound(one[:-1]) for one in scores])
    assert above == pytest.approx(0.05, abs=0.006)


@pytest.fixture
def like(make_set, tmp_path):
    """A file of 30 other clean images."""
    write_csaw_hdf5(tmp_path / "like.h5", make_set(30, seed=5))
    return str(tmp_path / "like.h5")


@pytest.mark.parametrize("shift", [-50.0, 4.0])
def test_networks_like_the_suspect_raise_the_threshold_and_never_lower_it(
    like, tiny_classifier, make_set, monkeypatch, shift
):
    told, seen = [], []

    def scores(metas, networks):
        seen.append(len(networks[0]))
        return np.arange(len(networks[0]), dtype=float)[None] + shift * (len(networks[0]) == 3)

    monkeypatch.setattr(MetaClassifiers, "scores", scores)
    defense = dataclasses.replace(SMALL, like=like, calibrating=3)
    detector = defense.learn(tiny_classifier, make_set(30), lambda *about: told.append(about[:3]))
    assert seen[-2:] == [3, 4]
    assert detector.threshold == pytest.approx(max(0, bound(np.arange(3.0)) + shift))
    assert np.allclose(np.concatenate([detector.innocent, detector.trojaned]), np.arange(4) - detector.threshold)
    plain = dataclasses.replace(detector, threshold=0.0)
    here, there = (one.verdict(tiny_classifier).score for one in (detector, plain))
    assert here == pytest.approx(there - detector.threshold)
    assert told[-1] == ("innocent shadow networks", 3, 3)


def test_networks_like_the_suspect_take_as_many_steps_and_are_kept(like, tiny_classifier, make_set, tmp_path):
    defense = dataclasses.replace(SMALL, images=20, like=like, calibrating=2, epochs=4)
    detector = defense.learn(tiny_classifier, make_set(30), folder=tmp_path)
    whole = [json.loads(path.read_text()) for path in tmp_path.glob("*/shadows.json")]
    assert {one["clean"]: one["training"]["epochs"] for one in whole} == {
        make_set(30, seed=5).fingerprint(): 3,  # 30 images 2.67 times are 20 images 4 times
        defense.share(make_set(30)).fingerprint(): 4,
    }
    assert detector.threshold >= 0


# What cannot be used


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"shadows": 0}, ("shadows is 0", "at least 1")),
        ({"held_out": 0}, ("held_out is 0",)),
        ({"queries": 0}, ("queries is 0",)),
        ({"calibrating": 1}, ("calibrating is 1", "at least 2")),
        ({"repeats": 0}, ("repeats is 0",)),
        ({"at_once": 0}, ("at_once is 0",)),
        ({"epochs": 0}, ("epochs (0)",)),
        ({"learning_rate": 0.0}, ("learning rate (0.0)", "above 0")),
        ({"learning_rate": float("nan")}, ("learning rate (nan)",)),
        ({"seed": -1}, ("seed is -1",)),
    ],
)
def test_settings_out_of_range_are_refused(settings, parts, refused):
    with refused(*parts):
        MNTD(**settings)


def test_networks_and_images_that_cannot_be_used_are_refused(tiny_classifier, make_set, refused):
    clean = make_set(30)
    with refused("clean images", "9x8x1", "8x8x1"):
        SMALL.inspect(tiny_classifier, make_set(30, (9, 8, 1)))
    with refused("GoodNet"):
        SMALL.inspect(GoodNet.combine(tiny_classifier, tiny_classifier), clean)
    inputs = keras.layers.Input((8, 8, 1))
    outputs = keras.layers.Dense(3, activation="sigmoid", name="end")(keras.layers.Flatten()(inputs))
    with refused("does not end in a softmax", "'end'"):
        SMALL.inspect(Classifier(keras.Model(inputs, outputs), Preprocessing.named("unit"), 3), clean)
    with refused("5x5", "too small"):
        Trojan.draw("jumbo", (5, 5, 1), 3, RNG)
    with refused("unknown kind of network 'jumb'", "'jumbo'"):
        Shadows(tiny_classifier, clean, SHORT).networks("jumb", [0])


def test_suspects_of_another_kind_are_refused(detector, refused):
    with refused("8x8x1 and 3 classes", "4x4x1 and 2 classes"):
        detector.verdict(linear())
    broken = network()
    broken.model.set_weights([weights * np.nan for weights in broken.model.get_weights()])
    with refused("not finite"):
        detector.verdict(broken)
