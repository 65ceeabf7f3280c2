"""The report of a bench, from made-up tables: the words, the table, the figures, and what stays under 5 MB."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from test_report import defend_metrics, examples, history, text_of, train_metrics, write_run

from kbd.report import report
from keras_backdoor.benchmark import tables
from keras_backdoor.files import BadInput
from keras_backdoor.report import album, build_report
from keras_backdoor.report.bench import read_bench
from keras_backdoor.report.bench_page import bench_section
from keras_backdoor.report.bench_words import in_short, outcome

PAPER = "NNoculation: Catching BadNets in the Wild, Veldanda et al., AISec 2021"


def bench_row(defense="none", recipe="mnist-patch", before=(0.98, 0.99), after=None, **changes):
    """A row as the bench writes it, with one trigger; after: clean accuracy, attack success and robust accuracy."""
    accuracy, success, robust = after or (*before, 0.02)
    values = {"clean_accuracy_before": [before[0]], "clean_accuracy": [accuracy], "seconds": [3.25]}
    by_trigger = {"attack_success_before": {"square": [before[1]]}, "attack_success": {"square": [success]}}
    by_trigger["robust_accuracy"] = {"square": [robust]}
    if after:
        by_trigger["effectiveness"] = {"square": [0.98]}
    row = {
        "recipe": recipe,
        "dataset": "mnist",
        "innocent": False,
        "defense": defense,
        "settings": {},
        "origins": {},
        "epochs": 5,
        "miniature": True,
        "seeds": [0],
        "failed": {},
        "values": {**values, "peak_memory_mib": [812.0]},
        "by_trigger": by_trigger,
        "labels": [],
        "pareto": [],
        "published": [],
    }
    return {**row, **changes}


def scan_row(flagged, labels=(), **changes):
    row = bench_row("neural-cleanse", **changes)
    row["values"] |= {"backdoored": [float(flagged)], "score": [4.2 if flagged else 0.7]}
    return {**row, "labels": list(labels)}


def published(accuracy, success):
    difference = {"clean_accuracy": -0.01, "attack_success": [0.25], "false_acceptance": []}
    return {
        "paper": PAPER,
        "table": "5",
        "clean_accuracy": accuracy,
        "attack_success": [success],
        "difference": difference,
    }


def failed_row():
    row = bench_row("nad", seeds=[], failed={"0": "MemoryError: 3 <GiB>"})
    return {**row, "values": {}, "by_trigger": {}}


def rows():
    """Two BadNets and an innocent network; repairs, a filter, a scan, and a cell that failed."""
    pruned = {
        "settings": {"fraction": 0.8},
        "origins": {"fraction": "preset quick"},
        "published": [published(0.976, 0.5735)],
    }
    filtered = bench_row("strip", after=(0.95, 0.01, 0.02))
    filtered["values"]["false_rejection_rate"] = [0.03]
    filtered["by_trigger"] |= {"false_acceptance_rate": {"square": [0.0125]}, "auc": {"square": [0.991]}}
    return [
        bench_row(),
        bench_row("fine-pruning", after=(0.966, 0.0225, 0.95), pareto=["square"], **pruned),
        bench_row("fine-tuning", after=(0.971, 0.2, 0.7), pareto=["square"]),
        filtered,
        scan_row(True, [3]),
        failed_row(),
        bench_row(innocent=True, before=(0.981, 0.01)),
        scan_row(True, [8], innocent=True, before=(0.981, 0.01)),
        bench_row(recipe="mnist-aaa", before=(0.97, 0.96)),
        bench_row("fine-pruning", recipe="mnist-aaa", before=(0.97, 0.96), after=(0.96, 0.9, 0.05)),
        bench_row("fine-tuning", recipe="mnist-aaa", before=(0.97, 0.96), after=(0.965, 0.01, 0.93)),
        scan_row(False, recipe="mnist-aaa", before=(0.97, 0.96)),
    ]


def write_bench(folder, told=None):
    (folder / "cells").mkdir(parents=True)
    (folder / "table.json").write_text(json.dumps(rows() if told is None else told))
    record = {"command": "bench", "asked": {}, "finished": True, "reproduce": "kbd bench --preset quick"}
    (folder / "run.json").write_text(json.dumps({**record, "versions": {"keras": "2.15.0"}}))
    return folder


def read(tmp_path, told=None):
    return read_bench(write_bench(tmp_path / "bench", told))


def test_the_bench_in_short(tmp_path):
    assert in_short(read(tmp_path)).replace("\xa0", " ") == (
        "2 BadNets and 1 innocent network met 5 defenses. 1 cell failed, for the reasons in the table. At least one defense "
        "removed the backdoor of 2 of 2 BadNets whose backdoor works; most often: fine-pruning (1 of 2), "
        "fine-tuning (1 of 2), strip (1 of 1). Detectors flagged the BadNet in 1 of 2 scans, and an innocent network in 1 of 1 "
        "scan, which are false alarms."
    )


def test_what_is_said_where_there_are_no_detectors_and_no_success(tmp_path):
    told = [bench_row(), bench_row("nad", after=(0.9, 0.97, 0.02))]
    assert in_short(read(tmp_path, told)).replace("\xa0", " ") == (
        "1 BadNet met 1 defense. At least one defense removed the backdoor of 0 of 1 BadNet whose backdoor works."
    )


@pytest.mark.parametrize(
    "before, after, result",
    [(0.99, 0.02, "removed"), (0.99, 0.2, "weakened"), (0.99, 0.9, "failed"), (0.03, 0.02, "absent")],
)
def test_the_outcome_of_a_row(tmp_path, before, after, result):
    bench = read(tmp_path, [bench_row("nad", before=(0.98, before), after=(0.97, after, 0.5))])
    assert outcome(bench.rows[0]) == result


def test_the_table_has_rates_deviations_and_what_is_printed(tmp_path):
    several = bench_row("nad", after=(0.9, 0.5, 0.5), seeds=[0, 1])
    several["values"]["clean_accuracy"] = [0.9, 0.8]
    drawn = album.Album()
    section = bench_section(read(tmp_path, [*rows(), several]), drawn)
    told = {(row["network"], row["defense"]): row for row in section["rows"]}
    pruned = told["mnist-patch", "fine-pruning"]
    assert pruned["clean"] == {"rate": 0.966, "notes": ["NNoculation, table 5: 97.60\xa0% (-1.00)"]}
    assert pruned["attack"]["notes"] == ["NNoculation, table 5: 57.35\xa0% (+25.00)"] and pruned["best"]
    assert pruned["settings"] == "fraction 0.8 (preset quick)"
    assert told["mnist-patch", "strip"]["said"] == ["FRR 3.00\xa0%", "FAR 1.25\xa0%", "AUC 0.991"]
    assert told["mnist-patch", "neural-cleanse"]["said"] == ["backdoored, label 3", "score 4.20"]
    assert told["mnist-patch, innocent", "neural-cleanse"]["said"] == ["false alarm, label 8", "score 4.20"]
    assert told["mnist-aaa", "neural-cleanse"]["said"] == ["no backdoor found", "score 0.70"]
    mean = section["rows"][-1]
    assert mean["clean"]["rate"] == pytest.approx(0.85) and mean["clean"]["notes"] == ["± 7.07\xa0%"]
    assert (mean["seeds"], mean["seconds"], mean["memory"]) == (2, 3.25, 812)


def test_a_cell_that_failed_says_why_and_has_no_rates(tmp_path):
    row = bench_section(read(tmp_path), album.Album())["rows"][5]
    assert row["said"] == ["failed with seed 0: MemoryError: 3 <GiB>"] and row["failed"]
    assert row["clean"]["rate"] is row["attack"]["rate"] is row["seconds"] is None
    page = build_report(tmp_path / "bench").read_text(encoding="utf-8")
    assert "MemoryError: 3 &lt;GiB&gt;" in page and "<GiB" not in page


def test_the_figures_of_a_bench(tmp_path):
    drawn = album.Album()
    section = bench_section(read(tmp_path), drawn)
    assert [one["title"] for one in section["trade_offs"]] == [
        f"{name} (miniature mnist, 5 epochs), trigger square" for name in ("mnist-patch", "mnist-aaa")
    ]
    assert "On the Pareto front: fine-pruning, fine-tuning." in section["trade_offs"][0]["alt"]
    assert "2 BadNets (mnist-patch, mnist-aaa) under 3 defenses" in section["grid"]["alt"]
    drawn.save(tmp_path / "figures")
    names = {f"bench-{name}.{kind}" for name in ("trade-off-1", "trade-off-2", "grid") for kind in ("png", "svg")}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == names


def test_runs_of_a_bench_are_told_below_the_table(tmp_path):
    bench = write_bench(tmp_path / "bench")
    write_run(bench / "networks" / "net", "train", train_metrics(), history=history(), examples=examples())
    write_run(bench / "runs" / "cut", "defend", defend_metrics(model="networks/net/badnet.h5"))
    write_run(bench / "runs" / "open", "defend", defend_metrics(), finished=False)
    page = build_report(bench, figures=True).read_text(encoding="utf-8")
    text = text_of(page)
    assert text.index("Side by side") < text.index("What the backdoor does") < text.index("Defense: fine-pruning")
    assert "Left out, because they are not finished: open." in text and "All rates" not in text
    assert "kbd bench --preset quick" in text
    assert (bench / "figures" / "net" / "loss.svg").exists() and (bench / "figures" / "net" / "loss.png").exists()
    assert "currentColor" not in (bench / "figures" / "net" / "loss.svg").read_text()


def test_several_folders_make_one_page(tmp_path):
    net = write_run(tmp_path / "a" / "patch", "train", train_metrics(), history=history())
    cut = write_run(tmp_path / "b" / "cut", "defend", defend_metrics(model="somewhere/patch/badnet.h5"))
    with pytest.raises(BadInput, match="say which file"):
        build_report([net, cut])
    page = build_report([net, cut, net], tmp_path / "both.html")
    assert page == tmp_path / "both.html" and text_of(page.read_text()).count("What the backdoor does") == 1
    assert "The training of this network is not among" not in page.read_text()
    assert not (tmp_path / "figures").exists()
    with pytest.raises(BadInput, match="no such folder"):
        build_report([net, tmp_path / "c"], tmp_path / "other.html")


def test_what_has_no_room_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(album, "MOST", 30_000)
    images = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)  # about 50 kB a network
    for place in range(4):
        about = {"examples": examples(images=images), "history": history()}
        write_run(tmp_path / f"net-{place}", "train", train_metrics(), **about)
    text = text_of(build_report(tmp_path).read_text(encoding="utf-8"))
    assert text.count("What the backdoor does") == 1
    assert re.findall(r"a page of each folder: (net-\d)", text) == ["net-1", "net-2", "net-3"]
    assert len(re.findall("0 of 4|mnist-patch, net-", text)) >= 4  # the table has them all


@pytest.mark.parametrize(
    "told, complaint",
    [
        ([], "expected the rows of a bench"),
        ({"rows": []}, "expected the rows of a bench"),
        ([{"recipe": "x"}], "lacks dataset, innocent"),
        ([bench_row(values=[])], "values is not a dict"),
        ([bench_row(recipe=3)], "recipe is not a str"),
        ([bench_row(values={"clean_accuracy": "1"})], "clean_accuracy: expected a number for each seed"),
        (
            [bench_row(by_trigger={"attack_success": {"square": [None]}})],
            "attack_success: expected a number for each seed",
        ),
        ([bench_row(by_trigger={"attack_success": [1]})], "attack_success: expected a number for each seed"),
        ([bench_row(published=[{"paper": "x"}])], "lacks table, clean_accuracy"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, told, complaint):
    folder = write_bench(tmp_path / "bench", told)
    with pytest.raises(BadInput, match=rf"table\.json: {complaint}"):
        build_report(folder)
    assert not (folder / "report.html").exists()


def test_cells_without_a_table_are_explained(tmp_path):
    (tmp_path / "cells").mkdir()
    with pytest.raises(BadInput, match="kbd bench --resume writes it"):
        build_report(tmp_path)


def test_the_command_takes_several_folders(tmp_path, monkeypatch):
    for name in ("patch", "cut"):
        write_run(tmp_path / name, "train", train_metrics(), history=history())
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(report, ["patch", "--figures"]).output == "patch/report.html\n"
    assert sorted(path.name for path in (tmp_path / "patch/figures").glob("*.svg")) == ["loss.svg", "rates.svg"]
    assert CliRunner().invoke(report, ["patch", "cut"]).output == "report.html\n"
    assert not (tmp_path / "figures").exists()
    assert CliRunner().invoke(report, ["patch", "cut", "--figures", "-o", "page.html"]).output == "page.html\n"
    assert (tmp_path / "figures" / "cut" / "loss.png").exists()


def test_the_command_makes_the_table_of_a_bench_anew(tmp_path, monkeypatch):
    folder = write_bench(tmp_path / "bench", [bench_row()])

    def write(where):
        (Path(where) / "table.json").write_text(json.dumps([bench_row("nad", after=(0.9, 0.5, 0.5))]))

    monkeypatch.setattr(tables, "write_tables", write)
    CliRunner().invoke(report, [str(folder)], catch_exceptions=False)
    assert "<div>nad" in (folder / "report.html").read_text(encoding="utf-8")
