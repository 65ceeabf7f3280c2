"""What an audit is asked, and how its answer is put."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from keras_backdoor.audit.evidence import Evidence, suspects, thresholds
from keras_backdoor.files import BadInput, PathLike
from keras_backdoor.progress import Progress, silent

USE, REPAIR, REFUSE = "use", "repair", "do not use"
"""Recommendations."""

BLIND = (
    "backdoors that open only to two marks together",
    "triggers that differ from image to image, or bend the image a little",
    "triggers as large as the image, unless they are like a colour filter",
    "backdoors of somebody who knows these searches and trained the network to withstand them",
)
"""What no stage looks for."""


@dataclass(frozen=True)
class Settings:
    """How to audit. Raises `BadInput` if the budget is none.

    labels_unknown: the labels of the clean images are not used. identity: whether a network that is known to be backdoored ends
    the audit. thorough: run every stage. budget: minutes; without one, as long as it takes. repair: repair a suspicious network,
    and audit the result. mntd_cache: folder of shadow networks. preprocessing, architecture: as `Classifier.load` takes them.
    """

    labels_unknown: bool = False
    identity: bool = True
    thorough: bool = False
    budget: Optional[float] = None
    repair: bool = False
    mntd_cache: Optional[str] = None
    seed: int = 0
    preprocessing: Optional[str] = None
    architecture: Optional[str] = None

    def __post_init__(self) -> None:
        """Check the budget."""
        if self.budget is not None and not 0 < self.budget < float("inf"):
            raise BadInput(f"budget is {self.budget}, expected a number of minutes above 0")


@dataclass(frozen=True)
class Case:
    """One audit: the files, the folder for its results, and who hears of it.

    started: by `time.monotonic`. told: hears of each stage when it is over.
    """

    model: PathLike
    clean: PathLike
    inputs: Optional[PathLike]
    folder: Path
    settings: Settings
    started: float
    progress: Progress = silent
    told: Callable[[Evidence], None] = lambda evidence: None

    def answer(
        self,
        evidence: Sequence[Evidence],
        recommendation: str,
        why: Sequence[str],
        probability: Optional[float],
        cannot_see: Sequence[str] = (),
        **more: Any,
    ) -> dict[str, Any]:
        """What `audit.json` holds. why: sentences. more: what only some answers have."""
        known = thresholds()
        return {
            "model": str(self.model),
            "backdoored": any(one.suspicious for one in evidence),
            "unsafe_file": False,
            "probability": probability,
            "suspect_labels": suspects([one for one in evidence if one.suspicious]),
            "agree": [one.stage for one in evidence if one.suspicious],
            "recommendation": recommendation,
            "why": list(why),
            "repair": None,
            "evidence": [one.as_json() for one in evidence],
            "cannot_see": list(cannot_see),
            "calibration": {name: known[name] for name in ("innocent", "backdoored", "missed")},
            **more,
        }
