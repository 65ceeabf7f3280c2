"""What commands print: progress and notices on stderr, results on stdout."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from typing import Any, Optional

import click

from keras_backdoor.distribution import is_chief
from keras_backdoor.files import printable
from keras_backdoor.progress import Progress, silent

PLAIN = ("loss", "norm", "learning_rate", "discriminator", "adversarial", "cycle", "identity")
"""What the names of figures of progress begin with that are no rates."""
MOST_COLUMNS = 8
"""Of a table of steps; where more is told of each, they stand side by side, in columns."""

MOST_CLASSES = 10
"""Of a training set, of which is told how many of their images are flagged."""


def notice(text: str) -> None:
    """A line for people, on stderr."""
    click.echo(text, err=True)


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    click.echo(json.dumps(value))


def command_line() -> str:
    """What was typed, as a shell would take it again."""
    return shlex.join(["kbd", *sys.argv[1:]])


def percent(rate: float) -> str:
    """A fraction as people read it."""
    return f"{100 * rate:.2f} %"


def table(columns: list[str], rows: Iterable[tuple[str, ...]]) -> None:
    """Rows of text as a table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False).print(table)


def rates_table(columns: Mapping[str, Mapping[str, Any]]) -> None:
    """Rates by name of the network (before, after …), each as `Scores.as_json` gives them, as a table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("images", justify="right")
    first = next(iter(columns.values()))
    rows: list[tuple[str, Optional[str], int]] = [("clean accuracy", None, first["n_clean"])]
    rows += [("attack success rate", name, n) for name, n in first["n_poisoned"].items()]
    rows += [("robust accuracy", name, first["n_poisoned"][name]) for name in first["robust_accuracy"]]
    for title, name, count in rows:
        key = title.replace(" ", "_")
        rates = [scores[key] if name is None else scores[key][name] for scores in columns.values()]
        table.add_row(title if name is None else f"{title}, {name}", *map(percent, rates), str(count))
    console = Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False)
    console.print(table)
    if first["n_poisoned"]:
        kept = "left out" if first["exclude_target"] else "included"
        console.print(
            f"(attack success: images whose true label is the target already are {kept})", style="dim", highlight=False
        )


def steps_table(steps: list[dict[str, Any]]) -> None:
    """What several networks of one defense reach, as tables on stdout: one row each; nothing for a single one.

    A table has networks that follow each other and of which the same is told.
    """
    if len(steps) < 2:
        return
    for done, rows in groupby(steps, lambda step: [key for key in step if key not in ("name", "after", "goodnet")]):
        _steps_table(done, list(rows))


def _steps_table(done: list[str], steps: list[dict[str, Any]]) -> None:
    names = list(steps[0]["after"]["attack_success_rate"])
    columns = [key.replace("_", " ") for key in done]
    for network in ("repaired", "GoodNet"):
        columns += [f"{network}: clean accuracy", *(f"{network}: attack success, {name}" for name in names)]

    def rates(scores: Optional[Mapping[str, Any]]) -> list[str]:
        if scores is None:
            return ["", *("" for _ in names)]
        return [percent(scores["clean_accuracy"]), *(percent(scores["attack_success_rate"][name]) for name in names)]

    lines = [tuple(columns)]
    lines += [(*(f"{step[key]:g}" for key in done), *rates(step["after"]), *rates(step["goodnet"])) for step in steps]
    first, *rows = zip(*lines) if len(done) > MOST_COLUMNS else lines
    table(list(first), rows)


def filter_table(rates: Mapping[str, Any]) -> None:
    """How well a filter tells triggered from clean inputs, as a table on stdout."""
    rejected = percent(rates["false_rejection_rate"])
    click.echo(f"threshold {rates['threshold']:.4g}: flags {rejected} of clean inputs (false rejection rate)")
    if not rates["false_rejection_rate"] and all(rate == 1 for rate in rates["false_acceptance_rate"].values()):
        notice("every score lies above the threshold, so nothing is flagged")
    rows = [(name, percent(rate), f"{rates['auc'][name]:.4f}") for name, rate in rates["false_acceptance_rate"].items()]
    if rows:
        table(["triggered inputs", "false acceptance rate", "AUC"], rows)


def sifted_table(told: Mapping[str, Any]) -> None:
    """Which images of a training set are flagged: how many, how well, and of which classes most of them, on stdout."""
    share = percent(told["flagged"] / told["images"])
    click.echo(f"flags {told['flagged']} of {told['images']} training images ({share}); {told['judged']} were judged")
    if told["poisoned"] is None:
        notice("the file does not know the labels before poisoning (true_label), so how well that is is not known")
    else:
        click.echo(f"{told['poisoned']} images have another label than their true one")
        rates = {name: told[name] for name in ("recall", "precision", "false_flags")}
        table([name.replace("_", " ") for name in rates], [tuple(map(_rate_or_dash, rates.values()))])
    images, flagged, *others = told["by_class"].values()
    worst = sorted(range(len(images)), key=lambda label: -flagged[label] / max(1, images[label]))
    rows = [
        (str(label), str(images[label]), str(flagged[label]), *(_or_dash(figures[label]) for figures in others))
        for label in worst[:MOST_CLASSES]
        if flagged[label]
    ]
    if rows:
        table(["class", *told["by_class"]], rows)


def verdict_table(verdict: Mapping[str, Any]) -> None:
    """What a scan of the network says, and its smallest or strongest triggers, on stdout; or what was said of it as a whole."""
    if "innocent" in verdict:
        _judgement(verdict)
        return
    if "strengths" in verdict:
        _strengths(verdict)
        return
    flagged = ", ".join(map(str, verdict["labels"]))
    score = "" if verdict["score"] is None else f"; anomaly index {verdict['score']:.2f}"
    click.echo((f"backdoored: label {flagged} has a short cut" if flagged else "no label stands out") + score)
    norms = sorted(zip(verdict["norms"], verdict["examined"]))[:5]
    table(["label", "norm of its smallest trigger"], [(str(label), f"{norm:.2f}") for norm, label in norms])
    examined, drawn, num_classes = len(verdict["examined"]), len(verdict["background"]), verdict["num_classes"]
    scope = f"{examined} labels examined"
    if drawn < examined or 1 < examined < num_classes:
        scope = f"{examined} of {num_classes} labels examined to the end; of the {drawn} drawn at random"
    click.echo(f"({scope}: median {verdict['median']:.2f}, MAD {verdict['mad']:.2f})")
    rows = [
        (
            printable(one["trigger"], 60),
            *(_or_dash(one[key]) for key in ("label", "overlap", "common", "reversed_size", "true_size")),
        )
        for one in verdict.get("true_triggers", [])
    ]
    if rows:
        table(["true trigger", "label", "overlap (IoU)", "common pixels", "found", "true"], rows)


def _strengths(verdict: Mapping[str, Any]) -> None:
    flagged = ", ".join(map(str, verdict["labels"]))
    bound = f"more than {percent(verdict['bound'])} of the images"
    click.echo(
        f"backdoored: a trigger was found that turns {bound} into label {flagged}"
        if flagged
        else f"no trigger was found that turns {bound} into one label"
    )
    strongest = sorted(zip(verdict["strengths"], verdict["examined"]), key=lambda row: (-row[0], row[1]))[:5]
    if strongest:
        table(["label", "images that its trigger turns"], [(str(label), percent(share)) for share, label in strongest])
    click.echo(f"({len(verdict['examined'])} of {verdict['num_classes']} labels examined)")


def _judgement(verdict: Mapping[str, Any]) -> None:
    from keras_backdoor.report.judgement import UNSURE

    innocent, trojaned, score = verdict["innocent"], verdict["trojaned"], verdict["score"]
    if not trojaned:
        said = "stands apart from innocent networks" if verdict["backdoored"] else "looks like innocent networks"
        click.echo(f"the network {said}: score {score:.2f}, above that of {percent(verdict['probability'])} of them")
    else:
        low, high = UNSURE
        unsure = low < verdict["probability"] < high
        said = "does not know" if unsure else "backdoored" if verdict["backdoored"] else "no sign of a backdoor"
        click.echo(
            f"{said}: {percent(verdict['probability'])} (score {score:.2f}); about 50 % means that it does not know"
        )
    rows = [
        (kind, str(len(scores)), f"{min(scores):.2f} … {max(scores):.2f}", str(sum(one > score for one in scores)))
        for kind, scores in (("innocent", innocent), ("trojaned", trojaned))
        if scores
    ]
    table(["networks held out", "number", "scores", "more suspect than this one"], rows)
    if verdict["auc"] is not None:
        click.echo(f"AUC {verdict['auc']:.3f} on these: 0.5 is chance")


def _rate_or_dash(rate: Optional[float]) -> str:
    return "–" if rate is None else percent(rate)


def _or_dash(value: Optional[float]) -> str:
    return "–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


@contextmanager
def progress_display() -> Iterator[Progress]:
    """A progress callback: a moving bar on a terminal, a plain line a step elsewhere; silent for workers behind the first."""
    if not is_chief():
        yield silent
    elif sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _line


def _figures(values: Mapping[str, float]) -> str:
    def show(name: str, value: float) -> str:
        if isinstance(value, int):
            return f"{name.replace('_', ' ')} {value:,}"
        return f"{name.replace('_', ' ')} {f'{value:.4f}' if name.startswith(PLAIN) else percent(value)}"

    return ", ".join(show(name, value) for name, value in values.items() if name != "accuracy")


def _line(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
    notice(f"{stage} {done}/{total}" + (f": {_figures(values)}" if values else ""))


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, figures="")
            bars.update(tasks[stage], completed=done, total=total, figures=_figures(values))

        yield report
