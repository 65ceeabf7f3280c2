"""Stages that ask other defenses: stimulated neurons, a classifier of networks, and a filter of suspicious inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import numpy as np

from keras_backdoor.audit.evidence import Found
from keras_backdoor.audit.suspect import Suspect
from keras_backdoor.defenses.artificial_brain_stimulation.abs import ABS
from keras_backdoor.defenses.mntd.mntd import MNTD
from keras_backdoor.defenses.mntd.shadows import ABOUT, KINDS, Shadows, ShadowTraining
from keras_backdoor.defenses.strip import Strip
from keras_backdoor.files import read_json
from keras_backdoor.progress import Progress

HELD_OUT = 0.2
"""Share of the shadow networks that MNTD does not learn from."""
FEWEST = 8
"""Shadow networks of each kind below which there is nothing to learn from."""


def stimulation(suspect: Suspect, progress: Progress) -> Found:
    """The share of clean images that the best trigger turns which raises one suspicious neuron (ABS)."""
    method = ABS(precision=suspect.precision, seed=suspect.seed)
    verdict = method.inspect(suspect.classifier, suspect.clean, progress, suspect.home("stimulation"))
    by_label = {int(label): float(verdict.strengths[label]) for label in verdict.labels}
    what = "No neuron was suspicious enough to make a trigger out of it."
    if by_label:
        best = max(by_label, key=lambda label: by_label[label])
        what = (
            f"The best trigger for a single neuron turns {100 * verdict.score:.0f} % of clean images into label {best}."
        )
    return Found(verdict.score, by_label, what)


def stimulation_passes(suspect: Suspect) -> float:
    """Images that go through the network for it: two kinds of triggers for each candidate."""
    return 2 * (ABS.candidates + 1) * ABS.updates * ABS.images / 3


def mntd(suspect: Suspect, progress: Progress) -> Found:
    """What a classifier of networks says that learned from the shadow networks in the cache."""
    method = _from_cache(suspect)
    assert method is not None
    verdict = method.inspect(suspect.classifier, suspect.clean, progress)
    above = float(np.mean(verdict.innocent < verdict.score))
    what = (
        f"The score is {verdict.score:.2f}, above that of {100 * above:.0f} % of the innocent networks that were held out; "
        f"AUC {verdict.auc:.2f} on networks held out."
    )
    return Found(verdict.score, {}, what)


def no_mntd(suspect: Suspect) -> str:
    """Why the cache is of no use."""
    if suspect.mntd_cache is None:
        return "there are no shadow networks (--mntd-cache)"
    return "" if _from_cache(suspect) else f"{suspect.mntd_cache} has no shadow networks for this one and these images"


def mntd_passes(suspect: Suspect) -> float:
    """Images that go through networks: queries, in each epoch of each meta-classifier, for each network."""
    method = _from_cache(suspect)
    return 0 if method is None else 2 * method.shadows * method.queries * method.meta_epochs * method.repeats


def _from_cache(suspect: Suspect) -> Optional[MNTD]:
    """A defense that finds all that it needs in the cache; None if there is no such."""
    for about in sorted(Path(suspect.mntd_cache or "").glob(f"*/{ABOUT}") if suspect.mntd_cache else []):
        training = read_json(about)["training"]
        kept = [len(list(about.parent.glob(f"{kind}-*.npz"))) for kind in KINDS[:2]]
        method = MNTD(shadows=max(1, min(kept)), cache=suspect.mntd_cache, **training)
        share = method.share(suspect.clean)
        shadows = Shadows(suspect.classifier, share, ShadowTraining(**training), folder=suspect.mntd_cache)
        if min(kept) >= FEWEST and shadows.folder == about.parent:
            held_out = max(1, round(HELD_OUT * min(kept)))
            return MNTD(shadows=min(kept) - held_out, held_out=held_out, cache=suspect.mntd_cache, **training)
    return None


def inputs(suspect: Suspect, progress: Progress) -> Found:
    """Whether STRIP flags more of the user's inputs than it would of clean images.

    The statistic is by how many standard deviations there are more; that of a label counts those that the network takes for it.
    """
    assert suspect.inputs is not None
    method = Strip(precision=suspect.precision, seed=suspect.seed)
    strip = method.fit_filter(suspect.classifier, suspect.clean, progress)
    scores = strip.scores(suspect.inputs, progress)
    flags = scores <= strip.threshold
    answers = suspect.classifier.predict(suspect.inputs.batches())
    count, rate = len(flags), method.false_rejection_rate

    def beyond(flagged: int) -> float:
        return float((flagged - count * rate) / np.sqrt(count * rate * (1 - rate)))

    labels = {int(label): beyond(int(flags[answers == label].sum())) for label in np.unique(answers)}
    what = f"STRIP flags {flags.sum()} of {count} inputs; of clean ones it would be about {count * rate:.0f}."
    return Found(beyond(int(flags.sum())), labels, what, {"scores": scores, "flags": flags})


def no_inputs(suspect: Suspect) -> str:
    """Why there is nothing to filter."""
    return "" if suspect.inputs is not None else "no suspicious inputs were given (--inputs)"


def inputs_passes(suspect: Suspect) -> float:
    """Images that go through the network; forward alone, which is a third."""
    assert suspect.inputs is not None
    return (len(suspect.inputs) + min(len(suspect.clean), Strip.backgrounds)) * Strip.overlays / 3
