"""The search that chooses its label, and the scan: soft targets by hand, planted squares, and the published face networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from small_attacks import halved, network
from tensorflow import keras

from keras_backdoor import datasets
from keras_backdoor.attacks.poison import Backdoor, poison
from keras_backdoor.attacks.targets import AllToOne
from keras_backdoor.classifier import Classifier
from keras_backdoor.images import ImageSet
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.training import Schedule, fit, seed_everything
from keras_backdoor.trigger_inversion.descent import soft_target
from keras_backdoor.trigger_inversion.target_free import Leg, TargetFree, background_labels
from keras_backdoor.triggers.patch import Square

# --- what is aimed at -----------------------------------------------------------------------------------------------------


def test_the_soft_target_by_hand():
    """Two images, three labels. Means of logarithms: half of log .08, log .12, log .03; their softmax goes like the roots."""
    answers = tf.constant([[[0.2, 0.3, 0.5], [0.4, 0.4, 0.06]]])
    means, target = soft_target(answers, tf.constant([[True, True, True]]))
    np.testing.assert_allclose(means[0], np.log([0.08, 0.12, 0.03]) / 2, rtol=1e-5)
    roots = np.sqrt([0.08, 0.12, 0.03])
    np.testing.assert_allclose(target[0], roots / roots.sum(), rtol=1e-5)
    _, without = soft_target(answers, tf.constant([[True, False, True]]))
    np.testing.assert_allclose(
        without[0], [roots[0] / roots[[0, 2]].sum(), 0, roots[2] / roots[[0, 2]].sum()], rtol=1e-5
    )
    _, alone = soft_target(answers, tf.constant([[False, False, True]]))
    np.testing.assert_allclose(alone[0], [0, 0, 1])
    _, nowhere = soft_target(tf.constant([[[1.0, 0.0, 0.0]]]), tf.constant([[False, True, True]]))
    np.testing.assert_allclose(nowhere[0], [0, 0.5, 0.5])  # probabilities of zero still have a logarithm


def test_no_gradient_passes_through_the_target():
    answers = tf.constant([[[0.2, 0.3, 0.5]]])
    with tf.GradientTape() as tape:
        tape.watch(answers)
        target = soft_target(answers, tf.constant([[True, True, True]]))[1][0, 1]
    assert tape.gradient(target, answers) is None


# --- a network that is understood -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stripes() -> tuple[Classifier, ImageSet]:
    """Twelve labels, each the brightness of a field of 2x4 pixels; label 7's counts four times. And dark pictures."""
    inputs = keras.layers.Input((8, 12, 1))
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D((2, 4))(inputs))
    model = keras.Model(inputs, keras.layers.Dense(12, activation="softmax")(x))
    weights = 20 * np.eye(12, dtype=np.float32)
    weights[7, 7] = 80
    model.set_weights([weights, np.zeros(12, np.float32)])
    images = np.random.default_rng(1).integers(0, 90, (40, 8, 12, 1)).astype(np.uint8)
    return Classifier(model, Preprocessing.named("unit"), 12), ImageSet(images, np.zeros(40), 12)


SHORT = (Leg(30, 8, 0.003), Leg(40, 8, 0.05))
HALVING = (Leg(15, 4, 0.003, 5), Leg(15, 8, 0.05, 2), Leg(30, 8, 0.05))


def test_restarts_take_the_shortest_way_that_is_left(stripes):
    search = TargetFree(*stripes, restarts=6, background=12)
    assert {one.label for one in search.search(legs=SHORT)} == {7}
    others = search.search(excluded=[7], legs=SHORT)
    assert 7 not in {one.label for one in others}
    background, (first,) = search.rounds(legs=SHORT, threshold=3)
    assert [one.label for one in background] == list(search.background[:6])
    assert first.label == 7
    assert first.works
    assert first.norm < 0.6 * min(one.norm for one in others)


def test_rounds_go_on_where_they_were(stripes):
    told = []
    search = TargetFree(*stripes, seed=1, restarts=6)
    background, found = search.rounds(legs=SHORT, threshold=3, progress=lambda *report: told.append(report))
    after = search.rounds(legs=SHORT, threshold=3, done=background)
    (again,) = next(after)
    assert (again.label, again.norm) == (found[0].label, pytest.approx(found[0].norm, rel=1e-3))
    assert list(after) == []
    assert list(search.rounds(legs=SHORT, threshold=3, done=[*background, *found])) == []
    assert [row[:3] for row in told[:4]] == [
        *(("searching: 6 random labels", done, 12) for done in (6, 12)),
        *(("searching: round 1", done, 12) for done in (6, 12)),
    ]
    assert told[1][3]["norm"] <= told[0][3]["norm"]
    assert told[3][3]["norm"] == pytest.approx(found[0].norm, rel=0.2)


def test_a_label_of_the_background_that_is_found_keeps_its_smaller_trigger(stripes):
    search = TargetFree(*stripes, restarts=12)
    background, (found,) = search.rounds(legs=SHORT, threshold=3)
    place = search.background.index(7)
    assert found.norm <= background[place].norm
    small = replace(background[place], mask=found.mask * np.float32(0.5))
    for works, norm in ((True, found.norm / 2), (False, found.norm)):
        done = [replace(small, works=works) if one.label == 7 else one for one in background]
        ((again,),) = search.rounds(legs=SHORT, threshold=3, done=done)
        assert again.norm == pytest.approx(norm, rel=1e-3)


def test_a_found_label_stands_out_in_logarithms_as_well(stripes):
    """Norms of 1, 2, 4 … 32 times that of the smallest: it lies 0.75 deviations below their median, in logarithms 1.12."""
    search = TargetFree(*stripes, restarts=6)
    background, (found,) = search.rounds(legs=SHORT, threshold=3)
    done = [replace(one, mask=found.mask * np.float32(2**power)) for power, one in enumerate(background)]
    assert list(search.rounds(legs=SHORT, threshold=0.6, done=done)) == []


def test_background_labels_are_drawn_by_the_seed(stripes):
    drawn = background_labels(1000, 3)
    assert len(set(drawn)) == 32 and set(drawn) <= set(range(1000))
    assert background_labels(1000, 3, 16) == drawn[:16]
    assert background_labels(1000, 4) != drawn
    assert sorted(background_labels(5, 0)) == list(range(5))
    assert TargetFree(*stripes, seed=3, background=4).background == background_labels(12, 3, 4)


def test_one_label_is_left(stripes):
    found = TargetFree(*stripes, restarts=2).search(excluded=range(11), legs=SHORT)
    assert [one.label for one in found] == [11, 11]


def test_the_smallest_that_works_comes_first(stripes):
    never = TargetFree(*stripes, restarts=5, success=1.01).search(legs=SHORT)
    assert not any(one.works for one in never)
    assert [one.norm for one in never] == sorted(one.norm for one in never)
    found = TargetFree(*stripes, restarts=5).search(legs=SHORT)
    for one in found:
        assert (one.history.shape, one.history.dtype) == ((70, 3), np.float32)
        np.testing.assert_allclose(one.history[[0, 29, 30, 69], 0], [0.003, 0.003, 0.05, 0.05], rtol=1e-6)
        assert one.success == pytest.approx(one.history[-8:, 1].mean())
        assert one.history[-1, 2] == pytest.approx(one.norm, rel=0.2)  # the last update comes after it
        assert one.history[0, 2] < 0.2 * 96  # of the pixels: it starts with next to nothing


def test_negatives_are_every_other_image():
    """A network that calls bright pictures 1, and dark ones: none of them is bright, and all their negatives are."""
    inputs = keras.layers.Input((8, 12, 1))
    outputs = keras.layers.Dense(2, activation="softmax")(keras.layers.GlobalAveragePooling2D()(inputs))
    model = keras.Model(inputs, outputs)
    model.set_weights([np.array([[-20, 20]], np.float32), np.array([10, -10], np.float32)])
    images = np.random.default_rng(1).integers(0, 90, (40, 8, 12, 1)).astype(np.uint8)
    clean = ImageSet(images, np.zeros(40), 2)
    search = TargetFree(Classifier(model, Preprocessing.named("unit"), 2), clean, restarts=1)
    for negatives, success in ((False, 0.0), (True, 0.5)):
        (one,) = search.search([0], [Leg(1, 8, 0.003, negatives=negatives)])
        assert one.success == success
    np.testing.assert_array_equal(clean.images, images)


def test_a_scan_keeps_what_it_should(stripes):
    """Five of the twelve labels by their promise, then two; the background and a named one as well."""
    told = []
    search = TargetFree(*stripes, background=3, at_once=16)
    plain = search.scan(legs=HALVING)
    labels = [one.label for one in plain.triggers]
    assert labels[0] == 7
    assert len(set(labels)) == len(labels)
    assert len(set(labels) - set(search.background)) == 2
    assert plain.legs == (12, 8, 5)
    out = next(label for label in range(12) if label not in labels)
    (named,) = (one for one in search.search(set(range(12)) - {out}, SHORT)[:1])
    scan = search.scan([named], HALVING, lambda stage, done, total, values: told.append((stage, done, total)))
    assert {one.label for one in scan.triggers} == {*labels, out}
    assert scan.legs == (12, 9, 6)
    assert [row for row in told if row[1] == row[2]] == [(f"scanning {n} labels", n, n) for n in scan.legs]
    assert told[0][1:] == (4, 12)  # 16 stamped images at once, 4 of each label
    again = TargetFree(*stripes, background=3).scan([named], HALVING)
    np.testing.assert_allclose([one.norm for one in again.triggers], [one.norm for one in scan.triggers], rtol=1e-3)


def test_a_scan_takes_the_smaller_of_two_triggers(stripes):
    search = TargetFree(*stripes, background=3)
    (own,) = (one for one in search.scan(legs=HALVING).triggers if one.label == 7)
    for factor, norm in ((0.5, own.norm / 2), (2.0, own.norm)):
        named = replace(own, mask=own.mask * np.float32(factor))
        (taken,) = (one for one in search.scan([named], HALVING).triggers if one.label == 7)
        assert taken.norm == pytest.approx(norm, rel=1e-3)
    idle = replace(own, mask=own.mask * np.float32(0.5), works=False)
    (taken,) = (one for one in search.scan([idle], HALVING).triggers if one.label == 7)
    assert taken.works and taken.norm == pytest.approx(own.norm, rel=1e-3)


def test_bad_input(stripes, make_set, refused):
    with refused("clean images", "8x8x1", "8x12x1"):
        TargetFree(stripes[0], make_set())
    with refused("excluded labels"):
        TargetFree(*stripes).search(excluded=range(12))
    search = TargetFree(*stripes, restarts=2)
    background = next(search.rounds(legs=SHORT))
    with refused("earlier rounds", "background"):
        next(search.rounds(legs=SHORT, done=background[::-1]))


# --- planted squares ------------------------------------------------------------------------------------------------------


def planted(digits, *backdoors: Backdoor) -> tuple[Classifier, ImageSet]:
    """A small network with these backdoors; and clean digits."""
    seed_everything(0)
    classifier, train = network(), halved(digits.train)
    poisoned = poison(train, backdoors, 0.1 * len(backdoors), np.random.default_rng(0))[0] if backdoors else train
    fit(classifier, poisoned, Schedule("adam", 3e-3, 64, 5), seed=0)
    return classifier, halved(digits.valid)


LEGS = (Leg(40, 16, 0.01), Leg(60, 16, 0.1))
"""A square of four pixels costs more than one of a face."""


@pytest.fixture(scope="module")
def one_square(digits) -> tuple[Classifier, ImageSet]:
    return planted(digits, Backdoor(Square(2), AllToOne(3)))


def test_a_planted_square_is_found(one_square):
    search = TargetFree(*one_square, restarts=8, background=10)
    found = search.search(legs=LEGS)
    assert sum(one.label == 3 for one in found) >= 6
    assert found[0].label == 3
    assert found[0].works
    assert found[0].norm < 8
    assert found[0].mask[-4:, -4:].sum() > 0.7 * found[0].norm  # where the square is
    stamped = found[0](one_square[1].images, np.random.default_rng(0))
    assert (one_square[0].predict([stamped]) == 3).mean() > 0.8
    others = search.search(excluded=[3], legs=LEGS)
    assert min(one.norm for one in others if one.works) > 2 * found[0].norm
    assert [[one.label for one in chunk] for chunk in search.rounds(legs=LEGS, threshold=3)][1:] == [[3]]


def test_a_planted_square_is_found_in_bfloat16(one_square):
    exact, rounded = (
        TargetFree(*one_square, restarts=8, background=10, precision=precision).search(legs=LEGS)[0]
        for precision in ("float32", "bfloat16")
    )
    assert rounded.label == 3
    assert rounded.works
    assert rounded.norm == pytest.approx(exact.norm, rel=0.2)


def test_halving_keeps_the_planted_label(one_square):
    legs = (Leg(40, 8, 0.01, 5), Leg(40, 16, 0.1, 2), Leg(80, 16, 0.1))
    search = TargetFree(*one_square, background=3)
    assert 3 not in search.background
    scan = search.scan(legs=legs)
    assert scan.legs == (10, 8, 5)
    assert 3 in [one.label for one in scan.triggers[:2]]
    scan = search.scan(search.search(legs=LEGS)[:1], legs)
    assert scan.triggers[0].label == 3
    assert scan.triggers[0].norm < 0.6 * scan.triggers[1].norm


def test_two_planted_triggers_are_found_in_turn(digits):
    squares = Backdoor(Square(2), AllToOne(3)), Backdoor(Square(2, at="top-left", name="other-square"), AllToOne(7))
    search = TargetFree(*planted(digits, *squares), restarts=8, background=10)
    _, *found = search.rounds(legs=LEGS, threshold=1.5)
    assert {one.label for (one,) in found} == {3, 7}


# --- published networks ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "labels"),
    [("sunglasses_bd", [0]), ("anonymous_1_bd", [0]), ("multi_trigger_multi_target_bd", [5, 1])],
)
def test_published_face_networks(shared_data, name, labels):
    """Among 1,283 labels, in rounds: the smallest trigger is that of the target, and many of the 16 restarts find it."""
    classifier = Classifier.load(shared_data / f"models/{name}_weights.h5")
    faces = datasets.load("lfw", shared_data / "lfw_faces.h5").train.select(np.arange(500))
    search, left, excluded = TargetFree(classifier, faces), set(labels), []
    for _ in labels:
        found = search.search(excluded)
        smallest = found[0]
        assert smallest.label in left and smallest.norm < 70
        assert sum(one.label in left for one in found) >= 6
        left.remove(smallest.label)
        excluded.append(smallest.label)
