"""`kbd defend abs`: the verdict by the strength of triggers, what is kept and resumed; and what the report makes of it."""

from __future__ import annotations

import json
import re
from html import unescape

import numpy as np
import pytest
from test_cli import answer, assert_refused, everything, in_empty_folder, interrupt, run  # noqa: F401
from test_report import defend_metrics, scores, write_run

from keras_backdoor.datasets import write_csaw_hdf5
from keras_backdoor.defenses.artificial_brain_stimulation.abs import ABS
from keras_backdoor.defenses.artificial_brain_stimulation.reversal import Reversal
from keras_backdoor.files import BadInput
from keras_backdoor.report import build_report
from keras_backdoor.report.run_folder import read_run
from keras_backdoor.report.strengths import (
    about_strengths,
    found_triggers,
    read_strengths,
    strengths_in_short,
    strengths_of_labels,
)

OPTIONS = ["--images", 9, "--candidates", 3, "--updates", 2, "--no-filters", "--bound", 0.05]


def test_the_verdict_is_that_of_the_defense_and_an_interrupted_run_goes_on(
    tiny_classifier, make_set, tmp_path, monkeypatch
):
    tiny_classifier.save(tmp_path / "model.h5")
    write_csaw_hdf5(tmp_path / "clean.h5", make_set(30))
    out, said, inspect = tmp_path / "out", [], ABS.inspect
    arguments = ("defend", "abs", tmp_path / "model.h5", "--clean", tmp_path / "clean.h5", *OPTIONS, "-o", out)
    with monkeypatch.context() as patch:
        patch.setattr(Reversal, "triggers", interrupt)
        result = run(*arguments)
    assert result.code == 130 and result.err.splitlines()[-1].endswith("--resume")
    assert sorted(path.name for path in (out / "networks").iterdir()) == ["stimulation-0.npz", "stimulation-1.npz"]
    assert_refused(run(*arguments, "--resume", "--levels", 3), out, "settings", notices=1)

    monkeypatch.setattr(ABS, "inspect", lambda *given: said.append((given[0], inspect(*given))) or said[-1][1])
    result = run(*arguments, "--resume")
    assert result.code == 0, result.err
    ((defense, wanted),) = said
    assert defense == ABS(images=9, candidates=3, updates=2, filters=False, bound=0.05) and wanted.backdoored
    metrics, verdict = (json.loads((out / f"{name}.json").read_text()) for name in ("metrics", "verdict"))
    told = metrics["verdict"]
    assert told == {
        "backdoored": True,
        "labels": list(wanted.flagged),
        "score": wanted.score,
        "num_classes": 3,
        "examined": wanted.labels.tolist(),
        "strengths": wanted.strengths[wanted.labels].tolist(),
        "bound": 0.05,
    }
    assert {name: verdict[name] for name in told} == told and metrics["before"] == metrics["after"]
    with np.load(out / "found.npz") as found:
        np.testing.assert_array_equal(found["images"], wanted.examples)
        np.testing.assert_array_equal(found["labels"], wanted.labels)
    assert not (out / "networks").exists() and not (out / "triggers.npz").exists()
    for name in ("strengths", "found"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 3000
    assert f"turns more than 5.00 % of the images into label {wanted.flagged[0]}" in result.out
    assert re.search(rf"^{wanted.flagged[0]} +{100 * wanted.score:.2f} % *$", result.out, re.M)
    assert f"({len(wanted.labels)} of 3 labels examined)" in result.out
    before = everything(out)
    monkeypatch.setattr(ABS, "inspect", interrupt)
    assert answer(*arguments, "--resume") == metrics and everything(out) == before


# --- in the report --------------------------------------------------------------------------------------------------------

VERDICT = {
    "backdoored": True,
    "labels": [7, 1],
    "score": 1.0,
    "num_classes": 10,
    "examined": [1, 3, 7],
    "strengths": [0.9, 0.25, 1.0],
    "bound": 0.8,
}
INNOCENT = {"backdoored": False, "labels": [], "strengths": [0.1, 0.8, 0.3]}
NOTHING = {"backdoored": False, "labels": [], "examined": [], "strengths": [], "score": 0.0}
IMAGES = np.arange(3 * 2 * 6 * 6, dtype=np.uint8).reshape(3, 2, 6, 6, 1)


def gauged_run(folder, images=IMAGES, **changes):
    bare = {**scores(0.97), "attack_success_rate": {}, "robust_accuracy": {}, "n_poisoned": {}}
    metrics = defend_metrics(method="abs", before=bare, after=bare, verdict={**VERDICT, **changes})
    del metrics["goodnet"]
    folder = write_run(folder, "defend", metrics)
    np.savez(folder / "found.npz", labels=metrics["verdict"]["examined"], images=images)
    return folder


def gauged(folder, **changes):
    return read_strengths(read_run(gauged_run(folder, **changes)))


def test_the_page_tells_the_verdict_and_shows_the_triggers(tmp_path):
    page = build_report(gauged_run(tmp_path / "run")).read_text()
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).replace("\xa0", " ").split())
    assert "Scan: abs" in text and page.count("<svg") == 2
    assert (
        "It flags 2 labels, for which it found a trigger that turns more than 80.00 % of the images: "
        "label 7 (100.00 %), label 1 (90.00 %)."
    ) in text
    assert "Of the network's 10 labels, 3 were examined" in text
    assert "Of 1 hunt for strong triggers, 1 found one." in text
    assert "anomaly index" not in text and "No triggered images were given" not in text


def test_words_follow_the_verdict(tmp_path):
    found = [gauged(tmp_path / str(place), **changes) for place, changes in enumerate(({}, INNOCENT, NOTHING))]
    texts = [" ".join(about_strengths(one)).replace("\xa0", " ") for one in found]
    assert "the strongest leads to label 3 (80.00 %)" in texts[1]
    assert "nothing in the network that was suspicious" in texts[2]
    assert ["not mean that the network is innocent" in text for text in texts] == [False, True, True]
    assert "0 were examined" in texts[2]
    assert [said.replace("\xa0", " ") for said in strengths_in_short(found)] == [
        "Of 3 hunts for strong triggers, 1 found one, 2 found none, which does not prove innocence."
    ]
    assert strengths_in_short([]) == []


def test_the_figures_have_every_label(tmp_path):
    found = gauged(tmp_path / "run")
    (axes,) = strengths_of_labels(found).axes
    bars = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in axes.patches}
    assert bars == {1: pytest.approx(90), 3: pytest.approx(25), 7: pytest.approx(100)}
    assert axes.lines[0].get_ydata()[0] == 80
    pictures = [axes.images[0].get_array() for axes in found_triggers(found).axes]
    np.testing.assert_array_equal(pictures, IMAGES[[2, 0, 1]].reshape(6, 6, 6))  # the strongest first


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"backdoored": False}, "metrics.json: verdict: labels and backdoored are not"),
        ({"labels": [7]}, "metrics.json: verdict: labels and backdoored are not"),
        ({"strengths": [0.9, 0.25]}, "metrics.json: verdict: expected fractions"),
        ({"strengths": [0.9, None, 1.0]}, "metrics.json: verdict: expected fractions"),
        ({"bound": 1.5}, "metrics.json: verdict: expected fractions"),
        ({"examined": [1, 7, 3]}, "metrics.json: verdict: examined is not"),
        ({"examined": [1, 3, 10]}, "metrics.json: verdict: examined is not"),
        ({"num_classes": None}, "metrics.json: verdict: examined is not"),
        ({"images": IMAGES[:2]}, "found.npz: images"),
        ({"images": IMAGES.astype(float)}, "found.npz: images"),
    ],
)
def test_damaged_verdicts_are_refused(tmp_path, changes, complaint):
    folder = gauged_run(tmp_path / "run", **changes)
    with pytest.raises(BadInput, match=re.escape(complaint)):
        build_report(folder)
