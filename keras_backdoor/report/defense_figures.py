"""The figures of a run of a defense, by the name of their file: drawn from what the run left in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import numpy as np
from matplotlib.figure import Figure

from keras_backdoor.files import BadInput, PathLike
from keras_backdoor.report import figures
from keras_backdoor.report.defense_words import step_name
from keras_backdoor.report.drawing import save_figure
from keras_backdoor.report.features import features_figure
from keras_backdoor.report.inspection import read_found, read_inspection
from keras_backdoor.report.judgement import held_out_networks, read_judgement
from keras_backdoor.report.nnoculation_figures import nnoculation_figures
from keras_backdoor.report.run_folder import RunFolder, read_run
from keras_backdoor.report.sifting import read_sifting, sifted_scores
from keras_backdoor.report.strengths import found_triggers, read_strengths, strengths_of_labels
from keras_backdoor.report.truth import read_truths
from keras_backdoor.report.verdict_figures import norms_of_labels, search_curves, trigger_pictures

SCORE = {"strip": "mean entropy of the answers, in bits"}
"""What the filter of a method measures."""

FIGURES = "figures"
"""The folder of figures as files."""

AXES = {"channels": "channels pruned", "gamma": "share of noise"}
"""What networks of a heat map differ in besides the learning rate."""


def write_figures(folder: PathLike) -> list[Path]:
    """Write the figures of the run of `kbd defend` in `folder` as `figures/NAME.png` and `.svg`; gives the paths of the former.

    Those that apply: `curve` (rates against channels pruned), `heat_map` (rates over learning rates, and channels or noise),
    `activations` (of channels, before and after), `scores` (of inputs, and the threshold), `rounds` (what was learned of the
    trigger), `cyclegan` (how that was learned), `norms` (of labels, and the threshold), `triggers` (that were reversed, and true
    ones beside them), `search` (how these were found), `sifted` (scores of training images),
    `held_out` (scores of networks, the suspect's among them), `strengths` (of the triggers of labels), `found` (images with
    them), `features` (of clean and triggered images, on a plane).

    Raises `BadInput` if there is no finished run of a defense, or its files are not what they should be.
    """
    folder = Path(folder)
    run = read_run(folder)
    if run is None or run.record["command"] != "defend":
        raise BadInput(f"{folder}: holds no finished run of kbd defend")
    drawn = defense_figures(run)
    for name, figure in drawn.items():
        save_figure(figure, folder / FIGURES / name)
    return [folder / FIGURES / f"{name}.png" for name in drawn]


def defense_figures(run: RunFolder) -> dict[str, Figure]:
    """The figures that the run has data for. Raises `BadInput` if its files are not what they should be."""
    activations, scores = run.activations(), run.scores()
    drawn = {
        "curve": _curve(run),
        "heat_map": _heat_map(run.metrics.get("steps", [])),
        "activations": figures.activation_maps(*activations[1]) if activations else None,
        "features": features_figure(run),
    }
    if scores:
        threshold, clean, triggered = scores
        name = SCORE.get(run.metrics["method"], "score")
        drawn["scores"] = figures.score_histograms(clean, triggered, threshold, name)
    drawn |= nnoculation_figures(run)
    sifting = read_sifting(run)
    if sifting:
        drawn["sifted"] = sifted_scores(sifting)
    judgement = read_judgement(run)
    if judgement:
        drawn["held_out"] = held_out_networks(judgement)
    strengths = read_strengths(run)
    if strengths and len(strengths.labels):
        drawn["strengths"] = strengths_of_labels(strengths)
        drawn["found"] = found_triggers(strengths) if strengths.images is not None else None
    inspection = read_inspection(run)
    if inspection:
        found = read_found(run, inspection)
        if inspection.target is None:  # which has nothing beside it
            drawn["norms"] = norms_of_labels(inspection)
        if found:
            truths = read_truths(run, inspection, found)
            drawn["triggers"] = trigger_pictures(found, inspection.comparisons, truths)
            drawn["search"] = search_curves(found)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _curve(run: RunFolder) -> Optional[Figure]:
    curve = run.curve()
    if curve is None:
        return None
    rates, goodnet = curve
    marks: dict[int, list[str]] = {}
    for step in run.kept:
        if "channels" in step:
            marks.setdefault(step["channels"], []).append(step_name(step, channels=False))
    last = len(rates[0]) - 1
    if not all(0 <= count <= last for count in marks):
        raise BadInput(f"{run.folder / 'metrics.json'}: a step has {max(marks)} channels, but curve.csv ends at {last}")
    return figures.pruning_curve(rates, goodnet, {count: ", ".join(names) for count, names in marks.items()})


def _heat_map(steps: list[dict[str, Any]]) -> Optional[Figure]:
    """Of steps that differ in learning rate and one of `AXES`; None if there are none."""
    axis = next((key for key in AXES if any({"learning_rate", key} <= step.keys() for step in steps)), None)
    if axis is None:
        return None
    steps = [step for step in steps if {"learning_rate", axis} <= step.keys()]
    rates = sorted({step["learning_rate"] for step in steps}, reverse=True)
    columns = sorted({step[axis] for step in steps})
    attacks = list(steps[0]["after"]["attack_success_rate"])
    maps = {"clean accuracy": np.full((len(rates), len(columns)), np.nan)}
    maps |= {f"attack success ({name})": np.full((len(rates), len(columns)), np.nan) for name in attacks}
    for step in steps:
        cell = rates.index(step["learning_rate"]), columns.index(step[axis])
        values = step["after"]["clean_accuracy"], *map(step["after"]["attack_success_rate"].get, attacks)
        for drawn, value in zip(maps.values(), values):
            drawn[cell] = value
    return figures.heat_maps(rates, columns, maps, AXES[axis])
