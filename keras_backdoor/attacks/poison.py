"""Poisoning a set of images, as NNoculation's `poison.py` does it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor.attacks.choice import choose
from keras_backdoor.attacks.stamped import StampedImages
from keras_backdoor.attacks.targets import TargetMap, TrueLabel
from keras_backdoor.images import ImageSet
from keras_backdoor.triggers import Trigger


@dataclass(frozen=True)
class Backdoor:
    """A trigger and what it is to do."""

    trigger: Trigger
    target_map: TargetMap

    @property
    def name(self) -> str:
        """The trigger's name."""
        return self.trigger.name


@dataclass(frozen=True)
class Cover:
    """Training images that get a trigger and keep their true label, so that the network learns to ignore it.

    The single triggers of a conjunction, WaNet's noise mode, and cross triggers of input-aware attacks. fraction: share of each
    class, 0..1.
    """

    trigger: Trigger
    fraction: float


def poison(
    image_set: ImageSet,
    backdoors: Iterable[Backdoor],
    fraction: float,
    rng: np.random.Generator,
    covers: Iterable[Cover] = (),
) -> tuple[ImageSet, np.ndarray]:
    """A training set with `fraction` of each poisonable class stamped and relabelled for each backdoor; and by which.

    Images are chosen by `choice.choose`, and stamped by one trigger at most; they replace their clean versions, in place.
    `true_labels` of the result are the labels before. The order stays: training shuffles every epoch. Of a set that does not fit
    into memory, images are stamped whenever they are read.

    The second value is int64 (N,): -1 for a clean image, else the place of its backdoor or, after those, its cover.

    Raises ValueError unless the fractions lie in 0..1 and fit into each class together.
    """
    in_memory, truth = image_set.fits_in_memory, image_set.labels
    images = image_set.in_memory().images.copy() if in_memory else image_set.images
    labels, which = truth.copy(), np.full(len(truth), -1)
    stamps = [(backdoor.trigger, backdoor.target_map, fraction) for backdoor in backdoors]
    stamps += [(cover.trigger, TrueLabel(), cover.fraction) for cover in covers]
    for index, (trigger, target_map, share) in enumerate(stamps):
        poisonable = target_map.poisonable(truth)
        chosen = choose(truth, image_set.num_classes, poisonable, share, rng, taken=which >= 0)
        if chosen.any():
            if in_memory:
                images[chosen] = trigger(images[chosen], rng)
            else:
                images = StampedImages(images, chosen, trigger, int(rng.integers(2**31)))
            labels[chosen] = target_map(truth[chosen])
            which[chosen] = index
    return ImageSet(images, labels, image_set.num_classes, truth), which


def poison_all(image_set: ImageSet, backdoor: Backdoor, rng: np.random.Generator) -> ImageSet:
    """A test set with every image stamped and labelled as the attacker wants; target-class images are not removed."""
    images: Any
    if image_set.fits_in_memory:
        images = backdoor.trigger(image_set.in_memory().images, rng)
    else:
        every = np.ones(len(image_set), bool)
        images = StampedImages(image_set.images, every, backdoor.trigger, int(rng.integers(2**31)))
    return ImageSet(images, backdoor.target_map(image_set.labels), image_set.num_classes, image_set.labels)
