"""The whole loop on real digits, once, with an interrupt in the middle: what it promises is what a user sees first."""

import json
import shlex
import sys

import numpy as np
import pytest

import kbd.main
from keras_backdoor.classifier import Classifier
from keras_backdoor.demo import demo
from keras_backdoor.runs import Run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a demo that was interrupted while it repaired, and killed while it wrote, and then resumed."""
    folder = tmp_path_factory.mktemp("demo") / "out"

    def interrupt(stage, done, total, values):
        if stage == "mnist-patch, fine-pruning-high-rate, fine-tuning" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo(folder, progress=interrupt)
    assert not (folder / "metrics.json").exists()
    half_written = Run.start(folder / "mnist-patch-fine-pruning-high-rate", "defend", {})
    half_written.write("metrics.json", {})
    demo(folder, resume=True)
    return folder


def test_rates_of_the_shipped_digits(finished):
    """The figures that the README's first command stands for."""
    metrics = json.loads((finished / "metrics.json").read_text())
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


def test_the_report_tells_of_all_runs(finished):
    page = (finished / "report.html").read_text(encoding="utf-8")
    metrics = json.loads((finished / "metrics.json").read_text())
    for repairs in metrics.values():
        for rates in repairs.values():
            for stage in ("before", "after", "goodnet"):
                assert f"{100 * rates[stage]['clean_accuracy']:.2f}\N{NO-BREAK SPACE}%" in page
    assert "4\N{NO-BREAK SPACE}repairs" in page
    assert len(page) < 1_000_000


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
