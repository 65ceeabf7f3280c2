"""Running a defense that filters inputs: its rates on clean and triggered images, and the network's rates behind it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor import detection
from keras_backdoor.classifier import Classifier
from keras_backdoor.files import write_arrays, write_json
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import Scores, score_answers
from keras_backdoor.progress import Progress


class Filtered:
    """What comes of a defense with the verb `fit_filter`."""

    def __init__(
        self,
        defense: Any,
        suspect: Classifier,
        clean: ImageSet,
        measured_on: ImageSet,
        poisoned: Mapping[str, ImageSet],
        before: Scores,
        progress: Progress,
    ) -> None:
        """Fit the filter and score every set; `metrics` has its rates, and those of the network behind it."""
        started = time.perf_counter()
        fitted = defense.fit_filter(suspect, clean, progress)
        seconds = time.perf_counter() - started
        self._threshold = threshold = fitted.threshold
        self._scores = {"clean": fitted.scores(measured_on, progress)}
        self._scores |= {f"triggered/{name}": fitted.scores(images, progress) for name, images in poisoned.items()}
        rejected = detection.false_rejection_rate(self._scores["clean"], threshold)
        rates: dict[str, Any] = {"threshold": threshold, "false_rejection_rate": rejected}
        rates |= {"false_acceptance_rate": {}, "auc": {}, "converted": {}, "equal_quality": {}}
        for name, images in poisoned.items():
            counted = images.true_labels != images.labels if before.exclude_target else slice(None)
            own, all_clean = self._scores[f"triggered/{name}"][counted], self._scores["clean"]
            accepted = detection.false_acceptance_rate(own, threshold)
            rates["false_acceptance_rate"][name] = accepted
            rates["auc"][name] = detection.auc(all_clean, own)
            success = before.attack_success_rate[name]
            rates["converted"][name] = detection.behind_filter(before.clean_accuracy, success, rejected, accepted)
            equal = detection.equal_quality_threshold(all_clean, own)
            rates["equal_quality"][name] = {
                "threshold": equal,
                "false_rejection_rate": detection.false_rejection_rate(all_clean, equal),
                "false_acceptance_rate": detection.false_acceptance_rate(own, equal),
            }

        def answers(images: ImageSet, scores: np.ndarray) -> np.ndarray:
            return np.where(scores <= threshold, suspect.num_classes, suspect.predict(images.batches()))

        said = {name: answers(images, self._scores[f"triggered/{name}"]) for name, images in poisoned.items()}
        clean_said = answers(measured_on, self._scores["clean"])
        after = score_answers(clean_said, measured_on, said, poisoned, before.exclude_target)
        self.metrics = {"after": after.as_json(), "filter": rates, "verdict": None, "seconds": round(seconds, 3)}

    def write(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write the filter and all scores."""
        known = {**about, "threshold": self._threshold}
        write_json(folder / "filter.json", known)
        write_arrays(folder / "scores.npz", {"threshold": np.array(self._threshold), **self._scores})
