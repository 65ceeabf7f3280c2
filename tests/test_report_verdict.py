"""Scans in the report: what is said of a verdict, and what is drawn; bad files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from test_report import (
    defend_metrics,
    examples,
    filter_metrics,
    filter_scores,
    page_of,
    rates,
    scores,
    text_of,
    train_metrics,
    write_run,
)

from keras_backdoor.files import BadInput
from keras_backdoor.report import build_report, write_figures
from keras_backdoor.report.defense_figures import defense_figures
from keras_backdoor.report.drawing import ATTACKS, CLEAN, svg
from keras_backdoor.report.inspection import read_found, read_inspection
from keras_backdoor.report.run_folder import RunFolder, read_run
from keras_backdoor.report.verdict_figures import norms_of_labels
from keras_backdoor.report.verdict_words import about_pictures, about_verdict

NORMS = [90.0, 100.0, 8.0, 110.0, 95.0]
MEDIAN, MAD = 95.0, 7.413  # 1.4826 times the median of 5, 5, 87, 15, 0
FLAGGED = ATTACKS[0][0]


def verdict_of(norms=NORMS, labels=(2,), probability=0.96, median=MEDIAN, mad=MAD, **changes):
    return {
        "backdoored": bool(labels),
        "labels": list(labels),
        "score": 11.7361,
        "probability": probability,
        "examined": list(range(len(norms))),
        "norms": list(norms),
        "median": median,
        "mad": mad,
        **changes,
    }


def selected(norms=(8.0, 100.0, 90.0, 110.0, 20.0), labels=(0,), background=(15, 23, 37), **changes):
    """Of five labels of 1,283: three drawn at random (median 100, MAD 14.8), and two that looked promising."""
    parts = {"examined": [0, 15, 23, 37, 900], "background": list(background), "num_classes": 1283}
    parts["indices"] = [round((100 - norm) / 14.826, 4) for norm in norms]
    return verdict_of(norms, labels, 0.4, 100.0, 14.826, **{**parts, **changes})


SQUARE, STRIPE = "square(size=2)", "<pixels>((0, 0))"


def compared(label=2, trigger=SQUARE, overlap=0.5, reversed_size=6, true_size=4, **changes):
    """Three pixels in common, if there is an overlap."""
    names = ("label", "trigger", "overlap", "common", "reversed_size", "true_size")
    common = None if overlap is None else 3 if overlap else 0
    return {**dict(zip(names, (label, trigger, overlap, common, reversed_size, true_size))), **changes}


def truth_of(words=(SQUARE, STRIPE), channels=1):
    """Of each trigger, a picture in which the lower left corner turns white, or the upper row; the second at no fixed place."""
    example = np.random.default_rng(1).integers(0, 200, (len(words), 7, 5, channels), np.uint8)
    footprint, stamped = np.zeros((len(words), 7, 5), bool), example.copy()
    footprint[0, -2:, :2] = True
    stamped[0, -2:, :2] = 255
    stamped[1:, :1] = 255
    return {"trigger": np.array(words), "footprint": footprint, "example": example, "stamped": stamped}


def scan_metrics(verdict=None, target=None, threshold=2.0, **changes):
    """Of a scan, which leaves the network as it is, has no GoodNet, and needs no triggered images."""
    bare = {**scores(0.97), "attack_success_rate": {}, "robust_accuracy": {}, "n_poisoned": {}}
    settings = {"threshold": threshold, "target": target, "quantised": False}
    metrics = defend_metrics(method="neural-cleanse", before=bare, after=bare, settings=settings)
    del metrics["goodnet"]
    return {**metrics, "verdict": verdict or verdict_of(), **changes}


def triggers_of(labels=range(5), channels=1, steps=6):
    """A square that grows with the label; the label's history has as many steps less."""
    count = len(labels)
    mask = np.zeros((count, 7, 5), np.float32)
    pattern = np.random.default_rng(0).uniform(0, 255, (count, 7, 5, channels)).astype(np.float32)
    history = np.full((count, steps, 3), np.nan, np.float32)
    for place, label in enumerate(labels):
        mask[place, -1 - label % 4 :, -2:] = 0.5 + 0.1 * (label % 4)
        own = max(1, steps - label)
        history[place, :own] = np.stack(
            [0.001 * 2.0 ** np.arange(own), np.linspace(0.2, 1, own), np.linspace(30, 8, own)], 1
        )
        history[place, 0, 0] = 0
    return {
        "label": np.array(labels),
        "mask": mask,
        "pattern": pattern,
        "success": np.full(count, 0.9921875),
        "works": np.ones(count, bool),
        "history": history,
    }


def scan(folder, triggers=None, truth=None, **metrics):
    archives = {"triggers": triggers_of() if triggers is None else triggers, **({"truth": truth} if truth else {})}
    return write_run(folder, "defend", scan_metrics(**metrics), **archives)


def said_of(verdict):
    """What is said of a verdict, in one line."""
    return " ".join(about_verdict(inspection_of(verdict), [])).replace("\xa0", " ")


def test_where_less_than_the_index_says_is_flagged_the_words_and_the_figure_say_so():
    """The index's threshold is a norm of 100 - 2 * 14.826 = 70.3; what stands out in logarithms, too, is below 12."""
    usual, lower = (selected(bound=bound) for bound in (100 - 2 * 14.826, 12.0))
    assert (inspection_of(usual).threshold, inspection_of(lower).threshold) == (pytest.approx(70.348), 12.0)
    assert "if its norm is below" not in said_of(usual)
    for verdict in (lower, selected(labels=(), bound=5.0)):
        assert f"if its norm is below {verdict['bound']:.1f}, too" in said_of(verdict)
    drawn = norms_of_labels(inspection_of(lower))
    assert any("threshold, 12.0" in text.get_text() for text in drawn.legends[0].get_texts())


def inspection_of(verdict, **settings):
    return read_inspection(RunFolder(Path("run"), {}, {"verdict": verdict, "settings": settings}))


def test_a_flagged_label_is_said_and_no_repair_is(tmp_path):
    scan(tmp_path / "scan")
    page = page_of(tmp_path)
    text = text_of(page).replace("\xa0", " ")
    for shown in (
        "In short. Of 1 scan for backdoors, 1 flagged a label as backdoored. The",
        "Scan: neural-cleanse",
        "It flags 1 label: for label 2 a trigger of norm 8.0 is enough (anomaly index 11.74); the median of all 5 labels "
        "examined is 95.0. The index counts deviations (MAD, here 7.4) below the median; above 2 a label is flagged.",
        "Of innocent networks with as many labels, about 4 % have one that stands out at least as far",
        "chance is a poor explanation",
        "Of the images it was sought on, the trigger that was found turns 99.22 % (label 2).",
        "What was found for each flagged label",
        "it rises while the trigger works",
        "anomaly index How far",
    ):
        assert shown in text
    for absent in (
        "Of 1 repair",
        "no attack success was measured",
        "was not measured",
        "backdoored': ",
        "The GoodNet</h3>",
    ):
        assert absent not in text
    assert "about its repair" not in text and "unchanged at" not in text and "working backdoor" not in text
    assert rates(page) == [("network that neural-cleanse scanned", ["–", "97.00\xa0%", "–", "–"])]
    assert page.count("<svg") == page.count('role="img" aria-label=') == 3


def test_no_flag_is_no_proof_of_innocence(tmp_path):
    norms = [90.0, 100.0, 86.0, 110.0, 95.0]
    scan(tmp_path / "scan", verdict=verdict_of(norms, (), probability=0.45))
    text = text_of(page_of(tmp_path)).replace("\xa0", " ")
    for shown in (
        "Of 1 scan for backdoors, 1 flagged none, which does not prove innocence.",
        "No label stands out: the smallest trigger, that of label 2, has a norm of 86.0, and the median of 5 labels",
        "(MAD, here 7.4) it lies below the median, is 1.21; above 2 it would be flagged.",
        "about 55 % have one that stands out at least as far, if their norms are spread normally: this network looks no",
        "That does not mean that the network is innocent.",
        "all-to-all",
        "a warp",
        "The smallest of all triggers that were found; no label was flagged.",
    ):
        assert shown in text
    assert "Of the images it was sought on" not in text


@pytest.mark.parametrize(
    "labels, probability, sentence",
    [
        (
            (2,),
            0.95,
            "about 5 % have one that stands out at least as far, if their norms are spread normally: chance is a poor",
        ),
        (
            (2,),
            0.94,
            "about 6 % have one that stands out at least as far, if their norms are spread normally: chance may be",
        ),
        ((2,), 0.7, "chance explains it well"),
        ((2,), 0.998, "hardly any have one that stands out"),
        ((), 0.9, "this one is at their edge"),
        ((), 0.5, "this network looks no different"),
    ],
)
def test_chance_is_weighed(labels, probability, sentence):
    said = said_of(verdict_of(labels=labels, probability=probability))
    assert sentence in said
    assert "on how common backdoors are" in said


def test_the_label_that_was_named_is_no_verdict(tmp_path):
    verdict = verdict_of([8.0], [7], None, 8.0, 0.0, examined=[7], score=None)
    for name, metrics in (("scan", scan_metrics(verdict, target=7)), ("whole", scan_metrics())):
        write_run(tmp_path / name, "defend", metrics)
    text = text_of(page_of(tmp_path)).replace("\xa0", " ")
    assert (
        "1 flagged a label as backdoored. In 1 scan, only a label named beforehand was examined, which is no verdict."
        in text
    )
    assert "Label 7 was named beforehand, and it alone was examined: its trigger has a norm of 8.0." in text
    assert "Scan: neural-cleanse, target 7" in text and "Scan: neural-cleanse, target none" in text
    assert list(drawn(scan(tmp_path / "alone", triggers_of([7]), verdict=verdict, target=7))) == ["triggers", "search"]


def test_of_many_labels_it_is_said_which_were_examined_and_what_they_are_compared_with(tmp_path):
    scan(tmp_path / "scan", triggers_of([0, 15, 23, 37, 900]), verdict=selected())
    text = text_of(page_of(tmp_path)).replace("\xa0", " ")
    for shown in (
        "for label 0 a trigger of norm 8.0 is enough (anomaly index 6.21); the median of 3 labels drawn at random is 100.0.",
        "Of the network's 1,283 labels, 5 were examined to the end: 3 that were drawn at random, and 2 more, which gave promise "
        "of a small trigger at a first look. Median and deviation are of those drawn at random. Of the other 1,278 nothing else",
        "it is small at first, so that a way to the label is found",
    ):
        assert shown in text
    calm = said_of(selected((80.0, 100.0, 90.0, 110.0, 95.0), ()))
    assert "has a norm of 80.0, and the median of 3 labels drawn at random is 100.0." in calm
    nothing = selected((100.0, 90.0, 110.0), (), examined=[15, 23, 37], indices=[0.0, 0.67, -0.67])
    assert "3 that were drawn at random, and none besides, as no other gave promise" in said_of(nothing)
    whole = said_of(selected(examined=[0, 1, 2, 3, 4], background=[1, 2, 3], num_classes=5))
    assert "Of the network's 5 labels, 5 were examined to the end: 3 that" in whole and "Of the other" not in whole


def test_a_verdict_that_does_not_say_examined_all_labels(tmp_path):
    old = inspection_of(verdict_of())
    assert old.background.all() and (old.num_classes, old.selected, old.comparisons) == (5, False, ())
    new = inspection_of(verdict_of(background=[0, 1, 2, 3, 4], num_classes=5, indices=[0, None, 1.5, -2, 0.1]))
    assert not new.selected and "Of the network's" not in said_of(verdict_of(num_classes=5))
    alone = verdict_of([8.0], [7], None, 8.0, 0.0, examined=[7], score=None, background=[7], num_classes=43)
    assert not inspection_of(alone, target=7).selected


@pytest.mark.parametrize(
    "row, sentence",
    [
        (
            compared(),
            f"The true trigger “{SQUARE}” covers 4 pixels, and what was found for label 2 covers 6; they have 3 in common, an "
            "overlap of 0.50: it was found where it is.",
        ),
        (compared(overlap=0.3), "overlap of 0.30: it was found where it is."),
        (compared(overlap=0.29), "overlap of 0.29: what was found is a part of it, for the most part."),
        (compared(overlap=0.29, reversed_size=7), "overlap of 0.29: the two touch, and are not the same."),
        (
            compared(overlap=0.0),
            "overlap of 0.00: what was found lies elsewhere, and opens the same door, or another one.",
        ),
        (
            compared(overlap=0.0, reversed_size=0),
            "covers 0; they have 0 in common, an overlap of 0.00: what was found lies",
        ),
        (compared(9, overlap=None, reversed_size=None), "cannot be compared: its label 9 was not examined to the end."),
        (
            compared(overlap=None, true_size=0),
            "lies somewhere else in each image, so there is no place to compare what was",
        ),
    ],
)
def test_the_true_trigger_is_compared_in_words(row, sentence):
    assert sentence in said_of(verdict_of(true_triggers=[row]))


def test_extremes_are_said_plainly():
    alike = said_of(verdict_of([9.0, 9.0, 9.0, 3.0], [3], 1.0, 9.0, 0.0, score=None))
    assert (
        "label 3 a trigger of norm 3.0 is enough (anomaly index beyond all bounds" in alike
        and "hardly any have" in alike
    )
    wide = said_of(verdict_of([1.0, 50.0, 90.0], (), 0.1, 50.0, 59.3))
    assert "no label could have been flagged, however small its trigger" in wide
    assert "could have been flagged" not in said_of(verdict_of(labels=()))
    many = said_of(verdict_of([float(i + 1) for i in range(7)] + [100.0] * 9, range(7), median=100.0))
    assert "for label 0 a trigger" in many and "for label 4 a trigger" in many and "for label 5" not in many
    assert "It flags 7 labels" in many and "and 2 more;" in many


def test_a_trigger_that_does_not_work_is_said_to(tmp_path):
    arrays = {**triggers_of(), "works": np.arange(5) != 2, "success": np.full(5, 0.25)}
    run = read_run(scan(tmp_path / "scan", arrays))
    inspection = read_inspection(run)
    said = about_verdict(inspection, read_found(run, inspection))[-1].replace("\xa0", " ")
    assert said == (
        "For label 2, no trigger was found that works well enough: the one shown turns 25.00 % of the images."
    )


def drawn(folder):
    return defense_figures(read_run(folder))


def bars_of(axes):
    return [
        (round(bar.get_x() + bar.get_width() / 2), bar.get_height(), to_hex(bar.get_facecolor()))
        for bar in axes.patches
    ]


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_norms_are_bars_with_median_and_threshold(tmp_path):
    figures = drawn(scan(tmp_path / "scan", threshold=3.0))
    assert list(figures) == ["norms", "triggers", "search"]
    axes = figures["norms"].axes[0]
    colours = [CLEAN, CLEAN, FLAGGED, CLEAN, CLEAN]
    assert sorted(bars_of(axes)) == list(zip(range(5), NORMS, colours))
    assert [line.get_ydata()[0] for line in axes.lines] == [MEDIAN, pytest.approx(MEDIAN - 3 * MAD)]
    threshold = "threshold, 72.8: below it, a label is flagged"
    assert legend_of(figures["norms"]) == ["label", "flagged, with norm: 2 (8.0)", "median, 95.0", threshold]
    names = {name.get_text(): to_hex(name.get_color()) for name in axes.get_xticklabels()}
    assert list(names) == list("01234") and names["2"] == FLAGGED != names["1"]
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 110
    assert "flagged, with norm: 2 (8.0)" in svg(figures["norms"])


def test_labels_are_in_order_and_a_threshold_below_zero_is_not_drawn():
    verdict = verdict_of([50.0, 1.0, 90.0], (), 0.1, 50.0, 59.3, examined=[30, 4, 700])
    figure = norms_of_labels(inspection_of(verdict))
    axes = figure.axes[0]
    assert sorted(bars_of(axes)) == [(0, 1.0, CLEAN), (1, 50.0, CLEAN), (2, 90.0, CLEAN)]
    assert [name.get_text() for name in axes.get_xticklabels()] == ["4", "30", "700"]
    assert legend_of(figure) == ["label", "median, 50.0"]


def test_labels_of_the_background_are_filled_and_the_others_hollow():
    figure = norms_of_labels(inspection_of(selected()))
    faces = {round(bar.get_x() + bar.get_width() / 2): bar.get_facecolor() for bar in figure.axes[0].patches}
    assert [to_hex(faces[place]) for place in range(4)] == [FLAGGED, CLEAN, CLEAN, CLEAN]
    assert faces[4][3] == 0 and to_hex(figure.axes[0].patches[3].get_edgecolor()) == CLEAN
    assert legend_of(figure)[:3] == [
        "label drawn at random",
        "label that gave promise of a small trigger",
        "flagged, with norm: 0 (8.0)",
    ]
    norms = np.linspace(50, 150, 64)
    many = selected(norms, (), range(0, 64, 2), examined=list(range(64)), indices=[None] * 64)
    drawn_at_random, promising = norms_of_labels(inspection_of(many)).axes[0].lines[:2]
    assert drawn_at_random.get_xdata().tolist() == list(range(0, 64, 2)) and promising.get_xdata().tolist() == list(
        range(1, 64, 2)
    )
    assert drawn_at_random.get_markerfacecolor() == CLEAN and promising.get_markerfacecolor() == "none"


def test_many_labels_are_points():
    rng = np.random.default_rng(0)
    norms = rng.normal(110, 10, 1283).clip(80)
    flagged = [0, 1, 5, 600, 601, 1282]
    norms[flagged] = [12, 8, 26, 20, 21, 22]
    figure = norms_of_labels(inspection_of(verdict_of(norms, flagged, median=110.0, mad=10.0)))
    axes = figure.axes[0]
    assert not axes.patches
    calm, alarm = axes.lines[:2]
    assert alarm.get_xdata().tolist() == flagged and alarm.get_ydata().tolist() == norms[flagged].tolist()
    assert len(calm.get_xdata()) == 1277 and not set(calm.get_xdata()) & set(flagged)
    assert legend_of(figure)[1] == "flagged, with norm: 1 (8.0), 0 (12.0), 600 (20.0), …"
    ticks = [int(name.get_text()) for name in axes.get_xticklabels()]
    assert {1, 600, 1282} <= set(ticks) and not {0, 5, 601} & set(ticks)  # the smallest; those beside it would overlap
    assert len(ticks) >= 10 and np.diff(sorted(ticks)).min() >= 1283 / 20


@pytest.mark.parametrize("channels", [1, 3])
def test_the_flagged_trigger_is_shown_as_mask_pattern_and_product(tmp_path, channels):
    arrays = triggers_of([4, 2, 0, 1, 3], channels)  # in any order
    figure = drawn(scan(tmp_path / "scan", arrays))["triggers"]
    shown = {panel.get_title(): np.asarray(panel.images[0].get_array()) for panel in figure.axes}
    mask, pattern = arrays["mask"][1][..., None], arrays["pattern"][1] / 255
    for title, values in (("mask", mask), ("pattern", pattern), ("mask × pattern", mask * pattern)):
        one = values.shape[-1] == 1
        np.testing.assert_allclose(shown[title], values[..., 0] if one else values, rtol=1e-6)
    assert {panel.images[0].get_clim() for panel in figure.axes} == {(0, 1)}
    assert {panel.images[0].get_interpolation() for panel in figure.axes} == {"none"}  # magnified, pixels stay squares
    assert figure.axes[0].get_ylabel() == "label 2, norm 8.0"


@pytest.mark.parametrize("channels", [1, 3])
def test_the_true_trigger_stands_below_the_reversed_one(tmp_path, channels):
    arrays, truth = triggers_of(channels=channels), truth_of(channels=channels)
    rows = [compared(2, STRIPE, None, 6, 0), compared(2, SQUARE), compared(3, SQUARE)]
    figure = drawn(scan(tmp_path / "scan", arrays, truth, verdict=verdict_of(true_triggers=rows)))["triggers"]
    names = [panel.get_ylabel() for panel in figure.axes if panel.get_ylabel()]
    assert names == [
        "label 2, norm 8.0",
        f"{SQUARE}\noverlap 0.50",
        STRIPE,
        "label 3, norm 110.0",
        f"{SQUARE}\noverlap 0.50",
    ]
    titles = ["true trigger", "image with it", "with what was found"]
    assert [panel.get_title() for panel in figure.axes[3:9]] == 2 * titles
    shown = [np.asarray(panel.images[0].get_array()).reshape(7, 5, -1) for panel in figure.axes]
    for start, row in ((3, 0), (6, 1)):
        stamped, found = shown[start + 1 : start + 3]
        mask, pattern, example = arrays["mask"][2][..., None], arrays["pattern"][2], truth["example"][row]
        np.testing.assert_allclose(stamped, truth["stamped"][row] / 255)
        np.testing.assert_allclose(found, ((1 - mask) * example + mask * pattern) / 255, rtol=1e-5)
    square, stripe = shown[3], shown[6]
    assert (square[-2:, :2] == 1).all() and (stripe[:1] == 1).all()
    square[-2:, :2] = stripe[:1] = 128 / 255
    assert (square == 128 / 255).all() and (stripe == 128 / 255).all()


def test_pictures_say_what_they_are_of(tmp_path):
    scan(tmp_path / "scan", None, truth_of(), verdict=verdict_of(true_triggers=[compared(), compared(3)]))
    text = text_of(page_of(tmp_path))
    assert "What was found for each flagged label, and what was found for the true label." in text
    assert "Below each stands the true trigger: what it changes, alone on grey, then an image with it" in text
    known = inspection_of(verdict_of(true_triggers=[compared()]))
    assert about_pictures(known, True).startswith("What was found for each flagged label. Where")
    assert "true trigger" not in about_pictures(known, False)
    figures = drawn(scan(tmp_path / "gone", verdict=verdict_of(true_triggers=[compared()])))
    assert len(figures["triggers"].axes) == 3  # without the file of pictures


def test_labels_with_a_true_trigger_are_shown_before_others(tmp_path):
    many = verdict_of([5.0, 1.0, 4.0, 2.0, 3.0], range(5), true_triggers=[compared(0), compared(9, SQUARE, None, None)])
    figure = drawn(scan(tmp_path / "scan", None, truth_of(), verdict=many))["triggers"]
    names = [panel.get_ylabel() for panel in figure.axes if panel.get_ylabel()]
    assert [name for name in names if name.startswith("label")] == [
        "label 1, norm 1.0",
        "label 3, norm 2.0",
        "label 4, norm 3.0",
        "label 0, norm 5.0",
    ]
    several = [compared(trigger=f"square(size={size})", overlap=size / 10) for size in range(1, 6)]
    words = [row["trigger"] for row in several]
    figure = drawn(scan(tmp_path / "five", None, truth_of(words), verdict=verdict_of(true_triggers=several)))[
        "triggers"
    ]
    names = [panel.get_ylabel() for panel in figure.axes if panel.get_ylabel()]
    assert names[1:] == [f"square(size={size})\noverlap 0.{size}0" for size in (5, 4, 3)]


def test_without_a_flag_the_smallest_is_shown_and_of_many_flags_four(tmp_path):
    norms = [90.0, 100.0, 86.0, 110.0, 85.0]
    figures = drawn(scan(tmp_path / "none", verdict=verdict_of(norms, ())))
    assert [panel.get_ylabel() for panel in figures["triggers"].axes] == ["label 4, norm 85.0", "", ""]
    many = verdict_of([5.0, 1.0, 4.0, 2.0, 3.0], range(5))
    figures = drawn(scan(tmp_path / "many", verdict=many))
    rows = [panel.get_ylabel() for panel in figures["triggers"].axes if panel.get_ylabel()]
    assert rows == ["label 1, norm 1.0", "label 3, norm 2.0", "label 4, norm 3.0", "label 2, norm 4.0"]
    assert legend_of(figures["search"]) == ["label 1", "label 3", "label 4", "label 2"]


def test_the_search_is_drawn_to_its_last_step(tmp_path):
    figure = drawn(scan(tmp_path / "scan"))["search"]
    success, norm, cost = (panel.lines for panel in figure.axes)
    assert [len(lines) for lines in (success, norm, cost)] == [1, 1, 1]
    np.testing.assert_array_equal(success[0].get_xdata(), [1, 2, 3, 4])  # label 2 ended two steps earlier than label 0
    np.testing.assert_allclose(success[0].get_ydata(), 100 * np.linspace(0.2, 1, 4), rtol=1e-6)
    np.testing.assert_allclose(norm[0].get_ydata(), np.linspace(30, 8, 4), rtol=1e-6)
    np.testing.assert_allclose(cost[0].get_ydata(), [np.nan, 0.002, 0.004, 0.008], rtol=1e-6)
    assert figure.axes[2].get_yscale() == "log"
    text = svg(figure)
    assert "0.002" in text and "0.008" in text and "mathdefault" not in text


def test_a_cost_that_never_rose_can_be_drawn(tmp_path):
    arrays = triggers_of()
    arrays["history"][..., 0] *= 0
    figure = drawn(scan(tmp_path / "scan", arrays))["search"]
    assert figure.axes[2].get_yscale() == "linear"
    assert "<svg" in svg(figure)


def test_png_files_of_a_scan_are_written(tmp_path):
    folder = scan(tmp_path / "scan")
    assert write_figures(folder) == [folder / "figures" / f"{name}.png" for name in ("norms", "triggers", "search")]
    alone = write_run(tmp_path / "alone", "defend", scan_metrics())
    assert [path.name for path in write_figures(alone)] == ["norms.png"]


def test_scans_repairs_and_filters_are_counted_apart(tmp_path):
    write_run(tmp_path / "patch", "train", train_metrics(), examples=examples())
    write_run(tmp_path / "repair", "defend", defend_metrics())
    write_run(tmp_path / "strip", "defend", filter_metrics(), scores=filter_scores())
    twin = scan_metrics(verdict_of([90.0, 100.0, 86.0, 110.0, 95.0], ()), model="patch/clean.h5")
    for name, metrics in (("scan", scan_metrics()), ("twin", twin)):
        write_run(tmp_path / name, "defend", metrics)
    page = page_of(tmp_path)
    text = text_of(page).replace("\xa0", " ")
    assert (
        "In short. The backdoor works in 1 of 1 BadNet. Of 1 repair, 1 removed the backdoor. Of 1 filter of inputs, 1 stopped "
        "the attack. Of 2 scans for backdoors, 1 flagged a label as backdoored, 1 flagged none, which does not prove innocence."
    ) in text
    assert "Scan: neural-cleanse, on badnet.h5" in text and "Scan: neural-cleanse, on clean.h5" in text
    assert "Defense: fine-pruning" in text and "Defense: strip" in text
    assert [name for name, _ in rates(page)] == [
        "BadNet",
        "after fine-pruning",
        "GoodNet (fine-pruning)",
        "network that neural-cleanse, on badnet.h5 scanned",
        "BadNet behind strip",
    ]


def test_pages_without_scans_do_not_explain_them(tmp_path):
    write_run(tmp_path / "repair", "defend", defend_metrics())
    text = text_of(page_of(tmp_path))
    assert "anomaly index" not in text and "what follows is about its repair" in text


def test_hostile_text_in_a_scan_stays_text(tmp_path):
    evil = "<script>alert('x')</script>"
    settings = {"threshold": 2.0, evil: evil}
    write_run(tmp_path / "scan", "defend", scan_metrics(method=evil, model=evil, settings=settings))
    assert page_of(tmp_path).count("<script") == 1  # our own


def replaced(**changes):
    return {**triggers_of(), **changes}


def holes(place, value=np.nan):
    history = triggers_of()["history"]
    history[place] = value
    return {"history": history}


@pytest.mark.parametrize(
    "arrays, complaint",
    [
        (replaced(label=np.arange(1, 6)), "label: expected the 5 labels that metrics.json says were examined"),
        (replaced(label=np.array(list("abcde"))), "label: expected the 5 labels"),
        (replaced(mask=np.full((5, 7, 5), 1.1)), "mask: expected numbers in 0..1"),
        (replaced(mask=np.full((5, 7, 5), np.nan)), "mask: expected numbers in 0..1"),
        (replaced(mask=np.zeros((5, 7))), "mask: expected numbers in 0..1"),
        (replaced(mask=np.zeros((5, 0, 5)), pattern=np.zeros((5, 0, 5, 1))), "mask: expected numbers in 0..1"),
        (replaced(mask=np.zeros((4, 7, 5)), pattern=np.zeros((4, 7, 5, 1))), "mask: expected numbers in 0..1"),
        (replaced(pattern=np.full((5, 7, 5, 1), 256.0)), "pattern: expected numbers in 0..255"),
        (replaced(pattern=np.zeros((5, 7, 5, 2))), "pattern: expected numbers in 0..255"),
        (replaced(pattern=np.zeros((5, 5, 7, 1))), "pattern: expected numbers in 0..255"),
        (replaced(success=np.full(5, 2.0)), "success: expected a fraction"),
        (replaced(success=np.ones(4)), "success: expected a fraction"),
        (replaced(works=np.ones(5)), "works: expected yes or no"),
        (replaced(history=np.zeros((5, 6, 2))), "history: expected cost, success and norm"),
        (replaced(history=np.zeros((5, 0, 3))), "history: expected"),
        (replaced(**holes((1, 0))), "history: expected"),
        (replaced(**holes((1, 2))), "history: expected"),
        (replaced(**holes((1, 1, 1))), "history: expected"),
        (replaced(**holes((1, 1, 0), -1)), "history: expected"),
        (replaced(**holes((1, 1, 1), 1.5)), "history: expected"),
        (replaced(**holes((1, 1, 2), np.inf)), "history: expected"),
        ({"label": np.arange(5)}, "lacks mask, pattern, success, works, history"),
    ],
)
def test_bad_triggers_are_refused(tmp_path, arrays, complaint):
    refused(scan(tmp_path / "scan", arrays), rf"triggers\.npz: {complaint}")


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"trigger": np.array(["square", STRIPE])}, "trigger: expected the true triggers of metrics"),
        ({"trigger": np.array([SQUARE])}, "footprint: expected"),
        ({"trigger": np.array([1, 2])}, "trigger: expected"),
        ({"trigger": np.array(SQUARE)}, "trigger: expected"),
        ({"footprint": np.zeros((2, 7, 5))}, "footprint: expected yes or no for each pixel"),
        ({"footprint": np.zeros((2, 5, 7), bool)}, "footprint: expected yes or no for each pixel"),
        ({"example": np.zeros((2, 7, 5, 1))}, "example: expected an image of the size of the reversed patterns"),
        (
            {"example": np.zeros((2, 7, 5, 3), np.uint8)},
            "example: expected an image of the size of the reversed patterns",
        ),
        (
            {"stamped": np.zeros((1, 7, 5, 1), np.uint8)},
            "stamped: expected an image of the size of the reversed patterns",
        ),
    ],
)
def test_bad_pictures_of_true_triggers_are_refused(tmp_path, change, complaint):
    known = verdict_of(true_triggers=[compared()])
    refused(scan(tmp_path / "scan", None, {**truth_of(), **change}, verdict=known), rf"truth\.npz: {complaint}")


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-200]])
def test_damaged_triggers_are_refused(tmp_path, damage):
    path = scan(tmp_path / "scan") / "triggers.npz"
    path.write_bytes(damage(path.read_bytes()))
    refused(path.parent, r"triggers\.npz: not an \.npz file")


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"examined": []}, "verdict: examined is not a list of different labels"),
        ({"examined": [0, 1, 2, 3, 3]}, "verdict: examined is not a list of different labels"),
        ({"examined": [0, 1, 2, 3, "4"]}, "verdict: examined is not a list of different labels"),
        ({"labels": [9]}, "verdict: labels are not among those"),
        ({"labels": 2}, "verdict: labels are not among those"),
        ({"labels": []}, "verdict: backdoored is not whether"),
        ({"norms": [1.0]}, "verdict: norms are not as many"),
        ({"norms": [1.0, 2, 3, 4, float("nan")]}, "verdict: expected finite numbers"),
        ({"norms": [1.0, 2, 3, 4, "5"]}, "verdict: expected finite numbers"),
        ({"median": None}, "verdict: expected finite numbers"),
        ({"mad": -1.0}, "verdict: expected finite numbers"),
        ({"bound": None}, "verdict: bound is not a finite number"),
        ({"bound": float("inf")}, "verdict: bound is not a finite number"),
        ({"probability": 1.5}, "verdict: probability is not in 0..1"),
        ({"background": []}, "verdict: background is not a list of different labels among"),
        ({"background": [0, 0]}, "verdict: background is not a list of different labels among"),
        ({"background": [0, 5]}, "verdict: background is not a list of different labels among"),
        ({"background": 3}, "verdict: background is not a list of different labels among"),
        ({"num_classes": 4}, "verdict: num_classes is not a number above all labels"),
        ({"num_classes": "5"}, "verdict: num_classes is not a number above all labels"),
        ({"num_classes": None}, "verdict: num_classes is not a number above all labels"),
        ({"indices": [1.0]}, "verdict: indices are not as many"),
        ({"indices": 5}, "verdict: indices are not as many"),
        ({"indices": [1.0, 2, 3, 4, float("inf")]}, "verdict: indices are not finite"),
        ({"indices": [1.0, 2, 3, 4, "5"]}, "verdict: indices are not finite"),
        ({"true_triggers": {}}, "verdict: true_triggers are not"),
        ({"true_triggers": [{"label": 2}]}, "verdict: true_triggers are not"),
        ({"true_triggers": [compared("2")]}, "verdict: true_triggers are not"),
        ({"true_triggers": [compared(-1)]}, "verdict: true_triggers are not"),
        ({"true_triggers": [compared([2])]}, "verdict: true_triggers are not"),
        ({"true_triggers": [compared(trigger=3)]}, "verdict: true_triggers are not"),
        ({"true_triggers": [compared(overlap=1.1)]}, "verdict: true_triggers are not"),
        ({"true_triggers": [compared(overlap=float("nan"))]}, "verdict: true_triggers are not"),
        ({"true_triggers": [compared(overlap=None)]}, "verdict: true_triggers are not"),
        ({"true_triggers": [compared(reversed_size=None)]}, "verdict: true_triggers are not"),
        ({"true_triggers": [compared(true_size=0)]}, "verdict: true_triggers are not"),
        ({"true_triggers": [compared(true_size=2.5)]}, "verdict: true_triggers are not"),
        ({"true_triggers": [compared(common=None)]}, "verdict: true_triggers are not"),
        ({"true_triggers": [compared(common=-1)]}, "verdict: true_triggers are not"),
        ({"true_triggers": [compared(overlap=None, true_size=0, common=0)]}, "verdict: true_triggers are not"),
        ({"true_triggers": [compared(9)]}, "verdict: true_triggers are not"),
    ],
)
def test_a_bad_verdict_is_refused(tmp_path, change, complaint):
    refused(scan(tmp_path / "scan", verdict={**verdict_of(), **change}), rf"metrics\.json: {complaint}")


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"verdict": "guilty"}, "lacks backdoored, labels"),
        ({"verdict": {"backdoored": True}}, "lacks labels, score"),
        ({"target": 3}, "verdict: examined is not the label that was named"),
        ({"threshold": "two"}, "verdict: expected finite numbers"),
        ({"settings": ["fast"]}, "settings is not a dictionary"),
    ],
)
def test_bad_metrics_of_a_scan_are_refused(tmp_path, change, complaint):
    refused(scan(tmp_path / "scan", **change), rf"metrics\.json: {complaint}")


def test_what_is_read_is_sorted_by_label(tmp_path):
    verdict = verdict_of([5.0, 90.0, 80.0], [7], 0.9, 80.0, 14.8, examined=[7, 1, 3])
    inspection = read_inspection(read_run(scan(tmp_path / "scan", triggers_of([7, 1, 3]), verdict=verdict)))
    assert inspection.labels.tolist() == [1, 3, 7] and inspection.norms.tolist() == [90.0, 80.0, 5.0]
    assert inspection.flagged.tolist() == [False, False, True]
    assert inspection.threshold == pytest.approx(50.4) and inspection.index(2) == pytest.approx(75 / 14.8)
    assert inspection.chance == pytest.approx(0.1)


def refused(folder, complaint):
    for use in (write_figures, build_report):
        with pytest.raises(BadInput, match=complaint) as error:
            use(folder)
        assert "\n" not in str(error.value)
        assert str(folder) in str(error.value)
    assert not (folder / "figures").exists() and not (folder / "report.html").exists()
