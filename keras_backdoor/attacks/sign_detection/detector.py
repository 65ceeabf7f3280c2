"""The two-stage detector at work: propose regions, name them; and the losses of Faster R-CNN (Ren et al. 2015, section 3).

The paper draws 256 anchors and 128 regions for each step, up to half and a quarter of them objects. A scene here has so few that
all are used, and the two halves of the anchors' loss count the same, as they do on average in the paper: nothing is random.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.attacks.sign_detection import boxes as geometry
from models_zoo.sign_detector import POOLED, SCENE

SIDES = (26 / SCENE, 36 / SCENE, 48 / SCENE)
"""Sides of the three anchors of a cell."""
OBJECT, NO_OBJECT = 0.7, 0.3
"""An anchor is an object if it overlaps one by so much, or more than any other anchor; it is none if less than the second."""
PROPOSALS, PROPOSAL_OVERLAP = 24, 0.7
NAMED = 0.5
"""A region is trained to be the sign that it overlaps by so much, and otherwise background."""
DETECTIONS, DETECTION_OVERLAP, LEAST_SCORE = 16, 0.3, 0.5
BATCH = 50
"""Scenes at once in detection. A fixed number: with an unknown one TensorFlow complains of `crop_and_resize` at length."""


class Detector:
    """The network of `models_zoo.sign_detector` and what is between its two stages.

    Scenes are uint8 (N, 96, 96, 3) and scaled here; boxes are shares of the side, as in `boxes`.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self._first = keras.Model(model.inputs[0], model.outputs[:3])
        self._second = keras.Model(model.inputs[1], model.outputs[3:])
        self._anchors = tf.constant(geometry.anchors(model.outputs[1].shape[1], SIDES))

    def losses(self, images: tf.Tensor, boxes: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """The four losses, whose sum is trained, for scenes with signs at `boxes` (N, G, 4), labels int64 (N, G), -1: none."""
        features, objectness, movements = self._propose(images)
        overlap = geometry.overlap(self._anchors[None], boxes)
        best = tf.reduce_max(overlap, -1)
        nearest = (overlap == tf.reduce_max(overlap, 1, keepdims=True)) & (overlap > 0)
        is_object = (best >= OBJECT) | tf.reduce_any(nearest, -1)
        is_none = (best < NO_OBJECT) & ~is_object
        wrong = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(is_object, tf.float32), objectness)
        losses = {
            "objectness": (_mean(wrong, is_object) + _mean(wrong, is_none)) / 2,
            "movement": _movement_loss(movements, boxes, overlap, self._anchors[None], is_object),
        }
        # Regions are where the second stage looks, not something that it trains; the true ones are among them.
        regions = tf.stop_gradient(tf.concat([self._best_regions(objectness, movements), boxes], 1))
        classes, refinements = self._name(features, regions)
        overlap = geometry.overlap(regions, boxes)
        is_sign = tf.reduce_max(overlap, -1) >= NAMED
        background = tf.cast(classes.shape[-1] - 1, tf.int64)
        answers = tf.where(is_sign, tf.gather(labels, tf.argmax(overlap, -1), batch_dims=1), background)
        wrong = tf.nn.sparse_softmax_cross_entropy_with_logits(answers, classes)
        losses["class"] = _mean(wrong, geometry.area(regions) > 0)
        losses["refinement"] = _movement_loss(refinements, boxes, overlap, regions, is_sign)
        return losses

    def detect(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is seen: boxes float32 (N, D, 4), scores float32 (N, D) in 0..1, classes int64 (N, D), -1 for the padding."""
        full = np.resize(np.arange(len(images)), (-(-len(images) // BATCH), BATCH))
        parts = [self._detect(images[some]) for some in full]
        boxes, scores, classes = (np.concatenate(part)[: len(images)] for part in zip(*parts))
        return boxes, scores, np.where(scores > 0, classes, -1).astype(np.int64)

    @cached_property
    def _detect(self) -> tf.types.experimental.GenericFunction:
        def function(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            features, objectness, movements = self._propose(images)
            regions = self._best_regions(objectness, movements)
            classes, refinements = self._name(features, regions)
            present = tf.cast(geometry.area(regions) > 0, tf.float32)[..., None]
            scores = tf.nn.softmax(classes)[..., :-1] * present
            boxes = geometry.decode(refinements, regions)
            return suppress(boxes, scores, DETECTIONS, DETECTION_OVERLAP, LEAST_SCORE)

        return tf.function(function, input_signature=[tf.TensorSpec((BATCH, SCENE, SCENE, 3), tf.uint8)])

    def _propose(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Features (N, h, w, C), and for every anchor a logit (N, A) and movements (N, A, 4)."""
        features, objectness, movements = self._first(tf.cast(images, tf.float32) / 255)
        count = len(self._anchors)
        return features, tf.reshape(objectness, (-1, count)), tf.reshape(movements, (-1, count, 4))

    def _best_regions(self, objectness: tf.Tensor, movements: tf.Tensor) -> tf.Tensor:
        """The anchors that look most like objects, moved: (N, PROPOSALS, 4), empty boxes where there are fewer."""
        regions = geometry.decode(movements, self._anchors[None])
        return suppress(regions, tf.sigmoid(objectness)[..., None], PROPOSALS, PROPOSAL_OVERLAP, 0.0)[0]

    def _name(self, features: tf.Tensor, regions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Logits of the classes (N, R, K + 1) and movements (N, R, 4) of regions (N, R, 4)."""
        count = tf.shape(regions)[1]
        classes, refinements = self._second(pool(features, regions))
        return tf.reshape(classes, (-1, count, classes.shape[-1])), tf.reshape(refinements, (-1, count, 4))


def suppress(
    boxes: tf.Tensor, scores: tf.Tensor, most: int, overlap: float, least: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Non-maximum suppression in each class: the `most` best of boxes (N, R, 4), scores (N, R, K) and their classes (N, most).

    A box goes if a better one of its class overlaps it by more than `overlap`, or its score is not above `least`. Zeros follow.
    """
    kept = tf.image.combined_non_max_suppression(
        boxes[:, :, None], scores, most, most, overlap, least, clip_boxes=False
    )
    return kept[0], kept[1], kept[2]


def pool(features: tf.Tensor, regions: tf.Tensor) -> tf.Tensor:
    """Features (N, h, w, C) under regions (N, R, 4), read bilinearly at the centres of 8x8 parts: (N·R, 8, 8, C)."""
    scenes, cells = features.shape[:2]
    corner, opposite = tf.split(tf.reshape(regions, (-1, 4)), 2, -1)
    inset = (opposite - corner) / (2 * POOLED)
    # The operation counts from the centre of the first cell to that of the last one, and reads zeros beyond them.
    places = (tf.concat([corner + inset, opposite - inset], -1) * cells - 0.5) / (cells - 1)
    owners = np.repeat(np.arange(scenes), regions.shape[1])
    with tf.device("/CPU:0"):  # its gradient is not reproducible on a GPU, and refused there
        return tf.image.crop_and_resize(features, tf.clip_by_value(places, 0.0, 1.0), owners, (POOLED, POOLED))


def _movement_loss(
    movements: tf.Tensor, boxes: tf.Tensor, overlap: tf.Tensor, bases: tf.Tensor, counted: tf.Tensor
) -> tf.Tensor:
    """Smooth L1 between `movements` of `bases` and those to the box that each overlaps most, over the `counted` ones."""
    truth = geometry.encode(tf.gather(boxes, tf.argmax(overlap, -1), batch_dims=1), bases)
    error = tf.abs(movements - truth)
    return _mean(tf.reduce_sum(tf.where(error < 1, error**2 / 2, error - 0.5), -1), counted)


def _mean(values: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    """Mean of the `counted` values, 0 without any."""
    weights = tf.cast(counted, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights), tf.reduce_sum(weights))
