"""Calibrate `kbd audit`: audit networks of known kinds, fit its thresholds on one half, and see what they do on the other.

    python benchmarks/audit_calibration.py NETWORKS.jsonl DIR [--seed N] [--thorough] [--fit-only]

NETWORKS.jsonl has one network a line: {"file", "clean", "kind", "label"}. kind: `innocent`, or that of the backdoor. label: where
it leads to, a number, a list of them, or null (all-to-all). Optional: "name" of its folder in DIR, and "labels_unknown": true if
the clean images are none of the network's. Each audit is a process of its own; one that was interrupted goes on. Then the
networks are divided at random, kind by kind, and the thresholds of keras_backdoor/audit/thresholds.json are fitted on one half;
DIR gets calibration.json and calibration.md: a row for each kind, of the half that was held out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from keras_backdoor.audit.evidence import THRESHOLDS, Evidence, probability, suspects, thresholds
from keras_backdoor.files import BadInput, read_json, write_json, write_text

INNOCENT = "innocent"
BEYOND = 0.5
"""Where a threshold lies between the most suspect innocent network and the least suspect backdoored one clearly beyond it."""
CLEAR, BLIND = 1.0, 2.0
"""Deviations of innocent networks that it lies beyond the most suspect one at least; and if no backdoored one is clearly beyond.
There are several stages, and each may raise a false alarm."""
SHARPEST = 4.0

Row = dict[str, Any]


def read_networks(path: str) -> list[Row]:
    """The lines, each with a name of its own. Raises `BadInput` if one lacks something, or two have one name."""
    rows = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if missing := {"file", "clean", "kind", "label"} - row.keys():
            raise BadInput(f"{path}, line {number}: lacks {', '.join(sorted(missing))}")
        rows.append({"name": Path(row["file"]).parent.name + "-" + Path(row["file"]).stem, **row})
    names = [row["name"] for row in rows]
    if twice := {name for name in names if names.count(name) > 1}:
        raise BadInput(f"{path}: several networks are called {', '.join(sorted(twice))}; give each a name")
    return rows


def run(row: Row, folder: Path, thorough: bool) -> dict[str, Any]:
    """The answer of one audit, which is run or gone on with if it is not finished."""
    home = folder / row["name"]
    if not (home / "audit.json").exists():
        words = ["audit", row["file"], "--clean", row["clean"], "--no-identity", "-o", str(home), "--json"]
        words += ["--labels-unknown"] if row.get("labels_unknown") else []
        words += ["--thorough"] if thorough else []
        words += ["--resume"] if (home / "run.json").exists() else []
        code = "from kbd.main import main; main()"
        done = subprocess.run([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, check=False)
        if done.returncode not in (0, 3):
            raise SystemExit(f"{row['name']}: kbd audit ended with {done.returncode}")
    return read_json(home / "audit.json")


def halves(rows: Sequence[Row], seed: int) -> tuple[list[int], list[int]]:
    """Places of the rows to fit on, and of those held out: half of each kind; of an odd number, one more of either in turn."""
    rng, parts, extra = np.random.default_rng(seed), ([], []), 0
    for kind in sorted({row["kind"] for row in rows}):
        own = rng.permutation([place for place, row in enumerate(rows) if row["kind"] == kind]).tolist()
        middle = (len(own) + (extra if len(own) % 2 else 0)) // 2
        extra = 1 - extra if len(own) % 2 else extra
        parts[0].extend(own[:middle])
        parts[1].extend(own[middle:])
    return parts


def fit(rows: Sequence[Row]) -> dict[str, Any]:
    """Thresholds and weights of the stages. rows: with what each stage `kept` that ran.

    A stage's threshold lies beyond all innocent networks; its weight makes one deviation of theirs count one. Then all weights
    are multiplied by what makes the probabilities of these rows likeliest, within bounds, as there are few rows.
    """
    stages = {name: dict(limit) for name, limit in thresholds()["stages"].items()}
    for name, limit in stages.items():
        ran = [(row["kept"][name]["statistic"], row["kind"] == INNOCENT) for row in rows if name in row["kept"]]
        innocent, backdoored = (np.array([value for value, calm in ran if calm is own]) for own in (True, False))
        if len(innocent) < 2:
            continue
        most, width = innocent.max(), max(float(innocent.std()), 0.02 * abs(float(innocent.mean())), 1e-3)
        clear = backdoored[backdoored > most + CLEAR * width]
        above = max(CLEAR * width, BEYOND * (clear.min() - most)) if len(clear) else BLIND * width
        limit["threshold"] = round(float(most + above), 4)
        limit["weight"] = round(1 / width, 4)
    truth = np.array([row["kind"] != INNOCENT for row in rows])

    def loss(sharpness: float) -> float:
        scaled = {name: {**limit, "weight": sharpness * limit["weight"]} for name, limit in stages.items()}
        chances = np.clip([judge(row, scaled)[0] for row in rows], 1e-3, 1 - 1e-3)
        return -float(np.mean(np.log(np.where(truth, chances, 1 - chances))))

    best = minimize_scalar(loss, bounds=(1 / SHARPEST, SHARPEST), method="bounded").x
    for limit in stages.values():
        limit["weight"] = round(float(best * limit["weight"]), 4)
    return stages


def judge(row: Row, stages: dict[str, Any]) -> tuple[float, list[int]]:
    """Probability and suspected labels of a network by these thresholds."""
    found = [Evidence.of(name, kept, stages) for name, kept in row["kept"].items()]
    return probability([one.score for one in found if one.score is not None]), suspects(found)


def right(row: Row, labels: Sequence[int]) -> bool:
    """Whether the first suspect is a true label; where there is none, nothing is asked of the labels."""
    if row["label"] is None:
        return True
    true = row["label"] if isinstance(row["label"], list) else [row["label"]]
    return bool(labels) and labels[0] in true


def table(rows: Sequence[Row], stages: dict[str, Any]) -> tuple[list[str], list[str]]:
    """A row for each kind, and the kinds of which none was found."""
    lines = [
        "| kind | networks | suspected | with the right label | seconds, median | suspected by |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    missed = []
    for kind in sorted({row["kind"] for row in rows}, key=lambda kind: (kind != INNOCENT, kind)):
        own = [row for row in rows if row["kind"] == kind]
        judged = [judge(row, stages) for row in own]
        flagged = [chance > 0.5 for chance, _ in judged]
        found = [flag and right(row, labels) for row, flag, (_, labels) in zip(own, flagged, judged)]
        every = (Evidence.of(name, kept, stages) for row in own for name, kept in row["kept"].items())
        by = Counter(one.stage for one in every if one.suspicious)
        named = ", ".join(f"{name} {count}" for name, count in by.items()) or "–"
        seconds = np.median([row["seconds"] for row in own])
        labelled = "–" if kind == INNOCENT else str(sum(found))
        lines.append(f"| {kind} | {len(own)} | {sum(flagged)} | {labelled} | {seconds:.0f} | {named} |")
        if kind != INNOCENT and not any(flagged):
            missed.append(kind)
    return lines, missed


def measured(row: Row, folder: Path, answer: dict[str, Any]) -> Row:
    """The row with what the stages of its audit kept."""
    ran = [one for one in answer["evidence"] if one["ran"] and one["stage"] in thresholds()["stages"]]
    kept = {one["stage"]: read_json(folder / row["name"] / "stages" / f"{one['stage']}.json") for one in ran}
    seconds = sum(one["seconds"] for one in answer["evidence"])
    return {**row, "kept": kept, "seconds": seconds}


def main(networks: str, folder: str, seed: int, thorough: bool, fit_only: bool) -> None:
    home, rows = Path(folder), []
    home.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(listed := read_networks(networks), 1):
        if fit_only and not (home / row["name"] / "audit.json").exists():
            continue
        print(f"{number}/{len(listed)} {row['name']} ({row['kind']})", file=sys.stderr, flush=True)
        rows.append(measured(row, home, run(row, home, thorough)))
    fitted, held_out = ([rows[place] for place in part] for part in halves(rows, seed))
    stages = fit(fitted)
    lines, missed = table(held_out, stages)
    counts = {"innocent": sum(row["kind"] == INNOCENT for row in fitted)}
    counts["backdoored"] = len(fitted) - counts["innocent"]
    write_json(THRESHOLDS, {**counts, "missed": missed, "stages": stages})
    split = {"fitted": [row["name"] for row in fitted], "held_out": [row["name"] for row in held_out]}
    write_json(home / "calibration.json", {"seed": seed, **split, "rows": rows})
    text = [
        f"Fitted on {counts['innocent']} innocent and {counts['backdoored']} backdoored networks; held out:",
        "",
        *lines,
    ]
    write_text(home / "calibration.md", "\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks")
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--thorough", action="store_true")
    parser.add_argument("--fit-only", action="store_true", help="take the audits that are finished, and run none")
    main(**vars(parser.parse_args()))
