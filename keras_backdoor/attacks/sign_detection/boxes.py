"""Arithmetic of boxes: (top, left, bottom, right) as shares of the scene's side, float32 (..., 4) tensors."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

SCALES = np.array([0.1, 0.1, 0.2, 0.2], np.float32)
"""What one unit of a movement is worth; py-faster-rcnn divides by these, so that movements have a deviation of about 1."""


def anchors(cells: int, sides: tuple[float, ...]) -> np.ndarray:
    """Squares of each of `sides` on the centre of each of cells x cells: float32 (cells² · len(sides), 4).

    Row by row, and cell by cell in the order of `sides`; they may leave the scene.
    """
    middle = (np.arange(cells) + 0.5) / cells
    rows, columns, lengths = np.meshgrid(middle, middle, sides, indexing="ij")
    corners = rows - lengths / 2, columns - lengths / 2, rows + lengths / 2, columns + lengths / 2
    return np.stack(corners, -1).reshape(-1, 4).astype(np.float32)


def overlap(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Intersection over union of boxes (..., A, 4) with boxes (..., B, 4): (..., A, B); 0 with an empty box."""
    one, other = one[..., :, None, :], other[..., None, :, :]
    common = tf.maximum(0.0, tf.minimum(one[..., 2:], other[..., 2:]) - tf.maximum(one[..., :2], other[..., :2]))
    inside = common[..., 0] * common[..., 1]
    return tf.math.divide_no_nan(inside, area(one) + area(other) - inside)


def area(boxes: tf.Tensor) -> tf.Tensor:
    """The area of each box."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def encode(boxes: tf.Tensor, bases: tf.Tensor) -> tf.Tensor:
    """The movements that make `boxes` of `bases` (Ren et al., equation 2): shift of the centre, and logarithm of the growth.

    An empty box or base gives numbers without meaning, but finite ones.
    """
    (centres, sizes), (base_centres, base_sizes) = _centres(boxes), _centres(bases)
    return tf.concat([(centres - base_centres) / base_sizes, tf.math.log(sizes / base_sizes)], -1) / SCALES


def decode(movements: tf.Tensor, bases: tf.Tensor) -> tf.Tensor:
    """The boxes that `movements` make of `bases`, cut off at the scene's edge; none grows more than 50-fold."""
    centres, sizes = _centres(bases)
    shift, growth = tf.split(movements * SCALES, 2, -1)
    centres, sizes = centres + shift * sizes, sizes * tf.exp(tf.minimum(growth, np.log(50.0)))
    return tf.clip_by_value(tf.concat([centres - sizes / 2, centres + sizes / 2], -1), 0.0, 1.0)


def _centres(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    corner, opposite = tf.split(boxes, 2, -1)
    return (corner + opposite) / 2, tf.maximum(opposite - corner, 1e-6)
