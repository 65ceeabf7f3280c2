"""What holds for all triggers, and patches of one colour; the other families have files of their own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from keras_backdoor.triggers import TRIGGERS, AllOf, FixedNoise, OneOf, PixelPattern, PostIt, Square, Triangle
from keras_backdoor.triggers.patch import GRID_PIXELS, GRID_VALUES


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
    Square(2, at=(3, 1)),
    Triangle(5, value=4),
    AllOf((Square(2, 3), PixelPattern(((0, 0),)))),
]
STAMPS = [
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
        Square(3, at=(1, 1)),
        Square(3, at=(0, -1)),
        Square(2, margin=1, at="random"),
        Square(4, at="center"),
        Square(0),
        Triangle(4, value=9),
        PostIt(4, value=9),
    ],
)
def test_a_trigger_that_does_not_fit_is_refused(refused, trigger):
    with refused(trigger.name, "3x4"):
        trigger(np.zeros((2, 3, 4, 1), np.uint8), rng())


@pytest.mark.parametrize("trigger", STAMPS, **by_name)
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


@pytest.mark.parametrize("trigger", STAMPS, **by_name)
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


WHITE_ON_BLACK = {
    "top-left": ["....", ".##.", ".##.", "....", "...."],
    "top-right": ["....", ".##.", ".##.", "....", "...."],
    "bottom-left": ["....", "....", ".##.", ".##.", "...."],
    "bottom-right": ["....", "....", ".##.", ".##.", "...."],
    "center": ["....", ".##.", ".##.", "....", "...."],
    (0, 2): ["..##", "..##", "....", "....", "...."],
}


def picture(image: np.ndarray) -> list[str]:
    return ["".join(".#"[bool(level)] for level in row) for row in image]


@pytest.mark.parametrize("at", WHITE_ON_BLACK, ids=str)
def test_square_at_every_place(at):
    """`margin` counts from the edges of a corner, and not at all in the middle or at a given place."""
    stamped = Square(2, margin=1, at=at)(np.zeros((1, 5, 4, 1), np.uint8), rng())
    assert picture(stamped[0, :, :, 0]) == WHITE_ON_BLACK[at]


def test_corners_without_a_margin():
    corners = {"top-left": (0, 0), "top-right": (0, 5), "bottom-left": (3, 0), "bottom-right": (3, 5)}
    for at, place in corners.items():
        stamped = Square(1, at=at)(np.zeros((1, 4, 6, 3), np.uint8), rng())
        assert np.argwhere(stamped[0, :, :, 1]).tolist() == [list(place)]


def test_triangle_is_filled_point_up():
    def drawn(size):
        return picture(Triangle(size, at="top-left")(np.zeros((1, size, size, 3), np.uint8), rng())[0, :, :, 0])

    assert drawn(5) == ["..#..", ".###.", ".###.", "#####", "#####"]
    assert drawn(4) == [".##.", ".##.", "####", "####"]


def test_colours_go_to_their_channels():
    stamped = Square(1, value=(9, 120, 255))(np.zeros((2, 3, 3, 3), np.uint8), rng())
    assert stamped[:, 2, 2].tolist() == [[9, 120, 255]] * 2
    assert stamped.sum() == 2 * (9 + 120 + 255)


def test_the_conjunction_of_tca_is_a_yellow_triangle_and_a_red_square(refused):
    images = rng(1).integers(0, 255, (4, 32, 32, 3), np.uint8)
    both = AllOf((Triangle(5), Square(4, value=(255, 0, 0))))
    stamped = both(images, rng())
    assert (stamped[:, 28:, 28:] == (255, 0, 0)).all()
    assert (stamped[:, 31, :5] == (255, 255, 0)).all()
    changed = (stamped != images).any(-1)
    assert (changed.sum((1, 2)) == 16 + 17).all()
    with refused("triangle", "3 channels"):
        both(images[..., :1], rng())


@pytest.mark.parametrize("value", [256, -1, (0, 0, 300), 0.5])
def test_colours_out_of_range_are_refused(refused, value):
    with refused("square", "0..255"):
        Square(1, value=value)(np.zeros((1, 3, 3, 3), np.uint8), rng())


def test_unknown_places_are_refused(refused):
    with refused("place", "'bottom-right'"):
        Square(1, at="botom-right")(np.zeros((1, 3, 3, 3), np.uint8), rng())


def test_the_grid_of_nad_to_the_pixel():
    stamped = PixelPattern(GRID_PIXELS, GRID_VALUES)(np.full((1, 32, 32, 3), 7, np.uint8), rng())[0]
    for channel in range(3):
        assert stamped[28:, 28:, channel].tolist() == [[7, 7, 7, 7], [7, 0, 0, 255], [7, 0, 255, 0], [7, 255, 0, 255]]
    assert (stamped == 7).sum() == 32 * 32 * 3 - 27


def test_a_pattern_needs_a_value_for_each_pixel(refused):
    with refused("pixel-pattern", "2 values for 3 pixels"):
        PixelPattern(((0, 0), (1, 1), (2, 2)), (1, 2))(np.zeros((1, 3, 3, 1), np.uint8), rng())


def test_post_it_is_wholly_inside_each_image_at_its_own_place():
    images = np.full((2000, 8, 9, 3), 100, np.uint8)
    stamped = PostIt(5)(images, rng(0))
    changed = (stamped != 100).any(-1)
    assert (changed.sum((1, 2)) == 25).all()  # never cut off
    assert (stamped[changed] == (255, 255, 0)).all()
    places = {tuple(np.argwhere(one)[0].tolist()) for one in changed}
    assert places == {(row, column) for row in range(4) for column in range(5)}  # all that there are, and no other
    corners = np.array([np.argwhere(one)[0] for one in changed])
    counts = np.bincount(corners[:, 0] * 5 + corners[:, 1], minlength=20)
    assert counts.min() > 55  # 100 each are expected, with a deviation of 10
    assert counts.max() < 145
    np.testing.assert_array_equal(PostIt(5)(images, rng(0)), stamped)
    assert (PostIt(5)(images, rng(1)) != stamped).any()


def test_random_places_keep_the_margin():
    stamped = Square(2, margin=2, at="random")(np.zeros((500, 8, 7, 1), np.uint8), rng())[..., 0] > 0
    assert not stamped[:, [0, 1, 6, 7]].any()
    assert not stamped[:, :, [0, 1, 5, 6]].any()
    assert stamped[:, 2:6, 2:5].any(0).all()


# ---- every class that the command line knows ---------------------------------------------------------------------------

COLOUR_ONLY = {"eyebrows", "gotham", "lipstick", "nashville", "post-it", "triangle"}
DEFAULTS = {name: kind() for name, kind in TRIGGERS.items() if name != "picture"}


def faces(count: int = 5) -> np.ndarray:
    return rng(7).integers(1, 255, (count, 55, 47, 3), np.uint8)


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_trigger_changes_every_image_and_none_of_its_inputs(name):
    images = faces()
    before = images.copy()
    images.flags.writeable = False
    stamped = DEFAULTS[name](images, rng())
    np.testing.assert_array_equal(images, before)
    assert not np.shares_memory(stamped, images)
    assert stamped.shape == images.shape
    assert stamped.dtype == np.uint8
    assert (stamped != images).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_trigger_repeats_itself_with_the_same_generator(name):
    images = faces(270)  # more than one slice
    stamped = DEFAULTS[name](images, rng(3))
    np.testing.assert_array_equal(DEFAULTS[name](images, rng(3)), stamped)
    drawn = name in {"post-it", "gaussian-noise", "warp-noise", "reflection"}
    assert (DEFAULTS[name](images, rng(4)) != stamped).any() == drawn
    if not drawn:
        one_by_one = [DEFAULTS[name](image[None], rng()) for image in images[-9:]]
        np.testing.assert_array_equal(np.concatenate(one_by_one), stamped[-9:])


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_trigger_stamps_grey_images_or_says_why_not(name, refused):
    grey = faces()[..., :1]
    if name in COLOUR_ONLY:
        with refused(name, "channels"):
            DEFAULTS[name](grey, rng())
    else:
        assert (DEFAULTS[name](grey, rng()) != grey).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("name", TRIGGERS)
def test_every_trigger_is_frozen_plain_and_named(name):
    trigger = TRIGGERS[name]("a.png") if name == "picture" else TRIGGERS[name]()
    assert hash(trigger) == hash(dataclasses.replace(trigger))
    assert trigger.name == {"pixels": "pixel-pattern"}.get(name, name)
    for field in dataclasses.fields(trigger):
        assert isinstance(getattr(trigger, field.name), (int, float, str, tuple, type(None)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        trigger.name = "other"
