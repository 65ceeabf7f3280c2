"""Filters reversed out of a network: changes of colour and contrast that turn images of all classes into one label.

Backdoors in feature space (BadNet-FSA, NNoculation, section 4.1; from ABS, Liu et al., CCS 2019) have no mask that an inversion
could find: their trigger lies in the colours of the whole picture. ABS learns a 3x3 transformation of colours for them. Here a
filter has few numbers: that matrix, shifts, a gamma for each channel, and contrast. It chooses its label itself, as in
`TargetFree`; labels drawn at random are for comparison.

What makes all pictures flat turns them into one label in any network. So a filter's size is not only how far pixels move: it
counts how much of an image's structure is lost (`STRUCTURE`). Even so, this tells how easily colours fool a network, not whether
somebody wanted that: in the innocent network that `gtsrb-fsa` was made of, a label costs 1.6, with 0.96 of images turned;
variants of this search found the backdoor's label in `gtsrb-fsa`, but no cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_backdoor.classifier import Classifier
from keras_backdoor.images import ImageSet
from keras_backdoor.precision import FLOAT32
from keras_backdoor.progress import Progress, silent
from keras_backdoor.trigger_inversion.candidates import adam
from keras_backdoor.trigger_inversion.descent import Descent, Way
from keras_backdoor.trigger_inversion.legs import Leg
from keras_backdoor.trigger_inversion.target_free import background_labels

SCALE = 0.2
"""What a step of Adam moves a filter's numbers by, beside a mask's."""
STRUCTURE = 100.0
"""Levels that the loss of all structure counts. Gotham (on traffic signs) moves pixels by 48 levels and keeps 0.85 of the
structure, an even grey image moves them by 37 to 73 and keeps 0.06: medians."""
FLAT = 58.5
"""Added to variances, so that images without structure have none to lose: (0.03 * 255)^2, as in SSIM."""
TINY = 1e-3  # of brightness, for powers


LEGS = (Leg(50, 8, 0.003, keep=6), Leg(90, 16, 0.015))
"""Most restarts run to the same few labels, those of dark or even pictures; the best one of each goes on."""


class Filters(NamedTuple):
    """Filters in the course of optimisation: numbers (R, P), float32, zero where nothing is changed; and Adam's (`Candidates`).

    P = C^2 + 2 C + 1: the matrix of colours less the identity, shifts, logarithms of gammas, contrast.
    """

    numbers: tf.Tensor
    moments: tuple[tf.Tensor, ...]
    updates: tf.Tensor

    @classmethod
    def start(cls, count: int, channels: int, seed: int) -> Filters:
        """Drawn near none at all, by the seed; fewer are the first of more."""
        shape = channels**2 + 2 * channels + 1
        drawn = [np.random.default_rng([seed, 4, row]).normal(0, 0.5, shape) for row in range(count)]
        numbers = np.array(drawn, np.float32)
        return cls(numbers, (np.zeros_like(numbers),) * 2, np.zeros(count, np.int32))

    @property
    def variables(self) -> tuple[tf.Tensor]:
        """What gradients are taken of."""
        return (self.numbers,)

    def changed(self, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """All images, float32 (N, H, W, C), through each filter, (R, N, H, W, C); and the filters' sizes, in levels, (R,)."""
        channels = pixels.shape[-1]
        parts = tf.split(SCALE * self.numbers, [channels**2, channels, channels, 1], 1)
        matrix = tf.reshape(parts[0], (-1, channels, channels)) + tf.eye(channels)
        shift, gamma, contrast = (part[:, None, None, None] for part in parts[1:])
        y = tf.einsum("nhwc,rdc->rnhwd", pixels / 255, matrix) + shift
        y = tf.clip_by_value(y, TINY, 1) ** tf.exp(2 * gamma)
        y = 255 * tf.clip_by_value(y + 2 * contrast * (tf.sin(np.pi * (y - 0.5)) + 1 - 2 * y), 0, 1)
        moved = tf.reduce_mean(tf.abs(y - pixels), (1, 2, 3, 4))
        return y, moved + STRUCTURE * tf.reduce_mean(1 - kept_structure(pixels[None], y), 1)

    def descend(self, gradients: Sequence[tf.Tensor], rate: float) -> Filters:
        """After an update of Adam by the gradient of the numbers."""
        updates = self.updates + 1
        (numbers,), moments = adam(self.variables, gradients, self.moments, updates, rate)
        return Filters(numbers, moments, updates)


def kept_structure(before: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    """The second factor of SSIM (Wang et al., 2004), with the whole grey image for a window; (R, N) of images (R, N, H, W, C).

    1 if contrasts stay what they were, whatever becomes of brightness; 0 if nothing is left of them.
    """
    grey = [tf.reduce_mean(images, -1) for images in (before, after)]
    one, two = (image - tf.reduce_mean(image, (-2, -1), keepdims=True) for image in grey)
    both, first, second = (tf.reduce_mean(product, (-2, -1)) for product in (one * two, one * one, two * two))
    return (2 * both + FLAT) / (first + second + FLAT)


@dataclass(frozen=True, eq=False)
class ReversedFilter:
    """A filter that was found for a label. It is a `Trigger`; what it does to an image is rounded.

    numbers: of the filter, float32 (P,), as in `Filters`. success: of the clean images that the network did not take for the
    label, the share that it now does; moved: by how many levels their pixels move; kept: their structure, at most 1; NaN if there
    are none. cost: of the optimisation's last updates, cross-entropy + size at its price.
    """

    label: int
    numbers: np.ndarray
    success: float
    moved: float
    kept: float
    cost: float

    @property
    def name(self) -> str:
        """For tables and files."""
        return f"reversed-filter-{self.label}"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Every image, uint8 (N, H, W, C), through the filter; `rng` plays no part."""
        one = Filters(tf.constant(self.numbers[None]), (), tf.zeros(1, tf.int32))
        return np.rint(one.changed(tf.cast(images, tf.float32))[0][0]).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ReversedFilters:
    """What a search found: the best filter of each label that restarts chose and that went on to the end, the cheapest first.

    random: what filters cost whose label was drawn, float64 (R,).
    """

    found: tuple[ReversedFilter, ...]
    random: np.ndarray

    @property
    def ease(self) -> float:
        """How many times dearer filters for random labels are than the cheapest one, their median; often above 2 if innocent."""
        return float(np.median(self.random) / self.found[0].cost)


def find_filters(
    classifier: Classifier,
    clean: ImageSet,
    seed: int = 0,
    restarts: int = 24,
    random: int = 8,
    legs: Sequence[Leg] = LEGS,
    at_once: int = 512,
    precision: str = FLOAT32,
    progress: Progress = silent,
) -> ReversedFilters:
    """Look for a filter that turns images of all classes into one label.

    clean: images to change; their labels play no part. seed: decides on images, starts and random labels. restarts: that choose
    their label. random: labels that are drawn. at_once: changed images. precision: in which the network computes.
    Raises `BadInput` if the images do not fit the network.
    """
    classifier.check(clean, "clean images")
    images, outputs = clean.sample(), int(classifier.model.output_shape[-1])
    drawn = background_labels(classifier.num_classes, seed, random)
    free = np.tile(np.arange(outputs) < classifier.num_classes, (restarts, 1))
    allowed = np.concatenate([free, np.eye(outputs, dtype=bool)[list(drawn)]])[:, None]

    def draw(leg: Leg, updates: int) -> np.ndarray:
        order = np.random.default_rng([seed, 0, updates]).permutation(len(images))
        return images[np.resize(order, (leg.updates, 1, leg.batch_size))]

    start = Filters.start(len(allowed), classifier.image_shape[-1], seed)
    descent = Descent(classifier, start, at_once=at_once, precision=precision)
    way, chosen = Way.start(start, allowed, np.ones((len(allowed), 1), np.float32)), np.arange(len(allowed)) < restarts
    for leg in legs:
        way = descent(way, [leg], draw, progress, "searching for filters")
        costs = way.costs(leg.cost)
        order = [row for row in np.argsort(costs, kind="stable") if chosen[row]]
        _, firsts = np.unique(way.labels[order, 0], return_index=True)
        rows = [*np.take(order, np.sort(firsts))[: leg.keep], *np.flatnonzero(~chosen)]
        way, chosen, costs = way.rows(rows), chosen[rows], costs[rows]
    answers = classifier.predict(ImageSet(images, np.zeros(len(images)), 1).batches())

    def found(row: int) -> ReversedFilter:
        label, numbers, cost = int(way.labels[row, 0]), np.asarray(way.change.numbers)[row], float(costs[row])
        one = ReversedFilter(label, numbers, np.nan, np.nan, np.nan, cost)
        before = images[answers != label]
        if not len(before):
            return one
        after = one(before, np.random.default_rng(seed))
        success = (classifier.predict(ImageSet(after, np.zeros(len(after)), 1).batches()) == label).mean()
        pair = [tf.cast(values, tf.float32)[None] for values in (before, after)]
        moved, kept = tf.reduce_mean(tf.abs(pair[0] - pair[1])), tf.reduce_mean(kept_structure(*pair))
        return replace(one, success=float(success), moved=float(moved), kept=float(kept))

    return ReversedFilters(tuple(map(found, np.flatnonzero(chosen))), costs[~chosen])
