"""Poisoning a set that is larger than memory: images are stamped when they are read, a slice at a time."""

from __future__ import annotations

from typing import Optional

import numpy as np

from keras_backdoor.attacks.choice import choose
from keras_backdoor.attacks.poison import Backdoor
from keras_backdoor.attacks.stamped import StampedImages
from keras_backdoor.images import ImageSet


def poison_stream(
    image_set: ImageSet, backdoor: Backdoor, fraction: Optional[float], seed: int
) -> tuple[ImageSet, np.ndarray]:
    """A set whose chosen images are stamped when they are read, and which ones: bool (N,).

    fraction: of each poisonable class, chosen as `poison` does with the generator of [seed, 0]; or None for a test set as
    `poison_all` makes it: every image. Pixels are those of `poison` and `poison_all` for a trigger without randomness; one with
    randomness draws anew for every `stamped.BLOCK` images. seed: not negative.

    The true labels, where the set knows them, decide and are kept; so a set can be poisoned again for another backdoor.

    Raises ValueError unless `fraction` lies in 0..1.
    """
    truth = image_set.labels if image_set.true_labels is None else image_set.true_labels
    chosen = np.ones(len(truth), bool)
    if fraction is not None:
        poisonable = backdoor.target_map.poisonable(truth)
        chosen = choose(truth, image_set.num_classes, poisonable, fraction, np.random.default_rng([seed, 0]))
    labels = image_set.labels.copy()
    labels[chosen] = backdoor.target_map(truth[chosen])
    images = StampedImages(image_set.images, chosen, backdoor.trigger, seed)
    return ImageSet(images, labels, image_set.num_classes, truth), chosen
