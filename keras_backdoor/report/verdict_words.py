"""What a scan's verdict means, in words: what it says of a label, how much of that is chance, and what it cannot see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_backdoor.files import printable
from keras_backdoor.report.inspection import MOST_SHOWN, FoundTrigger, Inspection
from keras_backdoor.report.truth import Comparison
from keras_backdoor.report.words import count, percent

UNLIKELY, POSSIBLE = 0.05, 0.20
"""How often an innocent network stands out as far: up to which chance is a poor explanation, or one among others."""

SAME_PLACE = 0.3
"""Overlap (IoU) from which on a reversed trigger lies where the true one does."""

MOST_NAMED = 5
MOST_COMPARED = 8
"""True triggers that are compared in words."""

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
    if inspection.selected:
        said.append(_about_selection(inspection))
    for trigger in found:
        if not trigger.works:
            said.append(
                f"For label {trigger.label}, no trigger was found that works well enough: the one shown turns "
                f"{percent(trigger.success)} of the images."
            )
    working = [f"{percent(trigger.success)} (label {trigger.label})" for trigger in found if trigger.works]
    if working and inspection.flagged.any():
        said.append(f"Of the images it was sought on, the trigger that was found turns {', '.join(working)}.")
    if inspection.comparisons:
        said.append(
            "Beside the trigger that is known to be the true one: what was found covers the pixels where its mask is above 0.5; "
            "the overlap (IoU) is the share of pixels that both cover, of those that either does."
        )
    return [*said, *map(_about_comparison, inspection.comparisons[:MOST_COMPARED])]


def _about_flagged(inspection: Inspection) -> list[str]:
    names = [
        f"label {inspection.labels[place]} a trigger of norm {inspection.norms[place]:.1f} is enough "
        f"(anomaly index {_index(inspection, place)})"
        for place in inspection.leaders[:MOST_NAMED]
    ]
    more = len(inspection.leaders) - len(names)
    return [
        f"It flags {count(len(inspection.leaders), 'label')}: for {', for '.join(names)}"
        f"{f', and {more} more' if more else ''}; the median of {_compared(inspection, 'all ')} is "
        f"{inspection.median:.1f}. The index counts deviations (MAD, here {inspection.mad:.1f}) below the median; above "
        f"{inspection.limit:g} a label is flagged{_also(inspection)}.",
        *_about_chance(inspection),
    ]


def _about_none(inspection: Inspection) -> list[str]:
    place = inspection.leaders[0]
    said = [
        f"No label stands out: the smallest trigger, that of label {inspection.labels[place]}, has a norm of "
        f"{inspection.norms[place]:.1f}, and the median of {_compared(inspection)} is "
        f"{inspection.median:.1f}. Its anomaly index, how many deviations (MAD, here {inspection.mad:.1f}) it lies below the "
        f"median, is {_index(inspection, place)}; above {inspection.limit:g} it would be flagged{_also(inspection)}."
    ]
    if inspection.threshold <= 0:
        said.append(
            "The norms are so far apart that no label could have been flagged, however small its trigger: the limit is not "
            "above zero."
        )
    return [*said, *_about_chance(inspection), f"That does not mean that the network is innocent. {BLIND}"]


def _also(inspection: Inspection) -> str:
    """What else it takes to be flagged: the least of very many norms is small in any network."""
    if inspection.threshold >= inspection.median - inspection.limit * inspection.mad:
        return ""
    return f" if its norm is below {inspection.threshold:.1f}, too, as the smallest of so many is small in any network"


def _compared(inspection: Inspection, all_of: str = "") -> str:
    """The labels that median and deviation are of."""
    number = count(int(inspection.background.sum()), "label")
    return f"{number} drawn at random" if inspection.selected else f"{all_of}{number} examined"


def _about_selection(inspection: Inspection) -> str:
    drawn, examined = int(inspection.background.sum()), len(inspection.labels)
    others = inspection.num_classes - examined
    more = f"{examined - drawn} more, which" if examined > drawn else "none besides, as no other"
    said = (
        f"Of the network's {count(inspection.num_classes, 'label')}, {examined:,} were examined to the end: {drawn} that were "
        f"drawn at random, and {more} gave promise of a small trigger at a first look. Median and deviation are of those drawn "
        "at random."
    )
    if others:
        said += (
            f" Of the other {others:,} nothing else is known: a backdoor that does not show at a first look is missed."
        )
    return said


def _about_comparison(comparison: Comparison) -> str:
    """A true trigger, and how what was found lies to it."""
    overlap, known = comparison.overlap, f"The true trigger “{printable(comparison.trigger, 80)}”"
    found = f"what was found for label {comparison.label}"
    if comparison.reversed_size is None:
        return f"{known} cannot be compared: its label {comparison.label} was not examined to the end."
    if overlap is None:
        return f"{known} lies somewhere else in each image, so there is no place to compare {found} with."
    common, size = comparison.common or 0, comparison.reversed_size
    if overlap >= SAME_PLACE:
        verdict = "it was found where it is"
    elif 2 * common >= size > 0:
        verdict = "what was found is a part of it, for the most part"
    elif common:
        verdict = "the two touch, and are not the same"
    else:
        verdict = "what was found lies elsewhere, and opens the same door, or another one"
    return (
        f"{known} covers {count(comparison.true_size, 'pixel')}, and {found} covers {size:,}; they have {common:,} in common, an "
        f"overlap of {overlap:.2f}: {verdict}."
    )


def about_pictures(inspection: Inspection, truths: bool) -> str:
    """What the pictures of triggers are of. truths: whether there are true ones beside those that were found."""
    flagged = int(inspection.flagged.sum())
    if inspection.target is not None:
        what = "What was found for the label that was named"
    elif not flagged:
        what = "The smallest of all triggers that were found; no label was flagged"
    elif flagged <= MOST_SHOWN:
        what = "What was found for each flagged label"
    else:
        what = "What was found for each flagged label, of the four with the smallest norms"
    places = inspection.shown
    if truths and inspection.target is None and not set(places) <= set(inspection.leaders):
        what += ", and what was found for the true label" + (
            "s" if len(set(places) - set(inspection.leaders)) > 1 else ""
        )
    said = (
        f"{what}. Where the mask is white, the trigger replaces the image by the pattern; the product is what it adds. It need "
        "not look like the trigger that the attacker uses: anything that opens the same door will do."
    )
    if truths:
        said += (
            " Below each stands the true trigger: what it changes, alone on grey, then an image with it, and the same image with "
            "the trigger that was found."
        )
    return said


def about_search(inspection: Inspection) -> str:
    """What the curves of the search show."""
    if inspection.selected:
        way = (
            "it is small at first, so that a way to the label is found, and then larger, so that the mask must shrink."
        )
    else:
        way = (
            "it rises while the trigger works, so that the mask must shrink, and falls when it no longer does. It starts at "
            "zero, which is not drawn."
        )
    return f"How the search went. The cost is what a pixel of the mask costs: {way}"


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
