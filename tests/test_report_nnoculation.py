"""What the report shows of NNoculation: pictures and curves of its rounds, the grid, what was said of each step."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
from test_report import defend_metrics, page_of, step, write_run

from keras_backdoor.examples import PICTURES, save_round
from keras_backdoor.files import BadInput
from keras_backdoor.metrics import normalised_error
from keras_backdoor.report.defense_figures import defense_figures
from keras_backdoor.report.defense_words import step_name
from keras_backdoor.report.run_folder import read_run

COLUMNS = [f"{kind}_{domain}" for kind in ("adversarial", "cycle") for domain in "ab"]
COLUMNS += [f"discriminator_{domain}_{kind}" for domain in "ab" for kind in ("real", "made")]
GRID = {"alpha": 5.0, "learning_rate": 0.005, "gamma": 0.6, "held_out_accuracy": 0.97, "held_out_drop": 0.01}
ROUND = {
    "round": 1,
    "seen": 1926,
    "quarantined": 200,
    "duplicates": 3,
    "dropped": 0,
    "poisoned_caught": 0.91,
    "clean_caught": 0.042,
    "gan_epochs": 10,
    "flip_share": 0.94,
    "trigger_error": 4.9,
    "treatment_rate": 3e-4,
    "held_out_accuracy": 0.98,
    "held_out_drop": 0.0,
    "seconds_quarantine": 1.0,
}


def images(value, count=3):
    return np.full((count, 4, 5, 1), value, np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]


def history(folder, shares, start):
    """Columns are start, start + 1 and so on in the first epoch, and one more in each epoch after it."""
    folder.mkdir(parents=True)
    with open(folder / "history.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["stage", "epoch", *COLUMNS, "share"])
        for epoch, share in enumerate(shares):
            writer.writerow(["cyclegan", epoch, *(start + epoch + np.arange(8)), share])


@pytest.fixture()
def run(tmp_path):
    """Of two rounds; in the second, nobody knows the trigger."""
    steps = [
        step(0.9, 0.8, "pre", **GRID),
        step(0.9, 0.1, "round-1", **ROUND),
        step(0.9, 0.1, "", **{**ROUND, "round": 2}),
    ]
    folder = write_run(tmp_path / "run", "defend", defend_metrics(method="nnoculation", steps=steps))
    history(folder / "round-1" / "cyclegan", ["", "0.5", "0.75"], 0)
    history(folder / "round-2" / "cyclegan", ["", "1.0"], 100)
    first = {"clean": images(10), "generated": images(20), "triggered": images(30), "quarantined": images(40, 2)}
    save_round(folder / "round-1" / PICTURES, first)
    save_round(folder / "round-2" / PICTURES, {**first, "triggered": None})
    return folder


def test_pictures_of_each_round_stand_in_rows(run):
    axes = defense_figures(read_run(run))["rounds"].axes
    shown = [
        [panel.images[0].get_array()[0, 0] if panel.images else None for panel in axes[i : i + 3]]
        for i in range(0, 21, 3)
    ]
    first = [[10, 11, 12], [20, 21, 22], [30, 31, 32], [40, 41, None]]
    assert shown == [*first, first[0], first[1], first[3]]
    assert [axes[i].get_title(loc="left") for i in (0, 3, 12)] == ["round 1", "", "round 2"]
    assert {panel.images[0].get_clim() for panel in axes if panel.images} == {(0, 255)}


def test_a_few_images_evenly_spaced_are_kept(tmp_path):
    save_round(tmp_path / "some.npz", {"clean": images(0, 100), "triggered": None}, count=4)
    with np.load(tmp_path / "some.npz") as arrays:
        assert {name: values[:, 0, 0, 0].tolist() for name, values in arrays.items()} == {"clean": [0, 33, 66, 99]}


def test_curves_go_on_from_round_to_round(run):
    above, below = defense_figures(read_run(run))["cyclegan"].axes
    curves = [line.get_ydata().tolist() for line in above.lines if len(line.get_xdata()) == 5]
    epochs = np.array([0, 1, 2, 100, 101])
    # The means of columns 4..7, of 0 and 1, and of 2 and 3.
    assert curves == [(epochs + offset).tolist() for offset in (5.5, 0.5, 2.5)]
    (flips,) = (line for line in below.lines if line.get_marker() == ".")
    assert flips.get_xydata().tolist() == [[2, 50], [3, 75], [5, 100]]
    assert [text.get_text() for text in above.texts] == ["stage: round 1", "stage: round 2"]


def test_steps_are_called_what_was_done_once():
    assert step_name({**GRID, "name": "alpha-5-gamma-0.6"}) == "alpha 5, learning rate 0.005, gamma 0.6"
    assert step_name({**GRID, "name": "pre"}) == "pre, alpha 5, learning rate 0.005, gamma 0.6"
    assert step_name({**ROUND, "name": ""}) == step_name({**ROUND, "name": "round-1"}) == "round 1"


def test_the_page_tells_of_the_rounds(run):
    page = page_of(run.parent)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", page))
    assert (
        "Round 1: of 1,926 images of the stream, 200 were quarantined (91.00 % of those with the trigger, 4.20 %"
        in text
    )
    assert "94.00 % of clean images flip the network, after 10 epochs. The patched network was treated at" in text
    assert "at a learning rate of 0.0003. Round 2:" in text
    assert "Learning rates and noise" in text
    assert "Learning rates and channels" not in text


ALL = {kind: images(0) for kind in ("clean", "generated", "quarantined")}


@pytest.mark.parametrize(
    "arrays, complaint",
    [
        ({"clean": images(0), "generated": images(0)}, "lacks quarantined"),
        ({**ALL, "clean": images(0).astype(float)}, "clean: expected images, uint8"),
        ({**ALL, "clean": images(0)[:0]}, "at least one"),
        ({**ALL, "quarantined": images(0)[:, :3]}, "expected images of one size"),
    ],
)
def test_bad_pictures_are_refused(run, arrays, complaint):
    np.savez(run / "round-1" / PICTURES, **arrays)
    with pytest.raises(BadInput, match=complaint):
        defense_figures(read_run(run))


@pytest.mark.parametrize(
    "contents, complaint",
    [
        ("epoch,share\n0,1\n", "lacks discriminator_a_real"),
        (",".join(["epoch", *COLUMNS]) + "\n0,x" + ",1" * 7, "a number"),
    ],
)
def test_a_bad_history_is_refused(run, contents, complaint):
    (run / "round-1" / "cyclegan" / "history.csv").write_text(contents)
    with pytest.raises(BadInput, match=complaint):
        defense_figures(read_run(run))


def test_normalised_error_by_hand():
    clean = np.full((2, 2, 2, 1), 100, np.uint8)
    triggered = clean.copy()
    triggered[:, 0, 0] = 0
    half = clean.copy()
    half[:, 0, 0] = 50
    assert normalised_error(triggered, triggered, clean) == 0
    assert normalised_error(clean, triggered, clean) == 1
    assert normalised_error(half, triggered, clean) == 0.25
    with pytest.raises(BadInput, match="changes nothing"):
        normalised_error(half, clean, clean)
    with pytest.raises(BadInput, match="expected one"):
        normalised_error(half[:1], triggered, clean)
