"""The page of an audit: the answer, the evidence, and what the triggers that were found do to the user's own images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor.files import BadInput, PathLike, read_json, write_text
from keras_backdoor.report.drawing import image_uri
from keras_backdoor.report.rendering import render
from keras_backdoor.report.run_folder import Arrays, RunFolder, require

PAGE, TEMPLATE = "audit.html", "audit.html"
ANSWER = ("model", "backdoored", "unsafe_file", "probability", "suspect_labels", "agree", "recommendation", "why")
MORE = ("evidence", "repair", "cannot_see", "calibration")
EVIDENCE = ("stage", "ran", "seconds", "suspicious", "score", "labels", "what")
EXAMPLES = ("labels", "sources", "images", "stamped", "answers", "stamped_answers", "turned", "pictures")
MOST_SHOWN = 4
"""Triggers that are shown."""


def write_audit_page(folder: PathLike) -> Path:
    """Write `audit.html` into the folder of an audit, from what `audit.json` and `stages` there hold; gives its path.

    Raises `BadInput` if one of these files is not what it should be.
    """
    run = RunFolder(Path(folder), read_json(Path(folder) / "run.json"), read_json(Path(folder) / "audit.json"))
    path = run.folder / "audit.json"
    require(path, run.metrics, (*ANSWER, *MORE))
    for one in run.metrics["evidence"]:
        require(path, one, EVIDENCE)
    answer = run.metrics
    page = render(
        TEMPLATE,
        answer=answer,
        verdict=_verdict(answer),
        name=Path(answer["model"]).name,
        ran=[one for one in answer["evidence"] if one["ran"]],
        shown=_shown(run),
        record=run.record,
    )
    write_text(run.folder / PAGE, page)
    return run.folder / PAGE


def _verdict(answer: Mapping[str, Any]) -> tuple[str, str]:
    """The answer as a style and a headline."""
    if answer["unsafe_file"]:
        return "bad", "Do not load this file"
    if "known" in answer:
        return "bad", "This network is known to be backdoored"
    if answer["backdoored"]:
        return "bad", "This network looks backdoored"
    return "good", "Nothing suspicious was found"


def _shown(run: RunFolder) -> list[dict[str, Any]]:
    """What the triggers do that suspicious stages found, of each label the first one."""
    cards: dict[int, dict[str, Any]] = {}
    for one in run.metrics["evidence"]:
        arrays = run.arrays(f"stages/{one['stage']}.npz", ()) if one["suspicious"] else None
        if not arrays or "pictures" not in arrays:
            continue
        _check(f"{run.folder / 'stages' / one['stage']}.npz", arrays)
        for place, label in enumerate(arrays["labels"].tolist()):
            if label not in cards and (label in one["labels"] or not one["labels"]):
                cards[label] = {"stage": one["stage"], **_card(arrays, place)}
    return list(cards.values())[:MOST_SHOWN]


def _card(arrays: Arrays, place: int) -> dict[str, Any]:
    own = {name: arrays[name][place] for name in EXAMPLES}
    pairs = zip(own["images"], own["stamped"], own["answers"].tolist(), own["stamped_answers"].tolist())
    return {
        "label": int(own["labels"]),
        "source": int(own["sources"]),
        "turned": float(own["turned"]),
        "picture": image_uri(own["pictures"]),
        "images": [(image_uri(image), image_uri(stamped), before, after) for image, stamped, before, after in pairs],
    }


def _check(path: str, arrays: Arrays) -> None:
    """`BadInput` unless they are as many as labels, and images are of 8 bits."""
    missing = [name for name in EXAMPLES if name not in arrays]
    if missing or len({len(arrays[name]) for name in EXAMPLES}) != 1:
        raise BadInput(f"{path}: expected {', '.join(EXAMPLES)}, as many of each as labels")
    if any(
        arrays[name].dtype != np.uint8 or arrays[name].shape[-1] not in (1, 3)
        for name in ("images", "stamped", "pictures")
    ):
        raise BadInput(f"{path}: expected images of 8 bits, grey or in colour")
