"""Triggers that change the whole image: filters, blending, stripes, low frequencies, reflections, coarse noise."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
from PIL import Image

from keras_backdoor.triggers import Blend, GaussianNoise, Gotham, LowFrequency, Nashville, Reflection, Sinusoid
from keras_backdoor.triggers.blend import WRAPPED_FREQUENCY


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def png(tmp_path):
    def png(array: np.ndarray) -> str:
        Image.fromarray(array).save(tmp_path / "pattern.png")
        return str(tmp_path / "pattern.png")

    return png


# ---- filters: the steps of ImageMagick on one pixel, with the colour spaces of the standard library --------------------

BLUE, CREAM = (0x22 / 255, 0x2B / 255, 0x6D / 255), (0xF7 / 255, 0xDA / 255, 0xAE / 255)


def modulate(pixel, lightness, saturation):
    hue, light, full = colorsys.rgb_to_hls(*pixel)
    return [min(max(level, 0), 1) for level in colorsys.hls_to_rgb(hue, light * lightness, full * saturation)]


def contrast(pixel):
    hue, full, bright = colorsys.rgb_to_hsv(*pixel)
    bright += 0.5 * (0.5 * (math.sin(math.pi * (bright - 0.5)) + 1) - bright)
    return colorsys.hsv_to_rgb(hue, full, bright)


def gotham(pixel):
    pixel = modulate(pixel, 1.2, 0.1)
    pixel = [(0.8 * level + 0.2 * tint) ** 2 for level, tint in zip(pixel, BLUE)]
    return contrast(contrast(pixel))


def toned(pixel, colour, share, dark):
    luma = 0.212656 * pixel[0] + 0.715158 * pixel[1] + 0.072186 * pixel[2]
    weight = share * (1 - luma if dark else luma)
    return [min(max(level + weight * (tone - level), 0), 1) for level, tone in zip(pixel, colour)]


def before_gamma(pixel):
    pixel = toned(toned(pixel, BLUE, 0.5, True), CREAM, 1.2, False)
    return modulate(contrast(pixel), 1.0, 1.5)


PIXELS = np.concatenate([np.indices((4, 4, 4)).reshape(3, -1).T * 85, rng(3).integers(0, 256, (80, 3))]).astype(
    np.uint8
)


def test_gotham_of_white_and_black_by_hand():
    """White: lightness stays 1; (0.8 + 0.2 tint)^2 = .683 .695 .784; twice the contrast makes .784 .886, and lifts the others.

    Black: (0.2 tint)^2 is .007 at most, and twice the contrast leaves .002 of it.
    """
    images = np.array([[[[255, 255, 255], [0, 0, 0]]]], np.uint8)
    assert Gotham()(images, rng())[0, 0].tolist() == [[197, 200, 226], [0, 0, 0]]


def test_gotham_is_its_steps_on_every_pixel():
    stamped = Gotham()(PIXELS[None, None], rng())[0, 0].astype(float)
    expected = np.array([gotham(pixel / 255) for pixel in PIXELS]) * 255
    assert np.abs(stamped - expected).max() < 0.51


def test_gotham_is_dark_bluish_and_nearly_grey():
    images = rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    stamped = Gotham()(images, rng()).astype(int)
    assert stamped.mean() < images.mean() - 20
    assert (stamped[..., 2] - stamped[..., 0]).mean() > 5
    assert np.ptp(stamped, axis=-1).mean() < np.ptp(images.astype(int), axis=-1).mean() / 3


def test_nashville_is_its_steps_on_every_pixel():
    stamped = Nashville()(PIXELS[None, None], rng())[0, 0].astype(float)
    linear = np.array([before_gamma(pixel / 255) for pixel in PIXELS])
    expected = 255 * linear ** (math.log(0.5) / math.log(linear.mean()))
    assert np.abs(stamped - expected).max() < 0.51


def test_the_gamma_of_nashville_is_each_images_own():
    images = np.stack([np.full((8, 8, 3), level, np.uint8) for level in (60, 120, 180)])
    stamped = Nashville()(images, rng())
    np.testing.assert_array_equal(Nashville()(images[1:2], rng()), stamped[1:2])
    for level, image in zip((60, 120, 180), stamped):
        linear = np.array(before_gamma([level / 255] * 3))
        assert np.abs(image - 255 * linear ** (math.log(0.5) / math.log(linear.mean()))).max() < 0.51


@pytest.mark.parametrize("trigger", [Gotham(), Nashville()], ids=lambda trigger: trigger.name)
def test_filters_need_colour(trigger, refused):
    with refused(trigger.name, "3 channels", "have 1"):
        trigger(np.zeros((1, 4, 4, 1), np.uint8), rng())


@pytest.mark.parametrize("trigger", [Gotham(), Nashville()], ids=lambda trigger: trigger.name)
def test_filters_look_at_colours_not_places(trigger):
    images = rng(1).integers(0, 256, (1, 6, 9, 3), np.uint8)
    turned = images.swapaxes(1, 2)
    np.testing.assert_array_equal(trigger(turned, rng()), trigger(images, rng()).swapaxes(1, 2))


# ---- blend -------------------------------------------------------------------------------------------------------------


def test_blend_of_a_picture_by_hand(png):
    """0.8 * 100 + 0.2 * (255, 0, 51) = 131, 80, 90.2."""
    pattern = np.full((10, 6, 3), (255, 0, 51), np.uint8)
    stamped = Blend(0.2, png(pattern))(np.full((3, 7, 5, 3), 100, np.uint8), rng())
    assert (stamped == (131, 80, 90)).all()
    transparent = np.dstack([pattern, np.zeros((10, 6), np.uint8)])
    assert (Blend(0.2, png(transparent))(np.full((1, 7, 5, 3), 100, np.uint8), rng()) == 80).all()


def test_blend_of_noise_is_one_pattern_for_all():
    images = rng(1).integers(0, 256, (400, 6, 6, 3), np.uint8)
    pattern = Blend(1.0, seed=3)(images, rng())
    assert (pattern == pattern[0]).all()
    assert len(np.unique(pattern[0])) > 60
    stamped = Blend(0.25, seed=3)(images, rng())
    assert np.abs(stamped - (0.75 * images + 0.25 * pattern)).max() <= 0.5
    np.testing.assert_array_equal(Blend(0.0)(images, rng()), images)
    assert (Blend(seed=1)(images, rng()) != Blend(seed=2)(images, rng())).any()


def test_blend_turns_a_picture_grey_for_grey_images(png):
    stamped = Blend(1.0, png(np.full((2, 2, 3), (255, 0, 0), np.uint8)))(np.zeros((1, 3, 3, 1), np.uint8), rng())
    assert (stamped == 76).all()  # 0.299 * 255


# ---- sinusoid ----------------------------------------------------------------------------------------------------------


def test_sinusoid_by_hand():
    """delta sin(2 pi j f / W) with f = 1 on 4 columns is 0, delta, 0, -delta; sums are clipped."""
    images = np.array([100, 250, 5], np.uint8)[:, None, None, None].repeat(2, 1).repeat(4, 2)
    stamped = Sinusoid(delta=20, frequency=1)(images, rng())[..., 0]
    assert stamped.tolist() == [[[100, 120, 100, 80]] * 2, [[250, 255, 250, 230]] * 2, [[5, 25, 5, 0]] * 2]


def test_sinusoid_has_six_periods_and_amplitude_twenty():
    row = Sinusoid()(np.full((1, 3, 60, 1), 128, np.uint8), rng())[0, 0, :, 0].astype(int) - 128
    assert (row[:10] == np.rint(20 * np.sin(2 * np.pi * np.arange(10) / 10))).all()
    np.testing.assert_array_equal(np.tile(row[:10], 6), row)


def test_the_wrapped_mask_is_the_released_one():
    """The row of the mask that NAD and ABL ship; 255 and 241 are -1 and -15, wrapped."""
    released = [0, 14, 19, 13, 255, 241, 237, 244, 2, 15, 19, 11, 253, 240, 237, 246]
    released += [4, 17, 19, 9, 251, 239, 238, 248, 6, 18, 18, 7, 249, 238, 238, 250]
    mask = Sinusoid(20, WRAPPED_FREQUENCY, wrapped=True, alpha=1.0)(np.full((1, 32, 32, 3), 9, np.uint8), rng())[0]
    assert (mask == np.array(released)[:, None]).all()
    stamped = Sinusoid(20, WRAPPED_FREQUENCY, wrapped=True)(np.full((1, 32, 32, 1), 100, np.uint8), rng())
    assert stamped[0, 0, :5, 0].tolist() == [80, 83, 84, 83, 131]  # 80 + 0.2 * mask


# ---- low frequencies ---------------------------------------------------------------------------------------------------


def test_low_frequencies_are_low_and_as_strong_as_asked():
    from scipy.fft import dctn

    images = np.full((2, 32, 24, 3), 128, np.uint8)
    pattern = LowFrequency(strength=100, cutoff=4, seed=2)(images, rng())[0].astype(float) - 128
    assert np.abs(pattern).max() == 100
    for channel in range(3):
        energy = dctn(pattern[..., channel], norm="ortho") ** 2
        assert energy[:4, :4].sum() / energy.sum() > 0.999
        assert energy[0, 0] / energy.sum() < 1e-3  # no change of brightness
    assert (pattern[..., 0] != pattern[..., 1]).any()
    rough = LowFrequency(100, 12, seed=2)(images, rng())[0].astype(float) - 128
    assert np.abs(np.diff(rough, axis=0)).mean() > 1.5 * np.abs(np.diff(pattern, axis=0)).mean()


def test_low_frequencies_are_clipped_not_wrapped():
    pattern = LowFrequency(60)(np.full((1, 16, 16, 1), 128, np.uint8), rng()).astype(int) - 128
    for level in (3, 250):
        stamped = LowFrequency(60)(np.full((1, 16, 16, 1), level, np.uint8), rng())
        np.testing.assert_array_equal(stamped, np.clip(pattern + level, 0, 255))


# ---- reflection --------------------------------------------------------------------------------------------------------


def test_reflection_of_a_flat_picture_by_hand(png):
    """0.4 (x/255)^2.2 + 0.6 (r/255)^2.2, back by 1/2.2; a blurred flat picture is flat; a shifted one is missing at its rim."""
    images = np.full((2, 16, 16, 3), 100, np.uint8)
    path = png(np.full((16, 16, 3), 200, np.uint8))
    linear = 0.4 * (100 / 255) ** 2.2 + 0.6 * (200 / 255) ** 2.2
    blurred = Reflection(ghost_rate=0.0, picture=path)(images, rng())
    assert (blurred == round(255 * linear ** (1 / 2.2))).all()
    ghost = Reflection(ghost_rate=1.0, picture=path)(images, rng())
    assert (ghost[:, 2:, 2:] == blurred[0, 0, 0]).all()
    rim = 0.4 * (100 / 255) ** 2.2 + 0.6 * 0.65 * (200 / 255) ** 2.2
    assert (ghost[:, :2] == round(255 * rim ** (1 / 2.2))).all()
    assert (ghost[:, :, :2] == ghost[0, 0, 0]).all()


def test_a_point_of_light_is_seen_twice_or_blurred(png):
    point = np.zeros((32, 32, 3), np.uint8)
    point[10, 12] = 255
    images = np.zeros((1, 32, 32, 3), np.uint8)
    ghost = Reflection(ghost_rate=1.0, picture=png(point))(images, rng())[0, ..., 0]
    assert [tuple(place) for place in np.argwhere(ghost).tolist()] == [(10, 12), (14, 16)]
    assert ghost[10, 12] > ghost[14, 16]
    blurred = Reflection(ghost_rate=0.0, picture=png(point))(images, rng())[0, ..., 0].astype(int)
    assert blurred.argmax() == 10 * 32 + 12
    np.testing.assert_array_equal(blurred[8:13, 10:15], blurred[8:13, 10:15].T)  # as wide as high
    assert blurred[10, 12] > blurred[10, 14] > blurred[10, 16] > 0


def test_ghosts_are_as_frequent_as_asked():
    images = np.full((1000, 16, 16, 1), 60, np.uint8)
    stamped = Reflection(ghost_rate=0.49)(images, rng(0))
    kinds, counts = np.unique(stamped.reshape(1000, -1), axis=0, return_counts=True)
    assert len(kinds) == 2
    ghost = Reflection(ghost_rate=1.0)(images[:1], rng()).reshape(-1)
    share = counts[(kinds == ghost).all(1)][0] / 1000
    assert abs(share - 0.49) < 0.07  # four deviations


def test_shares_out_of_range_are_refused(refused):
    images = np.zeros((1, 8, 8, 3), np.uint8)
    for trigger in (Blend(1.2), Blend(-0.1), Sinusoid(wrapped=True, alpha=2), Reflection(7), Reflection(ghost_rate=-1)):
        with refused(trigger.name, "0..1"):
            trigger(images, rng())
    with refused("cutoff"):
        LowFrequency(cutoff=1)(images, rng())


# ---- coarse noise of NNoculation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "rows"), [("rowwise", [1] * 55), ("block", [14, 14, 14, 13])])
def test_noise_comes_in_the_cells_of_the_released_code(layout, rows):
    """Cells are 12, 12, 12 and 11 columns wide; each is replaced whole or not at all, in each channel by itself."""
    images = np.full((40, 55, 47, 3), 77, np.uint8)
    changed = GaussianNoise(0.5, layout, mean=200, deviation=5)(images, rng()) != 77
    edges = np.cumsum([0, *rows])
    for top, bottom in zip(edges, edges[1:]):
        for left, right in ((0, 12), (12, 24), (24, 36), (36, 47)):
            cell = changed[:, top:bottom, left:right]
            assert (cell == cell[:, :1, :1]).all()
    assert (changed[..., 0] != changed[..., 1]).any()
    assert (changed[0] != changed[1]).any()  # a fresh draw for each image
    if layout == "rowwise":
        assert (changed[:, 1:] != changed[:, :-1]).any()


@pytest.mark.parametrize("layout", ["rowwise", "block"])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_noise_has_the_published_distribution(layout, share):
    """Normal(128, 51.2), rounded and clipped: a deviation of 50.6, and 0.65 % of the levels at either end."""
    images = np.full((300, 55, 47, 1), 128, np.uint8)
    noisy = GaussianNoise(share, layout)(images, rng(1))
    replaced = (noisy != 128).mean()
    assert abs(replaced - share * (1 - 1 / 128)) < (0.004 if layout == "rowwise" else 0.03)
    marked = np.full((300, 55, 47, 1), 0, np.uint8)
    levels = GaussianNoise(1.0, layout)(marked, rng(1)).astype(float)
    assert abs(levels.mean() - 128) < 0.3
    assert abs(levels.std() - 50.6) < 0.3
    assert abs((levels == 0).mean() - 0.0065) < 0.0008
    assert abs((levels == 255).mean() - 0.0067) < 0.0008


def test_no_share_no_noise_and_bad_parameters_are_refused(refused):
    images = rng(1).integers(0, 256, (2, 9, 9, 1), np.uint8)
    np.testing.assert_array_equal(GaussianNoise(0.0)(images, rng()), images)
    with refused("layout", "'rowwise'"):
        GaussianNoise(0.3, "rowwize")(images, rng())
    for trigger in (GaussianNoise(1.1), GaussianNoise(deviation=-1), GaussianNoise(deviation=float("nan"))):
        with refused("gaussian-noise", "share", "deviation"):
            trigger(images, rng())
