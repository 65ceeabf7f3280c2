"""`kbd defend neural-cleanse`: what it leaves in its folder, and that an interrupted scan goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partialmethod

import numpy as np
import pytest
from test_cli import answer, assert_refused, brightest, pictures, run

from keras_backdoor.datasets import write_csaw_hdf5
from keras_backdoor.defenses.apply import defend
from keras_backdoor.defenses.apply_inspect import read_triggers, write_triggers
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.images import ImageSet
from keras_backdoor.trigger_inversion import ReversedTrigger, TargetFree, background_labels
from keras_backdoor.trigger_inversion.target_free import Leg


@pytest.fixture
def files(tmp_path):
    """A network of four classes, one for each pixel of its pictures, and twelve of these."""
    brightest().save(tmp_path / "model.h5")
    labels = np.arange(12) % 4
    write_csaw_hdf5(tmp_path / "clean.h5", ImageSet(pictures(labels), labels, 4))
    return tmp_path


def test_the_verdict_is_written_and_the_network_is_left_alone(files):
    arguments = ("neural-cleanse", files / "model.h5", "--clean", files / "clean.h5")
    metrics = answer("defend", *arguments, "-o", files / "out")
    verdict, triggers = metrics["verdict"], read_triggers(files / "out" / "triggers.npz")
    assert metrics["before"] == metrics["after"]
    assert [trigger.label for trigger in triggers] == verdict["examined"] == [0, 1, 2, 3]
    assert verdict["norms"] == pytest.approx([trigger.norm for trigger in triggers], abs=1e-4)
    assert verdict["median"] == pytest.approx(np.median(verdict["norms"]), abs=1e-4)
    assert verdict["backdoored"] == bool(verdict["labels"])
    assert (verdict["num_classes"], verdict["background"]) == (4, [0, 1, 2, 3])
    below = (verdict["median"] - np.array([trigger.norm for trigger in triggers])) / verdict["mad"]
    assert verdict["indices"] == pytest.approx(below, abs=1e-4)
    assert verdict["score"] == pytest.approx(max(verdict["indices"]), abs=1e-4)
    stored = json.loads((files / "out" / "verdict.json").read_text())
    assert {key: stored[key] for key in verdict} == verdict
    assert not list((files / "out").glob("*.h5"))
    result = run("defend", *arguments, "-o", files / "again")
    assert result.code == 0 and "4 labels examined" in result.out


def test_an_interrupted_scan_goes_on_where_it_was_and_ends_the_same(files, monkeypatch):
    network, clean = brightest(), ImageSet(pictures(np.arange(12) % 4), np.arange(12) % 4, 4)
    scan, chunks = NeuralCleanse(memory=1), NeuralCleanse.chunks
    asked = []

    def one_by_one(self, classifier, clean, done=(), progress=None):
        before = [trigger.label for trigger in done]
        asked.append(before)
        for label in range(4):
            if label not in before:
                yield from chunks(NeuralCleanse(target=label, memory=1), classifier, clean)

    monkeypatch.setattr(NeuralCleanse, "chunks", one_by_one)
    model = files / "model.h5"
    defend("neural-cleanse", scan, model, network, clean, {}, files / "whole")

    def cut_short(self, classifier, clean, done=(), progress=None):
        for place, chunk in enumerate(one_by_one(self, classifier, clean, done)):
            if place == 2:
                raise KeyboardInterrupt
            yield chunk

    monkeypatch.setattr(NeuralCleanse, "chunks", cut_short)
    with pytest.raises(KeyboardInterrupt):
        defend("neural-cleanse", scan, model, network, clean, {}, files / "cut")
    assert [trigger.label for trigger in read_triggers(files / "cut" / "triggers.npz")] == [0, 1]
    monkeypatch.setattr(NeuralCleanse, "chunks", one_by_one)
    defend("neural-cleanse", scan, model, network, clean, {}, files / "cut", resume=True)
    assert asked == [[], [], [0, 1]]
    for name in ("triggers.npz",):
        whole, cut = (np.load(files / folder / name) for folder in ("whole", "cut"))
        assert all(np.array_equal(whole[key], cut[key], equal_nan=True) for key in whole.files)


BRIEF = Leg(8, 4, 0.003), Leg(8, 4, 0.02)


def test_the_search_from_the_command_line(files, monkeypatch):
    """Cut short in its first round, it goes on; of a label that is found twice one trigger is kept, and a finished run stays."""
    rounds = TargetFree.rounds
    monkeypatch.setattr(TargetFree, "rounds", partialmethod(rounds, legs=BRIEF))
    arguments = (
        "defend",
        "neural-cleanse",
        files / "model.h5",
        "--clean",
        files / "clean.h5",
        "--labels",
        "search",
        "-o",
    )

    class Cut(Exception):
        pass

    def cut(self, excluded, legs, progress):
        raise Cut

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(TargetFree, "search", cut)
        run(*arguments, files / "cut")
    background = read_triggers(files / "cut" / "triggers.npz")
    kept = [trigger.label for trigger in background]
    assert kept == list(background_labels(4, 0))

    def found(self, excluded, legs, progress):
        """A tiny trigger for the first label of the background; then nothing that works."""
        one = replace(background[0], works=not excluded)
        return [replace(one, mask=one.mask * np.float32(0.01))]

    monkeypatch.setattr(TargetFree, "search", found)
    verdicts = [
        answer(*arguments, files / name, *more)["verdict"] for name, more in (("cut", ["--resume"]), ("whole", []))
    ]
    for name, verdict in zip(("cut", "whole"), verdicts):
        assert (verdict["num_classes"], verdict["background"], verdict["examined"]) == (4, [0, 1, 2, 3], [0, 1, 2, 3])
        triggers = read_triggers(files / name / "triggers.npz")
        assert [trigger.label for trigger in triggers] == [0, 1, 2, 3]
        assert verdict["norms"] == pytest.approx([trigger.norm for trigger in triggers], abs=1e-4)
        assert verdict["norms"].index(min(verdict["norms"])) == kept[0]
        assert verdict["indices"][kept[0]] > 0
    assert verdicts[0]["norms"] == pytest.approx(verdicts[1]["norms"], rel=1e-3)
    monkeypatch.setattr(NeuralCleanse, "chunks", None)
    assert answer(*arguments, files / "cut", "--resume")["verdict"] == verdicts[0]


def test_a_scan_is_not_resumed_with_other_settings_or_from_a_damaged_file(files):
    arguments = ("defend", "neural-cleanse", files / "model.h5", "--clean", files / "clean.h5", "-o", files / "out")
    answer(*arguments)
    assert_refused(run(*arguments, "--resume", "--seed", 1), "other settings", "settings", notices=1)
    (files / "out" / "triggers.npz").write_bytes(b"PK\x03\x04damaged")
    assert_refused(run(*arguments, "--resume"), "triggers.npz", "not a file of reversed triggers", notices=1)


def test_triggers_are_read_as_they_were_written(tmp_path):
    rng = np.random.default_rng(0)
    triggers = [
        ReversedTrigger(
            label,
            rng.random((3, 4), np.float32),
            rng.random((3, 4, 1), np.float32),
            0.5,
            label == 7,
            rng.random((steps, 3), np.float32),
        )
        for label, steps in ((7, 2), (3, 5))
    ]
    write_triggers(tmp_path / "t.npz", triggers)
    for before, after in zip(triggers, read_triggers(tmp_path / "t.npz")):
        assert (before.label, before.success, before.works) == (after.label, after.success, after.works)
        for name in ("mask", "pattern", "history"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
