"""Masks and patterns: while they are optimised, and what is found in the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np
import tensorflow as tf

EPSILON = 1e-7
BETAS = (0.5, 0.9)
"""Of Adam, in Neural Cleanse."""


class Stamp:
    """What is common to triggers that were found: (1 - mask) x + mask * pattern, rounded.

    mask: float32 (H, W), 0..1. pattern: float32 (H, W, C), 0..255.
    """

    mask: np.ndarray
    pattern: np.ndarray

    @property
    def norm(self) -> float:
        """L1 norm of the mask: about how many pixels the trigger covers."""
        return float(self.mask.sum(dtype=np.float64))

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image, uint8 (N, H, W, C); `rng` plays no part."""
        mask = self.mask[..., None]
        return np.rint((1 - mask) * images + mask * self.pattern).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ReversedTrigger(Stamp):
    """What was found for a label. It is a `Trigger`.

    success: share of the images of the step that gave the mask which got the label; the mask is that of the step's end, and may
    do a little worse. works: whether it was ever enough; if not, mask and pattern are the last ones.
    history: float32 (steps, 3): cost, success and mean norm in every step.
    """

    label: int
    mask: np.ndarray
    pattern: np.ndarray
    success: float
    works: bool
    history: np.ndarray

    @property
    def name(self) -> str:
        """For tables and files."""
        return f"reversed-{self.label}"


def latest(triggers: Iterable[ReversedTrigger]) -> list[ReversedTrigger]:
    """Of each label the last of its triggers, in the order of the labels."""
    last = {trigger.label: trigger for trigger in triggers}
    return [last[label] for label in sorted(last)]


class Candidates(NamedTuple):
    """Masks and patterns in the course of optimisation, one of each a label; first axis L.

    mask: (L, H, W), and pattern: (L, H, W, C), float32, before tanh. moments: Adam's means of the gradients of both, and of their
    squares. updates: of Adam so far, int32 (L,).
    """

    mask: tf.Tensor
    pattern: tf.Tensor
    moments: tuple[tf.Tensor, ...]
    updates: tf.Tensor

    @classmethod
    def start(
        cls, labels: Sequence[int], image_shape: tuple[int, int, int], seed: int, times: Optional[Sequence[int]] = None
    ) -> Candidates:
        """Uniform in 0..1 and 0..255, a function of seed and label, and of how many starts the label had before (`times`)."""
        generators = [np.random.default_rng([seed, 1, *one]) for one in zip(labels, times or [0] * len(labels))]
        mask, pattern = (
            tf.constant(
                np.stack([np.arctanh((one.random(shape) - 0.5) * (2 - EPSILON)) for one in generators]), tf.float32
            )
            for shape in (image_shape[:2], image_shape)
        )
        zeros = [tf.zeros_like(one) for one in (mask, pattern)]
        return cls(mask, pattern, (*zeros, *zeros), tf.zeros(len(labels), tf.int32))

    @property
    def variables(self) -> tuple[tf.Tensor, tf.Tensor]:
        """What gradients are taken of."""
        return self.mask, self.pattern

    def changed(self, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """All images, float32 (N, H, W, C), with each mask and pattern, (L, N, H, W, C); and the L1 norms of the masks, (L,)."""
        mask, pattern = self.bounded
        return pixels + mask[:, None, ..., None] * (pattern[:, None] - pixels), tf.reduce_sum(mask, (1, 2))

    @property
    def bounded(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The masks, 0..1, and the patterns, 0..255."""
        mask, pattern = (tf.tanh(one) / (2 - EPSILON) + 0.5 for one in (self.mask, self.pattern))
        return mask, 255.0 * pattern

    def descend(self, gradients: Sequence[tf.Tensor], rate: float) -> Candidates:
        """After an update of Adam by the gradients of mask and pattern before tanh."""
        updates = self.updates + 1
        (mask, pattern), moments = adam((self.mask, self.pattern), gradients, self.moments, updates, rate)
        return Candidates(mask, pattern, moments, updates)


def adam(
    values: Sequence[tf.Tensor],
    gradients: Sequence[tf.Tensor],
    moments: Sequence[tf.Tensor],
    updates: tf.Tensor,
    rate: float,
    betas: tuple[float, float] = BETAS,
) -> tuple[tuple[tf.Tensor, ...], tuple[tf.Tensor, ...]]:
    """Values after an update of Adam, and the moments after it: means of all gradients, then of their squares; zero at first.

    updates: with this one, int32 (L,), or one number for all rows.
    """
    moved, means, squares = [], [], []
    for index, (value, gradient) in enumerate(zip(values, gradients)):
        means.append(betas[0] * moments[index] + (1 - betas[0]) * gradient)
        squares.append(betas[1] * moments[index + len(values)] + (1 - betas[1]) * tf.square(gradient))
        passed = tf.reshape(tf.cast(updates, tf.float32), (-1, *[1] * (len(gradient.shape) - 1)))
        corrected = rate * tf.sqrt(1 - betas[1] ** passed) / (1 - betas[0] ** passed)
        moved.append(value - corrected * means[index] / (tf.sqrt(squares[index]) + EPSILON))
    return tuple(moved), (*means, *squares)
