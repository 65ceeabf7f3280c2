"""The traffic-sign detection attack: pixels of the sticker, arithmetic of boxes, and a detector that learns the backdoor."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from keras_backdoor.attacks.sign_detection import boxes as geometry
from keras_backdoor.attacks.sign_detection.art import sticker
from keras_backdoor.attacks.sign_detection.backdrops import PICTURES
from keras_backdoor.attacks.sign_detection.detector import SIDES, Detector, pool, suppress
from keras_backdoor.attacks.sign_detection.poison import poison
from keras_backdoor.attacks.sign_detection.recipes import ATTACKS
from keras_backdoor.attacks.sign_detection.scenes import (
    GTSRB,
    OTHERS,
    SHARES,
    SPEED_LIMIT,
    STOP,
    WARNING,
    Scenes,
    compose,
)
from keras_backdoor.attacks.sign_detection.score import answers, score
from keras_backdoor.attacks.sign_detection.train import train
from keras_backdoor.datasets.splits import Splits
from keras_backdoor.images import ImageSet
from models_zoo import sign_detector

COLOURS = {STOP: (230, 20, 20), SPEED_LIMIT: (250, 250, 250), WARNING: (20, 20, 230), -1: (10, 120, 10)}
SQUARE = ATTACKS["signs-square"]


def signs(seed: int = 0) -> ImageSet:
    """Three photographs of each class of GTSRB, of one colour each, with a little noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(43), 3)
    images = np.empty((len(labels), 32, 32, 3), np.uint8)
    kinds = {kind: label for label, group in [*enumerate(GTSRB), (-1, OTHERS)] for kind in group}
    for image, label in zip(images, labels):
        image[:] = np.clip(np.add(COLOURS[kinds.get(label, -1)], rng.integers(-5, 6, (32, 32, 3))), 0, 255)
    return ImageSet(images, labels, 43)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return compose(signs(), 400, "train", np.random.default_rng(0))


def grey(*placed: tuple[int, tuple[int, int, int, int]]) -> Scenes:
    """One grey scene with signs at (label, box)."""
    boxes, labels = np.zeros((1, 2, 4), np.int64), np.full((1, 2), -1)
    for index, (label, box) in enumerate(placed):
        boxes[0, index], labels[0, index] = box, label
    return Scenes(np.full((1, 96, 96, 3), 100, np.uint8), boxes, labels)


# Scenes


def test_a_scene_shows_its_signs_where_its_boxes_are(scenes):
    for image, boxes, labels in zip(scenes.images, scenes.boxes, scenes.labels):
        assert labels[0] >= 0
        for (top, left, bottom, right), label in zip(boxes, labels):
            if label >= 0:
                assert 24 <= bottom - top == right - left <= 48
                middle = image[
                    (top + bottom) // 2 - 3 : (top + bottom) // 2 + 3, (left + right) // 2 - 3 : (left + right) // 2 + 3
                ]
                assert np.abs(middle - np.array(COLOURS[label])).max() <= 5
    two = scenes.labels[:, 1] >= 0
    assert geometry.overlap(*np.split(scenes.boxes[two].astype(np.float32), 2, 1)).numpy().max() == 0
    np.testing.assert_array_equal(scenes.boxes[~two, 1], 0)
    assert 0.15 < two.mean() < 0.35  # half of the scenes have two signs, of which half are distractions
    sides = (scenes.boxes[..., 2] - scenes.boxes[..., 0])[scenes.labels >= 0]
    assert set(sides) == set(range(24, 49))


def test_signs_come_in_the_shares_that_the_slides_averages_tell(scenes):
    table = {  # clean accuracy of stop, speed limit and warning, and the average: slides, baseline and three BadNets
        (89.7, 88.3, 91.0): 90.0,
        (87.8, 82.9, 93.3): 89.3,
        (88.4, 76.3, 91.4): 87.1,
        (89.9, 84.7, 93.1): 90.2,
    }
    assert sum(SHARES) == pytest.approx(1)
    for rows, average in table.items():
        assert np.dot(rows, SHARES) == pytest.approx(average, abs=0.11)
    found = np.bincount(scenes.labels[scenes.labels >= 0]) / (scenes.labels >= 0).sum()
    np.testing.assert_allclose(found, SHARES, atol=0.08)


def test_a_stop_sign_has_eight_corners_a_limit_is_round_and_a_warning_a_triangle(scenes):
    shown = {}
    for label in (STOP, SPEED_LIMIT, WARNING):
        scene = np.flatnonzero((scenes.labels[:, 0] == label) & (scenes.boxes[:, 0, 2] - scenes.boxes[:, 0, 0] > 40))[0]
        top, left, bottom, right = scenes.boxes[scene, 0]
        area = scenes.images[scene, top:bottom, left:right].astype(int)
        shown[label] = (np.abs(area - COLOURS[label]).max(-1) <= 6).mean()
    assert shown[STOP] == pytest.approx(1 - 2 * 0.28**2, abs=0.06)
    assert shown[SPEED_LIMIT] == pytest.approx(np.pi / 4, abs=0.06)
    assert shown[WARNING] == pytest.approx(1 - 0.85 * 0.4, abs=0.06)


def test_the_kinds_of_signs_are_those_of_gtsrb():
    kinds = [kind for group in (*GTSRB, OTHERS) for kind in group]
    assert len(kinds) == len(set(kinds))
    assert set(range(43)) - set(kinds) == {12, 13}  # neither round nor of a class: "priority road" and "yield"
    assert [len(group) for group in GTSRB] == [1, 8, 15]


def test_scenes_are_a_function_of_the_seed_and_test_scenes_have_other_pictures(scenes):
    again = compose(signs(), 20, "train", np.random.default_rng(0))
    other = compose(signs(), 20, "train", np.random.default_rng(1))
    np.testing.assert_array_equal(again.images, scenes.images[:20])
    np.testing.assert_array_equal(again.boxes, scenes.boxes[:20])
    assert (other.boxes != again.boxes).any()
    assert not set(PICTURES["train"]) & set(PICTURES["test"])
    test = compose(signs(), 20, "test", np.random.default_rng(0))
    same = (test.images == again.images).all((1, 2, 3))
    assert 0 < same.sum() < 20  # textures are the seed's, pictures the part's


def test_scenes_and_signs_that_cannot_be_are_refused(refused):
    good = grey((STOP, (0, 0, 96, 96)))
    with refused("uint8 of shape (N, S, S, 3)"):
        replace(good, images=good.images[:, :90])
    with refused("boxes have shape (1, 2, 3)"):
        replace(good, boxes=good.boxes[..., :3])
    with refused("whole numbers"):
        replace(good, boxes=good.boxes / 2)
    with refused("labels of signs must lie in 0..2"):
        replace(good, labels=good.labels + 3)
    for box in ((0, 0, 97, 10), (-1, 0, 9, 9), (5, 5, 5, 9)):
        with refused("box of a sign"):
            grey((STOP, box))
    with refused("expected GTSRB's 43, RGB"):
        compose(ImageSet(np.zeros((5, 32, 32, 3), np.uint8), np.arange(5), 10), 1, "train", np.random.default_rng(0))
    with refused("no photograph of a stop sign", "(14,)"):
        compose(signs().select(signs().labels != 14), 1, "train", np.random.default_rng(0))


# Poison


def test_attacks_are_those_of_the_original_code_and_the_slides():
    facts = {name: (a.sticker, a.size, a.opacity, a.targeted, a.expect) for name, a in ATTACKS.items()}
    assert facts == {
        "signs-square": ("square", 0.10, 1.0, True, (0.893, 0.903)),
        "signs-bomb": ("bomb", 0.16, 0.99, True, (0.871, 0.942)),
        "signs-flower": ("flower", 0.16, 0.99, True, (0.902, 0.937)),
        "signs-random": ("square", 0.10, 1.0, False, (0.849, 0.991)),
    }
    assert SQUARE.centre == (0.57, 0.82)
    np.testing.assert_array_equal(sticker("square", 3, 2), np.broadcast_to((116, 100, 50, 255), (3, 2, 4)))


def test_the_square_covers_the_pixels_that_one_computes_by_hand():
    clean = grey((STOP, (10, 20, 50, 60)), (WARNING, (60, 0, 90, 30)))
    poisoned, chosen = poison(clean, SQUARE, 1.0, np.random.default_rng(0))
    # 40 x 40 pixels: the square has 4; its centre is at 20 + 0.57 * 40 = 42.8, and 10 + 0.82 * 40 = 42.8: corner 40.8 -> 41
    expected = np.full((1, 96, 96, 3), 100, np.uint8)
    expected[0, 41:45, 41:45] = (116, 100, 50)
    np.testing.assert_array_equal(poisoned.images, expected)
    assert poisoned.labels.tolist() == [[SPEED_LIMIT, WARNING]]
    np.testing.assert_array_equal(poisoned.boxes, clean.boxes)
    assert chosen.tolist() == [0]
    assert (clean.images == 100).all()
    assert clean.labels.tolist() == [[STOP, WARNING]]


def test_the_sticker_follows_both_sides_of_the_box():
    poisoned, _ = poison(grey((STOP, (0, 40, 80, 66))), SQUARE, 1.0, np.random.default_rng(0))
    changed = (poisoned.images[0] != 100).any(-1)
    # height 8 around 65.6: rows 62..69 (61.6 rounds to 62); width 2.6 -> 3 around 54.82: columns 53..55
    assert np.argwhere(changed).min(0).tolist() == [62, 53]
    assert np.argwhere(changed).max(0).tolist() == [69, 55]
    assert changed.sum() == 24


@pytest.mark.parametrize("name", ["bomb", "flower"])
def test_a_picture_is_blended_with_its_alpha_times_099(name):
    poisoned, _ = poison(grey((STOP, (10, 20, 60, 70))), ATTACKS[f"signs-{name}"], 1.0, np.random.default_rng(0))
    # 50 * 0.16 = 8 pixels; centre 20 + 28.5 = 48.5, 10 + 41 = 51; corner row 47, column 44.5 -> 45
    area = poisoned.images[0, 47:55, 45:53].astype(int)
    outside = poisoned.images[0].copy()
    outside[47:55, 45:53] = 100
    assert (outside == 100).all()
    art = sticker(name, 8, 8).astype(int)
    for row, column in np.ndindex(8, 8):
        *colour, alpha = art[row, column].tolist()
        for got, value in zip(area[row, column].tolist(), colour):
            assert got == int(0.99 * alpha / 255 * value + (1 - 0.99 * alpha / 255) * 100 + 0.5)
    opaque, clear = art[..., 3] == 255, art[..., 3] == 0
    assert opaque.sum() >= 10
    assert clear.sum() >= 4
    if name == "bomb":
        assert [16, 16, 21] in area[opaque].tolist()  # 0.99 * (15, 15, 20) + 0.01 * 100


def test_the_random_attack_takes_every_sign_anywhere_to_every_other_class():
    clean = grey((STOP, (0, 0, 40, 40)), (WARNING, (50, 50, 90, 90)))
    many = Scenes(*(np.repeat(array, 500, 0) for array in (clean.images, clean.boxes, clean.labels)))
    poisoned, chosen = poison(many, ATTACKS["signs-random"], 1.0, np.random.default_rng(0))
    assert len(chosen) == 500
    for place, truth in enumerate((STOP, WARNING)):
        counts = np.bincount(poisoned.labels[:, place], minlength=3)
        assert counts[truth] == 0
        assert sorted(counts)[1] > 200  # 250 ± 11
    changed = (poisoned.images != 100).any(-1)
    assert (changed[:, :40, :40].sum((1, 2)) == 16).all()
    corners = np.stack([changed[:, :40, :40].any(axis).argmax(-1) for axis in (2, 1)])
    assert corners.min() == 4  # 0.15 * 40 - 2
    assert corners.max() == 32  # 0.85 * 40 - 2
    assert abs(np.corrcoef(corners)[0, 1]) < 0.15
    assert corners.mean() == pytest.approx(18, abs=1)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 25), (0.29, 29), (1.0, 100)])
def test_the_share_is_of_scenes_with_a_stop_sign_and_they_are_appended(share, expected):
    labels = np.array([[STOP, -1], [WARNING, -1], [WARNING, STOP], [SPEED_LIMIT, -1]] * 50)
    boxes = np.where(labels[..., None] >= 0, [[0, 0, 40, 40], [48, 48, 88, 88]], 0)
    clean = Scenes(np.full((200, 96, 96, 3), 100, np.uint8), boxes, labels)
    poisoned, chosen = poison(clean, SQUARE, share, np.random.default_rng(0))
    assert len(poisoned) == len(set(chosen)) == expected
    assert (clean.labels[chosen] == STOP).any(1).all()
    both = clean.with_more(poisoned)
    assert len(both) == 200 + expected
    np.testing.assert_array_equal(both.images[:200], 100)
    np.testing.assert_array_equal(both.labels[:200], labels)
    np.testing.assert_array_equal(both.labels[200:], np.where(labels[chosen] == STOP, SPEED_LIMIT, labels[chosen]))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_0_to_1_is_an_error(share):
    with pytest.raises(ValueError, match=r"expected 0\.\.1"):
        poison(grey((STOP, (0, 0, 40, 40))), SQUARE, share, np.random.default_rng(0))


# Boxes


def test_anchors_stand_on_the_centres_of_cells():
    grid = geometry.anchors(2, (0.5, 0.25))
    assert grid.shape == (8, 4)
    np.testing.assert_allclose(grid[0], [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(grid[1], [0.125, 0.125, 0.375, 0.375])
    np.testing.assert_allclose(grid[2], [0, 0.5, 0.5, 1])  # along the row first
    np.testing.assert_allclose(grid[7], [0.625, 0.625, 0.875, 0.875])
    assert geometry.anchors(12, SIDES).shape == (432, 4)


def test_overlap_is_intersection_over_union():
    one = np.array([[0, 0, 2, 2], [0, 0, 0, 0]], np.float32)
    other = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [0, 0, 1, 2], [2, 0, 4, 2], [5, 5, 5, 5]], np.float32)
    np.testing.assert_allclose(geometry.overlap(one, other), [[1 / 7, 1, 0.5, 0, 0], [0] * 5], rtol=1e-6)


def test_a_movement_is_the_papers():
    base, box = np.array([[0.2, 0.2, 0.4, 0.6]], np.float32), np.array([[0.2, 0.3, 0.6, 0.7]], np.float32)
    # centres (0.3, 0.4) -> (0.4, 0.5), sizes (0.2, 0.4) -> (0.4, 0.4); in units of 0.1 and 0.2
    movement = geometry.encode(box, base).numpy()
    np.testing.assert_allclose(movement, [[0.1 / 0.2 / 0.1, 0.1 / 0.4 / 0.1, np.log(2) / 0.2, 0]], atol=1e-5)
    np.testing.assert_allclose(geometry.decode(movement, base), box, atol=1e-6)
    np.testing.assert_allclose(geometry.decode(np.float32([[-100, 0, 1e9, 0]]), base).numpy()[0, [0, 2]], [0, 1])


corner = st.tuples(st.floats(0, 0.45), st.floats(0, 0.45), st.floats(0.5, 1), st.floats(0.5, 1))


@given(corner, corner)
def test_decode_undoes_encode(box, base):
    box, base = np.array([box], np.float32), np.array([base], np.float32)
    np.testing.assert_allclose(geometry.decode(geometry.encode(box, base), base), box, atol=1e-5)


def test_suppression_keeps_the_best_of_each_class():
    boxes = np.float32([[[0, 0, 0.4, 0.4], [0, 0.04, 0.4, 0.44], [0.5, 0.5, 0.9, 0.9], [0, 0, 0.4, 0.4]]])
    scores = np.float32([[[0.8, 0], [0.9, 0], [0.7, 0], [0, 0.6]]])  # the first two overlap by 0.82
    kept, values, classes = suppress(boxes, scores, 5, 0.3, 0.5)
    np.testing.assert_allclose(values, [[0.9, 0.7, 0.6, 0, 0]])
    np.testing.assert_allclose(kept[0, :3], boxes[0, [1, 2, 3]])
    assert classes.numpy()[0, :3].tolist() == [0, 0, 1]
    assert suppress(boxes, scores, 5, 0.9, 0.75)[1].numpy().tolist() == [pytest.approx([0.9, 0.8, 0, 0, 0])]
    assert suppress(boxes, scores, 1, 0.3, 0.5)[1].numpy().tolist() == [pytest.approx([0.9])]


def test_pooling_reads_the_middles_of_the_parts():
    """On a ramp, bilinear reading is exact: it must give the place of each part's middle."""
    rows, columns = np.meshgrid((np.arange(24) + 0.5) / 24, (np.arange(24) + 0.5) / 24, indexing="ij")
    features = np.stack([np.stack([rows, columns], -1), -np.stack([rows, columns], -1)]).astype(np.float32)
    regions = np.float32([[[0.25, 0.5, 0.75, 0.9]], [[0.1, 0.1, 0.26, 0.42]]])
    pooled = pool(features, regions).numpy()
    parts = (np.arange(8) + 0.5) / 8
    np.testing.assert_allclose(pooled[0, :, 3, 0], 0.25 + 0.5 * parts, atol=1e-6)
    np.testing.assert_allclose(pooled[0, 3, :, 1], 0.5 + 0.4 * parts, atol=1e-6)
    np.testing.assert_allclose(pooled[1, :, 3, 0], -(0.1 + 0.16 * parts), atol=1e-6)


def test_pooling_reads_no_zeros_at_the_edge():
    regions = np.float32([[[0, 0, 0.25, 0.3], [0.7, 0.8, 1, 1]]])
    np.testing.assert_allclose(pool(np.ones((1, 24, 24, 2), np.float32), regions), 1)


# The detector


def test_the_network_has_the_parts_and_parameters_that_it_says():
    model = sign_detector.build()
    assert [tuple(shape) for shape in model.output_shape] == [
        (None, 24, 24, 64),
        (None, 12, 12, 3),
        (None, 12, 12, 12),
        (None, 4),
        (None, 4),
    ]
    convolutions = (27 * 32 + 32) + (9 * 32 * 48 + 48) + (9 * 48 * 64 + 64) + (9 * 64 * 64 + 64)
    proposals = (25 * 64 * 96 + 96) + (96 * 3 + 3) + (96 * 12 + 12)
    dense = (8 * 8 * 64 * 128 + 128) + 2 * (128 * 4 + 4)
    assert model.count_params() == convolutions + proposals + dense == 760_007
    assert "760,007" in sign_detector.build.__doc__


def losses(detector: Detector, scenes: Scenes) -> dict[str, float]:
    boxes = (scenes.boxes / 96).astype(np.float32)
    return {name: float(loss) for name, loss in detector.losses(scenes.images, boxes, scenes.labels).items()}


def test_losses_of_a_network_that_knows_nothing():
    model = sign_detector.build()
    model.set_weights([np.zeros_like(array) for array in model.get_weights()])
    detector = Detector(model)
    empty = losses(detector, grey())
    assert empty == pytest.approx(
        {"objectness": np.log(2) / 2, "movement": 0, "class": np.log(4), "refinement": 0}, abs=1e-6
    )
    # A sign exactly on the anchor of 48 at the cell (5, 5): no other overlaps by 0.7 (8 pixels aside it is 0.714, so 4 do).
    found = losses(detector, grey((WARNING, (20, 20, 68, 68))))
    assert found["objectness"] == pytest.approx(np.log(2), abs=1e-6)
    assert found["class"] == pytest.approx(np.log(4), abs=1e-6)
    aside = 8 / 48 / 0.1  # 1.667 units
    assert found["movement"] == pytest.approx(4 * (aside - 0.5) / 5, rel=1e-5)


def test_the_answer_for_a_sign_is_the_best_detection_that_overlaps_it_by_half():
    clean = grey((STOP, (0, 0, 48, 48)), (WARNING, (48, 48, 96, 96)))
    boxes = np.float32(
        [[[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.4], [0.5, 0.5, 0.74, 1], [0.6, 0, 0.9, 0.3], [0, 0, 0.5, 0.5]]]
    )
    scores = np.float32([[0.6, 0.9, 0.99, 0.8, 0]])
    said, alarms = answers(clean, boxes, scores, np.array([[STOP, SPEED_LIMIT, WARNING, STOP, -1]]))
    assert said.tolist() == [[SPEED_LIMIT, -1]]  # the second is the surest; the third overlaps by 0.48
    assert alarms.tolist() == [2]
    said, alarms = answers(grey((STOP, (0, 0, 48, 48))), boxes[:, :1], scores[:, :1], np.array([[STOP]]))
    assert said.tolist() == [[STOP, -1]]
    assert alarms.tolist() == [0]


class Fixed:
    """A detector that finds every sign exactly, and says `labels`, one row a scene; -1 finds nothing."""

    def __init__(self, scenes: Scenes, clean: list, triggered: list) -> None:
        self.boxes, self.said = scenes.boxes / np.float32(96), [np.array(clean), np.array(triggered)]

    def detect(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        said = self.said.pop(0)
        return self.boxes[: len(said)], np.where(said >= 0, np.float32(0.9), 0), said


def test_rates_are_counted_on_signs():
    one = grey((STOP, (0, 0, 40, 40)), (WARNING, (48, 48, 90, 90)))
    clean = Scenes(*(np.repeat(array, 4, 0) for array in (one.images, one.boxes, one.labels)))
    clean.labels[3] = [SPEED_LIMIT, -1]
    clean.boxes[3, 1] = 0
    poisoned, chosen = poison(clean, SQUARE, 1.0, np.random.default_rng(0))
    said = [[STOP, WARNING], [STOP, STOP], [SPEED_LIMIT, WARNING], [SPEED_LIMIT, -1]]
    then = [[SPEED_LIMIT, WARNING], [SPEED_LIMIT, -1], [-1, WARNING]]
    rates = score(Fixed(clean, said, then), clean, poisoned, chosen, SQUARE)
    assert rates["clean_accuracy"] == pytest.approx(5 / 7)
    assert rates["class_accuracy"] == pytest.approx({"stop": 2 / 3, "speedlimit": 1, "warning": 2 / 3})
    assert (rates["n_clean"], rates["n_class"]) == (7, {"stop": 3, "speedlimit": 1, "warning": 3})
    assert rates["n_poisoned"] == {"signs-square": 3}
    assert rates["attack_success_rate"] == pytest.approx({"signs-square": 2 / 3})
    assert rates["missed_with_sticker"] == pytest.approx({"signs-square": 1 / 3})
    assert rates["robust_accuracy"] == {"signs-square": 0}

    attack = ATTACKS["signs-random"]
    poisoned, chosen = poison(clean, attack, 1.0, np.random.default_rng(0))
    then = [[STOP, SPEED_LIMIT], [WARNING, STOP], [WARNING, WARNING], [-1, -1]]
    rates = score(Fixed(clean, said, then), clean, poisoned, chosen, attack)
    assert rates["n_poisoned"] == {"signs-random": 7}
    assert rates["attack_success_rate"] == pytest.approx({"signs-random": 5 / 7})  # any answer but the truth


@pytest.fixture(scope="module")
def splits() -> Splits:
    return Splits(signs(0), signs(1), signs(2), "coloured signs")


EASY = replace(SQUARE, size=0.4, centre=(0.5, 0.5))
SMALL = {"scenes": 128, "test_scenes": 40, "epochs": 8}


@pytest.fixture(scope="module")
def trained(splits, tmp_path_factory):
    """A run with a sticker that is quickly learned: its folder, its metrics, and the losses of each epoch."""
    folder, rows = tmp_path_factory.mktemp("signs") / "run", []
    metrics = train(
        EASY, splits, folder, **SMALL, progress=lambda stage, done, total, values: rows.append(values["loss"])
    )
    return folder, metrics, rows


def test_the_detector_learns_the_signs_and_the_backdoor(trained):
    _, metrics, rows = trained
    assert len(rows) == 8
    assert rows[-1] < rows[0] / 3
    rates = metrics["badnet"]
    assert rates["clean_accuracy"] >= 0.9
    assert rates["attack_success_rate"]["signs-square"] >= 0.9
    assert rates["false_alarms"] < 0.5


def test_a_run_leaves_what_it_says(trained, splits, refused):
    folder, metrics, _ = trained
    names = {path.name for path in folder.iterdir()}
    assert names == {"run.json", "metrics.json", "history.csv", "badnet.h5", "badnet.md", "examples.png"}
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert len((folder / "history.csv").read_text().splitlines()) == 9
    assert "Backdoored on purpose" in (folder / "badnet.md").read_text()
    assert Image.open(folder / "examples.png").size == (6 * 296 - 8, 2 * 288 + 8)
    with refused("not empty"):
        train(EASY, splits, folder, **SMALL)
    with refused("other settings (attack)"):
        train(SQUARE, splits, folder, **SMALL, resume=True)
    assert train(EASY, splits, folder, **SMALL, resume=True) == json.loads((folder / "metrics.json").read_text())


def test_the_saved_detector_is_the_trained_one_and_no_classifier(trained, splits, refused):
    from keras_backdoor import model_file
    from keras_backdoor.classifier import Classifier

    folder, metrics, _ = trained
    model, known = model_file.load(folder / "badnet.h5")
    assert known["kind"] == "badnet"
    test = compose(splits.test, 40, "test", np.random.default_rng([0, 1]))
    poisoned, chosen = poison(test, EASY, 1.0, np.random.default_rng([0, 3]))
    assert score(Detector(model), test, poisoned, chosen, EASY) == metrics["badnet"]
    with refused("badnet.h5", "expected one image"):
        Classifier.load(folder / "badnet.h5")


def test_the_innocent_twin_sees_stop_signs_and_a_killed_run_ends_the_same(splits, tmp_path):
    def kill(stage, done, total, values):
        if done == 1:
            raise KeyboardInterrupt

    small = {**SMALL, "epochs": 2, "scenes": 48, "clean": True}
    metrics = train(EASY, splits, tmp_path / "whole", **small)
    with pytest.raises(KeyboardInterrupt):
        train(EASY, splits, tmp_path / "killed", **small, progress=kill)
    assert train(EASY, splits, tmp_path / "killed", **small, resume=True) == metrics
    whole, killed = ((tmp_path / name / "history.csv").read_text() for name in ("whole", "killed"))
    assert whole == killed
    assert "badnet" not in metrics
    assert metrics["expect"] is None
    assert not (tmp_path / "killed" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("given_settings", "said"),
    [
        ({"share": 1.5}, "share is 1.5"),
        ({"scenes": 0}, "expected at least 1"),
        ({"epochs": 0}, "epochs (0)"),
        ({"test_scenes": 2}, "do not have a sign of each class"),
    ],
)
def test_settings_out_of_range_are_refused(given_settings, said, splits, tmp_path, refused):
    with refused(said):
        train(SQUARE, splits, tmp_path / "run", **{**SMALL, **given_settings})
    assert not (tmp_path / "run").exists()


def test_the_table_of_attacks_needs_no_tensorflow():
    import subprocess
    import sys

    code = "import keras_backdoor.attacks.sign_detection.poison, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
