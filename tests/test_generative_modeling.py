"""Generative modelling: networks and places by hand; a backdoor in real digits, found, drawn and unlearned."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small_attacks import TARGET, halved
from tensorflow import keras

from keras_backdoor.attacks.poison import Backdoor, poison, poison_all
from keras_backdoor.attacks.targets import AllToOne
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.generative_modeling import staircase
from keras_backdoor.defenses.generative_modeling.detection import GenerativeScan
from keras_backdoor.defenses.generative_modeling.distribution import Spot, TriggerDistribution
from keras_backdoor.defenses.generative_modeling.networks import NOISE, Generators, Statistics
from keras_backdoor.defenses.generative_modeling.removal import GenerativeModeling
from keras_backdoor.defenses.generative_modeling.staircase import Search, Staircase
from keras_backdoor.defenses.kept import STATE
from keras_backdoor.goodnet import GoodNet
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import score
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.training import Schedule, fit, seed_everything
from keras_backdoor.triggers import Square

TINY = {"size": 2, "search_steps": 6, "search_batch": 4, "hidden": 8}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.2 * x)


def generator_by_hand(weights, noise, moments):
    """moments: of a layer's outputs, by its number."""
    parts = np.split(noise, 4, -1)
    x = parts[0] @ weights[0] + weights[1]
    for i in range(3):
        mean, variance = moments(i, x)
        x = (x - mean) / np.sqrt(variance + 1e-5) * weights[8 + 2 * i] + weights[9 + 2 * i]
        x = np.concatenate([leaky(x), parts[i + 1]], -1) @ weights[2 + 2 * i] + weights[3 + 2 * i]
    return 1 / (1 + np.exp(-x))


# --- networks -------------------------------------------------------------------------------------------------------------


def test_networks_have_the_sizes_of_the_released_code():
    """Dense layers 16-512, 528-512, 528-512, 528-27 with three normalisations; 64 and 27 to 512 bare, 512-512, 512-1."""
    generator, statistics = (
        Generators([Generators.start(rng(), 27, 512)]),
        Statistics([Statistics.start(rng(), 27, 512)]),
    )
    count = [sum(int(tf.size(weight)) for weight in networks.trainable) for networks in (generator, statistics)]
    dense = 16 * 512 + 512 + 2 * (528 * 512 + 512) + 528 * 27 + 27
    assert count == [dense + 3 * 2 * 512, 64 * 512 + 27 * 512 + 512 + 512 * 512 + 512 + 512 + 1]
    kernel, offset = generator.weights[2], generator.weights[3]
    for weight in (kernel, offset):  # PyTorch's start of a layer with 528 inputs
        assert 0.9 < np.abs(weight).max() * np.sqrt(528) <= 1
    assert np.abs(kernel).mean() * np.sqrt(528) == pytest.approx(0.5, abs=0.01)


def test_a_generator_by_hand():
    """While it learns, it normalises by the batch, and remembers a tenth of its moments; else by what it remembers."""
    starts = [Generators.start(rng(seed), 5, 3) for seed in (1, 2)]
    for start in starts:
        for place in range(8, 14):  # scales and offsets
            start[place] = rng(place).random((1, 3)).astype(np.float32)
    noise = rng(3).random((2, 7, NOISE)).astype(np.float32)
    networks = Generators(starts)
    patches = networks(noise, training=True).numpy()
    seen = {}

    def of_batch(i, x):
        seen[i] = x.mean(0), x.var(0)
        return seen[i]

    for which, start in enumerate(starts):
        np.testing.assert_allclose(patches[which], generator_by_hand(start, noise[which], of_batch), rtol=1e-4)
        after = networks.each()[which]
        for i, (mean, variance) in seen.items():
            np.testing.assert_allclose(after[14 + 2 * i][0], 0.1 * mean, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(after[15 + 2 * i][0], 0.9 + 0.1 * variance, rtol=1e-4)
        expected = generator_by_hand(
            after, noise[which], lambda i, x, after=after: (after[14 + 2 * i], after[15 + 2 * i])
        )
        np.testing.assert_allclose(networks(noise, training=False)[which], expected, rtol=1e-4)
    assert not np.allclose(patches[0], patches[1])


def test_the_bound_of_the_entropy_by_hand():
    weights = Statistics.start(rng(), 2, 3)
    weights[2] += 0.5
    own, other, patches = (rng(seed).random((1, 6, size)) for seed, size in ((1, NOISE), (2, NOISE), (3, 2)))

    def scores(noise):
        x = leaky(noise[0] @ weights[0] + patches[0] @ weights[1] + weights[2])
        return leaky(leaky(x @ weights[3] + weights[4]) @ weights[5] + weights[6])

    joint, apart = scores(own).mean(), np.exp(scores(other)).mean()
    networks, inputs = Statistics([weights]), [tf.constant(one, tf.float32) for one in (own, other, patches)]
    assert networks.information(*inputs).numpy() == pytest.approx([joint - np.log(apart)], abs=1e-5)
    networks.bound(*inputs)
    assert networks.weights[-1].numpy() == pytest.approx([apart], rel=1e-5)  # where the average begins
    networks.weights[-1].assign([2.0])
    average = 2 + 0.001 * (apart - 2)
    assert networks.bound(*inputs).numpy() == pytest.approx([joint - np.log(apart) * apart / average], abs=1e-5)
    assert networks.weights[-1].numpy() == pytest.approx([average], rel=1e-6)


# --- places ---------------------------------------------------------------------------------------------------------------


def test_places():
    def place(at, size=3, shape=(8, 10, 1)):
        return Spot(size, at).places(shape, 2, rng()).tolist()

    assert place("top-right") == 2 * [[0, 7]]
    assert place("bottom-right") == 2 * [[5, 7]]
    assert place("center") == 2 * [[2, 3]]
    assert place("5,0") == 2 * [[5, 0]]
    everywhere = Spot(3).places((5, 6, 1), 500, rng())
    assert {tuple(one) for one in everywhere} == {(row, column) for row in range(3) for column in range(4)}
    assert place("random", 8, (8, 8, 1)) == [[0, 0], [0, 0]]


def test_places_that_are_none(refused):
    for at, said in (("bottom-rihgt", "bottom-right"), ("1,2,3", "ROW,COLUMN"), ("-1,2", "ROW,COLUMN"), ("", "ROW")):
        with refused("place", said):
            Spot(3, at)
    with refused("size is 0"):
        Spot(0)
    for spot in (Spot(9), Spot(3, "6,0"), Spot(3, f"0,{10**30}")):
        with refused("does not fit an image of 8x8"):
            spot.places((8, 8, 1), 1, rng())


def test_a_distribution_is_a_trigger(make_set):
    """Each image gets another patch, where it lies, and nothing else changes; the same generator, the same patches."""
    images = make_set(6, (7, 7, 3)).images
    generator = Generators.start(rng(), 12, 4)
    generator[6] *= 20  # patches that differ
    trigger = TriggerDistribution(2, 0.8, Spot(2, "4,1"), generator, 1.0)
    stamped = trigger(images, rng(5))
    inside = np.zeros((7, 7), bool)
    inside[4:6, 1:3] = True
    np.testing.assert_array_equal(stamped[:, ~inside], images[:, ~inside])
    np.testing.assert_array_equal(stamped[:, 4:6, 1:3], trigger.patches(6, 3, rng(5)))
    assert len({one.tobytes() for one in stamped[:, 4:6, 1:3]}) == 6
    np.testing.assert_array_equal(stamped, trigger(images, rng(5)))
    noise = rng(5).random((1, 6, NOISE), np.float32)
    drawn = generator_by_hand(generator, noise[0], lambda i, x: (0, 1))
    np.testing.assert_allclose(trigger.patches(6, 3, rng(5)).reshape(6, 12), 255 * drawn, atol=0.51)
    anywhere = TriggerDistribution(2, 0.8, Spot(2), generator, 1.0)(images, rng(5)) != images
    assert len({one.any(-1).tobytes() for one in anywhere}) > 3
    assert trigger.name == "generated-2-0.8"


# --- the search -----------------------------------------------------------------------------------------------------------


def test_what_is_found_does_not_depend_on_the_company(tiny_classifier, make_set, monkeypatch):
    """Other levels beside it change no more than rounding does, a seed or another level much."""
    levels = [(1, 0.5), (1, 0.9)]

    def find(wanted, **more):
        return Staircase(tiny_classifier, make_set(), Search(**TINY, **more)).find(wanted)

    together, (other,) = find(levels), find(levels[:1], seed=1)
    monkeypatch.setattr(staircase, "images_at_once", lambda *_: 1)
    one_by_one = find(levels)
    assert [(one.label, one.beta) for one in together] == levels
    for one, same in zip(together, one_by_one):
        assert one.strength == same.strength
        for a, b in zip(one.generator, same.generator):
            np.testing.assert_allclose(a, b, atol=1e-5)
    for different in (other, together[1]):
        assert not np.allclose(together[0].generator[0], different.generator[0], atol=1e-3)


def test_each_level_gains_nothing_above_it(make_set):
    """A network that always says the same: 0.8 for label 0, so the effect is 0.8, or beta if that is less."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(3, activation="softmax", kernel_initializer="zeros")(keras.layers.Flatten()(inputs))
    network = Classifier(keras.Model(inputs, x), Preprocessing.named("unit"), 3)
    network.model.layers[-1].bias.assign(np.log([0.8, 0.1, 0.1]))
    stairs, told = Staircase(network, make_set(), Search(**TINY)), []
    found = [*stairs.find([(0, 0.5), (1, 0.9)], lambda *report: told.append(report))]
    found += stairs.find([(0, 0.9), (0, 0.5)], lambda *report: told.append(report))
    assert [one.strength for one in found] == [1, 0, 1, 1]
    assert found[3] is found[0]
    assert [done for _, done, *_ in told] == [*range(2, 13, 2), *range(7, 13)]
    assert {(stage, total) for stage, _, total, _ in told} == {("trigger distributions", 12)}
    assert [values["effect"] for *_, values in told] == pytest.approx(6 * [0.5] + 6 * [0.8])


def test_bad_input(tiny_classifier, make_set, refused, tmp_path):
    for settings, said in (
        ({"size": 0}, "size is 0"),
        ({"at": "left"}, "'left'"),
        ({"bound": 1.0}, "bound is 1.0"),
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"search_steps": 0}, "search_steps is 0"),
        ({"search_batch": 0}, "search_batch is 0"),
        ({"search_rate": 0.0}, "search_rate is 0.0"),
        ({"hidden": 0}, "hidden is 0"),
        ({"memory": 0}, "memory is 0"),
        ({"seed": -1}, "seed is -1"),
    ):
        for method in (GenerativeScan, GenerativeModeling):
            with refused(said):
                method(**settings)
    for settings, said in (
        ({"beta": ()}, "no beta"),
        ({"beta": (0.9, 1.1)}, "beta is 1.1"),
        ({"stamped": 2.0}, "stamped is 2.0"),
        ({"epochs": 0}, "epochs"),
        ({"optimizer": "adamm"}, "adam"),
    ):
        with refused(said):
            GenerativeModeling(**settings)
    with refused("beta is 0"):
        GenerativeScan(beta=0.0)
    clean, small = make_set(), GenerativeScan(**TINY)
    with refused("target is 3", "0..2"):
        GenerativeScan(target=3).inspect(tiny_classifier, clean)
    with refused("clean images", "9x9x1"):
        small.inspect(tiny_classifier, make_set(shape=(9, 9, 1)))
    with refused("9x9", "8x8"):
        GenerativeScan(size=9).inspect(tiny_classifier, clean)
    with refused("GoodNet"):
        small.inspect(GoodNet.combine(tiny_classifier, tiny_classifier.clone()), clean)
    with refused("all are of class 1"):
        small.inspect(tiny_classifier, clean.select(clean.labels == 1))
    (tmp_path / "patches-0-0.9.npz").write_bytes(b"PK\x03\x04")
    with refused("patches-0-0.9.npz", "not a trigger distribution"):
        small.inspect(tiny_classifier, clean, folder=tmp_path)
    broken = tiny_classifier.clone()
    broken.model.layers[-1].bias.assign(3 * [np.nan])
    with refused("not finite"):
        small.inspect(broken, clean)


# --- the repair -----------------------------------------------------------------------------------------------------------


def weights(classifier: Classifier) -> list[np.ndarray]:
    return classifier.model.get_weights()


def same(first, second) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second))


class Killed(Exception):
    pass


def test_it_goes_on_where_it_was_killed(tiny_classifier, make_set, tmp_path):
    """Killed in the search, and again in the training: with the same bits in the end, and nothing is done twice."""
    defense = GenerativeModeling(**TINY, target=1, stamped=0.5, epochs=3, batch_size=4, seed=3)
    (whole,) = defense.steps(tiny_classifier, make_set())
    for place in (("trigger distributions", 12), ("removal", 2)):
        told = []

        def kill(*what, place=place, told=told):
            told.append(what[:2])
            if what[:2] == place:
                raise Killed

        with pytest.raises(Killed):
            list(defense.steps(tiny_classifier, make_set(), kill, tmp_path))
        searched = [done for stage, done in told if stage == "trigger distributions"]
        assert searched == ([*range(1, 7), 8, 10, 12] if place[1] == 12 else [*range(8, 19, 2)])
    told = []
    (step,) = defense.steps(tiny_classifier, make_set(), lambda *what: told.append(what[:2]), tmp_path)
    assert told == [("removal", 2), ("removal", 3)]
    assert same(weights(step.classifier), weights(whole.classifier))
    assert not same(weights(tiny_classifier), weights(step.classifier))
    assert step.done == whole.done == {"flagged": 1, "strongest": 1, "strength": step.done["strength"]}
    assert not (tmp_path / "checkpoints").exists()


def test_a_few_images_of_each_pass_have_a_trigger_and_generators_take_turns(tiny_classifier, make_set, monkeypatch):
    passes, clean = [], make_set(400)

    def watch(network, of_epoch, schedule, **more):
        passes.extend(of_epoch(epoch) for epoch in range(4))

    monkeypatch.setattr("keras_backdoor.defenses.generative_modeling.removal.fit", watch)
    asked = []
    find = Staircase.find
    monkeypatch.setattr(Staircase, "find", lambda self, levels, _: asked.append(levels) or find(self, levels))
    original = TriggerDistribution.__call__

    def told(self, images, generator):
        asked.append((self.beta, len(images)))
        return original(self, images, generator)

    monkeypatch.setattr(TriggerDistribution, "__call__", told)
    GenerativeModeling(**TINY, at="bottom-right", target=1, stamped=0.1).repair(tiny_classifier, clean)
    assert [one for one in asked if isinstance(one, list)] == [[(1, 0.9)], [(1, 0.9), (1, 0.8), (1, 0.5)]]
    assert [beta for beta, _ in asked[-4:]] == [0.9, 0.8, 0.5, 0.9]
    for one, (_, count) in zip(passes, asked[-4:]):
        changed = (one.images != clean.images).any((1, 2, 3))
        assert changed.sum() == count
        assert 20 < count < 65
        np.testing.assert_array_equal(one.images[:, :6], clean.images[:, :6])
        np.testing.assert_array_equal(one.labels, clean.labels)
    assert not np.array_equal(passes[0].images, passes[3].images)


# --- planted in real digits -----------------------------------------------------------------------------------------------


QUICK = {"hidden": 32, "search_steps": 60, "search_batch": 48, "search_rate": 2e-3}


def network() -> Classifier:
    """A seeded, untrained network for digits of 14x14 that can see a patch wherever it lies."""
    seed_everything(0)
    inputs = keras.Input((14, 14, 1))
    x = keras.layers.Conv2D(16, 3, activation="relu")(inputs)
    anywhere = keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(16, 3, activation="relu")(x))
    x = keras.layers.Concatenate()([anywhere, keras.layers.Flatten()(keras.layers.MaxPooling2D(2)(x))])
    x = keras.layers.Dense(64, activation="relu")(x)
    outputs = keras.layers.Dense(10, activation="softmax")(x)
    return Classifier(keras.Model(inputs, outputs), Preprocessing.named("unit"), 10)


PLANTED = Backdoor(Square(3, at="random"), AllToOne(TARGET))
"""As in the paper: a patch of 3x3 pixels, in a place that is drawn."""


@pytest.fixture(scope="module", params=["badnet", "twin"])
def planted(request, digits) -> tuple[bool, Classifier, ImageSet]:
    """Whether it is backdoored, the network, and clean digits."""
    train, classifier = halved(digits.train), network()
    lesson = poison(train, [PLANTED], 0.1, rng())[0] if request.param == "badnet" else train
    fit(classifier, lesson, Schedule("adam", 3e-3, 64, 7), seed=0)
    return request.param == "badnet", classifier, train


def test_a_planted_backdoor_is_found_drawn_and_unlearned(planted, digits, tmp_path):
    """The label by the strength of its triggers, none of an innocent network; what the scan found serves the repair."""
    backdoored, classifier, clean = planted
    test = halved(digits.test)
    verdict = GenerativeScan(**QUICK).inspect(classifier, clean, folder=tmp_path / STATE)
    assert (verdict.backdoored, verdict.flagged) == (backdoored, (TARGET,) if backdoored else ())
    assert verdict.strengths[verdict.labels != TARGET].max() < 0.2
    assert verdict.examples.shape == (10, 8, 14, 14, 1)

    stages = set()
    repair = GenerativeModeling(**QUICK, stamped=0.05, learning_rate=3e-3)
    (step,) = repair.steps(classifier, clean, lambda stage, *_: stages.add(stage), tmp_path)
    if not backdoored:
        assert verdict.score < 0.3
        assert step.done == {"flagged": 0, "strongest": verdict.strengths.argmax(), "strength": verdict.score}
        assert same(weights(step.classifier), weights(classifier)) and not stages
        return
    assert verdict.score > 0.7
    assert step.done == {"flagged": 1, "strongest": TARGET, "strength": verdict.score}
    (drawn,) = Staircase(classifier, clean, GenerativeScan(**QUICK), tmp_path / STATE).find([(TARGET, 0.9)])
    others = test.select(test.labels != TARGET).images
    assert (classifier.predict([drawn(others, rng(9))]) == TARGET).mean() > 0.7
    assert drawn.patches(100, 1, rng()).mean() > 150  # the true one is white

    triggered = {"t": poison_all(test, PLANTED, rng(1))}
    before, after = (score(one, test, triggered, exclude_target=True) for one in (classifier, step.classifier))
    assert before.attack_success_rate["t"] > 0.85
    assert after.attack_success_rate["t"] < 0.4
    assert after.clean_accuracy > before.clean_accuracy - 0.02
