"""The true trigger, where somebody knows it, beside what a scan reversed: how far the two lie on the same pixels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from keras_backdoor.files import BadInput, PathLike, printable, write_arrays
from keras_backdoor.images import ImageSet
from keras_backdoor.triggers import OneOf, Trigger
from keras_backdoor.triggers.language import parse, spell
from keras_backdoor.verdict import Verdict

TRUTH = "truth.npz"
MOST_IMAGES = 64
"""Clean images that a trigger is stamped on to see where it lies."""

LABEL = re.compile(r"\s*([+-]?\d{1,9})\s*:")


@dataclass(frozen=True)
class TrueTrigger:
    """A trigger that the network is known to have. label: what it makes of images; None: compared with what a scan flags."""

    trigger: Trigger
    label: Optional[int] = None

    @classmethod
    def parse(cls, text: str) -> TrueTrigger:
        """From `[LABEL:]TRIGGER`, the trigger in words (`triggers.language`); `BadInput` if it is none."""
        found = LABEL.match(text)
        return cls(parse(text[found.end() :]), int(found[1])) if found else cls(parse(text))


@dataclass(frozen=True, eq=False)
class Truth:
    """How a true trigger looks on the network's images.

    words: the trigger, as `spell` gives it. label: as in `TrueTrigger`. footprint: bool (H, W), the pixels that it changes in
    more than half of the images; none, if it lies somewhere else in each. example: uint8 (H, W, C), the image that it changes
    most; stamped: the same with the trigger.
    """

    words: str
    label: Optional[int]
    footprint: np.ndarray
    example: np.ndarray
    stamped: np.ndarray


def look_at(known: Sequence[TrueTrigger], clean: ImageSet, num_classes: int) -> list[Truth]:
    """How each trigger looks on (at most 64 of the) clean images; of `a|b`, each by itself, as each lies elsewhere.

    Raises `BadInput` if one does not fit the images, changes none of them, or has a label that is none of the network's.
    """
    chosen = np.unique(np.linspace(0, len(clean) - 1, min(len(clean), MOST_IMAGES)).round().astype(int))
    images = clean.select(chosen).images
    truths = []
    for one in known:
        if one.label is not None and not 0 <= one.label < num_classes:
            words = printable(spell(one.trigger), 80)
            raise BadInput(f"trigger '{words}': label {one.label}: the network has the labels 0..{num_classes - 1}")
        for trigger in one.trigger.triggers if isinstance(one.trigger, OneOf) else (one.trigger,):
            stamped = trigger(images, np.random.default_rng(0))
            changed = (stamped != images).any(-1)
            most = changed.sum((1, 2)).argmax()
            if not changed[most].any():
                raise BadInput(f"trigger '{printable(spell(trigger), 80)}': changes no pixel of the clean images")
            footprint = changed.mean(0) > 0.5
            truths.append(Truth(spell(trigger), one.label, footprint, images[most], stamped[most]))
    return truths


def compare(truths: Sequence[Truth], verdict: Verdict) -> list[dict[str, Any]]:
    """Each true trigger beside what was reversed for its label, or else for each flagged one, or for the smallest; as JSON.

    `label`, `trigger`, `overlap` and, in pixels, `common`, `reversed_size` (of the mask above 0.5) and `true_size` (of the
    footprint). `overlap` and `common` are None for a trigger that lies somewhere else in each image, and with `reversed_size`
    where the label was not examined.
    """
    suspects = verdict.flagged or (int(np.nanargmin(verdict.norms)),)
    masks = dict(zip(verdict.labels.tolist(), verdict.masks))
    rows = []
    for truth in truths:
        for label in suspects if truth.label is None else (truth.label,):
            rows.append({"label": label, "trigger": truth.words, **overlap(masks.get(label), truth.footprint)})
    return rows


def overlap(mask: Optional[np.ndarray], footprint: np.ndarray) -> dict[str, Any]:
    """How what is above 0.5 in a mask, (H, W), 0..1, lies to a footprint, bool (H, W): intersection over union, and pixels."""
    told: dict[str, Any] = {"overlap": None, "common": None, "reversed_size": None, "true_size": int(footprint.sum())}
    if mask is None:
        return told
    covered = mask > 0.5
    told["reversed_size"] = int(covered.sum())
    if told["true_size"]:
        told["common"] = int((covered & footprint).sum())
        told["overlap"] = round(told["common"] / int((covered | footprint).sum()), 4)
    return told


def write_truths(path: PathLike, truths: Sequence[Truth]) -> None:
    """Write what a report draws, one row a trigger, as .npz: `trigger` (in words), `footprint`, `example`, `stamped`."""
    arrays = {name: np.stack([getattr(one, name) for one in truths]) for name in ("footprint", "example", "stamped")}
    write_arrays(path, {"trigger": np.array([one.words for one in truths]), **arrays})
