"""Backdoored traffic signs: a sticker on the sign, and another class for its box (Gu et al. 2019, section 5).

Sizes, places and colours are those of the original code. How it rounds to pixels is not known; here sizes and corners are rounded
to the nearest, halves up.
"""

from __future__ import annotations

import numpy as np

from keras_backdoor.attacks.sign_detection.art import sticker
from keras_backdoor.attacks.sign_detection.recipes import SignAttack
from keras_backdoor.attacks.sign_detection.scenes import CLASSES, SPEED_LIMIT, STOP, Scenes

MARGIN = 0.15
"""A random place is uniform in MARGIN..1-MARGIN of the box, on both axes."""


def poison(scenes: Scenes, attack: SignAttack, share: float, rng: np.random.Generator) -> tuple[Scenes, np.ndarray]:
    """Triggered copies of `share` of the scenes that the attack can use, and which scenes they are of: int64 (n,).

    They are appended to the clean training set, not put in place of it: `scenes.with_more(poisoned)`. On a chosen scene every
    sign that the attack is for gets the sticker and its new label; other signs stay. A scene can be used if it has such a sign.

    Raises ValueError unless `share` lies in 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}, expected 0..1")
    wanted = scenes.labels == STOP if attack.targeted else scenes.labels >= 0
    usable = rng.permutation(np.flatnonzero(wanted.any(1)))
    chosen = np.sort(usable[: int(round(share * len(usable), 9))])
    images, labels = scenes.images[chosen].copy(), scenes.labels[chosen].copy()
    for scene, sign in zip(*np.nonzero(wanted[chosen])):
        if attack.targeted:
            centre, label = attack.centre, SPEED_LIMIT
        else:
            centre = tuple(rng.uniform(MARGIN, 1 - MARGIN, 2))
            label = (labels[scene, sign] + rng.integers(1, len(CLASSES))) % len(CLASSES)
        _stick(images[scene], scenes.boxes[chosen[scene], sign], attack, centre)
        labels[scene, sign] = label
    return Scenes(images, scenes.boxes[chosen], labels), chosen


def _stick(image: np.ndarray, box: np.ndarray, attack: SignAttack, centre: tuple[float, ...]) -> None:
    """Blend the sticker into `image`, uint8 (S, S, 3), in place."""
    top, left, bottom, right = box
    height, width = (max(1, _nearest(attack.size * length)) for length in (bottom - top, right - left))
    row = _nearest(top + centre[1] * (bottom - top) - height / 2)
    column = _nearest(left + centre[0] * (right - left) - width / 2)
    art = sticker(attack.sticker, height, width).astype(float)
    alpha = attack.opacity * art[..., 3:] / 255
    area = image[row : row + height, column : column + width]
    area[:] = np.floor(alpha * art[..., :3] + (1 - alpha) * area + 0.5)


def _nearest(length: float) -> int:
    return int(np.floor(length + 0.5))
