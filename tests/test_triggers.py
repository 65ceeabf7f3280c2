from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from keras_backdoor.triggers import AllOf, FixedNoise, OneOf, PixelPattern, Square


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@st.composite
def image_batches(draw):
    shape = (draw(st.integers(1, 4)), draw(st.integers(6, 12)), draw(st.integers(6, 12)), draw(st.sampled_from([1, 3])))
    return draw(arrays(np.uint8, shape))


PATCHES = [
    PixelPattern(((0, 0), (5, 3), (2, 5)), value=7),
    Square(3, 1),
    Square(2, 0, value=9),
    AllOf((Square(2, 3), PixelPattern(((0, 0),)))),
]
TRIGGERS = [
    *PATCHES,
    FixedNoise(200),
    FixedNoise(17, seed=3),
    AllOf((FixedNoise(), Square())),
    OneOf((FixedNoise(), Square())),
]
by_name = {"ids": lambda trigger: trigger.name}


def test_pixel_pattern_sets_its_pixels_and_no_other():
    images = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    expected = images.copy()
    for image in range(2):
        for channel in range(3):
            expected[image, 0, 3, channel] = 200  # row 0, column 3: a swap of the two would not fit
            expected[image, 2, 1, channel] = 200
    stamped = PixelPattern(((0, 3), (2, 1)), value=200)(images, rng())
    np.testing.assert_array_equal(stamped, expected)


def test_the_published_pattern_is_four_white_pixels():
    stamped = PixelPattern()(np.zeros((1, 28, 28, 1), np.uint8), rng())[0, :, :, 0]
    assert [tuple(map(int, place)) for place in np.argwhere(stamped)] == [(24, 26), (25, 25), (26, 24), (26, 26)]
    assert set(stamped[stamped > 0].tolist()) == {255}


def test_square_fills_the_bottom_right_corner():
    images = np.full((1, 4, 5, 1), 7, np.uint8)
    stamped = Square(size=2, margin=1, value=99)(images, rng())[0, :, :, 0]
    assert stamped.tolist() == [
        [7, 7, 7, 7, 7],
        [7, 7, 99, 99, 7],
        [7, 7, 99, 99, 7],
        [7, 7, 7, 7, 7],
    ]
    stamped = Square(size=3)(images, rng())[0, :, :, 0]
    assert stamped.tolist() == [
        [7, 7, 7, 7, 7],
        [7, 7, 255, 255, 255],
        [7, 7, 255, 255, 255],
        [7, 7, 255, 255, 255],
    ]


def test_square_may_fill_the_whole_image():
    assert (Square(size=3)(np.zeros((1, 3, 3, 3), np.uint8), rng()) == 255).all()


@pytest.mark.parametrize(
    "trigger",
    [
        Square(size=4),
        Square(size=3, margin=1),
        PixelPattern(((3, 0),)),
        PixelPattern(((0, 4),)),
        PixelPattern(((-1, 0),)),
    ],
)
def test_a_trigger_that_does_not_fit_is_refused(refused, trigger):
    with refused(trigger.name, "3x4"):
        trigger(np.zeros((2, 3, 4, 1), np.uint8), rng())


@pytest.mark.parametrize("trigger", TRIGGERS, **by_name)
def test_inputs_are_not_modified(trigger):
    images = np.full((8, 28, 28, 1), 3, np.uint8)
    images.flags.writeable = False
    stamped = trigger(images, rng())
    assert not np.shares_memory(stamped, images)
    assert (images == 3).all()
    assert (stamped != 3).any(axis=(1, 2, 3)).all()  # every image got something


def test_all_of_is_the_composition_in_order():
    images = rng(1).integers(0, 256, (5, 9, 9, 3), np.uint8)
    first, second = Square(4, value=10), Square(2, value=20)  # they overlap: order shows
    both = AllOf((first, second))
    np.testing.assert_array_equal(both(images, rng()), second(first(images, rng()), rng()))
    assert (both(images, rng())[:, 7:, 7:] == 20).all()
    assert (AllOf((second, first))(images, rng())[:, 7:, 7:] == 10).all()
    assert both.name == "square+square"


def test_one_of_stamps_each_image_with_exactly_one():
    triggers = (
        Square(2, name="a"),
        PixelPattern(((0, 0),), name="b"),
        PixelPattern(((1, 1), (0, 2)), value=9, name="c"),
    )
    images = rng(1).integers(20, 200, (300, 6, 6, 1), np.uint8)
    one_of = OneOf(triggers)
    stamped = one_of(images, rng(0))
    alone = [trigger(images, rng()) for trigger in triggers]
    matches = np.stack([(stamped == candidate).all((1, 2, 3)) for candidate in alone])
    assert (matches.sum(0) == 1).all()
    assert (matches.sum(1) > 60).all()  # 100 each are expected; fewer than 60 has a probability below 1e-6
    np.testing.assert_array_equal(one_of(images, rng(0)), stamped)
    assert (one_of(images, rng(1)) != stamped).any()
    assert one_of.name == "a|b|c"


def test_fixed_noise_adds_one_pattern_to_all_images():
    noise = FixedNoise(strength=50, seed=4)
    images = rng(1).integers(0, 206, (6, 10, 10, 3), np.uint8)  # 205 + 50 = 255: nothing is clipped
    added = noise(images, rng(0)).astype(int) - images
    assert (added == added[0]).all()
    assert added.min() == 0
    assert added.max() == 50
    assert len(np.unique(added[0])) > 40
    np.testing.assert_array_equal(noise(images, rng(99)), noise(images, rng(0)))  # the seed decides, not the generator
    assert (FixedNoise(50, seed=5)(images, rng()) != noise(images, rng())).any()


def test_fixed_noise_is_clipped_not_wrapped():
    pattern = FixedNoise(255)(np.zeros((1, 8, 8, 1), np.uint8), rng()).astype(int)
    stamped = FixedNoise(255)(np.full((1, 8, 8, 1), 100, np.uint8), rng())
    np.testing.assert_array_equal(stamped, np.minimum(100 + pattern, 255))
    assert (stamped == 255).any()
    assert (FixedNoise(0)(np.full((1, 8, 8, 1), 100, np.uint8), rng()) == 100).all()


@pytest.mark.parametrize("trigger", TRIGGERS, **by_name)
@given(images=image_batches())
def test_shape_and_type_are_kept(trigger, images):
    stamped = trigger(images, rng())
    assert stamped.shape == images.shape
    assert stamped.dtype == np.uint8


@pytest.mark.parametrize("trigger", PATCHES, **by_name)
@given(images=image_batches())
def test_stamping_a_patch_twice_is_stamping_it_once(trigger, images):
    once = trigger(images, rng())
    np.testing.assert_array_equal(trigger(once, rng()), once)


@pytest.mark.parametrize("trigger", [*PATCHES, FixedNoise(200)], **by_name)
@given(images=image_batches())
def test_images_stamped_together_or_one_by_one_are_the_same(trigger, images):
    one_by_one = [trigger(images[i : i + 1], rng(i)) for i in range(len(images))]
    np.testing.assert_array_equal(trigger(images, rng()), np.concatenate(one_by_one))


@given(images=image_batches(), strength=st.integers(0, 255), seed=st.integers(0, 5))
def test_noise_never_darkens_and_never_exceeds_its_strength(images, strength, seed):
    change = FixedNoise(strength, seed)(images, rng()).astype(int) - images
    assert change.min() >= 0
    assert change.max() <= strength
