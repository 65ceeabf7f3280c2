"""Poisoning a set of images, as NNoculation's `poison.py` does it."""

from __future__ import annotations

import numpy as np

from keras_backdoor.attacks.targets import TargetMap
from keras_backdoor.images import ImageSet
from keras_backdoor.triggers import Trigger


def poison(
    image_set: ImageSet, trigger: Trigger, target_map: TargetMap, fraction: float, rng: np.random.Generator
) -> tuple[ImageSet, np.ndarray]:
    """A training set with `fraction` of each poisonable class stamped and relabelled, and which ones: bool (N,).

    Per class, int(fraction * n) images are chosen evenly spaced from a shuffled list; they replace their clean versions, in
    place. `true_labels` of the result are the labels before. The order stays: training shuffles every epoch.

    Raises ValueError unless `fraction` lies in 0..1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction}, expected 0..1")
    images, truth = image_set.in_memory().images.copy(), image_set.labels
    chosen = np.zeros(len(image_set), bool)
    for label in range(image_set.num_classes):
        members = rng.permutation(np.flatnonzero((truth == label) & target_map.poisonable(truth)))
        count = int(round(fraction * len(members), 9))  # 0.29 * 100 is 28.999…: the fraction is meant as written
        chosen[members[np.linspace(0, len(members), count, endpoint=False).astype(int)]] = True
    labels = truth.copy()
    if chosen.any():
        images[chosen] = trigger(images[chosen], rng)
        labels[chosen] = target_map(truth[chosen])
    return ImageSet(images, labels, image_set.num_classes, truth), chosen


def poison_all(image_set: ImageSet, trigger: Trigger, target_map: TargetMap, rng: np.random.Generator) -> ImageSet:
    """A test set with every image stamped and labelled as the attacker wants; target-class images are not removed."""
    images = trigger(image_set.in_memory().images, rng)
    return ImageSet(images, target_map(image_set.labels), image_set.num_classes, image_set.labels)
