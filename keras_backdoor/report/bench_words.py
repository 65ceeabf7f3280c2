"""What a bench says, in words: how often defenses removed backdoors, and how often detectors were right."""

from __future__ import annotations

from collections.abc import Sequence

from keras_backdoor.report import words
from keras_backdoor.report.bench import NONE, Bench, BenchRow

MOST_NAMED = 4


def in_short(bench: Bench) -> str:
    """The bench in a few sentences."""
    networks = {(row.network, row.data): row.innocent for row in bench.rows}
    innocent = sum(networks.values())
    defenses = {row.defense for row in bench.rows} - {NONE}
    kinds = [words.count(len(networks) - innocent, "BadNet")]
    kinds += [words.count(innocent, "innocent network")] if innocent else []
    said = [f"{' and '.join(kinds)} met {words.count(len(defenses), 'defense')}."]
    if failed := sum(len(row.failed) for row in bench.rows):
        said.append(f"{words.count(failed, 'cell')} failed, for the reasons in the table.")
    return " ".join([*said, *_repairs(bench), *_detectors([row for row in bench.rows if row.seeds])])


def outcome(row: BenchRow) -> str:
    """What came of a repair, or of a filter: one of `words.OUTCOMES`; with several triggers, the worst."""
    before, after = (
        {
            "attack_success_rate": {name: row.value(f"attack_success{suffix}", name) for name in row.triggers},
            "robust_accuracy": {
                name: row.value("robust_accuracy", name) for name in row.by_trigger.get("robust_accuracy", {})
            },
        }
        for suffix in ("_before", "")
    )
    return words.repair_outcome({**before, "robust_accuracy": {}}, after)


def _repairs(bench: Bench) -> list[str]:
    removed: dict[str, list[bool]] = {}
    helped, attacked = 0, 0
    for rows in bench.of_network().values():
        own = {row.defense: outcome(row) for row in rows if row.repairs and not row.innocent}
        met = [name for name, result in own.items() if result != words.ABSENT]
        for name in met:
            removed.setdefault(name, []).append(own[name] == words.REMOVED)
        attacked += bool(met)
        helped += any(own[name] == words.REMOVED for name in met)
    if not attacked:
        return []
    said = [
        f"At least one defense removed the backdoor of {helped} of {words.count(attacked, 'BadNet')} whose backdoor works"
    ]
    best = sorted((name for name in removed if any(removed[name])), key=lambda name: -sum(removed[name]))[:MOST_NAMED]
    named = ", ".join(f"{name} ({sum(removed[name])} of {len(removed[name])})" for name in best)
    return [said[0] + (f"; most often: {named}." if named else ".")]


def _detectors(rows: Sequence[BenchRow]) -> list[str]:
    said = []
    for innocent, what in ((False, "the BadNet"), (True, "an innocent network")):
        verdicts = [row.values["backdoored"] for row in rows if row.innocent is innocent and "backdoored" in row.values]
        flags = [flag for own in verdicts for flag in own]
        if flags:
            said.append(f"{what} in {sum(map(bool, flags))} of {words.count(len(flags), 'scan')}")
    false = ", which are false alarms" if said and "innocent" in said[-1] else ""
    return [f"Detectors flagged {', and '.join(said)}{false}."] if said else []
