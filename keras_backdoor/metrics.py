"""Rates: how good a network is, how far an attack succeeds. All are fractions in 0..1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet


def clean_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of clean images that get their label. Both int (N,); an answer of "backdoored input" is an error."""
    return float(np.mean(predictions == labels))


def attack_success_rate(
    predictions: np.ndarray, targets: np.ndarray, true_labels: np.ndarray | None = None, *, exclude_target: bool
) -> float:
    """Share of triggered images that get the label which the attacker wants. All arrays int (N,).

    exclude_target: leave out images whose true label is the target already, as BackdoorBench and NAD do; they would count as
        successes of any good network. The course, NNoculation and the papers here count them (False). With 10 balanced
        classes the two differ by up to 10 points, with 1283 by 0.08.

    Raises ValueError if `exclude_target` is asked without true labels, or no image is left.
    """
    counted = _counted(targets, true_labels, exclude_target)
    return float(np.mean(predictions[counted] == targets[counted]))


def robust_accuracy(
    predictions: np.ndarray, targets: np.ndarray, true_labels: np.ndarray, *, exclude_target: bool
) -> float:
    """Share of triggered images that still get their true label, among the same images as `attack_success_rate`."""
    counted = _counted(targets, true_labels, exclude_target)
    return float(np.mean(predictions[counted] == true_labels[counted]))


def defense_effectiveness(accuracy: tuple[float, float], success: tuple[float, float]) -> float:
    """DER, BackdoorBench's defense effectiveness rating: (max(0, fall of attack success) - max(0, fall of accuracy) + 1) / 2.

    accuracy, success: before and after the defense. 0.5: no effect; 1: all of an attack that always works is gone for nothing.
    In four of six functions BackdoorBench adds the fall of accuracy, against its own docstring; this subtracts it.
    """
    return (max(0.0, success[0] - success[1]) - max(0.0, accuracy[0] - accuracy[1]) + 1) / 2


def normalised_error(made: np.ndarray, triggered: np.ndarray, clean: np.ndarray) -> float:
    """How far a generator's images are from the truly triggered ones, against how far those are from the clean ones.

    mean((made - triggered)^2) / mean((triggered - clean)^2), over all pixels of all images, uint8 (N, H, W, C), the same images
    in each. 0: the trigger was learned exactly. 1: no better than leaving the images alone; more: worse. NNoculation's figure 6.

    Raises `BadInput` if the shapes differ, or the trigger changes nothing.
    """
    if not made.shape == triggered.shape == clean.shape:
        raise BadInput(f"images have shapes {made.shape}, {triggered.shape} and {clean.shape}, expected one")
    error, change = (
        float(np.mean((one.astype(np.float64) - other) ** 2)) for one, other in ((made, triggered), (triggered, clean))
    )
    if not change:
        raise BadInput("the trigger changes nothing in these images, so that no error can be measured against it")
    return error / change


def _counted(targets: np.ndarray, true_labels: np.ndarray | None, exclude_target: bool) -> np.ndarray:
    if not exclude_target:
        return np.ones(len(targets), bool)
    if true_labels is None:
        raise ValueError("exclude_target needs the true labels")
    counted = true_labels != targets
    if not counted.any():
        raise ValueError("every image has the target for its true label")
    return counted


@dataclass(frozen=True)
class Scores:
    """Rates of one network, and what they were measured on.

    clean_accuracy: on `n_clean` images. attack_success_rate, robust_accuracy, n_poisoned: by name of the poisoned set; robust
    accuracy only for sets whose true labels are known. exclude_target: see `attack_success_rate`.
    """

    clean_accuracy: float
    attack_success_rate: dict[str, float]
    robust_accuracy: dict[str, float]
    n_clean: int
    n_poisoned: dict[str, int]
    exclude_target: bool

    def as_json(self) -> dict[str, Any]:
        """The keys that scripts rely on, and the rest."""
        return dict(vars(self))


def score(
    classifier: Classifier, clean: ImageSet, poisoned: Mapping[str, ImageSet], exclude_target: bool = False
) -> Scores:
    """Measure `classifier` on a clean set and on any number of poisoned ones, each read once, batch by batch.

    Raises `BadInput` if the sets do not fit the network, or `exclude_target` is asked of a set without true labels.
    """
    classifier.check(clean, "clean images")
    answers = {}
    for name, image_set in poisoned.items():
        classifier.check(image_set, name)
        if exclude_target and image_set.true_labels is None:
            raise BadInput(
                f"{name}: does not hold the true labels, which are needed to leave out images of the target class"
            )
        answers[name] = classifier.predict(image_set.batches())
    return score_answers(classifier.predict(clean.batches()), clean, answers, poisoned, exclude_target)


def score_answers(
    clean_answers: np.ndarray,
    clean: ImageSet,
    answers: Mapping[str, np.ndarray],
    poisoned: Mapping[str, ImageSet],
    exclude_target: bool = False,
) -> Scores:
    """The same from answers, int (N,), that were given to the clean set and to each poisoned one.

    Raises `BadInput` if `exclude_target` leaves no image of a set.
    """
    attack, robust, counts = {}, {}, {}
    for name, image_set in poisoned.items():
        targets, truth = image_set.labels, image_set.true_labels
        try:
            counts[name] = int(_counted(targets, truth, exclude_target).sum())
        except ValueError as error:
            raise BadInput(f"{name}: {error}") from None
        attack[name] = attack_success_rate(answers[name], targets, truth, exclude_target=exclude_target)
        if truth is not None:
            robust[name] = robust_accuracy(answers[name], targets, truth, exclude_target=exclude_target)
    accuracy = clean_accuracy(clean_answers, clean.labels)
    return Scores(accuracy, attack, robust, len(clean), counts, exclude_target)
