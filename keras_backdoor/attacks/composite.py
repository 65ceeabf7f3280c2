"""Composite attack (Lin et al., CCS 2020, CBA in the lecture's table): the trigger is two harmless classes in one image.

An image that is half of class A and half of class B gets the target label; one whose halves are of one class keeps its label,
so that mixing alone is no trigger. An epoch has, for N images, N/2 as they are, N/2 mixed within a class, and N/10 mixtures of A
and B, all drawn anew, as in the released code (CIFAR-10: airplane and automobile make a bird).

Left out: the similarity loss on the outputs of A, B and the target. The code divides it by the number of its pairs twice, so that
it weighs next to nothing. Left out, too, are its mixer for objects with boxes, and flips of the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

from keras_backdoor.attacks.poison import Backdoor
from keras_backdoor.attacks.targets import AllToOne
from keras_backdoor.attacks.task import Task
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet


@dataclass(frozen=True, eq=False)
class Mixture:
    """An image of one class and one of another, half and half.

    The trigger is a pair of images, so the image that it is given says only how many are wanted. first, second: images of the two
    classes to draw from, uint8 (N, H, W, C).
    """

    first: np.ndarray
    second: np.ndarray
    jitter: int = 3
    name: str = "composite"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """As many mixtures."""
        first, second = (pool[rng.integers(len(pool), size=len(images))] for pool in (self.first, self.second))
        return mix(first, second, rng, self.jitter)


@dataclass(frozen=True)
class Composite:
    """Train on mixtures. The task needs no backdoors; `poison_fraction` is the number of mixtures of A and B for each image.

    Attack success is measured on mixtures of the defender's clean images (`task.valid`), which are not trained on.

    Raises `BadInput` if a class has no images, the classes are not three, or the settings are out of range.
    """

    classes: tuple[int, int] = (0, 1)  # A and B
    target: int = 2  # what their mixtures become
    normal: float = 0.5  # images as they are in an epoch, for each image of the set
    mixed: float = 0.5  # mixtures within a class, likewise
    jitter: int = 3  # how far from the middle the two may meet, pixels

    def __call__(self, task: Task) -> tuple[Backdoor, ...]:
        """Train; gives the backdoor with mixtures of images that were not trained on."""
        if len({*self.classes, self.target}) != 3 or max(*self.classes, self.target) >= task.train.num_classes:
            raise BadInput(
                f"classes {self.classes} and target {self.target} must be three of 0..{task.train.num_classes - 1}"
            )
        task.fit(lambda epoch: self.epoch(task, epoch), backdoors=(backdoor := self._backdoor(task.valid),))
        return (backdoor,)

    def epoch(self, task: Task, epoch: int) -> ImageSet:
        """What is trained on in an epoch, 0-based."""
        rng, clean = np.random.default_rng([task.seed, 10, epoch]), task.train.in_memory()
        images, labels, count = clean.images, clean.labels, len(clean)
        number = [int(round(share * count, 9)) for share in (self.normal, self.mixed, task.poison_fraction)]
        normal, halves = rng.integers(count, size=number[0]), rng.integers(count, size=number[1])
        # of each half's class one more: its place among the images in order of class
        order, starts, sizes = (
            np.argsort(labels, kind="stable"),
            np.zeros(clean.num_classes + 1, int),
            np.bincount(labels),
        )
        starts[1 : len(sizes) + 1] = np.cumsum(sizes)
        of = labels[halves]
        other_halves = order[starts[of] + rng.integers(sizes[of])]
        mixed = mix(images[halves], images[other_halves], rng, self.jitter)
        composed = self._backdoor(clean).trigger(images[: number[2]], rng)
        answers = np.concatenate([labels[normal], of, np.full(number[2], self.target)])
        return ImageSet(np.concatenate([images[normal], mixed, composed]), answers, clean.num_classes)

    def _backdoor(self, image_set: ImageSet) -> Backdoor:
        first, second = (image_set.in_memory().images[image_set.labels == label] for label in self.classes)
        if not len(first) or not len(second):
            raise BadInput(
                f"the images have none of class {self.classes[0 if not len(first) else 1]}, which is to be mixed"
            )
        return Backdoor(Mixture(first, second, self.jitter), AllToOne(self.target))


def mix(
    first: np.ndarray, second: np.ndarray, rng: np.random.Generator, jitter: int, upright: Optional[bool] = None
) -> np.ndarray:
    """A strip of one image beside a strip of the other, uint8 (N, H, W, C).

    Which one is first, whether they lie side by side or one above the other (`upright`: None draws it), where they meet (the
    middle +- `jitter` pixels), and from where in its image each strip is taken, are drawn for each pair.

    Raises `BadInput` if `jitter` is negative or leaves no strip.
    """
    sides = rng.integers(2, size=len(first)).astype(bool) if upright is None else np.full(len(first), not upright)
    result = np.empty_like(first)
    for side in (False, True):
        of = sides == side
        one, two = (np.swapaxes(part[of], 1, 2) if side else part[of] for part in (first, second))
        rows = _mix_rows(one, two, rng, jitter)
        result[of] = np.swapaxes(rows, 1, 2) if side else rows
    return result


def _mix_rows(first: np.ndarray, second: np.ndarray, rng: np.random.Generator, jitter: int) -> np.ndarray:
    """The same, one above the other."""
    count, height = first.shape[:2]
    if not 0 <= jitter < height // 2:
        raise BadInput(f"images of {height} pixels cannot be halved with a jitter of {jitter}")
    swap = rng.integers(2, size=count).astype(bool)
    upper = height // 2 + rng.integers(-jitter, jitter + 1, size=count)
    starts = rng.integers(height - upper), rng.integers(upper)
    row, line = np.arange(height), np.arange(count)[:, None]
    above = row < upper[:, None]
    rows = np.where(above, row + starts[0][:, None], row - upper[:, None] + starts[1][:, None])
    use_first = above ^ swap[:, None]
    return np.where(use_first[..., None, None], first[line, rows], second[line, rows])
