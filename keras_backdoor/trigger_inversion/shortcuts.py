"""Shortcuts that depend on what an image shows: a trigger that sends each class to another one, or a single class to another.

An inversion that looks for one label to which all images go does not see them: all-to-all backdoors (BadNets, section 3.1.2), and
those of one source class, the partial backdoors that Neural Cleanse's authors try (S&P 2019, section VII). Here, images
are grouped by the network's own answers, so that no labels are needed. What a group is to become is left to it, as in
`TargetFree`: the shortest way to any label but its own.

One batch has restarts in which all groups move; for comparison, others in which each is to go to a label drawn at random; and
one for each group in which it moves alone, while the others are to stay. What they cost in the end, cross-entropy and pixels
together, tells: an innocent network makes relations of its own choice hardly cheaper than random ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet
from keras_backdoor.precision import FLOAT32
from keras_backdoor.progress import Progress, silent
from keras_backdoor.trigger_inversion.candidates import Candidates, Stamp
from keras_backdoor.trigger_inversion.descent import Descent, Way
from keras_backdoor.trigger_inversion.legs import BARE, Leg

GROUPS = 10
"""The commonest answers; more would have few images in each, and make an update dear."""
FEWEST = 8
"""Images of a group."""
LEGS = (Leg(50, 3, 0.003), Leg(70, 3, 0.02))
"""Images are those of each group."""


@dataclass(frozen=True, eq=False)
class Shortcut(Stamp):
    """A trigger and whom it sends where.

    relation: pairs of the network's answers without it and with it, one for each group that is to move. success: share of clean
    images of these groups, a mean over the groups, that move as the relation says. stays: of the images of the others, whose
    answer is to be as it was; NaN if all move. cost: of the optimisation's last updates, cross-entropy + pixels at their price.
    """

    relation: tuple[tuple[int, int], ...]
    mask: np.ndarray
    pattern: np.ndarray
    success: float
    stays: float
    cost: float


@dataclass(frozen=True, eq=False)
class Shortcuts:
    """What a search found.

    together: one trigger for all groups, each with a label of its own choice: the cheapest of the restarts. random: what such
    triggers cost if labels are drawn, float64 (R,). alone: one trigger for each group, the cheapest first.
    """

    together: Shortcut
    random: np.ndarray
    alone: tuple[Shortcut, ...]

    @property
    def ease(self) -> float:
        """How many times dearer random relations are than the one found, their median; near 1 in an innocent network."""
        return float(np.median(self.random) / self.together.cost)

    @property
    def ease_alone(self) -> float:
        """How many times dearer it is to move the other groups than the easiest one, their median."""
        return float(np.median([one.cost for one in self.alone[1:]]) / self.alone[0].cost)


def find_shortcuts(
    classifier: Classifier,
    clean: ImageSet,
    seed: int = 0,
    restarts: int = 4,
    random: int = 4,
    groups: int = GROUPS,
    legs: Sequence[Leg] = LEGS,
    at_once: int = 512,
    precision: str = FLOAT32,
    progress: Progress = silent,
) -> Shortcuts:
    """Look for a trigger that sends the images of each class, or of one, to some other label.

    clean: images to stamp; their labels play no part. seed: decides on images, starts and random labels. restarts, random: rows
    of either kind. groups: at most so many of the commonest answers. at_once: stamped images. precision: of the network.
    Raises `BadInput` if the images do not fit the network, or fewer than three answers are those of `FEWEST` images.
    """
    classifier.check(clean, "clean images")
    images, outputs = clean.sample(), int(classifier.model.output_shape[-1])

    def answers_to(images: np.ndarray) -> np.ndarray:
        return classifier.predict(ImageSet(images, np.zeros(len(images)), 1).batches())

    answers = answers_to(images)
    own = commonest(answers, groups)
    members = [np.flatnonzero(answers == label) for label in own]
    one_hot = np.eye(outputs, dtype=bool)
    kept = one_hot[own]
    free = ~kept & (np.arange(outputs) < classifier.num_classes)
    drawn = np.random.default_rng([seed, 3])
    relations = np.array([[drawn.choice(np.flatnonzero(labels)) for labels in free] for _ in range(random)])
    alone = np.eye(len(own), dtype=bool)
    moving = np.concatenate([np.ones((restarts + random, len(own)), bool), alone])
    allowed = np.concatenate([np.stack([free] * restarts), one_hot[relations], np.where(alone[..., None], free, kept)])
    start = Candidates.start(range(len(moving)), classifier.image_shape, seed)
    start = start._replace(mask=start.mask + BARE)

    def draw(leg: Leg, updates: int) -> np.ndarray:
        order = np.random.default_rng([seed, 0, updates])
        shape = leg.updates, leg.batch_size
        return np.stack([images[np.resize(order.permutation(group), shape)] for group in members], 1)

    descent = Descent(classifier, start, at_once=at_once, precision=precision)
    way = descent(Way.start(start, allowed, weights(moving)), legs, draw, progress, "searching for shortcuts")
    costs, (masks, patterns) = way.costs(legs[-1].cost), way.change.bounded
    order = np.argsort(costs, kind="stable")

    def found(row: int) -> Shortcut:
        moves = moving[row]
        relation = tuple(zip(own[moves].tolist(), way.labels[row, moves].tolist()))
        mask, pattern = np.clip(masks[row], 0, 1), np.clip(patterns[row], 0, 255)
        shortcut = Shortcut(relation, mask, pattern, np.nan, np.nan, float(costs[row]))
        after = answers_to(shortcut(images, drawn))
        as_wanted = np.array([(after[group] == label).mean() for group, label in zip(members, way.labels[row])])
        stays = float(as_wanted[~moves].mean()) if not moves.all() else np.nan
        return replace(shortcut, success=float(as_wanted[moves].mean()), stays=stays)

    together = next(row for row in order if row < restarts)
    each = [found(row) for row in order if row >= restarts + random]
    return Shortcuts(found(together), costs[restarts : restarts + random], tuple(each))


def weights(moving: np.ndarray) -> np.ndarray:
    """What each group counts, float32 (R, G): those that move as much together as those that stay. moving: bool (R, G)."""
    shares = moving / moving.sum(1, keepdims=True), ~moving / np.maximum(1, (~moving).sum(1, keepdims=True))
    return (sum(shares) / np.where(moving.all(1, keepdims=True), 1, 2)).astype(np.float32)


def commonest(answers: np.ndarray, most: int) -> np.ndarray:
    """At most `most` labels, those given most often, and `FEWEST` times at least, ascending; `BadInput` if they are not three."""
    counts = np.bincount(answers)
    order = np.argsort(-counts, kind="stable")[:most]
    labels = np.sort(order[counts[order] >= FEWEST])
    if len(labels) < 3:
        raise BadInput(
            f"clean images: the network gives {len(labels)} labels to {FEWEST} of them or more, a search for shortcuts needs 3"
        )
    return labels
