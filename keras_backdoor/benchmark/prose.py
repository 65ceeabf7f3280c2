"""The table for people: Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from keras_backdoor.benchmark.cells import NONE, RECIPE
from keras_backdoor.benchmark.published import Published
from keras_backdoor.benchmark.results import Row
from keras_backdoor.benchmark.tables import Marked, by_network, difference, network, published_beside
from keras_backdoor.files import printable

NOTES = (
    "Rates in percent, of test images, those of the target class included. CA: clean accuracy. ASR: attack success rate. RA: "
    "robust accuracy, the share of triggered images that get their true label. DER: defense effectiveness rating, 0.5 without "
    "effect, 1 at best. FRR, FAR: clean inputs that a filter stops, triggered ones that it lets pass; CA and ASR of a filter are "
    "those of the network behind it. {a, b}: one figure a trigger. a ± b: mean and standard deviation over the seeds.",
    "Bold: on the Pareto front of CA and ASR for this trigger, among the results here for the same network, as NNoculation's "
    "table 5 has it: without first stages (nnoculation-pre), networks that are broken on purpose (anti-repair), and defenses "
    "that are told the target (†). Difference: here less published, in points.",
    "Watching a stream (nnoculation) takes half of the test images; its rates, those before it included, are of the other half.",
)


def as_markdown(found: Sequence[Marked]) -> str:
    """All notes, a table with a column a network, as in the papers, and one with all figures for each network."""
    return "\n\n".join(["# Networks and defenses", *NOTES, tables_in_markdown(found)])


def tables_in_markdown(found: Sequence[Marked]) -> str:
    """The same without title and notes."""
    parts = ["## Side by side", _markdown(side_by_side(found))]
    for name, own in by_network(found):
        parts += [f"## {name}", _markdown(_grid(own))]
    failed = [
        f"* {network(row)}, {row.defense}, seed {seed}, {reason}"
        for row, _ in found
        for seed, reason in row.failed.items()
    ]
    return "\n\n".join([*parts, *(["## Failed and refused", "\n".join(failed)] if failed else [])]) + "\n"


def as_latex(found: Sequence[Marked]) -> str:
    """The same tables, each a `tabular` that needs no package."""
    return "\n\n".join(_latex(name, _grid(own)) for name, own in by_network(found)) + "\n"


def result(row: Row, front: Sequence[str] = ()) -> str:
    """The row in one cell of a table: "CA / ASR", what a detector says, or why there is nothing."""
    if not row.seeds:
        return next(iter(row.failed.values())).partition(":")[0]
    if row.defense == NONE or "effectiveness" in row.by_trigger:
        accepted = _points(row, "false_acceptance_rate")
        text = f"{_points(row, 'clean_accuracy', front[:1])} / {_points(row, 'attack_success', front)}"
        return f"{text} (FAR {accepted})" if accepted else text
    return _verdict(row) or _sifted(row)


def side_by_side(found: Sequence[Marked]) -> list[list[str]]:
    """Headings and rows of the table with a row a defense and a column a network."""
    networks, cells = by_network(found), dict[tuple[str, str], dict[str, str]]()
    for name, own in networks:
        for row, front in own:
            told_apart = _settings(row, without=RECIPE) + f" {row.version}"
            cells.setdefault((_method(row), told_apart), {})[name] = result(row, front)
    methods = [method for method, _ in cells]
    return [["defense", *(name for name, _ in networks)]] + [
        [method if methods.count(method) == 1 else f"{method}, {apart}", *(of.get(name, "") for name, _ in networks)]
        for (method, apart), of in cells.items()
    ]


def _grid(own: Sequence[Marked]) -> list[list[str]]:
    """Headings and rows of one network, without the columns that stay empty."""
    lines = []
    for row, front in own:
        beside = published_beside(row)
        lines.append(
            {
                "defense": _method(row),
                "settings": _settings(row),
                "CA": _points(row, "clean_accuracy", front[:1]),
                "ASR": _points(row, "attack_success", front),
                "RA": _points(row, "robust_accuracy"),
                "DER": _numbers(row, "effectiveness", 3),
                "FRR": _points(row, "false_rejection_rate"),
                "FAR": _points(row, "false_acceptance_rate"),
                "AUC": _numbers(row, "auc", 3),
                "verdict": _verdict(row) or _sifted(row),
                "score": _numbers(row, "score", 2),
                "seconds": _numbers(row, "seconds", 1),
                "peak MiB": _numbers(row, "peak_memory_mib", 0),
                "seeds": ", ".join(map(str, row.seeds)) + (f" ({len(row.failed)} failed)" if row.failed else ""),
                "published": "; ".join(f"{_printed(entry)} ({entry.source})" for entry in beside),
                "difference": "; ".join(filter(None, (_differs(difference(row, entry)) for entry in beside))),
            }
        )
    used = [name for name in lines[0] if any(line[name] for line in lines)]
    return [used, *([line[name] for name in used] for line in lines)]


def _method(row: Row) -> str:
    return row.defense + (" †" if row.oracle else "")


def _settings(row: Row, without: str = "") -> str:
    """Those that are not the default, and where they come from; without those that come from there."""
    return ", ".join(
        f"{name.replace('_', ' ')} {_spelled(value)} ({row.origins.get(name, '?')})"
        for name, value in row.settings.items()
        if row.origins.get(name) != without
    )


def _spelled(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _points(row: Row, figure: str, bold: Sequence[str] = ()) -> str:
    """A rate in percent; of each trigger, those of `bold` in bold. Of one that has no triggers, bold if anything is."""
    return _numbers(row, figure, 2, 100, bold)


def _numbers(row: Row, figure: str, digits: int, times: int = 1, bold: Sequence[str] = ()) -> str:
    def one(trigger: Optional[str]) -> str:
        average, deviation = row.mean(figure, trigger), row.deviation(figure, trigger)
        if average is None:
            return ""
        text = f"{times * average:.{digits}f}" + ("" if deviation is None else f" ± {times * deviation:.{digits}f}")
        return f"**{text}**" if bold and (trigger is None or trigger in bold) else text

    if figure in row.values:
        return one(None)
    texts = [one(trigger) for trigger in row.by_trigger.get(figure, {})]
    return texts[0] if len(texts) == 1 else f"{{{', '.join(texts)}}}" if texts else ""


def _verdict(row: Row) -> str:
    """What a detector says of the network; of an innocent one, whether that is a false alarm."""
    share = row.mean("backdoored")
    if share is None:
        return ""
    alarm = "false alarm" if row.innocent else "backdoored"
    said = alarm if share == 1 else "no backdoor" if share == 0 else f"{alarm}: {share:.0%} of seeds"
    return said + (f" (label {', '.join(map(str, row.labels))})" if row.labels else "")


def _sifted(row: Row) -> str:
    """How well a defense found the poisoned images of a training set."""
    names = {name: _points(row, name) for name in ("recall", "precision", "false_flags")}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in names.items() if value)


def _printed(entry: Published) -> str:
    if entry.outcome:
        return entry.outcome
    parts = [_several([entry.clean_accuracy])] if entry.clean_accuracy is not None else []
    parts += [_several(entry.attack_success)] if entry.attack_success else []
    text = " / ".join(parts) + (" †" if entry.oracle else "")
    if entry.false_acceptance:
        text = f"FAR {_several(entry.false_acceptance)} at FRR {_several([entry.false_rejection])}"
    return text if entry.probability is None else f"probability {_several([entry.probability])}"


def _several(values: Sequence[Optional[float]], sign: str = "") -> str:
    texts = ["–" if value is None else f"{100 * value:{sign}.2f}" for value in values]
    return texts[0] if len(texts) == 1 else f"{{{', '.join(texts)}}}"


def _differs(less: Mapping[str, Any]) -> str:
    parts = [_several([less["clean_accuracy"]], "+")] if less["clean_accuracy"] is not None else []
    parts += [
        _several(less[name], "+")
        for name in ("attack_success", "false_acceptance")
        if any(value is not None for value in less[name])
    ]
    return " / ".join(parts)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    heading, *rest = ["| " + " | ".join(printable(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([heading, "|" + " --- |" * len(lines[0]), *rest])


def _latex(name: str, lines: Sequence[Sequence[str]]) -> str:
    heading, *rest = [" & ".join(map(_escaped, line)) + r" \\" for line in lines]
    columns = "l" * len(lines[0])
    return "\n".join([f"% {name}", rf"\begin{{tabular}}{{{columns}}}", heading, r"\hline", *rest, r"\end{tabular}"])


def _escaped(text: str) -> str:
    text = re.sub(r"[&%$#_{}]", r"\\\g<0>", printable(text)).replace("±", r"$\pm$").replace("†", r"$\dagger$")
    return re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", text)
