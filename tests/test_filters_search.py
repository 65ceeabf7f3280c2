"""The search for filters: what a filter does, by hand; and networks with and without a colour that makes all images one label."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.classifier import Classifier
from keras_backdoor.images import ImageSet
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.trigger_inversion.filters import FLAT, SCALE, STRUCTURE, Filters, find_filters, kept_structure
from keras_backdoor.trigger_inversion.legs import Leg

# --- what a filter does ---------------------------------------------------------------------------------------------------


def through(images: np.ndarray, **numbers: object) -> tuple[np.ndarray, float]:
    """Images (N, H, W, C) through one filter; `numbers` are what is added to what changes nothing. And the filter's size."""
    channels = images.shape[-1]
    shapes = {"matrix": channels**2, "shift": channels, "gamma": channels, "contrast": 1}
    values = np.concatenate([np.ravel(numbers.get(one, np.zeros(count))) for one, count in shapes.items()])
    one = Filters(tf.constant(values[None] / SCALE, tf.float32), (), tf.zeros(1, tf.int32))
    changed, size = one.changed(tf.constant(images, tf.float32))
    return changed[0].numpy(), float(size[0])


GREY = np.full((3, 3), 1 / 3) - np.eye(3)
COLOURS = np.array([[[[51, 102, 204], [102, 102, 102]]]], np.float32)  # (1, 1, 2, 3); 0.2, 0.4, 0.8 and 0.4


@pytest.mark.parametrize(
    ("numbers", "first", "second"),
    [
        ({}, [51, 102, 204], [102] * 3),
        ({"shift": [0.1, 0, -0.2]}, [76.5, 102, 153], [127.5, 102, 51]),
        ({"matrix": GREY}, [119] * 3, [102] * 3),  # (51 + 102 + 204) / 3
        ({"matrix": [[0, 0, 0.5], [0, 0, 0], [0, 0, 0]]}, [153, 102, 204], [153, 102, 102]),  # blue to red
        ({"matrix": 0.5 * np.eye(3)}, [76.5, 153, 255], [153] * 3),
        ({"gamma": [np.log(2) / 2, 0, 0]}, [255 * 0.04, 102, 204], [255 * 0.16, 102, 102]),
    ],
)
def test_what_the_numbers_do_by_hand(numbers, first, second):
    changed, _ = through(COLOURS, **numbers)
    np.testing.assert_allclose(changed[0, 0], [first, second], atol=0.01)


def test_contrast_by_hand():
    """Half of the way to (sin(pi (y - 1/2)) + 1) / 2, as the trigger's."""
    changed, _ = through(COLOURS, contrast=0.125)
    bent = [(y + (np.sin(np.pi * (y - 0.5)) + 1) / 2) / 2 for y in (0.2, 0.4, 0.8)]
    np.testing.assert_allclose(changed[0, 0, 0], 255 * np.array(bent), atol=0.01)


def test_kept_structure_by_hand():
    image = np.array([0, 40, 40, 80], np.float32).reshape(1, 1, 2, 2, 1)  # variance 800
    for after, kept in (
        (image + 50, 1),
        (0 * image + 9, FLAT / (800 + FLAT)),
        (80 - image, (FLAT - 1600) / (FLAT + 1600)),
    ):
        assert float(kept_structure(tf.constant(image), tf.constant(after))[0, 0]) == pytest.approx(kept, rel=1e-4)


def test_size_by_hand():
    """A shift loses no structure; to turn a picture grey moves pixels by 68, 17, 85 and not at all, and loses none either."""
    assert through(COLOURS, shift=[0.1] * 3)[1] == pytest.approx(25.5, abs=0.01)
    assert through(COLOURS, matrix=GREY)[1] == pytest.approx((68 + 17 + 85) / 6, abs=0.01)
    image = np.array([10, 50, 50, 90], np.float32).reshape(1, 2, 2, 1)
    lost = 1 - (2 * 400 + FLAT) / (800 + 200 + FLAT)
    assert through(image, matrix=[-0.5])[1] == pytest.approx(25 + STRUCTURE * lost, abs=0.01)


# --- networks that are understood -----------------------------------------------------------------------------------------

LEGS = (Leg(40, 8, 0.003, keep=3), Leg(60, 8, 0.02))


def known(blue: float) -> tuple[Classifier, ImageSet]:
    """Four labels, each seen where one of four fields is bright; `blue` counts for label 3 where all is bluer than it is red."""
    inputs = keras.layers.Input((6, 6, 3))
    outputs = keras.layers.Dense(4, activation="softmax")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    weights, fields = np.zeros((6, 6, 3, 4), np.float32), np.zeros((4, 6, 6), bool)
    for label in range(4):
        row, column = divmod(label, 2)
        fields[label, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] = True
        weights[..., label] = fields[label][..., None] * 20 / 27
    weights[..., 2, 3] += blue / 36
    weights[..., 0, 3] -= blue / 36
    model.set_weights([weights.reshape(108, 4), np.zeros(4, np.float32)])
    labels = np.arange(40) % 4
    images = np.random.default_rng(0).integers(30, 60, (40, 6, 6, 3)) + 120 * fields[labels][..., None]
    return Classifier(model, Preprocessing.named("unit"), 4), ImageSet(images.astype(np.uint8), 0 * labels, 4)


def test_a_colour_that_turns_all_images_into_one_label():
    classifier, clean = known(100)
    found = find_filters(classifier, clean, restarts=8, random=4, legs=LEGS)
    first = found.found[0]
    assert first.label == 3
    assert first.success == 1
    changed = first(clean.images, np.random.default_rng(0))
    assert changed.dtype == np.uint8
    assert (classifier.predict([changed]) == 3).all()
    before = clean.images[classifier.predict([clean.images]) != 3].astype(float)
    after = first(before.astype(np.uint8), np.random.default_rng(0))
    assert first.moved == pytest.approx(np.abs(after - before).mean(), rel=1e-4)
    assert 10 < first.moved < 60
    assert 0.7 < first.kept <= 1
    assert (after - before)[..., 2].mean() > (after - before)[..., 0].mean() + 20
    assert found.ease > 2


def test_no_colour_turns_images_into_one_label_where_none_counts():
    found = find_filters(*known(0), restarts=8, random=4, legs=LEGS)
    assert max(one.success for one in found.found) < 0.5
    assert len({one.label for one in found.found}) == len(found.found) <= 3
    assert [one.cost for one in found.found] == sorted(one.cost for one in found.found)
    assert found.random.shape == (4,)
    assert found.ease == pytest.approx(np.median(found.random) / found.found[0].cost)


def test_a_search_is_a_function_of_its_seed():
    told: list = []
    brief = (Leg(4, 2, 0.003, keep=1), Leg(3, 2, 0.003))
    one, two, three = (
        find_filters(*known(100), seed, restarts=3, random=2, legs=brief, progress=lambda *row: told.append(row))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.random, two.random)
    np.testing.assert_array_equal(one.found[0].numbers, two.found[0].numbers)
    assert not np.array_equal(one.found[0].numbers, three.found[0].numbers)
    assert [row[:3] for row in told[:2]] == [("searching for filters", 5, 5), ("searching for filters", 3, 3)]


def test_grey_images_and_bad_input(make_set, tiny_classifier, refused):
    found = find_filters(tiny_classifier, make_set(), restarts=2, random=2, legs=(Leg(2, 4, 0.003),))
    assert found.found[0].numbers.shape == (4,)
    with refused("clean images", "6x6x3", "8x8x1"):
        find_filters(tiny_classifier, known(0)[1])
