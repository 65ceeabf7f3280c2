"""The figures of defenses: what is drawn where, asserted from the artists and from the SVG."""

from __future__ import annotations

import csv
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.patches import StepPatch
from matplotlib.text import Text
from PIL import Image
from test_report import activations, defend_metrics, filter_metrics, filter_scores, scores, step, write_run

from keras_backdoor.files import BadInput
from keras_backdoor.report import write_figures
from keras_backdoor.report.defense_figures import defense_figures
from keras_backdoor.report.drawing import ATTACKS, CLEAN, save_png, svg
from keras_backdoor.report.figures import heat_maps, pruning_curve, score_histograms
from keras_backdoor.report.run_folder import read_run

ACCURACY = [0.99, 0.9, 0.5, 0.1, 0.0]
ATTACK = [1.0, 1.0, 0.75, 0.03, 0.0]


def curve_rows(**changes):
    columns = {
        "channels": range(5),
        "channel": ["", 3, 1, 0, 2],
        "mean_activation": ["", 0, 0.5, 1, 2],
        "clean_accuracy_used": [1, 1, 1, 1, 1],
        "clean_accuracy": ACCURACY,
        "attack_success_rate/square": ATTACK,
        "goodnet/clean_accuracy_used": [1, 1, 1, 1, 1],
        "goodnet/clean_accuracy": [0.98, 0.89, 0.49, 0.1, 0.0],
        "goodnet/attack_success_rate/square": [0.97, 0.96, 0.7, 0.02, 0.0],
        **changes,
    }
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def folder_of(folder, metrics, curve=None, **archives):
    write_run(folder, "defend", metrics, **archives)
    if curve:
        with open(folder / "curve.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, curve[0])
            writer.writeheader()
            writer.writerows(curve)
    return folder


def drawn(folder):
    return defense_figures(read_run(folder))


def curves_of(axes):
    """Colour, width and values of the lines that are as long as the axis."""
    return [
        (to_hex(line.get_color()), line.get_linewidth(), line.get_ydata().tolist())
        for line in axes.lines
        if len(line.get_xdata()) == 5
    ]


def marks_of(axes):
    return {int(line.get_xdata()[0]) for line in axes.lines if len(line.get_xdata()) == 2}


def test_the_curve_shows_network_and_goodnet_and_what_was_kept(tmp_path):
    steps = [step(0.9, 1, "drop-2", drop=2.0, channels=1), step(0.9, 1, "drop-4", drop=4.0, channels=1)]
    steps += [step(0.1, 0.03, "drop-30", drop=30.0, channels=3)]
    figures = drawn(folder_of(tmp_path / "run", defend_metrics(method="pruning", steps=steps), curve_rows()))
    assert list(figures) == ["curve"]
    axes = figures["curve"].axes[0]
    assert curves_of(axes) == [
        (CLEAN, 1.5, pytest.approx([99, 90, 50, 10, 0])),
        (ATTACKS[0][0], 1.5, pytest.approx([100, 100, 75, 3, 0])),
        (CLEAN, 0.8, pytest.approx([98, 89, 49, 10, 0])),
        (ATTACKS[0][0], 0.8, pytest.approx([97, 96, 70, 2, 0])),
    ]
    assert marks_of(axes) == {1, 3}
    labels = {label.get_text().strip(): label.xy[0] for label in axes.texts}
    assert labels == {"drop 2, drop 4: 1": 1, "drop 30: 3": 3}
    assert axes.get_xlabel() == "channels pruned"
    legend = [text.get_text() for text in figures["curve"].legends[0].get_texts()]
    assert legend[:2] == ["clean accuracy", "attack success (square)"]
    text = svg(figures["curve"])
    assert "drop 2, drop 4: 1" in text and "drop 30: 3" in text


def test_a_curve_without_triggered_images_and_goodnet(tmp_path):
    rows = [{"channels": row["channels"], "clean_accuracy": row["clean_accuracy"]} for row in curve_rows()]
    metrics = defend_metrics(steps=[step(0.9, 1, "", channels=2)])
    figure = drawn(folder_of(tmp_path / "run", metrics, rows))["curve"]
    assert curves_of(figure.axes[0]) == [(CLEAN, 1.5, pytest.approx([99, 90, 50, 10, 0]))]
    assert [text.get_text().strip() for text in figure.axes[0].texts] == ["the result: 2"]


@pytest.mark.parametrize("counts", [{0, 1, 2, 3}, {42, 45, 47}, {13, 14, 15, 16, 60}, {0, 30, 31, 59, 60}])
def test_labels_of_marks_never_overlap_and_stay_inside(counts):
    rates = (np.linspace(1, 0, 61), {"square": np.linspace(1, 0, 61)})
    figure = pruning_curve(rates, None, {count: f"drop {count}" for count in counts})
    FigureCanvasAgg(figure).draw()
    boxes = [Text.get_window_extent(label) for label in figure.axes[0].texts]  # without the leader lines
    assert len(boxes) == len(counts)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_heat_maps_have_each_step_in_its_cell(tmp_path):
    steps = [
        step(0.9, 0.8, learning_rate=1e-4, channels=1),
        step(0.7, 0.6, learning_rate=1e-4, channels=3),
        step(0.5, 0.4, learning_rate=1e-2, channels=1),
        step(0.5, 0.25, "improved", learning_rate=1e-2, channels=3),
        step(0.5, 0.25, "", learning_rate=1e-2, channels=3),
    ]
    figures = drawn(folder_of(tmp_path / "run", defend_metrics(method="fine-pruning-rounds", steps=steps)))
    assert list(figures) == ["heat_map"]
    clean, attack, _ = figures["heat_map"].axes
    np.testing.assert_allclose(clean.images[0].get_array(), [[50, 50], [90, 70]])
    np.testing.assert_allclose(attack.images[0].get_array(), [[40, 25], [80, 60]])
    assert [clean.get_title(loc="left"), attack.get_title(loc="left")] == ["clean accuracy", "attack success (square)"]
    assert [label.get_text() for label in attack.get_yticklabels()] == ["0.01", "0.0001"]
    assert [label.get_text() for label in attack.get_xticklabels()] == ["1", "3"]
    assert {text.get_position(): text.get_text() for text in attack.texts} == {
        (0, 0): "40",
        (1, 0): "25",
        (0, 1): "80",
        (1, 1): "60",
    }
    assert {panel.images[0].get_clim() for panel in (clean, attack)} == {(0, 100)}


def test_heat_maps_show_a_grid_of_learning_rates_and_noise(tmp_path):
    steps = [
        step(0.9, 0.8, "a", learning_rate=1e-3, gamma=0.1),
        step(0.7, 0.6, "b", learning_rate=1e-3, gamma=0.6),
        step(0.5, 0.4, "c", learning_rate=6e-3, gamma=0.1),
        step(0.9, 0.8, "", learning_rate=1e-3, gamma=0.1),
    ]
    figures = drawn(folder_of(tmp_path / "run", defend_metrics(method="nnoculation-pre", steps=steps)))
    clean, attack, _ = figures["heat_map"].axes
    np.testing.assert_allclose(clean.images[0].get_array().filled(np.nan), [[50, np.nan], [90, 70]])
    np.testing.assert_allclose(attack.images[0].get_array().filled(np.nan), [[40, np.nan], [80, 60]])
    assert [label.get_text() for label in attack.get_xticklabels()] == ["0.1", "0.6"]
    assert attack.get_xlabel() == "share of noise"


def test_heat_maps_leave_unknown_cells_empty_and_large_ones_unwritten():
    few = heat_maps([0.1], [2, 4], {"clean accuracy": np.array([[np.nan, 0.31]])})
    assert [text.get_text() for text in few.axes[0].texts] == ["31"]
    many = heat_maps([0.1], list(range(1, 35)), {"clean accuracy": np.linspace(0, 1, 34)[None]})
    assert not many.axes[0].texts
    ticks = {tick: label.get_text() for tick, label in zip(many.axes[0].get_xticks(), many.axes[0].get_xticklabels())}
    assert len(ticks) <= 12
    assert ticks[0] == "1" and ticks[33] == "34"
    assert all(label == str(tick + 1) for tick, label in ticks.items())


def steps_of(axes):
    """Values and edges of the outlines, set by set."""
    return [patch.get_data()[:2] for patch in axes.patches if isinstance(patch, StepPatch) and not patch.get_fill()]


def test_histograms_share_bins_and_show_the_threshold(tmp_path):
    written = filter_scores()
    figures = drawn(folder_of(tmp_path / "run", filter_metrics(), scores=written))
    assert list(figures) == ["scores"]
    axes = figures["scores"].axes[0]
    (clean, edges), (triggered, other_edges) = steps_of(axes)
    np.testing.assert_array_equal(edges, other_edges)
    assert edges[0] == written["triggered/square"].min() and edges[-1] == written["clean"].max()
    # 300 clean and 50 triggered inputs, and yet both sum up to 100 percent.
    np.testing.assert_allclose(clean, np.histogram(written["clean"], edges)[0] / 3)
    np.testing.assert_allclose(triggered, np.histogram(written["triggered/square"], edges)[0] * 2)
    assert [line.get_xdata() for line in axes.lines] == [[0.2, 0.2]]
    assert axes.get_xlabel() == "mean entropy of the answers, in bits"
    assert axes.get_xscale() == axes.get_yscale() == "linear"
    text = svg(figures["scores"])
    for shown in ("clean inputs", "with the trigger square", "threshold, 0.2: at or below it"):
        assert shown in text


values = st.floats(-10, 10, width=32) | st.floats(0, 1e-4)


@settings(max_examples=12)
@given(
    arrays(float, st.integers(1, 30), elements=values),
    arrays(float, st.integers(1, 30), elements=values),
    st.floats(-20, 20),
)
def test_histograms_hold_every_score_whatever_their_range(clean, triggered, threshold):
    axes = score_histograms(clean, {"square": triggered}, threshold, "score").axes[0]
    for shares, edges in steps_of(axes):
        assert shares.sum() == pytest.approx(100)
        assert len(shares) == 40 and (np.diff(edges) >= 0).all()
    low, high = axes.get_xlim()
    assert low <= min(threshold, clean.min(), triggered.min()) and high >= max(threshold, clean.max(), triggered.max())


def test_equal_scores_have_a_bin_of_their_size():
    axes = score_histograms(np.full(4, 1e-4), {}, 1e-4, "score").axes[0]
    ((shares, edges),) = steps_of(axes)
    assert shares[0] == 100
    assert edges[0] == 1e-4 and edges[-1] == pytest.approx(2e-4)


def test_maps_show_the_channels_before_and_after_on_one_scale(tmp_path):
    arrays = activations(7)
    figures = drawn(folder_of(tmp_path / "run", defend_metrics(), activations=arrays))
    assert list(figures) == ["activations"]
    panels = {panel.get_title(): panel for panel in figures["activations"].axes[:4]}
    assert list(panels) == [f"{kind} images, {when}" for kind in ("clean", "triggered") for when in ("before", "after")]
    for key in ("clean", "triggered", "clean_after", "triggered_after"):
        kind, _, after = key.partition("_")
        cells = np.ravel(panels[f"{kind} images, {after or 'before'}"].images[0].get_array().filled(np.nan))
        np.testing.assert_array_equal(cells, [*arrays[key], np.nan, np.nan])
    assert len({panel.images[0].get_clim() for panel in panels.values()}) == 1
    where = np.divmod(np.flatnonzero(arrays["pruned"]), 3)
    for panel in panels.values():
        for line in panel.lines:
            np.testing.assert_array_equal(line.get_xydata().T[::-1], where)


def test_png_files_are_written_for_what_the_run_has(tmp_path):
    steps = [step(0.9, 0.8, "", learning_rate=1e-3, channels=1)]
    metrics = {**filter_metrics(), "steps": steps}
    folder = folder_of(tmp_path / "run", metrics, curve_rows(), activations=activations(), scores=filter_scores())
    names = ["curve", "heat_map", "activations", "scores"]
    assert write_figures(folder) == [folder / "figures" / f"{name}.png" for name in names]
    files = {path.name for path in (folder / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    for path, figure in zip(write_figures(folder), drawn(folder).values()):
        picture = Image.open(path).convert("RGBA")
        assert picture.size == tuple((200 * figure.get_size_inches()).astype(int))
        assert picture.getpixel((0, 0)) == (255, 255, 255, 255)


def test_a_run_without_data_for_figures_has_none(tmp_path):
    folder = folder_of(tmp_path / "run", defend_metrics(method="fine-tuning"))
    assert write_figures(folder) == []
    assert not (folder / "figures").exists()


def test_a_figure_is_the_same_each_time_and_has_the_colour_of_the_page(tmp_path):
    first, second = (score_histograms(np.arange(5.0), {"$x_": np.arange(3.0)}, 1, "bits") for _ in range(2))
    assert svg(first) == svg(second)
    assert "currentColor" in svg(first) and "#010203" not in svg(first)
    assert "with the trigger $x_" in svg(first)
    save_png(first, tmp_path / "a.png")
    save_png(second, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"channels": [0, 1, 2, 4, 3]}, "channels are not 0, 1, 2"),
        ({"clean_accuracy": [0.9, 1.5, 0, 0, 0]}, "clean_accuracy in each line: expected fractions"),
        ({"clean_accuracy": [0.9, -0.5, 0, 0, 0]}, "clean_accuracy in each line: expected fractions"),
        ({"clean_accuracy": [0.9, "nan", 0, 0, 0]}, "clean_accuracy in each line: expected fractions"),
        ({"attack_success_rate/square": [1, "", 0, 0, 0]}, "attack_success_rate/square in each line: expected"),
        ({"goodnet/clean_accuracy": [1, "high", 0, 0, 0]}, "goodnet/clean_accuracy in each line: expected"),
    ],
)
def test_a_bad_curve_is_refused(tmp_path, changes, complaint):
    refused(folder_of(tmp_path / "run", defend_metrics(), curve_rows(**changes)), rf"curve\.csv: {complaint}")


@pytest.mark.parametrize(
    "contents, complaint",
    [
        (b"", "lacks channels, clean_accuracy"),
        (b"channels,clean_accuracy\n", "lacks channels, clean_accuracy"),
        (b"channels,accuracy\n0,1\n", "lacks clean_accuracy"),
        (b"channels,clean_accuracy\n0\n", "clean_accuracy in each line"),
        (b"channels,clean_accuracy\n0,1,1\n", "more values than there are names"),
        (b"channels,clean_accuracy\n\xff\xfe,1\n", "not a CSV file"),
    ],
)
def test_a_damaged_curve_is_refused(tmp_path, contents, complaint):
    folder = folder_of(tmp_path / "run", defend_metrics())
    (folder / "curve.csv").write_bytes(contents)
    refused(folder, rf"curve\.csv: .*{complaint}")


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"clean": np.array([1, np.nan])}, "clean: expected one finite score"),
        ({"triggered/square": np.empty(0)}, "square: expected one finite score"),
        ({"triggered/square": np.ones((2, 2))}, "square: expected one finite score"),
        ({"clean": np.array(["a"])}, "clean: expected one finite score"),
        ({"threshold": np.array(np.inf)}, "threshold is not a finite number"),
        ({"threshold": np.ones(1)}, "threshold is not a finite number"),
    ],
)
def test_bad_scores_are_refused(tmp_path, changes, complaint):
    folder = folder_of(tmp_path / "run", filter_metrics(), scores={**filter_scores(), **changes})
    refused(folder, rf"scores\.npz: {complaint}")


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-200], lambda data: b"no zip" * 9])
def test_a_damaged_archive_is_refused(tmp_path, damage):
    folder = folder_of(tmp_path / "run", filter_metrics(), scores=filter_scores())
    path = folder / "scores.npz"
    path.write_bytes(damage(path.read_bytes()))
    refused(folder, r"scores\.npz: not an \.npz file")


@pytest.mark.parametrize(
    "change", [{"clean": np.ones(3)}, {"pruned": np.full(60, np.nan)}, {"clean": np.ones((60, 1))}]
)
def test_bad_activations_are_refused(tmp_path, change):
    folder = folder_of(tmp_path / "run", defend_metrics(), activations={**activations(), **change})
    refused(folder, r"activations\.npz: expected finite numbers, as many in clean, ")


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"steps": {"a": 1}}, "steps is not a list"),
        ({"steps": [{"name": "", "after": scores()}]}, "lacks goodnet"),
        ({"steps": [step(1, 1, channels="many")]}, "expected numbers as channels"),
        ({"steps": [{"name": "", "after": {}, "goodnet": None, "channels": 9}]}, "lacks clean_accuracy"),
        ({"after": scores(name="other")}, "lacks square"),
        ({"filter": {}}, "lacks threshold, false_rejection_rate"),
        ({"filter": filter_metrics(accepted=2)["filter"]}, "square: expected fractions in 0..1"),
        ({"filter": {**filter_metrics()["filter"], "auc": {"other": 1}}}, "lacks square"),
    ],
)
def test_bad_metrics_are_refused(tmp_path, change, complaint):
    folder = folder_of(tmp_path / "run", defend_metrics(**change))
    refused(folder, rf"metrics\.json: .*{complaint}")


def test_a_step_beyond_the_curve_is_refused(tmp_path):
    folder = folder_of(tmp_path / "run", defend_metrics(steps=[step(1, 1, "", channels=5)]), curve_rows())
    refused(folder, r"metrics\.json: a step has 5 channels, but curve\.csv ends at 4")


@pytest.mark.parametrize("command, finished", [("train", True), ("defend", False)])
def test_figures_are_those_of_a_finished_defense(tmp_path, command, finished):
    folder = write_run(tmp_path / "run", "defend", defend_metrics(), finished=finished)
    if command == "train":
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**record, "command": "eval"}))
    refused(folder, "holds no finished run of kbd defend")


def refused(folder, complaint):
    with pytest.raises(BadInput, match=complaint) as error:
        write_figures(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    assert not (folder / "figures").exists()
