"""More words: on filters of inputs, on networks that are broken on purpose, on channels, and the whole page in short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_backdoor.report.inspection import Inspection
from keras_backdoor.report.verdict_words import scans_in_short
from keras_backdoor.report.words import (
    ABSENT,
    FAILED,
    REMOVED,
    SLIGHT,
    WEAKENED,
    Scores,
    count,
    honest_floor,
    percent,
    points,
    repair_outcome,
    works,
)

Filter = Mapping[str, Any]
"""The part `filter` of a `metrics.json`."""

STOPS, FAILS = 0.20, 0.80
"""Share of triggered inputs that get through, up to which a filter stops the attack, and from which on it fails."""

MANY = 0.10
"""Share of clean inputs that are stopped, beyond which these are many."""

NOTHING, STOPPED, PARTLY, OPEN = "nothing to stop", "stopped", "partly", "open"
OUTCOMES = (NOTHING, STOPPED, PARTLY, OPEN)
"""What can come of a filter, from best to worst; `NOTHING`: there was no working backdoor."""


def filter_outcome(before: Scores, rates: Filter) -> str:
    """One of `OUTCOMES`; with several triggers, the worst."""
    outcomes = [_outcome(name, before, rates) for name in before["attack_success_rate"]]
    return max(outcomes, key=OUTCOMES.index, default=NOTHING)


def _outcome(name: str, before: Scores, rates: Filter) -> str:
    if before["attack_success_rate"][name] - honest_floor(name, before) <= SLIGHT:
        return NOTHING
    accepted = rates["false_acceptance_rate"][name]
    return STOPPED if accepted <= STOPS else OPEN if accepted >= FAILS else PARTLY


def about_filter(before: Scores, rates: Filter) -> list[str]:
    """What a filter stops and what it lets through, without varnish."""
    rejected = rates["false_rejection_rate"]
    alarm = "many false alarms" if rejected > MANY else "false alarms" if rejected else "no false alarm"
    said = [
        "This defense leaves the network as it is. It looks at each input, and stops those that seem to have a trigger.",
        f"Of {count(before['n_clean'], 'clean input')}, it stops {percent(rejected)}: {alarm}.",
    ]
    if not rejected and set(rates["false_acceptance_rate"].values()) == {1}:
        said.append(
            "Its threshold lies below all scores that were seen, so it stops nothing, however much the scores tell."
        )
    for name in before["attack_success_rate"]:
        accepted, outcome = rates["false_acceptance_rate"][name], _outcome(name, before, rates)
        verdict = {
            NOTHING: "but this trigger has no working backdoor, so there is nothing to stop",
            STOPPED: "it stops the attack",
            PARTLY: "it stops a part of the attack, which is not enough",
            OPEN: "it fails",
        }[outcome]
        said.append(
            f"Of {count(before['n_poisoned'][name], 'input')} with the trigger “{name}”, {percent(accepted)} get through: "
            f"{verdict}. {_about_auc(rates['auc'][name])}"
        )
    return said


def _about_auc(auc: float) -> str:
    if auc >= 0.95:
        verdict = "the scores tell the two kinds apart well"
    elif auc >= 0.70:
        verdict = "the scores tell the two kinds apart to some degree"
    elif auc > 0.30:
        verdict = "the scores hardly tell the two kinds apart"
    else:
        verdict = "triggered inputs look less suspicious than clean ones"
    return f"AUC {auc:.3f}: {verdict}."


def about_broken(before: Scores, after: Scores) -> list[str]:
    """What a defense did that breaks the network on purpose, to compare it with the suspect."""
    said = [
        "This defense does not repair: it breaks the network on purpose, in the hope that the backdoor outlives the rest. "
        f"Clean accuracy of the broken copy is {percent(after['clean_accuracy'])}, instead of "
        f"{percent(before['clean_accuracy'])}."
    ]
    for name, old in before["attack_success_rate"].items():
        new = after["attack_success_rate"][name]
        verdict = "the backdoor lives on" if new > 0.5 * old else "the backdoor is broken, too"
        said.append(
            f"The trigger “{name}” succeeds on {percent(new)} of images with it, instead of {percent(old)}: {verdict}."
        )
    return said


MEASURED = (
    *("held_out_accuracy", "held_out_drop", "flip_share", "gan_epochs", "trigger_error", "treatment_rate"),
    *("seen", "quarantined", "duplicates", "dropped", "poisoned_caught", "clean_caught"),
)
"""What a step tells of what came of it, besides its rates and seconds; the rest of it is what was done."""


def step_name(step: Mapping[str, Any], channels: bool = True) -> str:
    """What a step of a defense is called: what was done to get its network. channels: whether to say how many were pruned."""
    said_elsewhere = ("name", "after", "goodnet", *MEASURED)
    done = {key: value for key, value in step.items() if key not in said_elsewhere and not key.startswith("seconds")}
    parts = [f"{key.replace('_', ' ')} {value:g}" for key, value in done.items() if key != "channels"]
    called = step["name"].replace("-", " ")
    if called and any(word not in " ".join(parts).split() for word in called.split()):
        parts.insert(0, called)
    if channels and "channels" in done:
        parts.append(f"{count(done['channels'], 'channel')} pruned")
    return ", ".join(parts) or "the result"


def about_activations(
    clean: np.ndarray, triggered: np.ndarray, clean_after: np.ndarray, triggered_after: np.ndarray, pruned: np.ndarray
) -> list[str]:
    """What the activation maps show; mean activations of the channels, all arrays (C,)."""
    number = int(pruned.sum()) or "None"
    said = [f"{number} of {count(len(pruned), 'channel')} {'was' if number == 1 else 'were'} pruned."]
    rise = triggered - clean
    leaders = np.argsort(-rise, kind="stable")[: max(1, len(rise) // 10)]
    leaders = leaders[rise[leaders] > 0]
    if len(leaders) == 0:
        return [*said, "The trigger raises no channel of this layer: the backdoor does not show here."]
    hit = int(pruned[leaders].sum())
    if pruned.any():
        said.append(f"Pruning took {hit} of the {count(len(leaders), 'channel')} that the trigger raises most.")
    old, new = np.abs(rise).mean(), np.abs(triggered_after - clean_after).mean()
    trend = "less" if new < 0.9 * old else "more" if new > 1.1 * old else "about the same"
    said.append(f"The trigger moved a channel by {old:.3g} on average before, and by {new:.3g} afterwards: {trend}.")
    return said


def in_short(
    badnets: Sequence[Scores],
    repairs: Sequence[tuple[Scores, Scores]],
    filters: Sequence[tuple[Scores, Filter]],
    inspections: Sequence[Inspection] = (),
    others: Sequence[str] = (),
) -> list[str]:
    """The whole page in a few sentences.

    badnets: one each. repairs: rates before and after, one pair a defense. filters: rates before, and of the filter.
    inspections: verdicts of scans. others: what is to be said of other defenses.
    """
    said = []
    measured = [(before, after) for before, after in repairs if before["attack_success_rate"]]
    filtered = [(before, rates) for before, rates in filters if before["attack_success_rate"]]
    unknown = len(repairs) - len(measured) + len(filters) - len(filtered)
    if badnets:
        said.append(f"The backdoor works in {sum(map(works, badnets))} of {count(len(badnets), 'BadNet')}.")
    if measured:
        outcomes = [repair_outcome(before, after) for before, after in measured]
        costly = sum(
            outcome == REMOVED and before["clean_accuracy"] - after["clean_accuracy"] > SLIGHT
            for outcome, (before, after) in zip(outcomes, measured)
        )
        price = f" ({costly} at the price of more than {points(SLIGHT)} of clean accuracy)" if costly else ""
        phrases = {
            REMOVED: f"removed the backdoor{price}",
            WEAKENED: "weakened the backdoor",
            FAILED: "failed",
            ABSENT: "had no working backdoor to remove",
        }
        said.append(f"Of {count(len(measured), 'repair')}, {_tally(outcomes, phrases)}.")
    if filtered:
        phrases = {
            STOPPED: "stopped the attack",
            PARTLY: "stopped only a part of the attack",
            OPEN: "failed",
            NOTHING: "had no working backdoor to stop",
        }
        outcomes = [filter_outcome(before, rates) for before, rates in filtered]
        said.append(f"Of {count(len(filtered), 'filter')} of inputs, {_tally(outcomes, phrases)}.")
    said += [*scans_in_short(inspections), *others]
    if unknown:
        said.append(f"Of {count(unknown, 'defense')}, no attack success was measured: no triggered images were given.")
    return said


def _tally(outcomes: Sequence[str], phrases: Mapping[str, str]) -> str:
    return ", ".join(f"{outcomes.count(outcome)} {phrases[outcome]}" for outcome in phrases if outcome in outcomes)
