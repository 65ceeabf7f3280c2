"""Neural Cleanse: the rule for outliers on paper and beside the published figures; backdoors planted in real digits."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from scipy.stats import norm as normal
from small_attacks import halved
from tensorflow import keras

from kbd._method_options import method_options
from keras_backdoor.attacks.poison import Backdoor, poison
from keras_backdoor.attacks.targets import AllToOne
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses import DEFENSES
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.goodnet import GoodNet
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.training import Schedule, fit, seed_everything
from keras_backdoor.trigger_inversion import SCHEDULES, InversionSchedule, ReversedTrigger
from keras_backdoor.triggers import Square
from keras_backdoor.verdict import anomaly_indices, innocence, spread

# --- the rule -------------------------------------------------------------------------------------------------------------


def found(label: int, norm: float, shape=(32, 32)) -> ReversedTrigger:
    """A trigger whose mask has this norm."""
    mask = np.full(shape, norm / np.prod(shape), np.float32)
    return ReversedTrigger(label, mask, np.zeros((*shape, 1), np.float32), 1.0, True, np.zeros((1, 3), np.float32))


def test_the_deviation_by_hand():
    """Median 3, deviations 2, 1, 0, 1, 97, of these the median is 1."""
    values = np.array([1.0, 2, 3, 4, 100])
    assert spread(values) == (3, 1.4826)
    np.testing.assert_allclose(anomaly_indices(values), np.array([2, 1, 0, 1, 97]) / 1.4826)


def test_where_most_are_equal_any_other_one_stands_out():
    np.testing.assert_array_equal(anomaly_indices(np.array([5.0, 5, 5, 4])), [0, 0, 0, np.inf])
    np.testing.assert_array_equal(anomaly_indices(np.array([5.0])), [0])


def test_the_published_result():
    """The released code's output on GTSRB: median 64.466667, MAD 13.238736, index 3.652087, label 33 with norm 16.117647."""
    median, away = 64.466667, 13.238736 / 1.4826
    norms = median + away * np.concatenate(
        [np.linspace(-1.5, -1, 11), np.linspace(-0.9, 0.9, 21), np.linspace(1, 4, 11)]
    )
    norms = np.roll(np.sort(np.append(np.delete(norms, 0), 16.117647)), 33)
    verdict = NeuralCleanse().verdict([found(label, norm) for label, norm in enumerate(norms)], 43)
    assert (verdict.median, verdict.mad, verdict.score) == pytest.approx((64.466667, 13.238736, 3.652087), rel=1e-6)
    assert (verdict.backdoored, verdict.flagged) == (True, (33,))
    assert verdict.norms[33] == pytest.approx(16.117647)
    assert 0.95 < verdict.probability < 0.98


def test_only_small_triggers_are_flagged():
    """A label that needs a huge one is as far from the median, and harmless."""
    norms = [50.0, 49, 51, 48, 52, 120, 10]
    triggers = [found(label, norm) for label, norm in enumerate(norms)]
    verdict = NeuralCleanse().verdict(triggers, 7)
    assert verdict.flagged == (6,)
    assert verdict.score == pytest.approx(40 / (1.4826 * 2))
    harmless = NeuralCleanse().verdict(triggers[:6], 6)
    assert (harmless.backdoored, harmless.flagged) == (False, ())
    assert harmless.score == pytest.approx(2.5 / (1.4826 * 1.5), rel=1e-6)  # of the smallest, not of the huge one
    assert NeuralCleanse(threshold=20.0).verdict(triggers, 7).flagged == ()


@pytest.mark.parametrize(("norm", "flagged"), [(14.0, {"norms"}), (13.0, {"norms", "both"}), (16.0, set())])
def test_by_default_a_label_must_stand_out_by_logarithms_too(norm, flagged):
    """Median 45, MAD 14.83; of logarithms 3.800 and 0.3006: the paper's rule flags below 15.35, both below e^2.598 = 13.44."""
    triggers = [found(label, size) for label, size in enumerate([*[40.0] * 4, 50, *[60.0] * 4, norm])]
    for rule in ("norms", "both"):
        verdict = NeuralCleanse(rule=rule).verdict(triggers, 10)
        assert verdict.flagged == ((9,) if rule in flagged else ())
        assert verdict.bound == pytest.approx({"norms": 45 - 2 * 14.826, "both": 13.4391}[rule], rel=1e-5)


def test_norms_as_from_pictures():
    """0.5 becomes the grey level 127, 0.0039 becomes 0, and 1 stays."""
    mask = np.array([[0.5, 0.0039, 1.0]], np.float32)
    trigger = ReversedTrigger(0, mask, np.zeros((1, 3, 1), np.float32), 1.0, True, np.zeros((1, 3), np.float32))
    for settings, norm in ((NeuralCleanse(quantised=True), 127 / 255 + 1), (NeuralCleanse(), 1.5039)):
        np.testing.assert_allclose(settings.verdict([trigger], 2).norms, [norm, np.nan], rtol=1e-6)


def test_the_chance_that_an_innocent_network_looks_better():
    """Of two values, the lower one always has the index 1/1.4826; of many, it is the normal distribution's."""
    assert (innocence(0.674, 2), innocence(0.675, 2)) == (0, 1)
    assert innocence(3.0, 1000) == pytest.approx(normal.cdf(3.0) ** 1000, abs=0.06)
    assert innocence(2.0, 10) < innocence(3.0, 10) < innocence(5.0, 10)
    assert innocence(2.5, 100) < innocence(2.5, 10)


def test_the_oracle_compares_nothing():
    verdict = NeuralCleanse(target=4).verdict([found(4, 30)], 6)
    assert (verdict.backdoored, verdict.flagged, verdict.labels.tolist()) == (True, (4,), [4])
    assert np.isnan([verdict.score, verdict.probability]).all()
    np.testing.assert_allclose(verdict.norms, [np.nan] * 4 + [30, np.nan], rtol=1e-6)


# --- the scan -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch):
    """The fast schedule, cut to a few steps."""
    monkeypatch.setitem(SCHEDULES, "fast", InversionSchedule(steps=6, updates=2, batch_size=8, success=0.3, patience=1))


def test_a_scan_that_was_cut_short_goes_on(short, tiny_classifier, make_set):
    """Whatever was done before, what is left gives what one scan would have given; each label is examined once."""
    method, clean = NeuralCleanse(seed=3, memory=1), make_set(40)
    whole = method.inspect(tiny_classifier, clean)
    first = next(method.chunks(tiny_classifier, clean, done=[found(0, 1), found(1, 1)]))
    rest = [one for chunk in method.chunks(tiny_classifier, clean, done=[found(2, 1)]) for one in chunk]
    assert ([one.label for one in first], [one.label for one in rest]) == ([2], [0, 1])
    verdict = method.verdict([*first, *rest], 3)
    np.testing.assert_allclose(verdict.norms, whole.norms, rtol=1e-3)
    np.testing.assert_array_equal(verdict.labels, [0, 1, 2])
    np.testing.assert_allclose(verdict.masks.sum((1, 2)), verdict.norms, rtol=1e-5)
    assert verdict.patterns.shape == (3, 8, 8, 1)
    assert list(method.chunks(tiny_classifier, clean, done=[*first, *rest])) == []


def test_labels_play_no_part_and_the_seed_does(short, tiny_classifier, make_set):
    clean = make_set(40)
    other = type(clean)(clean.images, clean.labels[::-1].copy(), 3)
    norms = [NeuralCleanse().inspect(tiny_classifier, one).norms for one in (clean, other)]
    np.testing.assert_array_equal(*norms)
    assert not np.allclose(norms[0], NeuralCleanse(seed=1).inspect(tiny_classifier, clean).norms, rtol=1e-6)


def test_bad_input(tiny_classifier, make_set, refused):
    for options, parts in (
        ({"schedule": "quick"}, ("schedule", "quick", "fast", "original")),
        ({"loss": "l2"}, ("loss", "l2", "cross-entropy", "linear")),
        ({"rule": "paper"}, ("rule", "paper", "both", "norms")),
        ({"threshold": 0.0}, ("threshold", "0.0")),
        ({"threshold": float("nan")}, ("threshold", "nan")),
        ({"memory": 0}, ("memory", "0")),
        ({"precision": "float16"}, ("precision", "float16", "bfloat16")),
        ({"seed": -1}, ("seed", "-1")),
    ):
        with refused(*parts):
            NeuralCleanse(**options)
    with refused("label 3", "0..2"):
        NeuralCleanse(target=3).inspect(tiny_classifier, make_set())
    with refused("clean images", "9x9x1"):
        NeuralCleanse().inspect(tiny_classifier, make_set(shape=(9, 9, 1)))
    with refused("GoodNet"):
        NeuralCleanse().chunks(GoodNet.combine(tiny_classifier, tiny_classifier.clone()), make_set())


def test_every_option_explains_itself(monkeypatch):
    """The command line reads the help from the source's lines."""
    monkeypatch.setitem(DEFENSES, "neural-cleanse", ("neural_cleanse", "NeuralCleanse"))
    options = {option.name: option.help for option in method_options("neural-cleanse")}
    assert set(options) == {field.name for field in fields(NeuralCleanse)}
    assert all(options.values()), options


# --- planted in real digits -----------------------------------------------------------------------------------------------


def network() -> Classifier:
    """A seeded, untrained network from 14x14x1 to 10 classes that sees the corners well."""
    seed_everything(SEED)
    x = inputs = keras.layers.Input((14, 14, 1))
    for filters in (8, 16):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Dense(64, activation="relu")(keras.layers.Flatten()(x))
    outputs = keras.layers.Dense(10, activation="softmax")(x)
    return Classifier(keras.Model(inputs, outputs), Preprocessing.named("unit"), 10)


SEED, TARGET = 2, 1
PLANTED = Backdoor(Square(2, 1), AllToOne(TARGET))
"""Four white pixels near the corner make it a one: of all digits the one that it takes most to make of the others."""


@pytest.fixture(scope="module", params=["badnet", "twin"])
def digits_network(request, digits):
    """Whether it is backdoored, the network, and clean digits."""
    train, classifier = halved(digits.train), network()
    if request.param == "badnet":
        train = poison(train, [PLANTED], 0.1, np.random.default_rng(SEED))[0]
    fit(classifier, train, Schedule("adam", 3e-3, 64, 6), seed=SEED)
    return request.param == "badnet", classifier, halved(digits.valid)


def test_a_planted_backdoor_is_found(digits_network):
    """By its label, its size and its place; of the innocent twin nothing is said."""
    backdoored, classifier, clean = digits_network
    told = []
    chunks = NeuralCleanse().chunks(classifier, clean, progress=lambda *report: told.append(report))
    triggers = [trigger for chunk in chunks for trigger in chunk]
    verdict = NeuralCleanse().verdict(triggers, 10)
    assert verdict.backdoored == backdoored
    assert verdict.flagged == ((TARGET,) if backdoored else ())
    assert (verdict.score > 2.5) == backdoored
    stages, done, totals, figures = zip(*told)
    assert (set(stages), set(totals), done[-1]) == ({"reversing triggers"}, {10}, 10)
    assert list(done) == sorted(done)
    assert len(set(done)) > 3  # labels are finished one after the other
    assert figures[-1]["norm"] == pytest.approx(verdict.norms.min(), rel=0.2)

    for trigger in triggers:  # they work, and not only on the step's images
        stamped = trigger(clean.images, np.random.default_rng(0))
        assert trigger.works
        assert (classifier.predict([stamped]) == trigger.label).mean() > 0.9
    if backdoored:
        others = np.delete(verdict.norms, TARGET)
        assert verdict.norms[TARGET] < others.min() / 3
        mask, square = verdict.masks[TARGET] > 0.5, np.zeros((14, 14), bool)
        square[11:13, 11:13] = True
        assert (mask & square).sum() / (mask | square).sum() >= 0.5
        assert verdict.patterns[TARGET][mask & square].min() > 128


def test_in_bfloat16_a_trigger_of_the_same_size_is_found(digits_network):
    _, classifier, clean = digits_network
    exact, rounded = (
        NeuralCleanse(target=TARGET, precision=precision).inspect(classifier, clean).norms[TARGET]
        for precision in ("float32", "bfloat16")
    )
    assert rounded == pytest.approx(exact, rel=0.2)
