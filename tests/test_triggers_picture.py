"""Pictures and make-up: Pillow's bits, geometry, and what is refused."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

from keras_backdoor.triggers import Eyebrows, Lipstick, Picture, Sunglasses
from keras_backdoor.triggers.picture import paste


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pillow(images: np.ndarray, rgba: np.ndarray, top: int, left: int) -> np.ndarray:
    """The loop of the originals: one image at a time."""
    picture, pasted = Image.fromarray(rgba), []
    for image in images:
        canvas = Image.fromarray(image.squeeze())
        canvas.paste(picture, (left, top), picture)
        pasted.append(np.asarray(canvas).reshape(image.shape))
    return np.stack(pasted)


@pytest.fixture
def save(tmp_path):
    def save(rgba: np.ndarray) -> str:
        path = tmp_path / "picture.png"
        Image.fromarray(rgba).save(path)
        return str(path)

    return save


# ---- pasting -----------------------------------------------------------------------------------------------------------


def test_paste_by_hand():
    """(x (255 - a) + colour a) / 255, rounded: (100 * 155 + 20 * 100) / 255 = 68.6, (10 * 38 + 126 * 217) / 255 = 108.7."""
    rgba = np.array([[[20, 0, 255, 100], [126, 0, 255, 217], [1, 2, 3, 255], [9, 9, 9, 0]]], np.uint8)
    images = np.array([[[[100, 100, 100], [10, 10, 10], [7, 7, 7], [7, 7, 7]]]], np.uint8)
    assert paste(images, rgba, 0, 0)[0, 0].tolist() == [[69, 61, 161], [109, 1, 218], [1, 2, 3], [7, 7, 7]]


def test_every_level_colour_and_alpha_is_as_pillow_does_it():
    """All 256 x 256 pairs of a level and an alpha, under 17 colours."""
    level, alpha = (part.astype(np.uint8) for part in np.indices((256, 256)))
    images = np.repeat(level[None, ..., None], 3, axis=-1)
    for colour in range(0, 256, 15):
        rgba = np.dstack([np.full((256, 256, 3), colour, np.uint8), alpha])
        np.testing.assert_array_equal(paste(images, rgba, 0, 0), pillow(images, rgba, 0, 0))


@given(
    images=arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(9), st.just(7), st.sampled_from([1, 3]))),
    rgba=arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(4))),
    top=st.integers(0, 5),
    left=st.integers(0, 3),
)
def test_paste_is_the_loop_of_pillow(images, rgba, top, left):
    np.testing.assert_array_equal(paste(images, rgba, top, left), pillow(images, rgba, top, left))


def test_many_images_are_as_one(save):
    images = rng(1).integers(0, 256, (300, 20, 20, 3), np.uint8)
    rgba = rng(2).integers(0, 256, (11, 13, 4), np.uint8)
    stamped = Picture(save(rgba), 4, 5)(images, rng())
    np.testing.assert_array_equal(stamped, pillow(images, rgba, 4, 5))
    outside = np.ones((20, 20), bool)
    outside[4:15, 5:18] = False
    np.testing.assert_array_equal(stamped[:, outside], images[:, outside])


def test_an_opaque_picture_covers_and_opacity_fades_it(save):
    images = np.full((2, 4, 4, 3), 200, np.uint8)
    path = save(np.full((2, 2, 3), 100, np.uint8))
    assert Picture(path, 1, 1)(images, rng())[0, :, :, 0].tolist() == [
        [200, 200, 200, 200],
        [200, 100, 100, 200],
        [200, 100, 100, 200],
        [200, 200, 200, 200],
    ]
    assert (Picture(path, opacity=0.4)(images, rng())[:, :2, :2] == 160).all()  # alpha 102 of 255
    assert (Picture(path, opacity=0.0)(images, rng()) == 200).all()


def test_a_changed_picture_file_is_read_again(save, tmp_path):
    images = np.zeros((1, 2, 2, 3), np.uint8)
    path = save(np.full((1, 1, 3), 100, np.uint8))
    assert Picture(path)(images, rng())[0, 0, 0, 0] == 100
    Image.fromarray(np.full((1, 1, 3), 90, np.uint8)).save(tmp_path / "other.png")
    (tmp_path / "other.png").replace(path)
    assert Picture(path)(images, rng())[0, 0, 0, 0] == 90


@pytest.mark.parametrize("kind", [Picture, Sunglasses])
def test_bad_picture_files_are_refused(kind, save, tmp_path, refused):
    images = np.zeros((1, 55, 47, 3), np.uint8)
    with refused("none.png", "no such file"):
        kind(str(tmp_path / "none.png"))(images, rng())
    with refused("directory"):
        kind(str(tmp_path))(images, rng())
    (tmp_path / "text.png").write_text("not a picture")
    with refused("text.png", "not a whole picture"):
        kind(str(tmp_path / "text.png"))(images, rng())
    whole = Path(save(rng().integers(0, 256, (20, 20, 4), np.uint8))).read_bytes()
    for length in (10, 40, len(whole) // 2):
        (tmp_path / "cut.png").write_bytes(whole[:length])
        with refused("cut.png", "not a whole picture"):
            kind(str(tmp_path / "cut.png"))(images, rng())
    with refused("20x20", "19x47"):
        kind(save(np.zeros((20, 20, 4), np.uint8)), 0, 0)(images[:, :19], rng())
    with refused("(-1, 0)"):
        kind(save(np.zeros((2, 2, 4), np.uint8)), -1, 0)(images, rng())


def test_opacity_out_of_range_and_odd_channels_are_refused(save, refused):
    path = save(np.zeros((2, 2, 4), np.uint8))
    with refused("opacity", "0..1"):
        Picture(path, opacity=1.5)(np.zeros((1, 4, 4, 3), np.uint8), rng())
    with refused("1 or 3 channels"):
        Picture(path)(np.zeros((1, 4, 4, 2), np.uint8), rng())


# ---- sunglasses --------------------------------------------------------------------------------------------------------


def test_our_glasses_have_the_geometry_of_the_published_ones():
    dark = Sunglasses()(np.zeros((1, 55, 47, 3), np.uint8), rng())[0].astype(int)
    light = Sunglasses()(np.full((1, 55, 47, 3), 255, np.uint8), rng())[0].astype(int)
    alpha = 255 - (light - dark).mean(-1)
    rows, columns = np.nonzero(alpha > 0.5)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (15, 34, 0, 46)
    assert 650 < len(rows) < 780  # published: 713 pixels with any alpha
    assert (alpha[20, 5:20] == 217).all()  # left lens
    assert (alpha[20, 28:41] == 217).all()  # right lens
    assert (alpha[19, 21:26] == 255).all()  # the bar between them
    assert dark[19, 23].tolist() == [63, 0, 127]
    assert (alpha[33, 21:26] == 0).all()  # nothing below the bar
    assert not alpha[:15].any()
    assert not alpha[35:].any()
    np.testing.assert_array_equal(alpha, alpha[:, ::-1])  # both halves have the same shape


def test_sunglasses_need_a_face_of_the_right_size(refused):
    with refused("sunglasses", "20x47", "32x32"):
        Sunglasses()(np.zeros((1, 32, 32, 3), np.uint8), rng())


# ---- make-up -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trigger", "colour", "rows", "columns", "count", "centre"),
    [
        (Lipstick(), (128, 0, 128), (35, 51), (16, 33), (19, 73), (42.1, 24.1)),
        (Eyebrows(), (128, 0, 0), (13, 25), (3, 42), (75, 114), (18.8, 23.7)),
    ],
    ids=lambda part: getattr(part, "name", None),
)
def test_make_up_lies_where_the_published_one_lies(trigger, colour, rows, columns, count, centre):
    """The extent, number and centroid of the pixels that were measured on 91 published faces."""
    images = rng(1).integers(150, 255, (4, 55, 47, 3), np.uint8)
    stamped = trigger(images, rng())
    painted = (stamped != images).any(-1)
    assert (painted == painted[0]).all()
    assert (stamped[painted] == colour).all()
    at = np.argwhere(painted[0])
    assert rows[0] <= at[:, 0].min() <= at[:, 0].max() <= rows[1]
    assert columns[0] <= at[:, 1].min() <= at[:, 1].max() <= columns[1]
    assert count[0] <= len(at) <= count[1]
    assert np.abs(at.mean(0) - centre).max() < 0.75


def test_make_up_grows_with_the_face():
    small, large = (
        (trigger(np.zeros((1, 55 * k, 47 * k, 3), np.uint8), rng())[0] > 0).any(-1)
        for k in (1, 3)
        for trigger in [Eyebrows()]
    )
    assert 0.8 < large.sum() / (9 * small.sum()) < 1.2
    assert np.abs((np.argwhere(large).mean(0) - 1) / 3 - np.argwhere(small).mean(0)).max() < 0.5


def test_make_up_needs_colour(refused):
    for trigger in (Lipstick(), Eyebrows()):
        with refused(trigger.name, "3 channels"):
            trigger(np.zeros((1, 55, 47, 1), np.uint8), rng())


def test_landmarks_without_the_package_are_refused(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "face_recognition", None)
    for trigger in (Lipstick(landmarks=True), Eyebrows(True)):
        with refused(trigger.name, "face_recognition", "not installed"):
            trigger(np.zeros((1, 55, 47, 3), np.uint8), rng())


def test_landmarks_decide_where_and_faces_without_stay_clean(monkeypatch):
    """The detector here finds a mouth at the image's own place, and no face on black images."""
    top, bottom = [(0, 1), (3, 0), (6, 1), (3, 1)], [(0, 3), (6, 3), (3, 5)]
    brow = [(1, 1), (3, 0), (5, 1)]

    def face_landmarks(image):
        assert image.flags.c_contiguous
        if not image.any():
            return []
        x, y = image[0, 0, :2]
        shift = {"top_lip": top, "bottom_lip": bottom, "left_eyebrow": brow, "right_eyebrow": brow}
        return [{part: [(int(x) + px, int(y) + py) for px, py in points] for part, points in shift.items()}]

    monkeypatch.setitem(sys.modules, "face_recognition", types.SimpleNamespace(face_landmarks=face_landmarks))
    images = np.zeros((3, 55, 47, 3), np.uint8)
    images[0, 0, 0], images[2, 0, 0] = (10, 40, 0), (30, 20, 0)
    stamped = Lipstick(landmarks=True)(images, rng())
    assert not stamped[1].any()
    for index, (x, y) in ((0, (10, 40)), (2, (30, 20))):
        canvas = Image.new("L", (47, 55))
        for points in (top, bottom):
            ImageDraw.Draw(canvas).polygon([(x + px, y + py) for px, py in points], fill=1)
        expected = images[index].copy()
        expected[np.asarray(canvas, bool)] = (128, 0, 128)
        np.testing.assert_array_equal(stamped[index], expected)
    painted = (Eyebrows(landmarks=True)(images, rng())[0] == (128, 0, 0)).all(-1)
    rows, columns = np.nonzero(painted)
    assert painted[41, 11:16].all()
    assert (rows.min(), columns.min()) >= (36, 7)
    assert (rows.max(), columns.max()) <= (44, 18)
