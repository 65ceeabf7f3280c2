"""Neural Cleanse of networks with many labels: what is examined, and the rule for outliers among a random background."""

from __future__ import annotations

from dataclasses import replace
from functools import partialmethod

import numpy as np
import pytest
from tensorflow import keras

from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.neural_cleanse_repair import Unlearning
from keras_backdoor.goodnet import GoodNet
from keras_backdoor.images import ImageSet
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.trigger_inversion import (
    SCHEDULES,
    InversionSchedule,
    ReversedTrigger,
    TargetFree,
    background_labels,
    latest,
)
from keras_backdoor.trigger_inversion.target_free import Leg
from keras_backdoor.verdict import innocence

# --- the rule -------------------------------------------------------------------------------------------------------------


def found(label: int, norm: float, works: bool = True) -> ReversedTrigger:
    """A trigger whose mask has this norm."""
    mask = np.full((16, 16), norm / 256, np.float32)
    return ReversedTrigger(label, mask, np.zeros((16, 16, 1), np.float32), 1.0, works, np.zeros((1, 3), np.float32))


def compared(num_classes: int, count: int) -> tuple[list[ReversedTrigger], list[int]]:
    """Triggers of the background, half of them 40, half 60: median 50, deviation 14.826; and some of the other labels."""
    background = background_labels(num_classes, 0, count)
    triggers = [found(label, 40 + 20 * (place % 2)) for place, label in enumerate(background)]
    return triggers, sorted(set(range(num_classes)) - set(background))[:4]


@pytest.mark.parametrize(("labels", "count"), [("search", 16), ("scan", 32), ("auto", 32)])
def test_median_and_deviation_are_of_the_background_by_hand(labels, count):
    triggers, (small, larger, idle, huge) = compared(200, count)
    triggers += [found(small, 5), found(larger, 22), found(idle, 1, works=False), found(huge, 95)]
    verdict = NeuralCleanse(labels=labels).verdict(triggers, 200)
    assert (verdict.median, verdict.mad) == pytest.approx((50, 14.826))
    assert verdict.background == background_labels(200, 0, count)
    assert verdict.labels.tolist() == sorted(one.label for one in triggers)
    indices = dict(zip(verdict.labels.tolist(), verdict.indices))
    assert [indices[label] for label in (small, larger, idle, huge)] == pytest.approx(
        [45 / 14.826, 28 / 14.826, 49 / 14.826, -45 / 14.826], rel=1e-5
    )
    assert (verdict.backdoored, verdict.flagged) == (True, (small,))
    assert verdict.score == pytest.approx(45 / 14.826, rel=1e-5)
    assert verdict.probability == innocence(verdict.score, 200, count) < innocence(verdict.score, 200)
    assert np.isnan(verdict.norms).sum() == 200 - count - 4
    # In logarithms, 22 lies 2.66 deviations below: ln 50 - ln 22, but for the median, over 1.4826 times half of ln 60 - ln 40.
    for threshold, flagged in ((1.3, (small, larger)), (1.35, (small,))):
        loose = NeuralCleanse(labels=labels, threshold=threshold).verdict(triggers, 200)
        assert loose.flagged == tuple(sorted(flagged))
        lone = np.exp((np.log(40) + np.log(60)) / 2 - 2 * threshold * 1.4826 * np.log(60 / 40) / 2)
        assert loose.bound == pytest.approx(min(50 - threshold * 14.826, lone), rel=1e-5)


def test_of_all_labels_all_are_compared():
    """Of the same norms, the median is that of the 20; a trigger that does not work counts, as in the original."""
    triggers, (small, larger, idle, huge) = compared(20, 16)
    triggers += [found(small, 5), found(larger, 22), found(idle, 1, works=False), found(huge, 95)]
    verdict = NeuralCleanse(labels="all").verdict(triggers, 20)
    assert sorted(verdict.background) == list(range(20))
    assert verdict.median == pytest.approx(40)  # 1, 5, 22, and eight of 40, eight of 60, 95
    assert verdict.mad == pytest.approx(1.4826 * 20)  # 18, eight of 0, eight of 20, 35, 39, 55
    assert verdict.score == pytest.approx(39 / (1.4826 * 20))
    assert verdict.probability == innocence(verdict.score, 20)


def test_which_labels_are_examined_depends_on_how_many_there_are():
    for count, background in ((100, tuple(range(100))), (101, background_labels(101, 0))):
        triggers = [found(label, 50 + label % 7) for label in range(count)]
        assert NeuralCleanse().verdict(triggers, count).background == background
        assert NeuralCleanse(target=3).verdict(triggers[3:4], count).background == (3,)


def test_the_last_trigger_of_a_label_counts():
    triggers, (small, *_) = compared(200, 16)
    first, last = triggers[0].label, found(triggers[0].label, 5)
    verdict = NeuralCleanse(labels="search").verdict([*triggers, found(small, 10), last], 200)
    assert verdict.flagged == tuple(sorted((first, small)))
    assert verdict.norms[first] == pytest.approx(5)
    assert [one.label for one in latest([*triggers, last])] == sorted(one.label for one in triggers)


def test_if_no_trigger_works_there_is_nothing_to_compare():
    triggers = [replace(one, works=False) for one in compared(200, 16)[0]]
    verdict = NeuralCleanse(labels="search").verdict(triggers, 200)
    assert (verdict.backdoored, verdict.flagged) == (False, ())
    assert np.isnan([verdict.score, verdict.probability]).all()


def test_the_chance_where_some_are_compared_by_hand():
    """The smaller of two compared values has the index 1/1.4826; a third one is smaller in a third of cases."""
    assert innocence(0.674, 3, 2) == 0
    assert innocence(0.675, 3, 2) == pytest.approx(2 / 3, abs=0.03)
    assert innocence(3.0, 50, 50) == innocence(3.0, 50)


# --- the scan -------------------------------------------------------------------------------------------------------------

EASY = (98, 22, 20)
"""Labels with a short cut, the shortest last. The search compares with the first one, the scan with the first two."""


@pytest.fixture(scope="module")
def dots() -> tuple[Classifier, ImageSet]:
    """A network of 120 labels, each the brightness of one pixel, three of which count more; and dark pictures."""
    inputs = keras.layers.Input((8, 15, 1))
    outputs = keras.layers.Dense(120, activation="softmax")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    weights = np.linspace(15, 25, 120)
    weights[list(EASY)] = 80, 100, 120
    model.set_weights([np.diag(weights).astype(np.float32), np.zeros(120, np.float32)])
    images = np.random.default_rng(1).integers(0, 90, (40, 8, 15, 1)).astype(np.uint8)
    return Classifier(model, Preprocessing.named("unit"), 120), ImageSet(images, np.zeros(40), 120)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Shorter ways."""
    with pytest.MonkeyPatch.context() as patch:
        free, halving = (Leg(30, 4, 0.003), Leg(40, 4, 0.02)), (Leg(20, 4, 0.003, 40), Leg(60, 4, 0.02))
        patch.setattr(TargetFree, "rounds", partialmethod(TargetFree.rounds, legs=free))
        patch.setattr(TargetFree, "scan", partialmethod(TargetFree.scan, legs=halving))
        patch.setitem(SCHEDULES, "fast", InversionSchedule(60, 2, 8, 0.9, 4, first_cost=0.1))
        yield


@pytest.fixture(scope="module")
def scanned(dots) -> tuple[list[list[ReversedTrigger]], list[tuple]]:
    """All chunks of a scan, and what was told of it."""
    told = []
    return list(NeuralCleanse(threshold=3.0).chunks(*dots, progress=lambda *report: told.append(report))), told


def labels_of(chunks: list[list[ReversedTrigger]]) -> list[list[int]]:
    return [[one.label for one in chunk] for chunk in chunks]


def test_a_scan_is_the_search_and_then_the_promising_labels(scanned):
    """Forty that promise most, the random ones and those found; and of each the smaller trigger."""
    (first, *rounds, last), _ = scanned
    background = background_labels(120, 0)
    assert (EASY[0] in background[:16], EASY[1] in background[16:], EASY[2] in background) == (True, True, False)
    assert [one.label for one in first] == list(background[:16])
    assert sorted(one.label for (one,) in rounds) == sorted(EASY)
    labels = {one.label for one in last}
    assert labels >= {*background, *EASY}
    assert len(labels - {*background, *EASY}) == 40
    for (one,) in rounds:
        assert next(other.norm for other in last if other.label == one.label) <= one.norm


@pytest.mark.parametrize("labels", ["all", "search", "scan"])
def test_each_way_finds_the_short_cuts(labels, dots, scanned):
    method = NeuralCleanse(threshold=3.0, labels=labels)
    chunks = {"scan": scanned[0], "search": scanned[0][:-1]}.get(labels) or list(method.chunks(*dots))
    verdict = method.verdict([one for chunk in chunks for one in chunk], 120)
    assert verdict.flagged == tuple(sorted(EASY))
    assert verdict.norms.shape == (120,)
    assert np.nanargmin(verdict.norms) == EASY[2]
    if labels == "search":
        assert labels_of(method.chunks(*dots)) == labels_of(chunks)
        assert verdict.labels.tolist() == sorted({*background_labels(120, 0, 16), *EASY})


def test_a_scan_that_was_cut_short_after_any_chunk_goes_on(dots, scanned):
    chunks, method = scanned[0], NeuralCleanse(threshold=3.0)
    for place in (1, len(chunks) - 2, len(chunks) - 1, len(chunks)):
        done = [one for chunk in chunks[:place] for one in chunk]
        rest = list(method.chunks(*dots, done=done))
        assert labels_of(rest) == labels_of(chunks[place:])
        for chunk, other in zip(rest, chunks[place:]):
            np.testing.assert_allclose([one.norm for one in chunk], [one.norm for one in other], rtol=1e-3)


def test_progress_of_a_scan(scanned):
    (_, *rounds, last), told = scanned
    stages = dict.fromkeys(row[0] for row in told)
    searching = [f"searching: round {place + 1}" for place in range(len(rounds) + 1)]
    assert list(stages) == [
        "searching: 16 random labels",
        *searching,
        "scanning 120 labels",
        f"scanning {len(last)} labels",
    ]
    for stage in stages:
        own = [row for row in told if row[0] == stage]
        assert [row[1] for row in own] == sorted(row[1] for row in own)
        assert own[-1][1] == own[-1][2]
        norms = [row[3]["norm"] for row in own if row[3]]
        assert norms == sorted(norms, reverse=True)


def test_memory_decides_how_many_are_scanned_at_once(dots):
    """A picture takes 360 floats on its way, and back: 364 of them 1 MiB; of each label 4, so 91 labels."""
    told = []
    triggers = [found(label, 50) for label in background_labels(120, 0, 16)]
    list(NeuralCleanse(memory=1).chunks(*dots, done=triggers, progress=lambda *report: told.append(report)))
    assert [row[1] for row in told if row[0] == "scanning 120 labels"] == [91, 120]


def test_repairs_take_what_a_scan_flags(dots, scanned):
    triggers = Unlearning(threshold=3.0, starts=1).triggers(*dots)
    assert [one.label for one in triggers] == sorted(EASY)
    last = {one.label: one.norm for one in scanned[0][-1]}
    assert [one.norm for one in triggers] == pytest.approx([last[label] for label in sorted(EASY)], rel=1e-3)


def test_bad_input(dots, make_set, refused):
    with refused("labels", "some", "all", "scan", "search", "auto"):
        NeuralCleanse(labels="some")
    with refused("labels search", "target 3"):
        NeuralCleanse(labels="search", target=3)
    for settings in ({"schedule": "original"}, {"loss": "linear"}):
        with refused(*settings.values(), "120 labels", "scan"):
            NeuralCleanse(**settings).chunks(*dots)
    with refused("clean images", "8x8x1", "8x15x1"):
        NeuralCleanse().chunks(dots[0], make_set())
    with refused("GoodNet"):
        NeuralCleanse(labels="search").chunks(GoodNet.combine(dots[0], dots[0].clone()), dots[1])
    with refused("background"):
        list(NeuralCleanse().chunks(*dots, done=[found(label, 50) for label in range(20)]))
