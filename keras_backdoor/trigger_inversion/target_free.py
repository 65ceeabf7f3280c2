"""Backdoors of networks with many labels: a search that chooses its label itself, and a scan that drops the hopeless early.

`TargetFree.rounds`: instead of one optimisation for each label, a batch of random restarts. What each is to reach is the softmax
of its own mean log-probabilities: from masks that cover next to nothing, probability runs to the label with the shortest way.
Labels that were found are excluded, and the search begins anew, until what it finds is no smaller than triggers of random labels.

`TargetFree.scan`: all labels, in the manner of successive halving and of K-Arm (Shen et al., ICML 2021): each is optimised a
little on few images, the best go on, on more. A random background of labels is kept to the end, for median and deviation. Half
of its images are negatives: a backdoor's trigger works on whatever it is put, that of an innocent label has help of the images.

Both are trigger inversion at fixed costs, first a small one, then a large one, without the controller of `TriggerInversion`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet
from keras_backdoor.precision import FLOAT32
from keras_backdoor.progress import Progress, silent
from keras_backdoor.trigger_inversion.candidates import Candidates, ReversedTrigger
from keras_backdoor.trigger_inversion.descent import Descent, Way
from keras_backdoor.trigger_inversion.legs import BARE, FREE, SCAN, Leg, lone_bound

RESTARTS = 16
"""In a round of a search; and as many background labels that it is compared with."""
BACKGROUND = 32
"""Labels, drawn at random, that a scan is compared with."""


@dataclass(frozen=True, eq=False)
class Scan:
    """What became of a scan. triggers: of the labels examined to the end, smallest first. background: those among these labels
    that were drawn at random. legs: how many labels went into each leg.
    """

    triggers: tuple[ReversedTrigger, ...]
    background: tuple[int, ...]
    legs: tuple[int, ...]


def background_labels(num_classes: int, seed: int, count: int = BACKGROUND) -> tuple[int, ...]:
    """`count` labels, or all if there are no more, drawn at random by `seed`; fewer are the first of more."""
    return tuple(np.random.default_rng([seed, 2]).permutation(num_classes)[:count].tolist())


class TargetFree:
    """Looks for short ways to any label of one network."""

    def __init__(
        self,
        classifier: Classifier,
        clean: ImageSet,
        seed: int = 0,
        restarts: int = RESTARTS,
        background: int = BACKGROUND,
        success: float = 0.8,
        at_once: int = 512,
        precision: str = FLOAT32,
    ) -> None:
        """clean: images to stamp; their labels play no part. seed: decides on images, starts and background.

        restarts: in a round. background: labels, drawn at random, that found ones are compared with. success: share of images
        that a trigger must turn to count as working: at a fixed cost, less than in `TriggerInversion`. at_once: stamped images,
        on each device. precision: in which the network computes.
        Raises `BadInput` if the images do not fit the network.
        """
        classifier.check(clean, "clean images")
        self._classifier, self._images, self._seed = classifier, clean.sample(), seed
        self._restarts, self._success, self._outputs = restarts, success, int(classifier.model.output_shape[-1])
        like = Candidates.start([0], classifier.image_shape, seed)
        self._descent = Descent(classifier, like, success, at_once, precision)
        self.background = background_labels(classifier.num_classes, seed, background)

    def rounds(
        self,
        threshold: float = 2.0,
        legs: Sequence[Leg] = FREE,
        done: Sequence[ReversedTrigger] = (),
        progress: Progress = silent,
    ) -> Iterator[list[ReversedTrigger]]:
        """The triggers of the first background labels, as many as restarts; then short ways, one label after the other.

        They end where what is found does not work, or its norm lies less than `threshold` deviations (MAD) below the median of
        these triggers', or its logarithm less than `LONE` times as many; and before they are as many as the background. Where a
        background label is found, the smaller trigger counts.
        done: what earlier rounds gave, in order; it is not given again. `BadInput` if it does not begin with that background.
        """
        first = self.background[: self._restarts]
        others, found = list(done[: len(first)]), list(done[len(first) :])
        if not others:
            way = self._descent(
                self._start(first, BARE), legs, self._draw, progress, f"searching: {len(first)} random labels"
            )
            others = list(self._found(way))
            yield others
        elif [one.label for one in others] != list(first):
            raise BadInput("triggers of earlier rounds: the first ones are not those of the background, in its order")
        bound = lone_bound(np.array([one.norm for one in others]), threshold)
        while len(found) < len(self.background) - 1:
            smallest = self.search([one.label for one in found], legs, progress)[0]
            if not (smallest.works and smallest.norm < bound):
                return
            same = [one for one in others if one.works and one.label == smallest.label]
            found.append(min([smallest, *same], key=lambda one: one.norm))
            yield found[-1:]

    def search(
        self, excluded: Sequence[int] = (), legs: Sequence[Leg] = FREE, progress: Progress = silent
    ) -> list[ReversedTrigger]:
        """One round: what the restarts found, smallest first, those that do not work last. `BadInput` if no label is left."""
        allowed = np.ones((self._restarts, self._outputs), bool)
        allowed[:, [*excluded, *range(self._classifier.num_classes, self._outputs)]] = False
        if not allowed.any():
            raise BadInput("excluded labels: these are all that the network has")
        beyond = range(self._outputs, self._outputs + self._restarts)  # no labels, so these starts are nobody else's
        way = self._start(beyond, BARE, allowed)
        way = self._descent(way, legs, self._draw, progress, f"searching: round {len(excluded) + 1}")
        return sorted(self._found(way), key=lambda one: (not one.works, one.norm))

    def scan(
        self, named: Sequence[ReversedTrigger] = (), legs: Sequence[Leg] = SCAN, progress: Progress = silent
    ) -> Scan:
        """Triggers of the promising labels, of the background, and of labels `named`: the smaller one that works."""
        way, counts = self._start(range(self._classifier.num_classes)), []
        for leg in legs:
            counts.append(len(way.labels))
            way = self._descent(way, [leg], self._draw, progress, f"scanning {len(way.labels)} labels")
            if leg.keep is not None:
                stays = np.isin(way.labels[:, 0], [*(one.label for one in named), *self.background])
                stays[np.argsort(np.where(stays, np.inf, way.costs(leg.cost)), kind="stable")[: leg.keep]] = True
                way = way.rows(stays)
        both = sorted([*self._found(way), *named], key=lambda one: (one.works, -one.norm))
        smallest = {one.label: one for one in both}
        return Scan(tuple(sorted(smallest.values(), key=lambda one: one.norm)), self.background, tuple(counts))

    def _start(self, starts: Sequence[int], shift: float = 0.0, allowed: Optional[np.ndarray] = None) -> Way:
        """Rows at their start, masks shifted; each may choose its start's label alone, if it is not said what is `allowed`."""
        candidates = Candidates.start(starts, self._classifier.image_shape, self._seed)
        allowed = np.eye(self._outputs, dtype=bool)[list(starts)] if allowed is None else allowed
        candidates = candidates._replace(mask=candidates.mask + shift)
        return Way.start(candidates, allowed[:, None], np.ones((len(allowed), 1), np.float32))

    def _draw(self, leg: Leg, updates: int) -> np.ndarray:
        """One group of images; of those without negatives, half of the images of an update."""
        order = np.random.default_rng([self._seed, 0, updates]).permutation(len(self._images))
        images = self._images[np.resize(order, (leg.updates, leg.batch_size))]
        if leg.negatives:
            images[:, 1::2] = 255 - images[:, 1::2]
        return images[:, None]

    def _found(self, way: Way) -> Iterator[ReversedTrigger]:
        masks, patterns = way.change.bounded
        values = zip(way.labels[:, 0], np.clip(masks, 0, 1), np.clip(patterns, 0, 255), way.success, way.history)
        for label, mask, pattern, success, history in values:
            works = bool(success >= self._success)
            yield ReversedTrigger(int(label), mask, pattern, float(success), works, history[:, :3])
