"""The calibration of the audit: the halves, the thresholds and the table, on made-up statistics; no network is looked at."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from conftest import ROOT

from keras_backdoor.audit.evidence import thresholds

spec = importlib.util.spec_from_file_location("audit_calibration", ROOT / "benchmarks" / "audit_calibration.py")
calibration = importlib.util.module_from_spec(spec)
spec.loader.exec_module(calibration)


def row(name, kind, label, **statistics):
    """What was measured of a network; each stage names the label 7."""
    kept = {
        stage: {"ran": True, "seconds": 1.0, "statistic": value, "labels": {"7": value}, "what": "So."}
        for stage, value in statistics.items()
    }
    return {"name": name, "kind": kind, "label": label, "kept": kept, "seconds": 2.0, "file": "f", "clean": "c"}


def rows():
    """Innocent networks at 0.9 to 1.1; patches that the search sees, filters that nothing sees, and a wrong label."""
    innocent = [row(f"i{n}", "innocent", None, search=0.9 + 0.02 * n, inversion=1.0 + 0.01 * n) for n in range(11)]
    patches = [row(f"p{n}", "patch", 7, search=5.0 + n, inversion=1.05) for n in range(4)]
    filters = [row(f"f{n}", "filter", 2, search=1.0, inversion=1.02) for n in range(3)]
    return [*innocent, *patches, *filters, row("w", "warp", 3, search=9.0)]


def test_halves_are_of_each_kind_and_by_the_seed():
    every = rows()
    parts = calibration.halves(every, 0)
    assert sorted([*parts[0], *parts[1]]) == list(range(len(every)))
    for kind, count in (("innocent", 11), ("patch", 4), ("filter", 3)):
        sizes = [sum(every[place]["kind"] == kind for place in part) for part in parts]
        assert sum(sizes) == count and abs(sizes[0] - sizes[1]) <= 1
    assert parts == calibration.halves(every, 0) != calibration.halves(every, 1)


def test_thresholds_lie_between_innocent_and_backdoored():
    stages = calibration.fit(rows())
    assert stages["search"]["threshold"] == pytest.approx((1.1 + 5.0) / 2, abs=1e-3)  # half way
    width = np.std([1.0 + 0.01 * n for n in range(11)])
    assert stages["inversion"]["threshold"] == pytest.approx(1.1 + calibration.BLIND * width, abs=1e-3)  # it sees none
    assert stages["mntd"]["threshold"] == thresholds()["stages"]["mntd"]["threshold"]  # it ran nowhere
    judged = {one["name"]: calibration.judge(one, stages) for one in rows()}
    assert all(chance < 0.5 for name, (chance, _) in judged.items() if name[0] in "if")
    assert all(chance > 0.8 and labels == [7] for name, (chance, labels) in judged.items() if name[0] in "pw")


def test_the_table_tells_what_is_missed_and_what_has_the_wrong_label():
    lines, missed = calibration.table(rows(), calibration.fit(rows()))
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines[2:]}
    assert cells == {
        "innocent": ["11", "0", "–", "2", "–"],
        "filter": ["3", "0", "0", "2", "–"],
        "patch": ["4", "4", "4", "2", "search 4"],
        "warp": ["1", "1", "0", "2", "search 1"],
    }
    assert next(iter(cells)) == "innocent"
    assert missed == ["filter"]


def test_finished_audits_are_taken_as_they_are(tmp_path, monkeypatch, capsys):
    """No process is started for an audit that has an answer; without --fit-only, the others would be."""
    listed = tmp_path / "networks.jsonl"
    listed.write_text(
        "\n".join(json.dumps({k: one[k] for k in ("name", "kind", "label", "file", "clean")}) for one in rows())
    )
    for one in rows()[:-1]:
        home = tmp_path / "audits" / one["name"]
        (home / "stages").mkdir(parents=True)
        evidence = [{"stage": name, "ran": True, "seconds": 1.0} for name in one["kept"]]
        evidence += [{"stage": "file", "ran": True, "seconds": 0.0}, {"stage": "filters", "ran": False, "seconds": 0.0}]
        (home / "audit.json").write_text(json.dumps({"evidence": evidence}))
        for name, kept in one["kept"].items():
            (home / "stages" / f"{name}.json").write_text(json.dumps(kept))
    monkeypatch.setattr(calibration, "THRESHOLDS", tmp_path / "thresholds.json")
    monkeypatch.setattr(calibration.subprocess, "run", lambda *words, **more: pytest.fail("an audit was started"))
    calibration.main(str(listed), str(tmp_path / "audits"), 0, False, True)
    written = json.loads((tmp_path / "thresholds.json").read_text())
    assert written["innocent"] + written["backdoored"] in (8, 9, 10)
    assert written["missed"] == ["filter"]
    assert set(written["stages"]) == set(thresholds()["stages"])
    assert "| patch | 2 | 2 | 2 |" in (tmp_path / "audits" / "calibration.md").read_text()
    split = json.loads((tmp_path / "audits" / "calibration.json").read_text())
    assert len({*split["fitted"], *split["held_out"]}) == 18
    assert "| innocent |" in capsys.readouterr().out


def test_a_list_that_cannot_be_used(tmp_path, refused):
    path = tmp_path / "networks.jsonl"
    path.write_text('{"file": "a/n.h5", "clean": "c", "kind": "patch"}\n')
    with refused("line 1", "label"):
        calibration.read_networks(path)
    path.write_text(2 * '{"file": "a/n.h5", "clean": "c", "kind": "patch", "label": 3}\n')
    with refused("a-n", "name"):
        calibration.read_networks(path)
