"""Chapters of the page: a network, and what became of it, from their run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Optional

from matplotlib.figure import Figure

from keras_backdoor.report import defense_words, figures, verdict_words, words
from keras_backdoor.report.album import Album
from keras_backdoor.report.defense_figures import defense_figures
from keras_backdoor.report.example_cards import EXAMPLES, example_cards
from keras_backdoor.report.features import features_figure
from keras_backdoor.report.inspection import read_found, read_inspection
from keras_backdoor.report.judgement import about_judgement, read_judgement
from keras_backdoor.report.nnoculation_figures import about_rounds
from keras_backdoor.report.run_folder import RunFolder
from keras_backdoor.report.sifting import about_sifting, read_sifting
from keras_backdoor.report.strengths import about_strengths, read_strengths
from keras_backdoor.report.truth import read_truths


def chapter(
    title: str, run: Optional[RunFolder], repairs: Sequence[RunFolder], album: Album, alone: bool
) -> dict[str, Any]:
    """One BadNet. run: of its training, if it is at hand. repairs: those of its defenses. alone: whether that is all on the page.

    `shown` are the runs that are told in detail, as far as the album has room, and `left_out` the names of the others.
    """
    badnet = run.metrics.get("badnet") if run else None
    titles = _titles([repair.metrics for repair in repairs])
    told: dict[str, Any] = {"title": title, "run": run, "rows": [], "repairs": [], "shown": [], "left_out": []}
    if run and album.has_room():
        told |= _training(run, album, alone)
        told["shown"].append(run)
        album.take(told)
    elif run:
        told |= {"run": None}
        told["left_out"].append(run.name)
    for repair, name in zip(repairs, titles):
        if not album.has_room():
            told["left_out"].append(repair.name)
            continue
        told["repairs"].append(_repair(repair, name, album, alone))
        told["shown"].append(repair)
        album.take(told["repairs"][-1])
    if run:
        clean, expect = run.metrics.get("clean"), run.metrics.get("expect")
        if clean:
            told["rows"] += _rows("clean twin, never poisoned", clean)
        if badnet:
            told["rows"] += _rows("BadNet", badnet, expect)
    known = [badnet]
    for repair, method in zip(repairs, titles):
        metrics = repair.metrics
        if repair.sifts:
            continue
        if metrics["before"] not in known:
            known.append(metrics["before"])
            before = f"network that {method} scanned" if repair.inspects else f"BadNet, as measured before {method}"
            told["rows"] += _rows(before, metrics["before"])
        if repair.inspects:
            continue
        if len(repair.kept) > 1:
            method += f": {defense_words.step_name(repair.kept[-1])}"
        network = "BadNet behind {}" if "filter" in metrics else "broken copy ({})" if repair.breaks else "after {}"
        told["rows"] += _rows(network.format(method), metrics["after"])
        if metrics.get("goodnet"):
            told["rows"] += _rows(f"GoodNet ({method})", metrics["goodnet"])
    return told


def _training(run: RunFolder, album: Album, alone: bool) -> dict[str, Any]:
    """What the page says of how a network was trained."""
    badnet, clean = run.metrics.get("badnet"), run.metrics.get("clean")
    examples, features = run.arrays("examples.npz", EXAMPLES), features_figure(run)
    sentences = (
        words.about_badnet(badnet, clean, run.metrics.get("expect"))
        if badnet
        else words.about_twin(run.metrics["clean"])
    )
    if "isolation" in run.metrics:
        sentences += words.about_isolation(run.metrics["defense"], run.metrics["isolation"])
    drawn = {**_curves(run.table("history.csv")), **({"features": features} if features else {})}
    return {
        "sentences": sentences,
        "examples": example_cards(examples, "BadNet" if badnet else "clean twin", None) if examples else None,
        "figures": _added(run, drawn, album, alone),
    }


def _added(run: RunFolder, drawn: Mapping[str, Figure], album: Album, alone: bool) -> dict[str, str]:
    """The figures of a run as SVG."""
    home = "" if alone else f"{run.name}/"
    return {name: album.add(f"{home}{name}", figure) for name, figure in drawn.items()}


def _titles(repairs: Sequence[dict[str, Any]]) -> list[str]:
    """A name for each defense: its method, and where the same one was used again, what was set differently, or on what file."""
    titles = []
    for metrics in repairs:
        same = [_set(other) for other in repairs if other["method"] == metrics["method"]]
        own = _set(metrics)
        differs = [key for key in own if any(other.get(key) != own[key] for other in same)]
        changed = ", ".join(f"{key.replace('_', ' ')} {_spelled(own[key])}" for key in differs)
        titles.append(f"{metrics['method']}, {changed}" if changed else metrics["method"])
    return titles


def _set(metrics: dict[str, Any]) -> dict[str, Any]:
    return {**metrics.get("settings", {}), "on": PurePath(metrics["model"]).name}


def _spelled(value: Any) -> str:
    value = [] if value is None else value
    return ", ".join(f"{one:g}" for one in value) or "none" if isinstance(value, list) else str(value)


def _rows(network: str, scores: words.Scores, expect: Optional[Sequence[float]] = None) -> list[dict[str, Any]]:
    """Rows of the table of rates: one a trigger, or one without."""
    targets = f"target's own {'left out' if scores['exclude_target'] else 'counted'}"
    clean = f"{scores['n_clean']:,} clean"
    row = {"network": network, "trigger": "–", "clean": scores["clean_accuracy"], "attack": None, "robust": None}
    row |= {"expect": [expect[0], None] if expect else None, "measured": clean}
    triggered = [
        {
            **row,
            "trigger": name,
            "attack": rate,
            "robust": scores["robust_accuracy"].get(name),
            "expect": [expect[0], expect[min(i, len(expect) - 1)]] if expect else None,
            "measured": f"{clean}, {scores['n_poisoned'][name]:,} triggered; {targets}",
        }
        for i, (name, rate) in enumerate(scores["attack_success_rate"].items(), 1)
    ]
    return triggered or [row]


def _repair(run: RunFolder, title: str, album: Album, alone: bool) -> dict[str, Any]:
    """What the page says of one defense."""
    metrics, kept = run.metrics, run.kept
    before, after, goodnet = metrics["before"], metrics["after"], metrics.get("goodnet")
    examples, activations = run.arrays("examples.npz", EXAMPLES), run.activations()
    inspection, captions = read_inspection(run), {}
    if sifting := read_sifting(run):
        sentences = about_sifting(sifting)
    elif judgement := read_judgement(run):
        sentences = about_judgement(judgement)
    elif strengths := read_strengths(run):
        sentences = about_strengths(strengths)
    elif inspection:
        found = read_found(run, inspection)
        sentences = verdict_words.about_verdict(inspection, found)
        captions["pictures"] = verdict_words.about_pictures(inspection, bool(read_truths(run, inspection, found)))
        captions["search"] = verdict_words.about_search(inspection)
    elif "filter" in metrics:
        sentences = defense_words.about_filter(before, metrics["filter"])
    elif run.breaks:
        sentences = defense_words.about_broken(before, after)
    else:
        sentences = words.about_repair(before, after)
    if not (run.inspects or run.sifts) and not before["attack_success_rate"]:
        sentences = [*sentences, "No triggered images were given, so what it does to the backdoor was not measured."]
    network = "broken copy" if run.breaks else "repaired network"
    return {
        "run": run,
        "title": title,
        "network": network,
        "sentences": sentences,
        **captions,
        "steps": [{**step, "name": defense_words.step_name(step)} for step in kept],
        "rounds": about_rounds(metrics.get("steps", [])),
        "noise": any("gamma" in step for step in metrics.get("steps", [])),
        "passed": len(metrics.get("steps", [])) - len(kept),
        "goodnet": words.about_goodnet(before, goodnet) if goodnet else None,
        # Where a GoodNet flags agreement, its answers do not tell which of them are the flag.
        "examples": example_cards(examples, network, None if run.breaks else "GoodNet") if examples else None,
        "activations": activations
        and {"layer": activations[0], "sentences": defense_words.about_activations(*activations[1])},
        "figures": _added(run, defense_figures(run), album, alone),
    }


def _curves(rows: Sequence[dict[str, str]]) -> dict[str, Figure]:
    """The training curves of a history, none if it is empty."""
    if not rows:
        return {}
    epochs: dict[str, int] = {}
    for row in rows:
        epochs[row["stage"]] = epochs.get(row["stage"], 0) + 1
    stages = list(epochs.items())

    def column(name: str) -> list[float]:
        return [float(row.get(name) or "nan") for row in rows]

    prefix = "attack_success_rate/"
    attack = {name[len(prefix) :]: column(name) for name in rows[0] if name.startswith(prefix)}
    return {
        "loss": figures.loss_curve(stages, column("loss")),
        "rates": figures.rate_curves(stages, (column("clean_accuracy"), attack)),
    }
