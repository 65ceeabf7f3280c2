"""The table as CSV and JSON, for programs, from the rows of the results and the published figures; `prose` has it for people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any, Optional

from keras_backdoor.benchmark.published import Published, counts, figures_for
from keras_backdoor.benchmark.results import BY_TRIGGER, SCALARS, Row, read_records, rows
from keras_backdoor.files import BadInput, PathLike, read_json, write_text
from keras_backdoor.pareto import pareto_front

STEM = "table"
Marked = tuple[Row, list[str]]
"""A row, and the triggers for which it is on the Pareto front of its network."""


def write_tables(folder: PathLike) -> list[Marked]:
    """Write `table.csv`, `.json`, `.md` and `.tex` of what cells there are in a bench folder; gives the rows.

    Raises `BadInput` if there are none, or a file is no record.
    """
    from keras_backdoor.benchmark.prose import as_latex, as_markdown

    found = marked(rows(read_records(folder)))
    for suffix, write in (("csv", as_csv), ("json", as_json), ("md", as_markdown), ("tex", as_latex)):
        write_text(Path(folder) / f"{STEM}.{suffix}", write(found))
    return found


def as_csv(found: Sequence[Marked]) -> str:
    """One line a row and trigger. Rates are fractions; of several seeds the mean, and `…_deviation`; empty where none is."""
    lines = []
    for row, front in found:
        for place, trigger in enumerate(row.triggers or [""]):
            line = {
                name: getattr(row, name)
                for name in ("recipe", "dataset", "miniature", "epochs", "limit", "innocent", "defense")
            }
            line |= {
                "settings": json.dumps(row.settings),
                "seeds": len(row.seeds),
                "failed": len(row.failed),
                "trigger": trigger,
            }
            for names, own in ((SCALARS, None), (BY_TRIGGER, trigger)):
                for name in names:
                    line |= {name: row.mean(name, own), f"{name}_deviation": row.deviation(name, own)}
            line |= {"pareto": trigger in front, "reasons": "; ".join(row.failed.values())}
            for entry in published_beside(row)[-1:]:  # of the papers here, the later one
                line |= {"published": entry.source, "published_clean_accuracy": entry.clean_accuracy}
                line["published_attack_success"] = dict(enumerate(entry.attack_success)).get(place)
            lines.append(line)
    columns = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def as_json(found: Sequence[Marked]) -> str:
    """What `told` gives."""
    return json.dumps(told(found), indent=2) + "\n"


def told(found: Sequence[Marked]) -> list[dict[str, Any]]:
    """Everything of every row, the figures of each seed, and what is published, with the `difference`, as JSON has it."""
    rows_told = []
    for row, front in found:
        beside = [{**asdict(entry), "difference": difference(row, entry)} for entry in published_beside(row)]
        rows_told.append({**asdict(row), "pareto": front, "published": beside})
    return rows_told


def read_told(path: PathLike) -> list[Marked]:
    """The rows of a `table.json`; `BadInput` if it is none."""
    found = read_json(path)
    try:
        return [_read_row(one) for one in found]
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise BadInput(f"{path}: is not the table.json of kbd bench ({error})") from None


def _read_row(one: dict[str, Any]) -> Marked:
    known = {part.name: one[part.name] for part in fields(Row)}
    return Row(**{**known, "failed": {int(seed): reason for seed, reason in known["failed"].items()}}), one["pareto"]


def published_beside(row: Row) -> list[Published]:
    """What the papers print for a row; nothing for innocent networks."""
    return [] if row.innocent else figures_for(row.recipe, row.defense)


def difference(row: Row, entry: Published) -> dict[str, Any]:
    """Here less published: `clean_accuracy`, and by trigger `attack_success` and `false_acceptance`; None where one is not."""

    def less(own: Optional[float], other: Optional[float]) -> Optional[float]:
        return None if own is None or other is None else own - other

    def each(figure: str, values: Sequence[Optional[float]]) -> list[Optional[float]]:
        return [less(row.mean(figure, trigger), value) for trigger, value in zip(row.triggers, values)]

    return {
        "clean_accuracy": less(row.mean("clean_accuracy"), entry.clean_accuracy),
        "attack_success": each("attack_success", entry.attack_success),
        "false_acceptance": each("false_acceptance_rate", entry.false_acceptance),
    }


def marked(found: Sequence[Row]) -> list[Marked]:
    """Each row with the triggers for which `pareto_front` has it among the rows of the same network."""
    result: list[Marked] = [(row, []) for row in found]
    for _, own in by_network(result):
        rivals = [
            (row, front) for row, front in own if counts(row.defense, row.oracle) and "effectiveness" in row.by_trigger
        ]
        for trigger in rivals[0][0].triggers if rivals and not rivals[0][0].innocent else ():
            accuracy = [fmean(row.values["clean_accuracy"]) for row, _ in rivals]
            success = [fmean(row.by_trigger["attack_success"][trigger]) for row, _ in rivals]
            for (_, front), best in zip(rivals, pareto_front(accuracy, success)):
                front += [trigger] if best else []
    return result


def network(row: Row) -> str:
    """What the row's network is called."""
    images = ("miniature data" if row.miniature else row.dataset) + (f", {row.limit} a class" if row.limit else "")
    return f"{row.recipe}{', innocent' if row.innocent else ''} ({images}, {row.epochs} epochs)"


def by_network(found: Iterable[Marked]) -> list[tuple[str, list[Marked]]]:
    """The rows of each network."""
    return [(name, list(own)) for name, own in groupby(found, lambda pair: network(pair[0]))]
