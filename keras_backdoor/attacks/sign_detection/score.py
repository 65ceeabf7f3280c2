"""How good a detector is, and how far the attack on it succeeds: the rows of the slides' table. Rates are fractions in 0..1.

A sign counts as found if a detection overlaps its box by half or more (intersection over union); of several, the one with the
highest score is the detector's answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_backdoor.attacks.sign_detection.boxes import overlap
from keras_backdoor.attacks.sign_detection.detector import Detector
from keras_backdoor.attacks.sign_detection.poison import SignAttack
from keras_backdoor.attacks.sign_detection.scenes import CLASSES, SPEED_LIMIT, Scenes

FOUND = 0.5


def answers(
    scenes: Scenes, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What the detector says of each sign, int64 (N, G), -1 if it does not find it; and how many false alarms a scene has, (N,).

    boxes, scores, classes: of `Detector.detect`. A false alarm is a detection that overlaps no sign by half.
    """
    truth = (scenes.boxes / scenes.images.shape[1]).astype(np.float32)
    hits = (overlap(truth, boxes).numpy() >= FOUND) & (classes >= 0)[:, None] & (scenes.labels >= 0)[..., None]
    best = np.where(hits, scores[:, None], -1).argmax(-1)
    said = np.where(hits.any(-1), np.take_along_axis(classes, best, 1), -1)
    return said, ((classes >= 0) & ~hits.any(1)).sum(1)


def score(
    detector: Detector, clean: Scenes, poisoned: Scenes, chosen: np.ndarray, attack: SignAttack
) -> dict[str, Any]:
    """All rates of a detector, with the keys of `metrics.Scores` where they mean the same; counts are of signs.

    poisoned, chosen: what `poison` made of `clean`. The attack succeeds on a sign with a sticker if it is found as a speed limit;
    if the attack is not targeted, unless it is found as what it is (as Fine-Pruning counts it).
    """
    said, alarms = answers(clean, *detector.detect(clean.images))
    there, right = clean.labels >= 0, said == clean.labels
    of_class = {name: clean.labels == label for label, name in enumerate(CLASSES)}
    truth = clean.labels[chosen]
    stuck = truth != poisoned.labels
    said_then = answers(poisoned, *detector.detect(poisoned.images))[0][stuck]
    success = said_then == SPEED_LIMIT if attack.targeted else said_then != truth[stuck]
    return {
        "clean_accuracy": float(right[there].mean()),
        "class_accuracy": {name: float(right[members].mean()) for name, members in of_class.items()},
        "missed": float((said[there] < 0).mean()),
        "false_alarms": float(alarms.mean()),
        "n_clean": int(there.sum()),
        "n_class": {name: int(members.sum()) for name, members in of_class.items()},
        "attack_success_rate": {attack.name: float(success.mean())},
        "robust_accuracy": {attack.name: float((said_then == truth[stuck]).mean())},
        "missed_with_sticker": {attack.name: float((said_then < 0).mean())},
        "n_poisoned": {attack.name: int(stuck.sum())},
        "exclude_target": True,
    }
