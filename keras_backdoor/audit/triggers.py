"""Neural Cleanse in an audit: a search that gives a first answer for any number of labels, and full inversion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_backdoor.audit.evidence import Found
from keras_backdoor.audit.suspect import ANY, Change, Suspect
from keras_backdoor.defenses.apply_inspect import read_triggers, write_triggers
from keras_backdoor.defenses.neural_cleanse import ALL, SCAN, SEARCH, NeuralCleanse
from keras_backdoor.progress import Progress
from keras_backdoor.trigger_inversion import FAST, RESTARTS, ReversedTrigger, latest
from keras_backdoor.trigger_inversion.legs import FREE, LONE
from keras_backdoor.trigger_inversion.legs import SCAN as SCAN_LEGS
from keras_backdoor.triggers import Trigger
from keras_backdoor.verdict import Verdict, deviations_below, spread

FEW = 20
"""Labels up to which all are inverted in full; of more, those that are promising, and some drawn at random."""
ROUNDS = 3
"""Of a search, about: the random labels, one that finds something, and one that does not."""
STEPS = 120
"""Of a label's full inversion after its trial, about."""
TRIGGERS = "triggers.npz"
MOST_SHOWN = 3


def search(suspect: Suspect, progress: Progress) -> Found:
    """A search that chooses its labels itself."""
    return _scan(suspect, "search", SEARCH, (), progress)


def inversion(suspect: Suspect, progress: Progress) -> Found:
    """The smallest trigger of every label; of many labels, of those that the search or a scan finds promising."""
    if suspect.classifier.num_classes <= FEW:
        return _scan(suspect, "inversion", ALL, (), progress)
    searched = suspect.home("search") / TRIGGERS
    first = read_triggers(searched) if searched.exists() else []
    return _scan(suspect, "inversion", SCAN, first, progress)


def search_passes(suspect: Suspect) -> float:
    """Images that go through the network for a search."""
    return ROUNDS * RESTARTS * sum(leg.updates * leg.batch_size for leg in FREE)


def inversion_passes(suspect: Suspect) -> float:
    """Images that go through the network for an inversion."""
    labels = suspect.classifier.num_classes
    if labels <= FEW:
        return labels * (FAST.starts * FAST.trial + STEPS) * FAST.images
    passes = search_passes(suspect) / ROUNDS
    for leg in SCAN_LEGS:
        passes += labels * leg.updates * leg.batch_size
        labels = min(labels, (leg.keep or labels) + 2 * RESTARTS)
    return passes


def _scan(suspect: Suspect, stage: str, labels: str, done: Sequence[ReversedTrigger], progress: Progress) -> Found:
    """What a scan finds that goes on with `done`, or with what it had found itself before it was interrupted."""
    kept = suspect.home(stage) / TRIGGERS
    method = NeuralCleanse(labels=labels, precision=suspect.precision, seed=suspect.seed)
    triggers = read_triggers(kept) if kept.exists() else list(done)
    for chunk in method.chunks(suspect.classifier, suspect.clean, tuple(triggers), progress):
        triggers += chunk
        write_triggers(kept, triggers)
    verdict = method.verdict(triggers, suspect.classifier.num_classes)
    found = latest(triggers)
    values = standing_out(verdict, np.array([one.works for one in found]))
    order = np.argsort(-values, kind="stable")
    strongest = found[order[0]]
    what = (
        f"Of {len(found)} labels examined, label {strongest.label} stands out most: a mark of about {strongest.norm:.1f} of "
        f"{strongest.mask.size} pixels leads to it; the usual is {verdict.median:.1f}."
    )
    if not strongest.works:
        what = f"Of {len(found)} labels examined, none has a small mark that leads to it."
    shown = [(found[place].label, stamp(found[place]), ANY) for place in order[:MOST_SHOWN] if found[place].works]
    by_label = {int(label): float(value) for label, value in zip(verdict.labels, values)}
    return Found(float(values.max()), by_label, what, suspect.examples(shown))


def standing_out(verdict: Verdict, works: np.ndarray) -> np.ndarray:
    """By how many deviations each examined label's trigger is smaller than usual, float64 (E,); 0 for one that does not work.

    Of norms, and of their logarithms, which are divided by `LONE`; the lesser of the two. Above 2, Neural Cleanse flags a label.
    """
    logs = np.log(np.maximum(verdict.norms[verdict.labels], np.finfo(float).tiny))
    by_logs = deviations_below(logs, *spread(logs[np.isin(verdict.labels, verdict.background)]))
    return np.where(works, np.minimum(verdict.indices, by_logs / LONE), 0.0)


def stamp(trigger: Trigger) -> Change:
    """What puts a trigger on images."""
    rng = np.random.default_rng(0)
    return lambda images: trigger(images, rng)
