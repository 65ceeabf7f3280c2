"""What a scan's verdict means, in words: what it says of a label, how much of that is chance, and what it cannot see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_backdoor.report.inspection import FoundTrigger, Inspection
from keras_backdoor.report.words import count, percent

UNLIKELY, POSSIBLE = 0.05, 0.20
"""How often an innocent network stands out as far: up to which chance is a poor explanation, or one among others."""

MOST_NAMED = 5

BLIND = (
    "It sees only a trigger that is small, that is the same on all images, and that turns images of all classes into one "
    "label. It can miss a backdoor that makes a different label of each class (all-to-all), or that concerns images of one "
    "class only; a trigger that is large or faint and covers the whole image (a blended picture, noise, a shift of colours); "
    "one that bends the image (a warp), or depends on it; and backdoors to so many labels that a small norm is nothing unusual."
)


def about_verdict(inspection: Inspection, found: Sequence[FoundTrigger]) -> list[str]:
    """What a scan says of the network, without varnish. found: triggers that it reversed, as far as they are known."""
    said = [
        "This defense leaves the network as it is. For each label, it looks for the smallest trigger that turns all images into "
        "that label; a backdoor is a short way to its target, so its trigger should be much smaller than the others. The norm "
        "says about how many pixels a trigger covers."
    ]
    if inspection.target is not None:
        said.append(
            f"Label {inspection.target} was named beforehand, and it alone was examined: its trigger has a norm of "
            f"{inspection.norms[0]:.1f}. There is nothing to compare that with, so this is no verdict on the network."
        )
    elif inspection.flagged.any():
        said += _about_flagged(inspection)
    else:
        said += _about_none(inspection)
    for trigger in found:
        if not trigger.works:
            said.append(
                f"For label {trigger.label}, no trigger was found that works well enough: the one shown turns "
                f"{percent(trigger.success)} of the images."
            )
    working = [f"{percent(trigger.success)} (label {trigger.label})" for trigger in found if trigger.works]
    if working and inspection.flagged.any():
        said.append(f"Of the images it was sought on, the trigger that was found turns {', '.join(working)}.")
    return said


def _about_flagged(inspection: Inspection) -> list[str]:
    names = [
        f"label {inspection.labels[place]} a trigger of norm {inspection.norms[place]:.1f} is enough "
        f"(anomaly index {_index(inspection, place)})"
        for place in inspection.leaders[:MOST_NAMED]
    ]
    more = len(inspection.leaders) - len(names)
    return [
        f"It flags {count(len(inspection.leaders), 'label')}: for {', for '.join(names)}"
        f"{f', and {more} more' if more else ''}; the median of all {count(len(inspection.labels), 'label')} examined is "
        f"{inspection.median:.1f}. The index counts deviations (MAD, here {inspection.mad:.1f}) below the median; above "
        f"{inspection.limit:g} a label is flagged.",
        *_about_chance(inspection),
    ]


def _about_none(inspection: Inspection) -> list[str]:
    place = inspection.leaders[0]
    said = [
        f"No label stands out: the smallest trigger, that of label {inspection.labels[place]}, has a norm of "
        f"{inspection.norms[place]:.1f}, and the median of {count(len(inspection.labels), 'label')} examined is "
        f"{inspection.median:.1f}. Its anomaly index, how many deviations (MAD, here {inspection.mad:.1f}) it lies below the "
        f"median, is {_index(inspection, place)}; above {inspection.limit:g} it would be flagged."
    ]
    if inspection.threshold <= 0:
        said.append(
            "The norms are so far apart that no label could have been flagged, however small its trigger: the limit is not "
            "above zero."
        )
    return [*said, *_about_chance(inspection), f"That does not mean that the network is innocent. {BLIND}"]


def _about_chance(inspection: Inspection) -> list[str]:
    """How an innocent network would look. It stays open how common backdoors are."""
    if inspection.chance is None:
        return []
    if not inspection.flagged.any():
        verdict = "this network looks no different" if inspection.chance > POSSIBLE else "this one is at their edge"
    elif inspection.chance <= UNLIKELY:
        verdict = "chance is a poor explanation"
    elif inspection.chance <= POSSIBLE:
        verdict = "chance may be the explanation; look at the trigger before you decide"
    else:
        verdict = "chance explains it well, so the flag alone says little"
    share = f"about {100 * inspection.chance:.0f}\N{NO-BREAK SPACE}%" if inspection.chance >= 0.005 else "hardly any"
    return [
        f"Of innocent networks with as many labels, {share} have one that stands out at least as "
        f"far, if their norms are spread normally: {verdict}. How likely a backdoor is depends, beyond that, on how common "
        "backdoors are."
    ]


def _index(inspection: Inspection, place: int) -> str:
    index = inspection.index(place)
    return f"{index:.2f}" if np.isfinite(index) else "beyond all bounds, as the others do not differ"


def scans_in_short(inspections: Sequence[Inspection]) -> list[str]:
    """One sentence on all scans, none if there are none."""
    compared = [one for one in inspections if one.target is None]
    said = []
    if compared:
        flagged = sum(bool(one.flagged.any()) for one in compared)
        parts = [f"{flagged} flagged a label as backdoored"] if flagged else []
        if flagged < len(compared):
            parts.append(f"{len(compared) - flagged} flagged none, which does not prove innocence")
        said.append(f"Of {count(len(compared), 'scan')} for backdoors, {', '.join(parts)}.")
    if len(compared) < len(inspections):
        number = count(len(inspections) - len(compared), "scan")
        said.append(f"In {number}, only a label named beforehand was examined, which is no verdict.")
    return said
