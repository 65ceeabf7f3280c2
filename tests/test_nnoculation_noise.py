"""NNoculation's noise, and sets with noisy copies; "rowwise" and "block" by hand are in test_triggers_whole_image."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import ks_2samp

from keras_backdoor.attacks.noise_aware import NoiseAware
from keras_backdoor.augmentation import with_noisy_copies
from keras_backdoor.triggers import GaussianNoise
from keras_backdoor.triggers.noise import LAYOUTS

GREY = 77


def grey(count=40, shape=(55, 47, 3)):
    return np.full((count, *shape), GREY, np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


def imgaug_noise(layout, share, mean=128.0, deviation=51.2, seed=0):
    """The augmentation of `augment.py`, put together with the same library; "rowwise" is what it makes of `images=` one image."""
    imgaug = pytest.importorskip("imgaug", reason="imgaug (or the OpenCV that it needs) cannot be imported")
    parameters, augmenters = imgaug.parameters, imgaug.augmenters
    cells = parameters.Binomial(share)
    if layout != "pixel":
        cells = parameters.FromLowerResolution(cells, size_px=4)
    normal = parameters.Normal(mean, deviation)
    one = augmenters.ReplaceElementwise(cells, normal, per_channel=layout != "pixel")
    whole = augmenters.Sequential([one], seed=seed)

    def noisy(images):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # imgaug's, on the shape that the released code gives it
            many = [whole(images=image) if layout == "rowwise" else whole(image=image) for image in images]
        return np.stack(many)

    return noisy


def cells_of(changed):
    """A number for each place of an image: places that are always changed together, bool (N, H, W, C), have the same."""
    patterns = changed.reshape(len(changed), -1).T
    _, first, cell = np.unique(patterns, axis=0, return_index=True, return_inverse=True)
    return first[cell.ravel()].reshape(changed.shape[1:])


# ---- against imgaug ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(55, 47, 3), (32, 32, 3), (28, 28, 1), (14, 14, 1), (9, 30, 3)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cells_lie_where_imgaug_has_them(layout, shape):
    """Of 40 images with half of the cells replaced, no two cells are replaced in the same ones."""
    original = imgaug_noise(layout, 0.5, 200, 5)(grey(40, shape))
    ours = GaussianNoise(0.5, layout, 200, 5)(grey(40, shape), rng())
    np.testing.assert_array_equal(cells_of(ours != GREY), cells_of(original != GREY))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_levels_and_shares_are_distributed_as_those_of_imgaug(layout):
    """Where a whole image is replaced, and how much of it is at 0.3. Black and white ends are part of the first."""
    original = imgaug_noise(layout, 1.0)(grey(6)).ravel()
    ours = GaussianNoise(1.0, layout)(grey(6), rng()).ravel()
    if layout == "pixel":  # imgaug gives all channels of a pixel one level, ours each its own
        original = original[::3]
    assert ks_2samp(ours, original).statistic < 1.95 * np.sqrt(
        1 / len(ours) + 1 / len(original)
    )  # one seed in a thousand
    for end in (0, 255):
        assert abs((original == end).mean() - (ours == end).mean()) < 0.002
    shares = [
        (noisy != GREY).mean((1, 2, 3))
        for noisy in (imgaug_noise(layout, 0.3)(grey()), GaussianNoise(0.3, layout)(grey(), rng()))
    ]
    spread = {"rowwise": 0.46 / np.sqrt(660), "block": 0.46 / np.sqrt(48), "pixel": 0.46 / np.sqrt(2585)}[layout]
    for share in shares:
        assert abs(share.mean() - 0.3) < 5 * spread / np.sqrt(40)
        assert 0.6 * spread < share.std() < 1.5 * spread  # of one image: the larger the cells, the more it varies


# ---- the layout of the paper's text --------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_pixels_are_replaced_in_all_channels_and_each_by_itself(share):
    changed = GaussianNoise(share, "pixel", 200, 5)(grey(100), rng()) != GREY
    assert (changed == changed[..., :1]).all()
    pixels = changed[..., 0].astype(float)
    assert abs(pixels.mean() - share) < 5 * np.sqrt(share * (1 - share) / pixels.size)
    for one, other in (
        (pixels[:, 1:], pixels[:, :-1]),
        (pixels[:, :, 1:], pixels[:, :, :-1]),
        (pixels[1:], pixels[:-1]),
    ):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.01  # neighbours and images: independent


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_get_levels_of_their_own(layout):
    noisy = GaussianNoise(1.0, layout)(grey(20), rng()).astype(float)
    flat = noisy.reshape(-1, 3).T
    assert (np.abs(np.corrcoef(flat) - np.eye(3)) < 0.02).all()


@pytest.mark.parametrize("layout", ["rowwise", "block"])
def test_cells_of_different_channels_are_chosen_independently(layout):
    changed = GaussianNoise(0.3, layout, 200, 5)(grey(400), rng()) != GREY
    both = (changed[..., 0] & changed[..., 1]).mean()
    assert abs(both - 0.09) < 0.02


def test_levels_are_rounded_and_clipped_not_wrapped():
    assert set(np.unique(GaussianNoise(1.0, "pixel", 127.5001, 1e-9)(grey(1), rng()))) == {128}
    assert set(np.unique(GaussianNoise(1.0, "pixel", 300, 1)(grey(1), rng()))) == {255}
    assert set(np.unique(GaussianNoise(1.0, "pixel", -40, 1)(grey(1), rng()))) == {0}


# ---- seeds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_noise_depends_on_its_generator_alone_and_is_fresh_for_each_image(layout):
    images = grey(300, (14, 14, 1))  # more than are worked on at once
    np.random.seed(1)  # noqa: NPY002 -- the global state must not matter
    noisy = GaussianNoise(0.5, layout)(images, rng(3))
    np.random.seed(2)  # noqa: NPY002
    np.testing.assert_array_equal(GaussianNoise(0.5, layout)(images, rng(3)), noisy)
    assert (GaussianNoise(0.5, layout)(images, rng(4)) != noisy).any()
    assert len(np.unique(noisy.reshape(300, -1), axis=0)) == 300
    assert noisy.dtype == np.uint8 and (images == GREY).all()


# ---- a set and its noisy copies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attacker_and_defender_have_the_same_noise(make_set, layout):
    images = make_set(30)
    attacker = NoiseAware(0.4, layout, share=0.5).augmented(images, rng(5))
    defender = with_noisy_copies(images, GaussianNoise(0.4, layout), rng(5), share=0.5)
    np.testing.assert_array_equal(attacker.images, defender.images)
    np.testing.assert_array_equal(attacker.labels, defender.labels)
    assert len(defender) == 45


def test_each_image_has_one_copy_with_its_label_and_is_itself_left_alone(make_set):
    images = make_set(30)
    before = images.images.copy()
    both = with_noisy_copies(images, GaussianNoise(0.2, "pixel"), rng())
    np.testing.assert_array_equal(both.images[:30], before)
    np.testing.assert_array_equal(images.images, before)
    np.testing.assert_array_equal(both.labels, np.tile(images.labels, 2))
    alike = (both.images[30:, None] == before).mean((2, 3, 4))
    np.testing.assert_array_equal(alike.argmax(1), np.arange(30))
    assert 0.7 < alike.max(1).mean() < 0.9
