"""The whole loop on real digits, once, with an interrupt in the middle: what it promises is what a user sees first."""

import json
import shlex
import sys
from dataclasses import replace

import numpy as np
import pytest

import kbd.main
from keras_backdoor import datasets
from keras_backdoor import demo as demo_module
from keras_backdoor.attacks.recipes import recipe
from keras_backdoor.classifier import Classifier
from keras_backdoor.runs import Run


def interrupted_and_resumed(folder):
    """The folder of a demo that was interrupted while it repaired, and killed while it wrote, and then resumed."""

    def interrupt(stage, done, total, values):
        if stage == "mnist-patch, fine-pruning-high-rate, fine-tuning" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo_module.demo(folder, progress=interrupt)
    assert not (folder / "metrics.json").exists()
    half_written = Run.start(folder / "mnist-patch-fine-pruning-high-rate", "defend", {})
    half_written.write("metrics.json", {})
    demo_module.demo(folder, resume=True)
    return folder


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    """A demo of one recipe with few digits and epochs: all of its steps, but no good networks."""
    some = slice(None, None, 4)
    few = replace(digits.limited(30), valid=digits.valid.select(some), test=digits.test.select(some))
    repairs = {name: {**settings, "epochs": 4} for name, settings in demo_module.REPAIRS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "RECIPES", ["mnist-patch"])
        patch.setattr(demo_module, "REPAIRS", repairs)
        patch.setattr(demo_module, "recipe", lambda name: replace(recipe(name).for_miniature(), epochs=2))
        patch.setattr(datasets, "load", lambda name: few)
        return interrupted_and_resumed(tmp_path_factory.mktemp("demo") / "out")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The demo as users get it."""
    return interrupted_and_resumed(tmp_path_factory.mktemp("demo") / "out")


@pytest.mark.slow
def test_rates_of_the_shipped_digits(whole):
    """The figures that the README's first command stands for."""
    metrics = json.loads((whole / "metrics.json").read_text())
    for name, trigger, accuracy, success in (
        ("mnist-patch", "square", 0.96, 0.99),
        ("mnist-aaa", "pixel-pattern", 0.95, 0.88),
    ):
        before = metrics[name]["fine-pruning"]["before"]
        assert before["clean_accuracy"] >= accuracy
        assert before["attack_success_rate"][trigger] >= success
        repaired = metrics[name]["fine-pruning-high-rate"]["after"]
        assert repaired["clean_accuracy"] > before["clean_accuracy"] - 0.05
        assert repaired["attack_success_rate"][trigger] < 0.2  # images of the target class are a tenth of the digits


def assert_report_tells_of_all_runs(folder, repaired):
    page = (folder / "report.html").read_text(encoding="utf-8")
    metrics = json.loads((folder / "metrics.json").read_text())
    for repairs in metrics.values():
        for rates in repairs.values():
            for stage in ("before", "after", "goodnet"):
                assert f"{100 * rates[stage]['clean_accuracy']:.2f}\N{NO-BREAK SPACE}%" in page
    assert f"{repaired}\N{NO-BREAK SPACE}repairs" in page
    assert len(page) < 1_000_000


def test_the_report_tells_of_all_runs(finished):
    assert_report_tells_of_all_runs(finished, 2)


@pytest.mark.slow
def test_the_report_tells_of_all_runs_of_the_whole_demo(whole):
    assert_report_tells_of_all_runs(whole, 4)


def test_the_commands_in_the_report_give_the_same_networks(finished, monkeypatch, tmp_path):
    record = json.loads((finished / "mnist-patch-fine-pruning" / "run.json").read_text())
    words = shlex.split(record["reproduce"])
    assert words[-2:] == ["-o", "mnist-patch-fine-pruning"]
    monkeypatch.chdir(finished)
    monkeypatch.setattr(sys, "argv", [*words[:-1], str(tmp_path / "again")])
    with pytest.raises(SystemExit) as ended:
        kbd.main.main()
    assert ended.value.code == 0
    first, second = (
        Classifier.load(folder / "repaired.h5").model.get_weights()
        for folder in (finished / "mnist-patch-fine-pruning", tmp_path / "again")
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
