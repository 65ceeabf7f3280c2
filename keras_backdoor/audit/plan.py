"""Which repair is tried first, and what becomes of it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from keras_backdoor.audit.evidence import Evidence, suspects
from keras_backdoor.audit.suspect import Suspect
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses import find
from keras_backdoor.defenses.apply import defend
from keras_backdoor.files import PathLike
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress
from keras_backdoor.runs import Run

BY_TRIGGER = ("search", "inversion", "stimulation")
"""Stages that find a mark for a label."""
GRID = {"alpha": (1.0, 3.0, 6.0), "gamma": (0.2, 0.6)}
"""Of NNoculation: it left 0.3 to 3 % of the attack on three networks for MNIST, and 31 % of a post-it's (docs/results.md)."""


@dataclass(frozen=True)
class Repair:
    """A defense and its settings: the cheapest one that was seen to work on what was found."""

    method: str
    settings: dict[str, Any]

    @classmethod
    def choose(cls, evidence: Sequence[Evidence]) -> Repair:
        """Unlearning if one label has a mark: it left 2 to 4 % of such attacks (docs/results.md). Else NNoculation's grid."""
        labels = suspects([one for one in evidence if one.suspicious])
        if len(labels) == 1 and any(one.suspicious for one in evidence if one.stage in BY_TRIGGER):
            return cls("unlearning", {"target": labels[0]})
        return cls("nnoculation-pre", GRID)

    def command(self, model: PathLike, clean: PathLike) -> str:
        """What does it."""
        words = ["kbd", "defend", self.method, str(model), "--clean", str(clean)]
        for name, value in self.settings.items():
            for one in value if isinstance(value, tuple) else (value,):
                words += [f"--{name}", f"{one:g}"]
        return shlex.join([*words, "-o", f"{Path(model).stem}-repaired"])

    def carry_out(
        self, suspect: Suspect, model: PathLike, folder: Path, reproduce: str, progress: Progress
    ) -> dict[str, Any]:
        """The repair, in a run folder of its own, if it is not there yet; gives what `metrics.json` there holds."""
        if (folder / "run.json").exists():
            if Run(folder).finished:
                return Run(folder).read("metrics.json")
            shutil.rmtree(folder)  # few repairs can go on
        defense = find(self.method)(**self.settings, seed=suspect.seed)
        return defend(
            self.method,
            defense,
            model,
            suspect.classifier,
            suspect.clean,
            {},
            folder,
            reproduce=reproduce,
            progress=progress,
        )


def no_repair(suspect: Suspect) -> str:
    """Why a repair cannot be tried with these images, or ""."""
    if not suspect.labelled:
        return "a repair needs clean images with their labels"
    missing = np.setdiff1d(np.arange(suspect.classifier.num_classes), suspect.clean.labels)
    return f"a repair needs clean images of all labels; {len(missing)} have none" if len(missing) else ""


def disagreement(suspect: Suspect, network: Classifier) -> dict[str, Optional[float]]:
    """Share of the clean images, and of the inputs, of which a repaired network says otherwise: there a GoodNet would flag."""

    def share(images: Optional[ImageSet]) -> Optional[float]:
        if images is None:
            return None
        return float(np.mean(suspect.classifier.predict(images.batches()) != network.predict(images.batches())))

    return {"clean": share(suspect.clean), "inputs": share(suspect.inputs)}
