"""What a defense that looks through a training set left in its run folder, what that means, and how its scores are spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from keras_backdoor.files import BadInput
from keras_backdoor.report.drawing import ATTACKS, CLEAN, styled
from keras_backdoor.report.run_folder import RunFolder, require
from keras_backdoor.report.words import count, percent

TOLD = ("images", "judged", "flagged", "poisoned", "recall", "precision", "false_flags", "by_class")
SCORE = {
    "activation-clustering": "how near to the suspect cluster of its class",
    "spectral-signatures": "distance along the direction in which its class varies most",
}
"""What the score of a method measures."""
SQUARED = ("spectral-signatures",)
"""Methods whose scores are squares; their roots are drawn."""
FIXED_SHARE = ("spectral-signatures",)
"""Methods that flag the same share of every class, whatever they find there."""

FOUND, MISSED, MANY = 0.90, 0.50, 0.10
"""Share of the poisoned images from which on they are found, and below which they are missed; of clean ones that is many."""
BINS = 50
MOST_NAMED = 5


@dataclass(frozen=True, eq=False)
class Sifting:
    """Which images of a training set are flagged.

    told: the part `sifted` of `metrics.json`. scores: float (N,), NaN for images that were not judged. flags: bool (N,).
    poisoned: bool (N,), None where it is not known.
    """

    method: str
    told: dict[str, Any]
    scores: np.ndarray
    flags: np.ndarray
    poisoned: Optional[np.ndarray]


def read_sifting(run: RunFolder) -> Optional[Sifting]:
    """What the run found, None if its defense looks through no training set; `BadInput` if it is not what it should be."""
    if not run.sifts:
        return None
    path, told = run.folder / "metrics.json", run.metrics["sifted"]
    require(path, told, TOLD)
    require(path, told["by_class"], ("images", "flagged"))
    arrays = run.arrays("sifted.npz", ("scores", "flags"))
    if arrays is None:
        raise BadInput(f"{run.folder / 'sifted.npz'}: no such file")
    scores, flags, poisoned = arrays["scores"], arrays["flags"], arrays.get("poisoned")
    known = [flags] if poisoned is None else [flags, poisoned]
    if (
        scores.ndim != 1
        or scores.dtype.kind != "f"
        or np.isinf(scores).any()
        or np.isnan(scores).all()
        or any(own.shape != scores.shape or own.dtype != bool for own in known)
    ):
        raise BadInput(
            f"{run.folder / 'sifted.npz'}: expected a score, and yes or no in flags and poisoned, for each image"
        )
    numbers = {
        "images": len(scores),
        "judged": int((~np.isnan(scores)).sum()),
        "flagged": int(flags.sum()),
        "poisoned": None if poisoned is None else int(poisoned.sum()),
    }
    for name, number in numbers.items():
        if told[name] != number:
            raise BadInput(f"{path}: sifted: {name} is not the {number} of sifted.npz")
    for name in ("recall", "precision", "false_flags"):
        if not (told[name] is None or (isinstance(told[name], (int, float)) and 0 <= told[name] <= 1)):
            raise BadInput(f"{path}: sifted: {name} is not in 0..1")
    images, flagged = told["by_class"]["images"], told["by_class"]["flagged"]
    if not (_counts(images, len(scores)) and _counts(flagged, int(flags.sum())) and len(images) == len(flagged)):
        raise BadInput(f"{path}: sifted: by_class has not as many images and flagged ones of the classes as there are")
    return Sifting(run.metrics["method"], told, scores, flags, poisoned)


def about_sifting(sifting: Sifting) -> list[str]:
    """What was flagged, and how well, without varnish."""
    told = sifting.told
    said = [
        "This defense leaves the network as it is. It looks through the images that the network was trained on, for those that "
        "were poisoned. A network that is trained again without them should have no backdoor; that was not tried here.",
        f"It flags {count(told['flagged'], 'image')} of {told['images']:,}, {percent(told['flagged'] / told['images'])}.",
    ]
    if told["judged"] < told["images"]:
        said.append(f"{count(told['images'] - told['judged'], 'image')} were not judged.")
    if sifting.method in FIXED_SHARE:
        said.append(
            "Of every class that it looks at, it flags the same share, whatever there is to find: that number alone says nothing."
        )
    elif sifting.flags.any():
        said.append(_about_classes(told["by_class"]))
    else:
        said.append("That does not mean that none was poisoned.")
    if told["poisoned"] is None:
        return [*said, "Which images were poisoned is not known here, and so neither is how many of them it finds."]
    if not told["poisoned"]:
        return [
            *said,
            "All images have their true label, so as far as labels tell, none was poisoned, and each flag is a false one. An "
            "attack that changes no label would look the same.",
        ]
    return [*said, _about_rates(told)]


def _about_classes(by_class: dict[str, Any]) -> str:
    shares = np.array(by_class["flagged"]) / np.maximum(1, by_class["images"])
    worst = [int(label) for label in np.argsort(-shares, kind="stable") if shares[label] > 0]
    named = ", ".join(f"{label} ({percent(shares[label])})" for label in worst[:MOST_NAMED])
    more = f", and of {len(worst) - MOST_NAMED} more" if len(worst) > MOST_NAMED else ""
    return f"They are of class {named}{more}; the share is that of the class's images."


def _about_rates(told: dict[str, Any]) -> str:
    recall, false_flags, clean = told["recall"], told["false_flags"], told["images"] - told["poisoned"]
    if recall >= FOUND:
        many = false_flags is not None and false_flags > MANY
        verdict = "it finds the poison, at the price of many clean images" if many else "it finds the poison"
    elif recall < MISSED:
        verdict = "it misses most of the poison"
    else:
        verdict = "it finds a part of the poison, and what is left may well be enough for a backdoor"
    said = f"Of the {count(told['poisoned'], 'image')} whose label was changed, it flags {percent(recall)} (recall)"
    if told["precision"] is not None:
        said += f"; of the flagged ones, {percent(told['precision'])} are such (precision)"
    if false_flags is not None:
        said += f"; of the {clean:,} others, it flags {percent(false_flags)} (false flags)"
    return f"{said}: {verdict}."


def siftings_in_short(siftings: Sequence[Sifting]) -> list[str]:
    """One sentence on all of them, none if there are none."""
    if not siftings:
        return []
    known = [one.told["recall"] for one in siftings if one.told["recall"] is not None]
    searches = "one search" if len(siftings) == 1 else f"{len(siftings)} searches"
    said = f"In {searches} of a training set for poisoned images"
    if not known:
        return [f"{said}, how many were found is not known."]
    found = f"{sum(recall >= FOUND for recall in known)} found at least {100 * FOUND:.0f}\N{NO-BREAK SPACE}% of them"
    unknown = len(siftings) - len(known)
    return [f"{said}, {found}{f'; of {unknown}, that is not known' if unknown else ''}."]


@styled
def sifted_scores(sifting: Sifting) -> Figure:
    """How many images have which score, bar upon bar: flagged ones in full colour; poisoned ones, where known, in another."""
    judged = ~np.isnan(sifting.scores)
    scores, flags = sifting.scores[judged], sifting.flags[judged]
    if sifting.method in SQUARED:
        scores = np.sqrt(scores)
    kinds = {"": (CLEAN, np.ones(len(scores), bool))}
    if sifting.poisoned is not None:
        poisoned = sifting.poisoned[judged]
        kinds = {"clean": (CLEAN, ~poisoned), "poisoned": (ATTACKS[0][0], poisoned)}
    low, high = float(scores.min()), float(scores.max())
    edges = np.linspace(low, high if high > low else low + (abs(low) or 1), BINS + 1)
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    below, keys, names = np.zeros(BINS), [], []
    for kind, (colour, own) in kinds.items():
        for state, of in (("kept", ~flags), ("flagged", flags)):
            alpha = 1.0 if state == "flagged" else 0.35
            height = np.histogram(scores[own & of], edges)[0]
            axes.stairs(below + height, edges, baseline=below, fill=True, color=colour, alpha=alpha, linewidth=0)
            below = below + height
            keys.append(Patch(color=colour, alpha=alpha, linewidth=0))
            names.append(f"{kind + ', ' if kind else ''}{state}: {int((own & of).sum()):,}")
    axes.set_ylim(bottom=0)
    axes.set_axisbelow(True)
    axes.set_xlabel(SCORE.get(sifting.method, "score"))
    axes.set_ylabel("training images")
    figure.legend(keys, names, loc="outside lower left", frameon=False, ncols=2)
    return figure


def _counts(value: Any, total: int) -> bool:
    """Whether it is a list of numbers of images that add up to `total`."""
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value) and sum(value) == total
