"""WaNet's warp against hand-computed numbers and a literal reading of its definition, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keras_backdoor.triggers import Warp, WarpNoise
from keras_backdoor.triggers.warp import _bicubic


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- the definition, one pixel at a time -------------------------------------------------------------------------------


def cubic(d: float) -> float:
    a, d = -0.75, abs(d)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def enlarged(control: np.ndarray, row: int, column: int, height: int, width: int) -> float:
    """One value of the bicubic upsampling with aligned corners: 4x4 taps, indices kept inside."""
    k = len(control)
    v, u = row * (k - 1) / (height - 1), column * (k - 1) / (width - 1)
    total = 0.0
    for i in range(math.floor(v) - 1, math.floor(v) + 3):
        for j in range(math.floor(u) - 1, math.floor(u) + 3):
            total += cubic(v - i) * cubic(u - j) * control[min(max(i, 0), k - 1), min(max(j, 0), k - 1)]
    return total


def sampled(image: np.ndarray, x: float, y: float, channel: int) -> float:
    """Bilinear sampling at (x, y) in -1..1, aligned corners; outside the image there are zeros."""
    height, width = image.shape[:2]
    u, v = (x + 1) / 2 * (width - 1), (y + 1) / 2 * (height - 1)
    total = 0.0
    for i in (math.floor(v), math.floor(v) + 1):
        for j in (math.floor(u), math.floor(u) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += (1 - abs(v - i)) * (1 - abs(u - j)) * float(image[i, j, channel])
    return total


def literal(images: np.ndarray, trigger: Warp | WarpNoise, noise: np.ndarray | None = None) -> np.ndarray:
    """The warp by its definition, as floats, before rounding."""
    count, height, width, channels = images.shape
    control = np.random.default_rng(trigger.seed).uniform(-1, 1, (2, trigger.grid, trigger.grid))
    control = control / np.mean(np.abs(control))
    warped = np.zeros(images.shape)
    for row in range(height):
        for column in range(width):
            push = [enlarged(control[axis], row, column, height, width) for axis in (0, 1)]
            x = -1 + 2 * column / (width - 1) + trigger.strength * push[0] / height
            y = -1 + 2 * row / (height - 1) + trigger.strength * push[1] / height
            x, y = min(max(x, -1), 1), min(max(y, -1), 1)
            for n in range(count):
                step = (0, 0) if noise is None else noise[n, row, column] / height
                to_x, to_y = min(max(x + step[0], -1), 1), min(max(y + step[1], -1), 1)
                for channel in range(channels):
                    warped[n, row, column, channel] = sampled(images[n], to_x, to_y, channel)
    return warped


def assert_rounded(stamped: np.ndarray, exact: np.ndarray) -> None:
    """Each level is the nearest one; within float32's reach of a half, either neighbour."""
    assert np.abs(stamped.astype(float) - exact).max() <= 0.5 + 1e-4
    assert (stamped == np.rint(exact)).mean() > 0.999


@pytest.mark.parametrize("trigger", [Warp(), Warp(2.0, 3, seed=5), Warp(0.5, 8, seed=1), Warp(40.0, seed=2)], ids=str)
@pytest.mark.parametrize("shape", [(3, 12, 12, 1), (2, 9, 14, 3)], ids=str)
def test_the_warp_is_what_its_definition_says(trigger, shape):
    images = rng(1).integers(0, 256, shape, np.uint8)
    assert_rounded(trigger(images, rng()), literal(images, trigger))


def test_the_noise_mode_adds_a_step_to_each_pixel_of_each_image():
    images = rng(1).integers(0, 256, (3, 10, 11, 3), np.uint8)
    noise = rng(8).uniform(-1, 1, (3, 10, 11, 2))
    for trigger in (WarpNoise(), WarpNoise(3.0, 5, seed=4)):
        assert_rounded(trigger(images, rng(8)), literal(images, trigger, noise))


# ---- numbers computed by hand ------------------------------------------------------------------------------------------


def test_bicubic_weights_by_hand():
    """Half way between knots: 19/32 for the near ones and -3/32 for the far ones, with a = -0.75; on a knot: the knot."""
    matrix = _bicubic(7, 4)  # places 0, 0.5, 1, ... 3
    np.testing.assert_allclose(matrix[3], [-3 / 32, 19 / 32, 19 / 32, -3 / 32])
    np.testing.assert_allclose(
        matrix[1], [16 / 32, 19 / 32, -3 / 32, 0], atol=1e-12
    )  # the knot before the first is the first
    np.testing.assert_allclose(matrix[::2], np.eye(4), atol=1e-12)
    np.testing.assert_allclose(_bicubic(28, 4).sum(1), 1)


def test_a_constant_field_moves_a_ramp_by_hand():
    """On 5 pixels, strength 0.5 moves by 0.5 * 4 / (2 * 5) = 0.2 of a pixel times P: 10 P levels on a ramp of 50 a pixel."""
    push = next((s, p) for s in range(100) for p in [rng(s).uniform(-1, 1, 2)] if p[0] > 0.1 and p[1] < -0.1)
    seed, (x, y) = push[0], push[1] / np.abs(push[1]).mean()  # one knot: the field is x, y everywhere
    columns = np.tile(np.arange(0, 250, 50, dtype=np.uint8), (5, 1))
    right = Warp(0.5, 1, seed)(columns[None, ..., None], rng())[0, ..., 0]
    ahead = round(10 * x)
    assert right.tolist() == [[ahead, 50 + ahead, 100 + ahead, 150 + ahead, 200]] * 5  # the last is held at the edge
    up = Warp(0.5, 1, seed)(columns.T[None, ..., None], rng())[0, ..., 0]
    behind = round(10 * -y)
    assert up.T.tolist() == [[0, 50 - behind, 100 - behind, 150 - behind, 200 - behind]] * 5
    assert ahead > 0 < behind
    assert ahead != behind


def test_the_field_is_identity_plus_a_push_of_mean_one():
    trigger = Warp(0.5, 4, seed=3)
    field = trigger.field(4, 4)  # four places for four knots: the field shows the knots themselves
    x, y = np.meshgrid(np.linspace(-1, 1, 4), np.linspace(-1, 1, 4))
    control = rng(3).uniform(-1, 1, (2, 4, 4))
    control /= np.abs(control).mean()
    np.testing.assert_allclose(field[..., 0], np.clip(x + 0.5 * control[0] / 4, -1, 1))
    np.testing.assert_allclose(field[..., 1], np.clip(y + 0.5 * control[1] / 4, -1, 1))


def test_no_strength_no_warp():
    images = rng(1).integers(0, 256, (2, 13, 9, 3), np.uint8)
    np.testing.assert_array_equal(Warp(0.0)(images, rng()), images)


def test_flat_images_stay_flat():
    """The clamp keeps every place inside, so that nothing outside the image darkens its edges."""
    images = np.full((2, 16, 16, 1), 201, np.uint8)
    for trigger in (Warp(), Warp(5.0), WarpNoise(), WarpNoise(5.0)):
        np.testing.assert_array_equal(trigger(images, rng()), images)


def test_the_warp_moves_pixels_by_about_a_quarter():
    """FACTS of the code: strength * P * (H-1) / (2 H) pixels, and P has a mean size of one at its knots."""
    field = Warp().field(32, 32)
    x, _ = np.meshgrid(np.linspace(-1, 1, 32), np.linspace(-1, 1, 32))
    moved = np.abs(field[..., 0] - x) * 31 / 2
    assert 0.1 < moved.mean() < 0.35
    assert moved.max() < 1


def test_seeds_make_different_fields_and_the_generator_does_not():
    images = rng(1).integers(0, 256, (2, 16, 16, 1), np.uint8)
    np.testing.assert_array_equal(Warp()(images, rng(0)), Warp()(images, rng(5)))
    assert (Warp(seed=1)(images, rng()) != Warp(seed=2)(images, rng())).any()


def test_a_grid_without_points_is_refused(refused):
    for trigger in (Warp(grid=0), WarpNoise(grid=-1)):
        with refused("grid"):
            trigger(np.zeros((1, 8, 8, 1), np.uint8), rng())
