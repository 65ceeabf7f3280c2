"""The page: what is found in folders, rendered as one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Optional, Union

from keras_backdoor.files import BadInput, PathLike, read_json, write_text
from keras_backdoor.report import bench_words, defense_words, words
from keras_backdoor.report.album import Album
from keras_backdoor.report.bench import CELLS, TABLE, Bench, read_bench
from keras_backdoor.report.bench_page import bench_section
from keras_backdoor.report.chapters import chapter
from keras_backdoor.report.defense_figures import FIGURES
from keras_backdoor.report.inspection import read_inspection
from keras_backdoor.report.judgement import judgements_in_short, read_judgement
from keras_backdoor.report.rendering import TEMPLATES, render
from keras_backdoor.report.run_folder import RunFolder, read_run
from keras_backdoor.report.sifting import read_sifting, siftings_in_short
from keras_backdoor.report.strengths import read_strengths, strengths_in_short

REPORT = "report.html"
SCRIPT = "tables.js"
INSIDE = ("", "networks", "runs")
"""Where run folders are in a folder, the last two in one of a bench."""


@dataclass(frozen=True)
class Found:
    """What a page is about: benches, finished runs in the order in which they began, and names of those that are not finished."""

    benches: Sequence[Bench]
    runs: Sequence[RunFolder]
    unfinished: Sequence[str]

    def of(self, command: str) -> list[RunFolder]:
        """The runs of a command."""
        return [run for run in self.runs if run.record["command"] == command]


def build_report(
    folders: Union[PathLike, Sequence[PathLike]], output: Optional[PathLike] = None, figures: bool = False
) -> Path:
    """Write one self-contained page about the finished runs and benches in `folders`; gives its path.

    folders: each a run folder, a folder that holds run folders, or that of a bench. output: by default `report.html` in the
    folder, if it is one. figures: write the page's figures as PNG and SVG into `figures/` beside it, too, in a folder for each
    run where there are several.

    The page stays below 5 MB: of many runs, the last ones are named on it and no more. Raises `BadInput` if a folder does not
    exist, none holds a finished run, or a file is not what it should be.
    """
    several = [folders] if isinstance(folders, (str, os.PathLike)) else folders
    chosen = [Path(folder) for folder in several]
    if output is None and len(chosen) != 1:
        raise BadInput(f"a report of {len(chosen)} folders: say which file it is to be")
    found, album = find(chosen), Album()
    page = _render(found, album)
    output = chosen[0] / REPORT if output is None else Path(output)
    write_text(output, page)
    if figures:
        album.save(output.parent / FIGURES)
    return output


def find(folders: Sequence[Path]) -> Found:
    """What is there to be told. Raises `BadInput` if a folder does not exist, or there is nothing to be told."""
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"{folder}: no such folder")
    benches = [bench for bench in map(read_bench, folders) if bench]
    places = [folder / part for folder in folders for part in INSIDE if (folder / part).is_dir()]
    records = {
        (path / "run.json").resolve(): path / "run.json"
        for place in places
        for path in (place, *sorted(place.iterdir()))
        if (path / "run.json").is_file() and not (path / CELLS).is_dir()
    }
    runs, unfinished = [], []
    for record in sorted(records.values(), key=_started):
        run = read_run(record.parent)
        if run is None:
            unfinished.append(record.parent.resolve().name)
        else:
            runs.append(run)
    found = Found(benches, runs, unfinished)
    if not benches and not found.of("train") and not found.of("defend"):
        raise BadInput(
            f"{', '.join(map(str, folders))}: holds no finished run of kbd train or kbd defend (a run.json that says so, and a "
            f"metrics.json), nor a bench ({TABLE})"
        )
    return found


def _started(record_path: Path) -> str:
    """When the run began: the order of the page."""
    return str(read_json(record_path).get("started", ""))


def _render(found: Found, album: Album) -> str:
    trained, repairs = found.of("train"), found.of("defend")
    benches = [bench_section(bench, album) for bench in found.benches]
    chapters = _chapters(trained, repairs, album)  # with what room the benches leave
    script = (TEMPLATES / SCRIPT).read_text(encoding="utf-8")
    shown = [run for one in chapters for run in one["shown"]]
    return render(
        REPORT,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        benches=benches,
        chapters=chapters,
        in_short=[*map(bench_words.in_short, found.benches)] or _in_short(trained, repairs),
        filters=any("filter" in run.metrics for run in repairs) or any(one["filters"] for one in benches),
        scans=any(run.scans for run in repairs) or any(one["scans"] for one in benches),
        runs=[run for run in (*trained, *repairs) if run in shown],
        unfinished=found.unfinished,
    )


def _in_short(trained: Sequence[RunFolder], repairs: Sequence[RunFolder]) -> list[str]:
    """One paragraph about runs."""
    return defense_words.in_short(
        [run.metrics["badnet"] for run in trained if "badnet" in run.metrics],
        [(run.metrics["before"], _result(run)) for run in repairs if run.repairs],
        [(run.metrics["before"], run.metrics["filter"]) for run in repairs if "filter" in run.metrics],
        [inspection for inspection in map(read_inspection, repairs) if inspection],
        [
            *judgements_in_short([judgement for judgement in map(read_judgement, repairs) if judgement]),
            *strengths_in_short([strengths for strengths in map(read_strengths, repairs) if strengths]),
            *siftings_in_short([sifting for sifting in map(read_sifting, repairs) if sifting]),
        ],
    )


def _result(run: RunFolder) -> words.Scores:
    """The rates by which a defense that changes the network is judged: of a broken copy, what it detects."""
    return run.metrics["goodnet"] if run.breaks else run.metrics["after"]


def _chapters(trained: Sequence[RunFolder], repairs: Sequence[RunFolder], album: Album) -> list[dict[str, Any]]:
    """One for each network that was trained, with its defenses, and for each other that was defended."""
    names = {run.name for run in trained}
    of_model: dict[str, list[RunFolder]] = {}
    for run in repairs:
        parent = PurePath(run.metrics["model"]).parent.name
        of_model.setdefault(parent if parent in names else run.metrics["model"], []).append(run)
    recipes = [run.metrics["recipe"] for run in trained]
    alone = len(trained) + len(repairs) == 1
    chapters = []
    for run in trained:
        title = run.metrics["recipe"]
        title += f", {run.name}" if recipes.count(title) > 1 else ""
        chapters.append(chapter(title, run, of_model.pop(run.name, []), album, alone))
    return chapters + [chapter(model, None, runs, album, alone) for model, runs in of_model.items()]
