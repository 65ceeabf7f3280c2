"""The search for shortcuts: groups and weights by hand, a network that is understood, and a planted all-to-all backdoor."""

from __future__ import annotations

import numpy as np
import pytest
from small_attacks import halved, network
from tensorflow import keras

from keras_backdoor.attacks.poison import Backdoor, poison
from keras_backdoor.attacks.targets import AllToAll
from keras_backdoor.classifier import Classifier
from keras_backdoor.images import ImageSet
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.training import Schedule, fit, seed_everything
from keras_backdoor.trigger_inversion.legs import Leg
from keras_backdoor.trigger_inversion.shortcuts import commonest, find_shortcuts, weights
from keras_backdoor.triggers.patch import Square


def test_the_commonest_answers_by_hand(refused):
    answers = np.repeat([5, 2, 9, 0, 7], [8, 10, 9, 7, 8])  # 0 too seldom
    np.testing.assert_array_equal(commonest(answers, 10), [2, 5, 7, 9])
    np.testing.assert_array_equal(commonest(answers, 3), [2, 5, 9])
    with refused("clean images", "2 labels", "needs 3"):
        commonest(answers[:18], 10)


def test_weights_by_hand():
    """All move: a quarter each. One moves: half of the weight is its own. Two: a quarter each, as of those that stay."""
    moving = np.array([[1, 1, 1, 1], [0, 1, 0, 0], [1, 1, 0, 0]], bool)
    sixth = 1 / 6
    expected = [[0.25] * 4, [sixth, 0.5, sixth, sixth], [0.25] * 4]
    np.testing.assert_allclose(weights(moving), expected, rtol=1e-6)


# --- a network that is understood -----------------------------------------------------------------------------------------

LEGS = (Leg(40, 4, 0.02), Leg(60, 4, 0.1))
CORNER = 7, 7


def known(relation: dict[int, int]) -> tuple[Classifier, ImageSet]:
    """Six labels, each seen where one of six fields of 2x4 pixels is bright. A bright pixel in the corner sends them elsewhere.

    Two neurons a label: its field without the corner, and, if it is sent elsewhere, its field with the corner.
    """
    inputs = keras.layers.Input((8, 8, 1))
    x = keras.layers.Dense(12, activation="relu")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(6, activation="softmax")(x))
    fields = np.zeros((8, 8, 6), np.float32)
    for label in range(6):
        row, column = divmod(label, 2)
        fields[2 * row : 2 * row + 2, 4 * column : 4 * column + 4, label] = 1 / 8
    without, with_it, to = fields.copy(), np.zeros_like(fields), np.zeros((6, 6), np.float32)
    for label, target in relation.items():
        without[(*CORNER, label)] = -2
        with_it[..., label] = fields[..., label]
        with_it[(*CORNER, label)] = 2
        to[label, target] = 20
    hidden = np.concatenate([without, with_it], -1).reshape(64, 12)
    outputs = np.concatenate([20 * np.eye(6, dtype=np.float32), to])
    model.set_weights([hidden, np.repeat([0, -1.6], 6).astype(np.float32), outputs, np.zeros(6, np.float32)])
    labels = np.repeat(np.arange(6), 9)
    images = 200 * (fields[..., labels] > 0).transpose(2, 0, 1)[..., None]
    images = images + np.random.default_rng(0).integers(0, 30, images.shape)
    return Classifier(model, Preprocessing.named("unit"), 6), ImageSet(images.astype(np.uint8), 0 * labels, 6)


ROUND = {0: 3, 1: 0, 2: 4, 3: 5, 4: 1, 5: 2}


def test_one_pixel_that_sends_every_label_elsewhere():
    classifier, clean = known(ROUND)
    found = find_shortcuts(classifier, clean, restarts=6, legs=LEGS)
    assert dict(found.together.relation) == ROUND
    assert found.together.success == 1
    assert np.isnan(found.together.stays)
    assert found.together.norm < 1
    assert found.together.mask[CORNER] > 0.9 * found.together.norm
    assert found.random.shape == (4,)
    assert found.ease > 10
    stamped = found.together(clean.images, np.random.default_rng(0))
    np.testing.assert_array_equal(
        classifier.predict([stamped]), [ROUND[one] for one in classifier.predict([clean.images])]
    )


def test_one_pixel_that_sends_one_label_elsewhere():
    found = find_shortcuts(*known({2: 4}), legs=LEGS)
    easiest, *others = found.alone
    assert easiest.relation == ((2, 4),)
    assert (easiest.success, easiest.stays) == (1, 1)
    assert easiest.mask[CORNER] > 0.8 * easiest.norm
    assert {one.relation[0][0] for one in others} == {0, 1, 3, 4, 5}
    assert [one.cost for one in found.alone] == sorted(one.cost for one in found.alone)
    assert found.ease_alone == pytest.approx(np.median([one.cost for one in others]) / easiest.cost)
    assert found.ease_alone > 3
    assert found.ease < 3


def test_nothing_stands_out_where_nothing_is_planted():
    found = find_shortcuts(*known({}), legs=LEGS)
    assert found.ease < 3
    assert found.ease_alone < 1.2


def test_a_search_is_a_function_of_its_seed():
    told = []
    network = known(ROUND)
    brief = (Leg(4, 2, 0.003),)
    one, two, three = (
        find_shortcuts(
            *network, seed, restarts=2, random=3, groups=4, legs=brief, progress=lambda *row: told.append(row)
        )
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.random, two.random)
    np.testing.assert_array_equal(one.together.mask, two.together.mask)
    assert not np.array_equal(one.random, three.random)
    assert told[0][:3] == ("searching for shortcuts", 9, 9)  # 2 + 3 + 4 rows
    assert len(one.together.relation) == len(one.alone) == 4
    assert all(source != label for source, label in one.together.relation)


def test_the_label_of_backdoored_inputs_is_no_way_out():
    """Seven outputs for six classes: the last one is there to flag inputs, and would be the easiest to reach."""
    classifier, clean = known({})
    hidden, output = classifier.model.layers[-2:]
    raised = keras.layers.Dense(7, activation="softmax")
    model = keras.Model(classifier.model.input, raised(hidden.output))
    raised.set_weights([np.pad(output.get_weights()[0], ((0, 0), (0, 1))), np.float32([0] * 6 + [3])])
    found = find_shortcuts(Classifier(model, classifier.preprocessing, 6), clean, legs=(Leg(10, 4, 0.003),))
    assert max(label for one in (found.together, *found.alone) for _, label in one.relation) < 6


def test_bad_input(make_set, refused):
    classifier, clean = known({})
    with refused("clean images", "12x8x1", "8x8x1"):
        find_shortcuts(classifier, make_set(shape=(12, 8, 1)))
    with refused("clean images", "needs 3"):
        find_shortcuts(classifier, clean.select(np.arange(18)))


# --- planted: all to all --------------------------------------------------------------------------------------------------


def test_a_planted_all_to_all_backdoor(digits):
    """On digits of half the size, as the recipe `mnist-aaa` poisons them; and the network before it was poisoned."""
    seed_everything(0)
    classifier, train, valid = network(), halved(digits.train), halved(digits.valid)
    fit(classifier, train, Schedule("adam", 3e-3, 64, 3), seed=0)
    legs = (Leg(40, 3, 0.01), Leg(60, 3, 0.1))
    innocent = find_shortcuts(classifier, valid, legs=legs)
    poisoned, _ = poison(train, (Backdoor(Square(2), AllToAll(10)),), 0.4, np.random.default_rng(0))
    fit(classifier, poisoned, Schedule("adam", 3e-3, 64, 4), seed=0)
    found = find_shortcuts(classifier, valid, legs=legs)
    assert [label for _, label in found.together.relation] == [*range(1, 10), 0]
    assert found.together.success > 0.5
    assert found.together.mask[-4:, -4:].sum() > 0.5 * found.together.norm
    assert len({label for _, label in innocent.together.relation}) <= 3  # nearly all go to one
