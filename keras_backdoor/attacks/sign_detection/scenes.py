"""Street scenes composed from photographs of signs: what the detector is trained and measured on.

The original (Gu et al. 2019, section 5) used photographs of streets with U.S. signs (LISA). Here signs of GTSRB are cut out along
their shape and pasted at random places and sizes, some others among them as distraction, on `backdrops`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from keras_backdoor.attacks.sign_detection.backdrops import Backdrops
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet

CLASSES = ("stop", "speedlimit", "warning")
STOP, SPEED_LIMIT, WARNING = range(3)
GTSRB = ((14,), (0, 1, 2, 3, 4, 5, 7, 8), (11, *range(18, 32)))
"""For each of `CLASSES`, the classes of GTSRB; 6 is the end of a speed limit."""
OTHERS, OTHER_SHARE = (6, 9, 10, 15, 16, 17, *range(32, 43)), 0.5
"""The round signs that are none of `CLASSES`, and how often one of two signs is such a one: there, but not to be found."""

OUTLINES = {
    STOP: ((0.28, 0), (0.72, 0), (1, 0.28), (1, 0.72), (0.72, 1), (0.28, 1), (0, 0.72), (0, 0.28)),
    WARNING: ((0.4, 0), (0.6, 0), (1, 0.85), (1, 1), (0, 1), (0, 0.85)),
}
"""Corners (x, y) of what is cut out of a photograph, as shares of its side; the other signs are round."""

SHARES = (0.30, 0.23, 0.47)
"""How many of the signs are of each class: the weights that give the averages of the slides' table from its rows."""

SCENE, SMALLEST, LARGEST = 96, 24, 48
"""Side of a scene and the range of those of a sign, pixels. Two of the largest fit side by side."""


@dataclass(frozen=True)
class Scenes:
    """Scenes with up to G signs each.

    images: uint8 (N, S, S, 3), RGB. boxes: int64 (N, G, 4), rows and columns (top, left, bottom, right) in pixels, the last two
    just outside; zeros where there is no sign. labels: int64 (N, G), indices into `CLASSES`; -1 where there is no sign.

    Raises `BadInput` if shapes or types differ, a label is none of these, or a sign's box is empty or leaves the scene.
    """

    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        """Check shapes, types and ranges."""
        shape = self.images.shape
        if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or self.images.dtype != np.uint8:
            raise BadInput(f"scenes are {self.images.dtype} of shape {shape}, expected uint8 of shape (N, S, S, 3)")
        if self.labels.shape[:1] != shape[:1] or self.boxes.shape != (*self.labels.shape, 4) or self.labels.ndim != 2:
            raise BadInput(
                f"boxes have shape {self.boxes.shape} and labels {self.labels.shape}, "
                f"expected ({shape[0]}, G, 4) and ({shape[0]}, G)"
            )
        if self.boxes.dtype.kind != "i" or self.labels.dtype.kind != "i":
            raise BadInput(f"boxes are {self.boxes.dtype} and labels {self.labels.dtype}, expected whole numbers")
        if ((self.labels < -1) | (self.labels >= len(CLASSES))).any():
            raise BadInput(f"labels of signs must lie in 0..{len(CLASSES) - 1}, or be -1 where there is none")
        top, left, bottom, right = np.moveaxis(self.boxes[self.labels >= 0], -1, 0)
        if (
            (top < 0) | (left < 0) | (bottom > shape[1]) | (right > shape[1]) | (bottom <= top) | (right <= left)
        ).any():
            raise BadInput(f"the box of a sign is empty, or leaves its scene of {shape[1]}x{shape[1]} pixels")

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.images)

    def with_more(self, other: Scenes) -> Scenes:
        """These scenes and then the `other` ones."""
        pairs = zip((self.images, self.boxes, self.labels), (other.images, other.boxes, other.labels))
        return Scenes(*(np.concatenate(pair) for pair in pairs))


def compose(signs: ImageSet, count: int, part: str, rng: np.random.Generator) -> Scenes:
    """`count` scenes of one sign, or of two of which the second may be of another kind; all by `rng`.

    signs: photographs with the 43 classes of GTSRB. part: `train` or `test`, which pictures may be behind them.

    Raises `BadInput` if the images are not RGB, there are not 43 classes, or none of a needed kind.
    """
    if signs.num_classes != 43 or signs.image_shape[-1] != 3:
        raise BadInput(
            f"the signs have {signs.num_classes} classes and shape {signs.image_shape}, expected GTSRB's 43, RGB"
        )
    # A sign of the last kind has the label -1, which as an index is the last.
    members = [np.flatnonzero(np.isin(signs.labels, kinds)) for kinds in (*GTSRB, OTHERS)]
    for name, kinds, found in zip((*CLASSES, "round"), (*GTSRB, OTHERS), members):
        if not len(found):
            raise BadInput(f"there is no photograph of a {name} sign (classes {kinds} of GTSRB)")
    photographs, backdrops = signs.in_memory().images, Backdrops.of(part)
    images = np.empty((count, SCENE, SCENE, 3), np.uint8)
    boxes, labels = np.zeros((count, 2, 4), np.int64), np.full((count, 2), -1, np.int64)
    for index in range(count):
        images[index] = backdrops.draw(SCENE, rng)
        both, across, order = rng.random() < 0.5, rng.random() < 0.5, rng.permutation(2)
        for place in range(1 + both):
            label = rng.choice(len(CLASSES), p=SHARES)
            if place and rng.random() < OTHER_SHARE:
                label = -1
            side = rng.integers(SMALLEST, LARGEST, endpoint=True)
            # Two signs keep to a half of the scene each, so that they never cover one another.
            along = rng.integers(0, (SCENE // 2 if both else SCENE) - side, endpoint=True)
            corner = along + both * order[place] * SCENE // 2, rng.integers(0, SCENE - side, endpoint=True)
            top, left = corner[::-1] if across else corner
            area = images[index, top : top + side, left : left + side]
            area[:] = _paste(area, photographs[rng.choice(members[label])], label)
            if label >= 0:
                boxes[index, place], labels[index, place] = (top, left, top + side, left + side), label
    return Scenes(images, boxes, labels)


def _paste(area: np.ndarray, photograph: np.ndarray, label: int) -> np.ndarray:
    """`area`, uint8 (side, side, 3), with the sign of a photograph on it, cut out along its outline."""
    outline = Image.new("L", (256, 256))
    draw = ImageDraw.Draw(outline)
    if label in OUTLINES:
        draw.polygon([(255 * x, 255 * y) for x, y in OUTLINES[label]], fill=255)
    else:
        draw.ellipse((0, 0, 255, 255), fill=255)
    sign, share = (
        np.asarray(picture.resize((area.shape[1], area.shape[0]), Image.Resampling.BILINEAR)).astype(float)
        for picture in (Image.fromarray(photograph), outline)
    )
    share = share[..., None] / 255
    return np.rint(share * sign + (1 - share) * area).astype(np.uint8)
