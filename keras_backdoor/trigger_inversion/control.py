"""When a label's cost goes up and down, and when it is finished: Neural Cleanse's controller, for many labels at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class InversionSchedule:
    """How long to optimise, on how many images, and when the controller acts. A step ends when it looks at the averages.

    steps: at most, for a label. updates: of Adam in a step. batch_size: images an update.
    success: share of a step's images that must get the label for the trigger to count as working.
    patience: steps in a row that work until the cost is raised, or do not until it is lowered.
    first_cost: what it is at first, and after `patience` steps that work, if that is zero. cost: what it is then.
    raise_by, lower_by: factor and divisor. The code's comment calls the latter the factor's root, but it is its power of 1.5.
    stop_patience: steps in a row after which a label is finished, once its cost was raised and lowered, if in none of them the
        smallest norm fell below `stop_ratio` of what it was.
    learning_rate: of Adam.
    starts, trial: each label sets out so many times, from elsewhere; after `trial` steps, the start with the smallest mask that
        works goes on alone. Which valley a start comes to shows early, and some never leave a bad one.
    """

    steps: int = 1000
    updates: int = 31
    batch_size: int = 32
    success: float = 0.99
    patience: int = 5
    first_cost: float = 0.0
    cost: float = 1e-3
    raise_by: float = 2.0
    lower_by: float = 2.0**1.5
    stop_patience: int = 25
    stop_ratio: float = 1.0
    learning_rate: float = 0.1
    starts: int = 1
    trial: int = 16

    @property
    def images(self) -> int:
        """Images in a step."""
        return self.updates * self.batch_size


ORIGINAL = InversionSchedule()
"""The released code's GTSRB example."""

FAST = InversionSchedule(steps=500, updates=4, patience=3, stop_patience=10, stop_ratio=0.99, starts=3)
"""An eighth of the images: the controller looks after 4 updates, not 31. 127 of a step's 128 images must get the label.

Three starts: of eight for the target of a network with a white 4x4 square (`gtsrb-square`, seed 1), one ended at a norm of 25,
the others at 6 to 11. After 16 steps it was at 122, the best two at 34 and 40; those ended at 5.9 and 6.4."""

SCHEDULES = {"original": ORIGINAL, "fast": FAST}


class Control(NamedTuple):
    """The controller of each label, (L,): what is remembered from step to step.

    cost: float64. ready: steps in a row that worked while the cost was zero, up and down: that worked, that did not, since it
    was changed, int32. raised, lowered: whether it ever was. best: smallest norm so far, float64, infinite at first.
    stale: steps in a row in which it hardly fell, int32.
    """

    cost: tf.Tensor
    ready: tf.Tensor
    up: tf.Tensor
    down: tf.Tensor
    raised: tf.Tensor
    lowered: tf.Tensor
    best: tf.Tensor
    stale: tf.Tensor

    @classmethod
    def start(cls, count: int, schedule: InversionSchedule) -> Control:
        """Before the first step."""
        zero, no = tf.zeros(count, tf.int32), tf.zeros(count, tf.bool)
        cost, best = (tf.fill((count,), tf.constant(one, tf.float64)) for one in (schedule.first_cost, np.inf))
        return cls(cost, zero, zero, zero, no, no, best, zero)

    def step(
        self, schedule: InversionSchedule, works: tf.Tensor, norm: tf.Tensor
    ) -> tuple[Control, tf.Tensor, tf.Tensor]:
        """After a step; and which labels have a better mask, and which are finished, bool (L,).

        works: whether the step's triggers do, bool (L,). norm: the mean one in the step, float64 (L,).
        """
        better = works & (norm < self.best)
        best = tf.where(better, norm, self.best)
        fell = best < schedule.stop_ratio * self.best
        stale = tf.where(fell | tf.math.is_inf(best), 0, self.stale + 1)
        finished = self.raised & self.lowered & (stale >= schedule.stop_patience)

        ready = tf.where((self.cost == 0) & works, self.ready + 1, 0)
        first = ready >= schedule.patience
        up = tf.where(works, tf.where(first, 0, self.up) + 1, 0)
        down = tf.where(works, 0, tf.where(first, 0, self.down) + 1)
        higher, lower = up >= schedule.patience, down >= schedule.patience
        cost = tf.where(first, tf.constant(schedule.cost, tf.float64), self.cost)
        cost = tf.where(higher, cost * schedule.raise_by, tf.where(lower, cost / schedule.lower_by, cost))
        after = Control(
            cost,
            ready,
            tf.where(higher, 0, up),
            tf.where(lower, 0, down),
            (self.raised & ~first) | higher,
            (self.lowered & ~first) | lower,
            best,
            stale,
        )
        return after, better, finished
