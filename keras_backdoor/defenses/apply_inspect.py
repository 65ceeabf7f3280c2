"""Running a defense that says whether a network is backdoored, which can be interrupted: a scan for triggers, or a judgement."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.kept import STATE
from keras_backdoor.defenses.truth import TRUTH, Truth, compare, write_truths
from keras_backdoor.files import BadInput, PathLike, write_arrays, write_json
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import Scores
from keras_backdoor.progress import Progress
from keras_backdoor.trigger_inversion import ReversedTrigger, latest
from keras_backdoor.verdict import StrengthVerdict

TRIGGERS, VERDICT, FOUND, SHADOWS = "triggers.npz", "verdict.json", "found.npz", "shadows"


class Inspected:
    """What comes of a defense that scans for triggers, chunk by chunk; the network stays as it is."""

    def __init__(
        self,
        defense: Any,
        suspect: Classifier,
        clean: ImageSet,
        before: Scores,
        progress: Progress,
        folder: Path,
        truths: Sequence[Truth] = (),
    ) -> None:
        """Scan, keeping in `folder` what is found after every chunk; what is there already is not searched again.

        Where there is a verdict, the scan is over, and its triggers may have been put in order: see `write`.
        truths: true triggers, with which the verdict compares what was found.
        """
        triggers = read_triggers(folder / TRIGGERS) if (folder / TRIGGERS).exists() else []
        started = time.perf_counter()
        over = bool(triggers) and (folder / VERDICT).exists()
        for chunk in () if over else defense.chunks(suspect, clean, tuple(triggers), progress):
            triggers += chunk
            write_triggers(folder / TRIGGERS, triggers)
        verdict = defense.verdict(triggers, suspect.num_classes)
        self._triggers = latest(triggers)
        self._verdict = {
            "backdoored": verdict.backdoored,
            "labels": list(verdict.flagged),
            "score": number(verdict.score),
            "probability": number(verdict.probability),
            "num_classes": suspect.num_classes,
            "examined": verdict.labels.tolist(),
            "background": sorted(verdict.background),
            "norms": [round(float(norm), 4) for norm in verdict.norms[verdict.labels]],
            "indices": [number(round(float(index), 4)) for index in verdict.indices],
            "median": verdict.median,
            "mad": verdict.mad,
            "bound": verdict.bound,
        }
        self._truths = truths
        if truths:
            self._verdict["true_triggers"] = compare(truths, verdict)
        self.metrics: dict[str, Any] = {"after": before.as_json(), "verdict": self._verdict}
        self.metrics["seconds"] = round(time.perf_counter() - started, 3)

    def write(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write the verdict, and the true triggers beside it; those of an earlier run in the folder go.

        After it one trigger of each examined label, in their order; a scan that goes on needs them as they were found.
        """
        (folder / TRUTH).unlink(missing_ok=True)
        if self._truths:
            write_truths(folder / TRUTH, self._truths)
        write_json(folder / VERDICT, {**about, **self._verdict})
        write_triggers(folder / TRIGGERS, self._triggers)


class Judged:
    """What comes of a defense with the verb `inspect` that learns something to judge by; the network stays as it is."""

    def __init__(
        self, defense: Any, suspect: Classifier, clean: ImageSet, before: Scores, progress: Progress, folder: Path
    ) -> None:
        """Judge the network.

        What the defense learns is kept in `folder`: shadow networks, which can serve other runs (`cache`), in `shadows`, where
        they stay; anything else in `networks` until the run is finished.
        """
        started = time.perf_counter()
        kept = folder / (SHADOWS if hasattr(defense, "cache") else STATE)
        verdict = defense.inspect(suspect, clean, progress, kept)
        self._examples: Optional[dict[str, np.ndarray]] = None
        self._verdict = {"backdoored": verdict.backdoored, "labels": list(verdict.flagged), "score": verdict.score}
        if isinstance(verdict, StrengthVerdict):
            self._examples = {"labels": verdict.labels, "images": verdict.examples}
            self._verdict |= {
                "num_classes": suspect.num_classes,
                "examined": verdict.labels.tolist(),
                "strengths": verdict.strengths[verdict.labels].tolist(),
                "bound": verdict.bound,
            }
        else:
            self._verdict |= {
                "probability": verdict.probability,
                "auc": number(verdict.auc),
                "innocent": verdict.innocent.tolist(),
                "trojaned": verdict.trojaned.tolist(),
            }
        self.metrics: dict[str, Any] = {"after": before.as_json(), "verdict": self._verdict}
        self.metrics["seconds"] = round(time.perf_counter() - started, 3)

    def write(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write the verdict, and images with the triggers that were found, if there are such."""
        write_json(folder / VERDICT, {**about, **self._verdict})
        if self._examples:
            write_arrays(folder / FOUND, self._examples)


def write_triggers(path: PathLike, triggers: list[ReversedTrigger]) -> None:
    """Reversed triggers as one .npz file: `label`, `mask`, `pattern`, `success`, `works`, and `history`, NaN after its end."""
    longest = max(len(trigger.history) for trigger in triggers)
    arrays = {
        name: np.array([getattr(trigger, name) for trigger in triggers])
        for name in ("label", "mask", "pattern", "success", "works")
    }
    history = np.full((len(triggers), longest, 3), np.nan, np.float32)
    for place, trigger in enumerate(triggers):
        history[place, : len(trigger.history)] = trigger.history
    write_arrays(path, {**arrays, "history": history})


def read_triggers(path: PathLike) -> list[ReversedTrigger]:
    """What `write_triggers` wrote; `BadInput` if the file is damaged."""
    try:
        with np.load(path) as file:
            rows = zip(*(file[name] for name in ("label", "mask", "pattern", "success", "works", "history")))
            return [
                ReversedTrigger(
                    int(label), mask, pattern, float(success), bool(works), history[~np.isnan(history[:, 0])]
                )
                for label, mask, pattern, success, works, history in rows
            ]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: not a file of reversed triggers ({error})") from None


def number(value: float) -> float | None:
    """NaN and infinity, which JSON does not have, as None."""
    return value if np.isfinite(value) else None
