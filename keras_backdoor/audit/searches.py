"""The searches for what Neural Cleanse cannot see: triggers whose result depends on the image, and changes of the whole image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keras_backdoor.audit.evidence import Found
from keras_backdoor.audit.suspect import ANY, Suspect
from keras_backdoor.audit.triggers import stamp
from keras_backdoor.defenses.kept import kept_arrays
from keras_backdoor.progress import Progress
from keras_backdoor.trigger_inversion.candidates import Stamp
from keras_backdoor.trigger_inversion.filters import LEGS as FILTER_LEGS
from keras_backdoor.trigger_inversion.filters import find_filters
from keras_backdoor.trigger_inversion.shortcuts import GROUPS, LEGS, Shortcut, find_shortcuts

RESTARTS, RANDOM = 4, 4
"""Rows of a search for shortcuts: that choose where each class goes, and for which that is drawn."""
FILTERS, DRAWN = 24, 8
"""Filters that choose their label, and labels that are drawn."""
MOST_SHOWN = 3


def shortcuts(suspect: Suspect, progress: Progress) -> Found:
    """How much easier one mark sends each class to a label of its own choice than to a random one."""
    found = _shortcuts(suspect, progress)
    pairs = found["relation"].tolist()
    ((target, times),) = Counter(after for _, after in pairs).most_common(1)
    ease = float(found["ease"])
    what = (
        f"One mark can send {len(pairs)} classes to others, as {_spelled(pairs)}, in {100 * found['success']:.0f} % of clean "
        f"images; to random classes it is {ease:.2f} times as hard."
    )
    labels = {target: ease} if 2 * times > len(pairs) else {}
    shown = [(after, stamp(_Mark(found["mask"], found["pattern"])), before) for before, after in pairs[:MOST_SHOWN]]
    return Found(ease, labels, what, suspect.examples(shown))


def one_class(suspect: Suspect, progress: Progress) -> Found:
    """How much easier a mark moves one class, and leaves the others alone, than it moves another one."""
    found = _shortcuts(suspect, progress)
    ((before, after),) = found["alone_relation"].tolist()
    ease = float(found["ease_alone"])
    what = (
        f"Class {before} is moved most easily, to {after}: a mark does so for {100 * found['alone_success']:.0f} % of its images "
        f"and leaves {100 * found['alone_stays']:.0f} % of the others; another class is {ease:.2f} times as hard."
    )
    mark = stamp(_Mark(found["alone_mask"], found["alone_pattern"]))
    return Found(ease, {after: ease}, what, suspect.examples([(after, mark, before)]))


def shortcuts_passes(suspect: Suspect) -> float:
    """Images that go through the network for both, and the trials of what was found, forward alone."""
    groups = min(GROUPS, suspect.classifier.num_classes)
    rows, updates = RESTARTS + RANDOM + groups, sum(leg.updates * leg.batch_size for leg in LEGS)
    return rows * groups * updates + (groups + 1) * len(suspect.clean) / 3


def filters(suspect: Suspect, progress: Progress) -> Found:
    """How much easier a filter of the whole image turns all images into a label of its choice than into a random one."""
    search = find_filters(
        suspect.classifier,
        suspect.clean,
        suspect.seed,
        FILTERS,
        DRAWN,
        precision=suspect.precision,
        progress=progress,
    )
    usual, best = float(np.median(search.random)), search.found[0]
    what = (
        f"A filter turns {100 * best.success:.0f} % of clean images into label {best.label}, moves pixels by {best.moved:.0f} "
        f"levels and keeps {100 * best.kept:.0f} % of the structure; for a random label it is {search.ease:.2f} times as hard."
    )
    shown = [(one.label, stamp(one), ANY) for one in search.found[:MOST_SHOWN]]
    return Found(search.ease, {one.label: usual / one.cost for one in search.found}, what, suspect.examples(shown))


def filters_passes(suspect: Suspect) -> float:
    """Images that go through the network for it, and the trials of what was found, forward alone."""
    rows, passes = FILTERS + DRAWN, 0.0
    for leg in FILTER_LEGS:
        passes += rows * leg.updates * leg.batch_size
        rows = min(rows, (leg.keep or rows) + DRAWN)
    return passes + (rows - DRAWN) * len(suspect.clean) / 3


def _shortcuts(suspect: Suspect, progress: Progress) -> Mapping[str, np.ndarray]:
    """What the one search for both finds: it runs once."""

    def search() -> dict[str, np.ndarray]:
        network, images = suspect.classifier, suspect.clean
        found = find_shortcuts(
            network, images, suspect.seed, RESTARTS, RANDOM, GROUPS, precision=suspect.precision, progress=progress
        )
        easiest = found.alone[0]
        arrays = {"ease": np.array(found.ease), "ease_alone": np.array(found.ease_alone)}
        return {**arrays, **_packed(found.together, ""), **_packed(easiest, "alone_")}

    return kept_arrays(suspect.home("shortcuts"), "found", search)


def _packed(found: Shortcut, prefix: str) -> dict[str, np.ndarray]:
    names = ("relation", "mask", "pattern", "success", "stays")
    return {prefix + name: np.array(getattr(found, name)) for name in names}


def _spelled(pairs: list[list[int]]) -> str:
    more = ", …" if len(pairs) > MOST_SHOWN else ""
    return ", ".join(f"{before} to {after}" for before, after in pairs[:MOST_SHOWN]) + more


@dataclass(frozen=True, eq=False)
class _Mark(Stamp):
    mask: np.ndarray
    pattern: np.ndarray
    name: str = "shortcut"
