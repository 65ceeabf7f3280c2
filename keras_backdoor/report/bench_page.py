"""What the page shows of a bench: its table, and figures of all networks together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from keras_backdoor.files import printable
from keras_backdoor.report import figures
from keras_backdoor.report.album import Album
from keras_backdoor.report.bench import NONE, Bench, BenchRow
from keras_backdoor.report.words import percent

FEWEST = 2
"""Defenses below which there is nothing to be weighed against each other."""


def bench_section(bench: Bench, album: Album) -> dict[str, Any]:
    """Rows of the table, one a network, defense and trigger, figures with their captions, and what it rests on."""
    section: dict[str, Any] = {
        "name": bench.folder.resolve().name,
        "rows": [told for row in bench.rows for told in _rows(row)],
        "filters": any("false_rejection_rate" in row.values for row in bench.rows),
        "scans": any("backdoored" in row.values for row in bench.rows),
        "trade_offs": _trade_offs(bench, album),
        "grid": _grid(bench, album),
        "reproduce": bench.record.get("reproduce", ""),
        "versions": bench.record.get("versions", {}),
    }
    album.take(section)
    return section


def _rows(row: BenchRow) -> list[dict[str, Any]]:
    """What the table says: one row a trigger, or one without."""
    shared = {
        "network": row.network,
        "data": row.data,
        "defense": "no defense" if row.defense == NONE else row.defense,
        "settings": _settings(row),
        "said": _said(row),
        "failed": bool(row.failed),
        "seconds": row.value("seconds"),
        "memory": row.value("peak_memory_mib"),
        "seeds": len(row.seeds),
    }
    return [
        {
            **shared,
            "trigger": trigger or "–",
            "best": trigger in row.pareto,
            "clean": _rate(row, "clean_accuracy", None, 0),
            "attack": _rate(row, "attack_success", trigger, place),
            "robust": _rate(row, "robust_accuracy", trigger, place),
            "effectiveness": row.value("effectiveness", trigger) if trigger else None,
        }
        for place, trigger in enumerate(row.triggers or [None])
    ]


def _rate(row: BenchRow, figure: str, trigger: Optional[str], place: int) -> dict[str, Any]:
    """A rate, its deviation over the seeds in words, and what is printed in the latest paper that has it."""
    told: dict[str, Any] = {"rate": row.value(figure, trigger), "notes": []}
    deviation = row.deviation(figure, trigger)
    if deviation is not None:
        told["notes"].append(f"± {percent(deviation)}")
    for entry in row.published[-1:]:
        printed, difference = entry.get(figure), entry["difference"].get(figure)
        if isinstance(printed, list):
            printed, difference = (dict(enumerate(part or [])).get(place) for part in (printed, difference))
        if printed is not None:
            apart = "" if difference is None else f" ({100 * difference:+.2f})"
            told["notes"].append(f"{_source(entry)}: {percent(printed)}{apart}")
    return told


def _source(entry: Mapping[str, Any]) -> str:
    """Short: the beginning of the paper's title, and the table."""
    table = str(entry["table"])
    title = str(entry["paper"]).partition(",")[0].partition(":")[0]
    return f"{title}, {'table ' if table[:1].isdigit() else ''}{table}"


def _settings(row: BenchRow) -> str:
    """The hyper-parameters that are not the default, and where they come from."""
    return "; ".join(
        f"{name.replace('_', ' ')} {printable(str(value), 60)} ({row.origins.get(name, '?')})"
        for name, value in row.settings.items()
    )


def _said(row: BenchRow) -> list[str]:
    """What a detector says, how a filter errs, and why cells failed."""
    said = []
    flagged = row.value("backdoored")
    if flagged is not None:
        verdict = "false alarm" if row.innocent else "backdoored"
        share = "" if flagged in (0, 1) else f" ({percent(flagged)} of seeds)"
        labels = f", label {', '.join(map(str, row.labels))}" if row.labels else ""
        said.append(f"{verdict}{share}{labels}" if flagged else "no backdoor found")
        if (score := row.value("score")) is not None:
            said.append(f"score {score:.2f}")
    if (stopped := row.value("false_rejection_rate")) is not None:
        said.append(f"FRR {percent(stopped)}")
    for name, rates in (("FAR", "false_acceptance_rate"), ("AUC", "auc")):
        means = [row.value(rates, trigger) for trigger in row.by_trigger.get(rates, {})]
        known = [percent(rate) if name == "FAR" else f"{rate:.3f}" for rate in means if rate is not None]
        said += [f"{name} {', '.join(known)}"] if known else []
    said += [
        f"{name.replace('_', ' ')} {percent(rate)}"
        for name in ("recall", "precision", "false_flags")
        if (rate := row.value(name)) is not None
    ]
    return [*said, *(f"failed with seed {seed}: {printable(reason)}" for seed, reason in row.failed.items())]


def _trade_offs(bench: Bench, album: Album) -> list[dict[str, str]]:
    """One figure for each attacked network and trigger: what each defense made of it."""
    drawn: list[dict[str, str]] = []
    for (network, data), rows in bench.of_network().items():
        rows = [row for row in rows if row.repairs and not row.innocent]
        for trigger in rows[0].triggers if len(rows) >= FEWEST else ():
            accuracy = [row.value("clean_accuracy") or 0.0 for row in rows]
            success = [row.value("attack_success", trigger) or 0.0 for row in rows]
            before = rows[0].value("clean_accuracy_before"), rows[0].value("attack_success_before", trigger)
            figure = figures.trade_off(
                [row.defense for row in rows],
                accuracy,
                success,
                front=[trigger in row.pareto for row in rows],
                before=None if None in before else before,  # type: ignore[arg-type]
            )
            best = ", ".join(row.defense for row in rows if trigger in row.pareto) or "none"
            name = f"trade-off-{len(drawn) + 1}"
            title = f"{network} ({data}), trigger {trigger}"
            alt = f"Clean accuracy against attack success on {title}, for {len(rows)} defenses. On the Pareto front: {best}."
            drawn.append(
                {"title": title, "alt": alt, "svg": album.add(f"{bench.folder.resolve().name}-{name}", figure)}
            )
    return drawn


def _grid(bench: Bench, album: Album) -> Optional[dict[str, str]]:
    """Rates of all attacked networks under all defenses; of several triggers, the one that succeeds most."""
    attacked = {
        network: rows
        for network, rows in bench.of_network().items()
        if any(row.repairs and not row.innocent for row in rows)
    }
    defenses = list(dict.fromkeys(row.defense for rows in attacked.values() for row in rows if row.repairs))
    if len(attacked) < FEWEST or len(defenses) < FEWEST:
        return None
    maps = {name: np.full((len(attacked), len(defenses)), np.nan) for name in ("attack success", "clean accuracy")}
    for place, rows in enumerate(attacked.values()):
        for row in rows:
            if row.repairs:
                cell = place, defenses.index(row.defense)
                rates = [
                    rate for rate in (row.value("attack_success", name) for name in row.triggers) if rate is not None
                ]
                maps["attack success"][cell] = max(rates, default=np.nan)
                maps["clean accuracy"][cell] = row.value("clean_accuracy")
    names = [network for network, _ in attacked]
    names = [f"{name} ({data})" if names.count(name) > 1 else name for name, data in attacked]
    alt = f"Attack success and clean accuracy of {len(names)} BadNets ({', '.join(names)}) under {len(defenses)} defenses."
    return {
        "alt": alt,
        "svg": album.add(f"{bench.folder.resolve().name}-grid", figures.grid_maps(names, defenses, maps)),
    }
