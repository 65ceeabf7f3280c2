"""True triggers beside reversed ones: where they lie, how far they overlap, and what the command says and keeps of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tensorflow import keras
from test_cli import answer, assert_refused, done, everything, run
from test_report import page_of, text_of

from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import write_csaw_hdf5
from keras_backdoor.defenses import find
from keras_backdoor.defenses.apply import defend
from keras_backdoor.defenses.truth import TrueTrigger, Truth, compare, look_at, overlap, write_truths
from keras_backdoor.images import ImageSet
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.trigger_inversion import SCHEDULES, InversionSchedule
from keras_backdoor.triggers import OneOf, PostIt, Square, Sunglasses
from keras_backdoor.verdict import Verdict

# --- where a true trigger lies --------------------------------------------------------------------------------------------


def black(count=3, shape=(6, 6, 1)) -> ImageSet:
    return ImageSet(np.zeros((count, *shape), np.uint8), np.zeros(count, int), 2)


@pytest.mark.parametrize(
    "text, label, trigger",
    [
        ("square(4)", None, Square(4)),
        ("33:square(4, margin=1)", 33, Square(4, 1)),
        (" 0 : sunglasses", 0, Sunglasses()),
        ("-1:square", -1, Square()),  # which no network has
    ],
)
def test_a_trigger_is_read_with_its_label(text, label, trigger):
    assert TrueTrigger.parse(text) == TrueTrigger(trigger, label)


def test_the_footprint_is_what_changes_in_more_than_half_of_the_images():
    images = black(4)
    images.images[0, 5, 5] = images.images[1, 5, 5] = 255  # white there already: the square changes it in two of four
    images.images[0, 5, 4] = 255  # in three of four
    [truth] = look_at([TrueTrigger(Square(2), 1)], images, 2)
    assert (truth.words, truth.label) == ("square(size=2)", 1)
    assert np.argwhere(truth.footprint).tolist() == [[4, 4], [4, 5], [5, 4]]
    np.testing.assert_array_equal(truth.example, images.images[2])  # the first that it changes wholly
    np.testing.assert_array_equal(truth.stamped, Square(2)(images.images[2:3], None)[0])


def test_one_channel_is_enough_to_change_a_pixel():
    red = ImageSet(np.full((2, 4, 4, 3), (255, 0, 0), np.uint8), [0, 0], 1)
    assert look_at([TrueTrigger(Square(1, value=(255, 0, 9)))], red, 1)[0].footprint.sum() == 1


def test_at_most_64_images_are_looked_at_from_the_first_to_the_last(monkeypatch):
    images, stamp, seen = black(130), Square.__call__, []
    images.images[:, 0, 0, 0] = np.arange(130)
    monkeypatch.setattr(Square, "__call__", lambda self, *given: seen.append(given[0]) or stamp(self, *given))
    look_at([TrueTrigger(Square(1))], images, 2)
    order = seen[0][:, 0, 0, 0].tolist()
    assert len(order) == 64 and order == sorted(set(order)) and (order[0], order[-1]) == (0, 129)


def test_alternatives_are_looked_at_one_by_one():
    either = OneOf((Square(1), Square(1, at="top-left")))
    truths = look_at([TrueTrigger(either, 1)], black(), 2)
    assert [(one.label, np.argwhere(one.footprint).tolist()) for one in truths] == [(1, [[5, 5]]), (1, [[0, 0]])]


def test_a_trigger_without_a_place_has_no_footprint():
    [truth] = look_at([TrueTrigger(PostIt(1, value=9))], black(50), 2)
    assert not truth.footprint.any()
    assert (truth.stamped != truth.example).sum() == 1


def test_what_does_not_fit_is_refused(refused):
    for trigger, label, parts in (
        (Square(7), None, ("square", "6x6")),
        (Square(), 2, ("square", "label 2", "0..1")),
        (Square(), -1, ("label -1", "0..1")),
        (Square(value=0), None, ("square(value=0)", "changes no pixel")),
    ):
        with refused(*parts):
            look_at([TrueTrigger(trigger, label)], black(), 2)


# --- beside what was reversed ---------------------------------------------------------------------------------------------


def corner(pixels) -> np.ndarray:
    mask = np.zeros((4, 4), np.float32)
    mask[tuple(np.transpose(pixels))] = 0.6
    return mask


def test_the_overlap_by_hand():
    """Two of four pixels in common, of five that either has; a pixel at 0.5 does not count."""
    mask, footprint = corner([(0, 0), (0, 1), (3, 3)]), np.zeros((4, 4), bool)
    footprint[:2, :2] = True
    mask[1, 1] = 0.5
    assert overlap(mask, footprint) == {"overlap": 0.4, "common": 2, "reversed_size": 3, "true_size": 4}
    assert overlap(footprint.astype(float), footprint)["overlap"] == 1
    assert overlap(np.zeros((4, 4)), footprint) == {"overlap": 0, "common": 0, "reversed_size": 0, "true_size": 4}
    nowhere = overlap(mask, np.zeros((4, 4), bool))
    assert nowhere == {"overlap": None, "common": None, "reversed_size": 3, "true_size": 0}


def verdict(flagged) -> Verdict:
    """Of a network of four labels, 2 of which were not examined."""
    norms = np.array([3.0, 2.0, np.nan, 1.0])
    masks = np.stack([corner([(0, 0), (0, 1), (1, 0)]), corner([(0, 0)]), corner([(3, 3)])])
    rest = {
        "score": 1.0,
        "probability": 0.5,
        "median": 2.0,
        "mad": 1.0,
        "bound": 0.0,
        "labels": np.array([0, 1, 3]),
        "masks": masks,
    }
    return Verdict(
        backdoored=bool(flagged), flagged=flagged, norms=norms, background=(0, 1, 3), patterns=masks[..., None], **rest
    )


def truth(words, label, place) -> Truth:
    footprint = np.zeros((4, 4), bool)
    footprint[place] = True
    return Truth(words, label, footprint, *np.zeros((2, 4, 4, 1), np.uint8))


CORNER, NOWHERE = np.s_[:2, :2], np.s_[:0]


@pytest.mark.parametrize(
    "flagged, known, rows",
    [
        ((0, 1), ("a", None, CORNER), [(0, "a", 0.75, 3, 3, 4), (1, "a", 0.25, 1, 1, 4)]),
        ((), ("a", None, CORNER), [(3, "a", 0.0, 0, 1, 4)]),  # the smallest
        ((3,), ("a", 0, CORNER), [(0, "a", 0.75, 3, 3, 4)]),  # its label, flagged or not
        ((3,), ("a", 2, CORNER), [(2, "a", None, None, None, 4)]),
        ((0,), ("a", None, NOWHERE), [(0, "a", None, None, 3, 0)]),
    ],
)
def test_who_is_compared_with_whom(flagged, known, rows):
    told = compare([truth(*known)], verdict(flagged))
    assert [tuple(row.values()) for row in told] == rows
    assert all(list(row) == ["label", "trigger", "overlap", "common", "reversed_size", "true_size"] for row in told)
    assert json.loads(json.dumps(told)) == told


# --- the command ----------------------------------------------------------------------------------------------------------


def cornered() -> Classifier:
    """A network from 6x6 pictures to three classes: 0 where the left half is brighter, 1 the right; 2, in spite of both, where
    the four pixels of the top left corner are white."""
    inputs = keras.layers.Input((6, 6, 1))
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    kernel = np.zeros((6, 6, 3), np.float32)
    kernel[:, :3, 0] = kernel[:, 3:, 1] = 1
    kernel[:2, :2] = (0, 0, 15)
    model.set_weights([kernel.reshape(36, 3), np.array([0.0, 0, -28], np.float32)])
    return Classifier(model, Preprocessing.named("unit"), 3)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """That network, and forty dim pictures of which one half is a little brighter."""
    short = InversionSchedule(steps=25, updates=10, batch_size=20, success=0.95, patience=2)
    monkeypatch.setitem(SCHEDULES, "fast", short)
    labels = np.arange(40) % 2
    images = np.random.default_rng(0).integers(0, 60, (40, 6, 6, 1), np.uint8)
    images[labels == 0, :, :3] += 60
    images[labels == 1, :, 3:] += 60
    cornered().save(tmp_path / "model.h5")
    write_csaw_hdf5(tmp_path / "clean.h5", ImageSet(images, labels, 3))
    return tmp_path


def arguments(files, *rest):
    return ("defend", "neural-cleanse", files / "model.h5", "--clean", files / "clean.h5", "--target", 2, *rest)


RIGHT, WRONG = "square(2, at=top-left)", "square(2)"


def test_the_right_trigger_overlaps_and_one_in_another_corner_does_not(files):
    out = files / "out"
    asked = arguments(files, "--trigger", f"2:{RIGHT}", "--trigger", WRONG, "--trigger", "1:square", "-o", out)
    metrics = answer(*asked)
    right, wrong, other = metrics["verdict"]["true_triggers"]
    assert (right["label"], right["trigger"], right["true_size"]) == (2, "square(size=2, at=top-left)", 4)
    assert right["overlap"] >= 0.5 and 0 < right["reversed_size"] <= 8
    assert wrong == {**right, "trigger": "square(size=2)", "overlap": 0.0, "common": 0}
    assert (other["label"], other["overlap"], other["reversed_size"], other["true_size"]) == (1, None, None, 9)
    assert json.loads((out / "verdict.json").read_text())["true_triggers"] == metrics["verdict"]["true_triggers"]
    with np.load(out / "truth.npz") as kept:
        assert kept["trigger"].tolist() == ["square(size=2, at=top-left)", "square(size=2)", "square"]
        assert np.argwhere(kept["footprint"][0]).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
        np.testing.assert_array_equal(kept["stamped"][1], Square(2)(kept["example"][1:2], None)[0])
        assert kept["example"].max() < 120
    said = text_of(page_of(out)).replace("\xa0", " ")
    assert f"The true trigger “{right['trigger']}” covers 4 pixels, and what was found for label 2 covers" in said
    assert "overlap of 0.00: what was found lies elsewhere" in said
    assert "“square” cannot be compared: its label 1 was not examined to the end." in said
    assert "Below each stands the true trigger" in said


def test_the_table_and_what_a_finished_scan_is_compared_with_later(files):
    out = files / "out"
    assert "overlap" not in done(*arguments(files, "-o", out)) and not (out / "truth.npz").exists()
    triggers = (out / "triggers.npz").read_bytes()
    shown = done(*arguments(files, "--trigger", WRONG, "--trigger", "1:square", "-o", out, "--resume"))
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert "true trigger label overlap (IoU) common pixels found true" in rows
    assert any(row.startswith("square(size=2) 2 0.00 0 ") and row.endswith(" 4") for row in rows)
    assert "square 1 – – – 9" in rows
    assert (out / "triggers.npz").read_bytes() == triggers and (out / "truth.npz").exists()
    assert "overlap" not in done(*arguments(files, "-o", out, "--resume")) and not (out / "truth.npz").exists()


@pytest.mark.parametrize(
    "text, parts",
    [
        ("circle(3)", ("circle", "trigger")),
        ("2:", ("the name of a trigger was expected",)),
        ("two:square", ("trigger", "two")),
        ("3:square", ("square", "label 3", "0..2")),
        ("-1:square", ("label -1", "0..2")),
        ("square(7)", ("square", "6x6")),
        ("noise(-1)", ("noise", "6×6×1")),
        ("square(2, value=(255, 0, 0))", ("square", "channels")),
    ],
)
def test_a_bad_trigger_ends_before_the_scan(files, text, parts, monkeypatch):
    monkeypatch.setattr(find("neural-cleanse"), "chunks", lambda *_, **__: pytest.fail("the scan began"))
    before = everything(files)
    assert_refused(run(*arguments(files, "--trigger", text, "--test", files / "clean.h5", "-o", files / "out")), *parts)
    assert everything(files) == before


def test_triggers_from_the_environment_stand_on_lines_of_their_own(files):
    verdict = answer(*arguments(files, "-o", files / "out"), KBD_DEFEND_TRIGGER=f"{RIGHT}\n1:square")["verdict"]
    assert [(one["label"], one["true_size"]) for one in verdict["true_triggers"]] == [(2, 4), (1, 9)]


def test_methods_that_look_for_no_trigger_take_none(files, refused):
    strange = run("defend", "pruning", files / "model.h5", "--clean", files / "clean.h5", "--trigger", "square")
    assert_refused(strange, "--trigger")
    clean = ImageSet(np.zeros((12, 6, 6, 1), np.uint8), np.arange(12) % 3, 3)
    with refused("pruning", "no triggers"):
        defend(
            "pruning",
            find("pruning")(),
            files / "model.h5",
            cornered(),
            clean,
            {},
            files / "out",
            true_triggers=[TrueTrigger(Square())],
        )


def test_the_help_has_the_language():
    text = done("defend", "neural-cleanse", "--help")
    assert "--trigger [LABEL:]TEXT" in text and "square(size=3" in text
    assert "square(size=3" not in done("defend", "pruning", "--help")


def test_pictures_of_several_triggers_are_one_file(tmp_path):
    truths = [truth("a", 1, CORNER), truth("longer", None, NOWHERE)]
    write_truths(tmp_path / "t.npz", truths)
    with np.load(tmp_path / "t.npz") as kept:
        assert kept["trigger"].tolist() == ["a", "longer"]
        assert kept["footprint"].dtype == bool and kept["footprint"].sum((1, 2)).tolist() == [4, 0]
        assert kept["example"].shape == kept["stamped"].shape == (2, 4, 4, 1)
