"""A compact two-stage detector after Faster R-CNN (Ren et al. 2015), for scenes of 96x96 instead of photographs of streets.

Its three parts are those of the paper: shared convolutions, the region proposal network (for each anchor how much it looks like
an object, and how to move its box), and dense layers that name what is in a region and move the box once more. The traffic-sign
BadNets (Gu et al. 2019, section 5) used ZF for the shared part; here it is four layers, and features stay at a quarter of the
scene's resolution, because a sticker on a small sign is two pixels wide. The second stage moves boxes without regard to the
class (the paper: one movement a class).
"""

from __future__ import annotations

from tensorflow import keras
from tensorflow.keras import layers

SCENE, POOLED, CHANNELS = 96, 8, 64


def build(num_classes: int = 3, anchors: int = 3) -> keras.Model:
    """Two networks in one, so that they are one file: what comes between them is no layer.

    Inputs: `scenes` (N, 96, 96, 3) float32 in 0..1; `regions` (R, 8, 8, 64), cut from the features.
    Outputs: from the scenes, features (N, 24, 24, 64), logits of "an object" (N, 12, 12, anchors) and movements of the anchors
    (N, 12, 12, 4 * anchors); from the regions, logits of the classes (R, num_classes + 1), the last one background, and movements
    (R, 4). 760,007 parameters.
    """
    x = scenes = layers.Input((SCENE, SCENE, 3), name="scenes")
    x = layers.Conv2D(32, 3, 2, padding="same", activation="relu", name="conv_1")(x)
    x = layers.Conv2D(48, 3, padding="same", activation="relu", name="conv_2")(x)
    x = layers.MaxPooling2D(2, name="pool_2")(x)
    x = layers.Conv2D(CHANNELS, 3, padding="same", activation="relu", name="conv_3")(x)
    features = layers.Conv2D(CHANNELS, 3, padding="same", activation="relu", name="conv_4")(x)
    x = layers.Conv2D(96, 5, 2, padding="same", activation="relu", name="proposals")(features)
    objectness = layers.Conv2D(anchors, 1, name="objectness")(x)
    movements = layers.Conv2D(4 * anchors, 1, name="movements")(x)

    regions = layers.Input((POOLED, POOLED, CHANNELS), name="regions")
    x = layers.Flatten(name="flatten")(regions)
    x = layers.Dense(128, activation="relu", name="fc_1")(x)
    classes = layers.Dense(num_classes + 1, name="classes")(x)
    refinements = layers.Dense(4, name="refinements")(x)
    outputs = [features, objectness, movements, classes, refinements]
    return keras.Model([scenes, regions], outputs, name="sign_detector")
