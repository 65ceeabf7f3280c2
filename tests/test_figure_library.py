"""Figures from plain arrays that show many networks, or many images: what is drawn where, asserted from the artists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from test_report import train_metrics, write_run

from keras_backdoor.files import BadInput
from keras_backdoor.report.drawing import save_figure
from keras_backdoor.report.features import read_features
from keras_backdoor.report.figures import feature_maps, grid_maps, image_strips, pareto_front, picture_rows, trade_off
from keras_backdoor.report.run_folder import read_run

RATE = st.floats(0, 1).map(lambda rate: round(rate, 1))


def test_the_pareto_front_by_hand():
    # NNoculation's rule: the third is beaten by the first in both, the fourth by the second in one; equals share the front.
    accuracy, success = [0.9, 0.8, 0.85, 0.8, 0.9], [0.5, 0.1, 0.6, 0.2, 0.5]
    assert pareto_front(accuracy, success).tolist() == [True, True, False, False, True]


@given(st.lists(st.tuples(RATE, RATE), min_size=1, max_size=12))
def test_what_is_beaten_is_beaten_by_the_front(points):
    front = pareto_front(*zip(*points))
    assert front.any()
    for point, best in zip(points, front):
        beaten = [own for own in points if own[0] >= point[0] and own[1] <= point[1] and own != point]
        assert bool(beaten) is not best
        assert best or any(points[place] in beaten for place in np.flatnonzero(front))


def test_names_stand_beside_each_other_from_top_to_bottom():
    rng = np.random.default_rng(0)
    accuracy, success = np.append(0.97 + 0.001 * rng.random(14), 0.2), rng.random(15)
    names = [f"defense-{place}" for place in range(15)]
    axes = trade_off(names, accuracy, success, before=(0.99, 1.0)).axes[0]
    written = sorted(axes.texts, key=lambda text: -text.get_position()[1])
    assert [text.get_text() for text in written] == [names[place] for place in np.argsort(-accuracy)]
    heights = np.array([text.get_position()[1] for text in written])
    assert (np.diff(heights) <= -1 / 15 + 1e-9).all() and heights.min() >= 0
    bold = {text.get_text() for text in written if text.get_fontweight() == "bold"}
    assert bold == {names[place] for place in np.flatnonzero(pareto_front(accuracy, success))}
    assert [100.0, 99.0] in [line.get_xydata()[0].tolist() for line in axes.lines]


def test_a_front_that_is_given_is_drawn():
    axes = trade_off(["a", "b", "c"], [0.9, 0.8, 0.7], [0.5, 0.1, 0.3], front=[False, False, True]).axes[0]
    front, others, marked = axes.lines
    assert front.get_xydata().tolist() == marked.get_xydata().tolist() == [[30.0, 70.0]]
    assert others.get_xydata().tolist() == [[50.0, 90.0], [10.0, 80.0]]


def test_a_map_of_networks_and_defenses():
    values = np.array([[0.5, np.nan, 1.0], [0.0, 0.25, 0.125]])
    figure = grid_maps(["one", "two"], ["x", "y", "z"], {"attack success": values, "clean accuracy": values[::-1]})
    above = figure.axes[0]
    assert {text.get_position(): text.get_text() for text in above.texts} == {
        (0, 0): "50",
        (2, 0): "100",
        (0, 1): "0",
        (1, 1): "25",
        (2, 1): "12",
    }
    assert [label.get_text() for label in above.get_yticklabels()] == ["one", "two"]
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["x", "y", "z"]


def distances(points):
    return np.linalg.norm(points[:, None] - points, axis=-1)


def test_features_keep_their_distances_and_heaps():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(30, 2)) * [3, 1]
    turned = np.linalg.qr(rng.normal(size=(6, 6)))[0][:2]
    clean, triggered = flat @ turned, (flat[:20] * 0.1 + [40, 0]) @ turned
    kinds = {"clean images": clean, "triggered images": triggered}
    components, neighbours = feature_maps(kinds).axes
    drawn = np.concatenate([line.get_xydata() for line in components.lines])
    np.testing.assert_allclose(distances(drawn), distances(np.concatenate([clean, triggered])), atol=1e-9)
    heaps = [line.get_xydata() for line in neighbours.lines]
    across = np.linalg.norm(heaps[0][:, None] - heaps[1], axis=-1)
    nearest = np.where(np.eye(20, dtype=bool), np.inf, distances(heaps[1])).min(1)
    assert (nearest < across.min(0)).all()  # the neighbour of a triggered image is one
    again = feature_maps(kinds).axes[1].lines[0].get_xydata()
    np.testing.assert_array_equal(again, heaps[0])


@pytest.mark.parametrize("kinds", [{"a": np.ones((5, 3))}, {"a": np.arange(4.0)[:, None], "b": np.zeros((1, 1))}])
def test_features_without_spread_can_be_drawn(kinds):
    FigureCanvasAgg(feature_maps(kinds)).draw()


def test_pictures_in_rows_and_strips(tmp_path):
    grey, colour = np.zeros((4, 6, 1)), np.full((4, 6, 3), 0.5)
    figure = picture_rows([("first", {"mask": grey, "pattern": colour}), ("second", {"x": grey, "y": colour})])
    assert [axes.get_title() for axes in figure.axes] == ["mask", "pattern", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["first", "", "second", ""]
    images = np.arange(2 * 4 * 6, dtype=np.uint8).reshape(2, 4, 6, 1)
    figure = image_strips([("round 1", "clean", images), ("", "made", images[:1])])
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 0]
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), images[1, ..., 0])
    save_figure(figure, tmp_path / "new" / "strip")
    assert (tmp_path / "new" / "strip.png").stat().st_size > 1000
    text = (tmp_path / "new" / "strip.svg").read_text()
    assert "currentColor" not in text and "fill: #ffffff" in text


def kept(**changes):
    rng = np.random.default_rng(0)
    arrays = {"clean": rng.normal(size=(12, 4)), "triggered": rng.normal(size=(10, 4))}
    return {**arrays, "labels": np.arange(12) % 3, "targets": np.zeros(10, int), **changes}


def read(folder, arrays):
    return read_features(read_run(write_run(folder / "run", "train", train_metrics(), features=arrays)))


def test_kept_features_are_told_apart_by_kind(tmp_path):
    arrays = kept()
    kinds = read(tmp_path / "one", arrays)
    np.testing.assert_array_equal(kinds["clean images of the target label"], arrays["clean"][::3])
    assert len(kinds["clean images"]) == 8 and len(kinds["triggered images"]) == 10
    several = read(tmp_path / "several", kept(targets=np.arange(10) % 2))
    assert {name: len(own) for name, own in several.items()} == {"clean images": 12, "triggered images": 10}
    assert read(tmp_path / "few", kept(triggered=np.ones((9, 4)), targets=np.zeros(9, int))) is None


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"clean": np.zeros((12, 3))}, "expected features"),
        ({"labels": np.zeros(3, int)}, "expected features"),
        ({"targets": np.zeros(3, int)}, "expected features"),
        ({"clean": np.zeros(12)}, "expected features"),
        ({"triggered": np.full((10, 4), np.nan)}, "expected finite numbers"),
    ],
)
def test_damaged_features_are_refused(tmp_path, change, complaint):
    with pytest.raises(BadInput, match=rf"features\.npz: {complaint}"):
        read(tmp_path, kept(**change))
