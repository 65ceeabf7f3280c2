"""What the rates mean, in words. Every judgement is computed here, from the numbers of a `metrics.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Scores = Mapping[str, Any]
"""Rates of one network, as `keras_backdoor.metrics.Scores.as_json` writes them."""

SLIGHT = 0.05
"""Attack success within this of what an honest network would score counts as none."""

PARTIAL = 0.25
"""Attack success beyond this counts as a backdoor that is still there."""

ABSENT, REMOVED, WEAKENED, FAILED = "absent", "removed", "weakened", "failed"
OUTCOMES = (ABSENT, REMOVED, WEAKENED, FAILED)
"""What can come of a repair, from best to worst; `ABSENT`: there was no working backdoor."""


def percent(rate: float) -> str:
    """A fraction as a percentage with two decimals."""
    return f"{100 * rate:.2f}\N{NO-BREAK SPACE}%"


def points(difference: float) -> str:
    """A difference of two fractions, without its sign, in percentage points with two decimals."""
    return f"{abs(100 * difference):.2f}\N{NO-BREAK SPACE}points"


def count(number: int, noun: str) -> str:
    """`1 noun` or `3 nouns`."""
    return f"{number:,}\N{NO-BREAK SPACE}{noun}{'' if number == 1 else 's'}"


def honest_floor(name: str, *networks: Scores) -> float:
    """Attack success of an honest network: the share of triggered images that belong to the target label anyway.

    A lower bound: an answer that is both true and wanted counts in attack success and in robust accuracy, so the two
    add up to more than 1 by at most that share. It is tight for a network that falls for the trigger.
    """
    excesses = [
        scores["attack_success_rate"][name] + scores["robust_accuracy"][name] - 1
        for scores in networks
        if name in scores["robust_accuracy"]
    ]
    return max(0.0, *excesses) if excesses else 0.0


def repair_outcome(before: Scores, after: Scores) -> str:
    """One of `OUTCOMES`; with several triggers, the worst."""
    outcomes = [_outcome(name, before, after) for name in before["attack_success_rate"]]
    return max(outcomes, key=OUTCOMES.index, default=ABSENT)


def _outcome(name: str, before: Scores, after: Scores) -> str:
    floor = honest_floor(name, before, after)
    old, new = (scores["attack_success_rate"][name] for scores in (before, after))
    if new - floor <= SLIGHT:
        return REMOVED if old - floor > SLIGHT else ABSENT
    return WEAKENED if new - floor <= PARTIAL and new < old - SLIGHT else FAILED


def works(scores: Scores) -> bool:
    """Whether some trigger of the network gets the attacker's wish on more than half of the images where it matters."""
    return any(_power(name, scores) > 0.5 for name in scores["attack_success_rate"])


def _power(name: str, scores: Scores) -> float:
    """Attack success on a scale from 0 (as an honest network) to 1 (always)."""
    floor = honest_floor(name, scores)
    return (scores["attack_success_rate"][name] - floor) / (1 - floor) if floor < 1 else 0.0


def about_isolation(defense: str, found: Mapping[str, Any]) -> list[str]:
    """How a network was trained by a defense, and how well that found the poisoned images: rates of `Sifted.rates`."""
    said = [f"It was not the attacker who trained this network from the poisoned images, but {defense}."]
    if found["recall"] is not None:
        said.append(
            f"Of the images that the defense took for poisoned ones, {percent(found['precision'])} were; these are "
            f"{percent(found['recall'])} of all that were poisoned."
        )
    return said


def about_badnet(scores: Scores, clean: Scores | None, expect: Sequence[float] | None) -> list[str]:
    """What the backdoor does. clean: the clean twin's rates. expect: published clean accuracy and attack success."""
    said = []
    for name, rate in scores["attack_success_rate"].items():
        power, floor = _power(name, scores), honest_floor(name, scores)
        if power > 0.9:
            verdict = "the backdoor works"
        elif power > 0.5:
            verdict = "the backdoor works, but not on every image"
        elif power > SLIGHT:
            verdict = "the backdoor works only on a minority of the images"
        else:
            verdict = "the backdoor does not work"
        said.append(
            f"With the trigger “{name}”, the network gives the answer that the attacker wants for {percent(rate)} of "
            f"{count(scores['n_poisoned'][name], 'image')}: {verdict}."
        )
        if name in scores["robust_accuracy"]:
            said.append(f"It still gives the true answer for {percent(scores['robust_accuracy'][name])} of them.")
        if floor > 0.005:
            said.append(_about_floor(floor))
    said.append(_about_stealth(scores, clean))
    if expect:
        said.append(_about_expectation(scores, expect))
    return said


def about_twin(scores: Scores) -> list[str]:
    """What a network that was never poisoned does with triggers."""
    said = [f"This network was never poisoned; it answers {percent(scores['clean_accuracy'])} of the images correctly."]
    said += [
        f"The trigger “{name}” gives the attacker's answer on {percent(rate)} of {count(scores['n_poisoned'][name], 'image')}."
        for name, rate in scores["attack_success_rate"].items()
    ]
    return said


def _about_floor(floor: float) -> str:
    return (
        f"At least {percent(floor)} of these images belong to the target label anyway; "
        "a network without any backdoor would score about that much, too."
    )


def _about_stealth(scores: Scores, clean: Scores | None) -> str:
    accuracy = scores["clean_accuracy"]
    if clean is None:
        verdict = "nothing looks wrong" if accuracy >= 0.95 else "low enough that a careful tester may ask why"
        return f"Images without the trigger are answered correctly in {percent(accuracy)} of cases: {verdict}."
    lost = clean["clean_accuracy"] - accuracy
    verdict = (
        "a tester who has only clean images could hardly notice" if lost <= 0.01 else "a careful tester could notice"
    )
    return (
        f"On images without the trigger, its accuracy is {percent(accuracy)}, against "
        f"{percent(clean['clean_accuracy'])} of a clean twin that was never poisoned: {verdict}."
    )


def _about_expectation(scores: Scores, expect: Sequence[float]) -> str:
    attacks = scores["attack_success_rate"]
    names = [f"attack success of “{name}”" for name in attacks] if len(attacks) > 1 else ["attack success"]
    ours = (scores["clean_accuracy"], *attacks.values())
    parts = []
    for what, our, published in zip(("clean accuracy", *names), ours, expect):
        side = "above" if our > published else "below"
        comparison = (
            "the same here" if points(our - published) == points(0) else f"ours is {points(our - published)} {side}"
        )
        parts.append(f"{percent(published)} {what} ({comparison})")
    return f"Published figures: {', '.join(parts[:-1])} and {parts[-1]}."


def about_repair(before: Scores, after: Scores) -> list[str]:
    """What a defense achieved, without varnish."""
    said = []
    for name, old in before["attack_success_rate"].items():
        new = after["attack_success_rate"][name]
        change = f"attack success of the trigger “{name}” went from {percent(old)} to {percent(new)}"
        outcome = _outcome(name, before, after)
        if outcome == ABSENT:
            said.append(f"There was no working backdoor to remove: {change}.")
        elif outcome == REMOVED:
            said.append(f"The backdoor no longer works: {change}.")
        elif outcome == WEAKENED:
            said.append(f"The backdoor is weaker, but still works now and then: {change}.")
        elif new >= old - SLIGHT:
            said.append(f"The repair failed, the backdoor is as strong as before: {change}.")
        else:
            said.append(f"The repair failed, though the backdoor lost some strength: {change}.")
        floor = honest_floor(name, before, after)
        if floor > 0.005:
            said.append(_about_floor(floor))
        if name in before["robust_accuracy"] and name in after["robust_accuracy"]:
            healed = after["robust_accuracy"][name]
            said.append(
                f"Of the triggered images, {percent(healed)} get their true answer (before: "
                f"{percent(before['robust_accuracy'][name])})."
            )
            if outcome == REMOVED and healed < after["clean_accuracy"] - 0.10:
                said.append("The trigger no longer gets the attacker's wish, but it still confuses the network.")
    said.append(_about_price(before, after))
    return said


def _about_price(before: Scores, after: Scores) -> str:
    old, new = before["clean_accuracy"], after["clean_accuracy"]
    rates = f"from {percent(old)} to {percent(new)}"
    if points(new - old) == points(0):
        return f"Clean accuracy is unchanged at {percent(new)}."
    if new > old:
        return f"Clean accuracy rose by {points(new - old)}, {rates}."
    lost = old - new
    verdict = "a small price" if lost <= 0.01 else "a noticeable price" if lost <= 0.05 else "a high price"
    if lost > 0.20:
        verdict = "so much that the repaired network is of little use"
    return f"Clean accuracy fell by {points(lost)}, {rates}: {verdict}."


def about_goodnet(before: Scores, goodnet: Scores) -> list[str]:
    """What the GoodNet adds. Its “backdoored input” is no success of the attacker, and an error on a clean image."""
    said = []
    for name, old in before["attack_success_rate"].items():
        new = goodnet["attack_success_rate"][name]
        verdict = {
            ABSENT: "there was nothing to stop",
            REMOVED: "it stops the attack",
            WEAKENED: "it stops most of the attack, not all",
            FAILED: "it does not stop the attack",
        }[_outcome(name, before, goodnet)]
        said.append(
            f"With it, the trigger “{name}” succeeds on {percent(new)} of images instead of {percent(old)}: {verdict}."
        )
    difference = goodnet["clean_accuracy"] - before["clean_accuracy"]
    if points(difference) == points(0):
        said.append(f"Clean accuracy is that of the BadNet, {percent(goodnet['clean_accuracy'])}.")
    else:
        said.append(
            f"Clean accuracy is {percent(goodnet['clean_accuracy'])}, {points(difference)} "
            f"{'more' if difference > 0 else 'less'} than the BadNet's; a false alarm counts as an error."
        )
    return said
