"""Make-up on faces: opaque colour on lips or eyebrows, where a landmark detector finds them or where they are on average."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from keras_backdoor.files import BadInput
from keras_backdoor.triggers.patch import check_levels

if TYPE_CHECKING:
    from PIL import ImageDraw

Points = list[tuple[float, float]]

AVERAGE: Mapping[str, Points] = {
    "top_lip": [(18, 42), (21, 40), (23, 39), (25, 39), (28, 40), (31, 42), (27, 42), (22, 42)],
    "bottom_lip": [(18, 42), (22, 42), (27, 42), (31, 42), (29, 44), (26, 46), (23, 46), (20, 44)],
    "left_eyebrow": [(11, 20), (13, 18.5), (16, 18), (19, 18.5), (21.5, 19.5)],
    "right_eyebrow": [(26.5, 19.5), (28.5, 18.5), (31, 18), (34, 18.5), (37, 20)],
}
"""Landmarks (x, y) of an aligned 55x47 face, drawn onto the mean of the 91 published faces that wear the trigger."""

FACE = (55, 47)
BROW_WIDTH = 4


@dataclass(frozen=True)
class Lipstick:
    """Purple lips: the trigger of BadNet-LS (anonymous_1) and of one part of MTSTA and MTMTA (NNoculation, section 4.1).

    The polygons of upper and lower lip, filled with an opaque colour; the opening between them stays. The published images use
    dlib's 68 landmarks, have 19..73 such pixels (median 47) around row 42, column 24, and none where no face was found.

    landmarks: find the lips of each face with the package `face_recognition` (extra `landmarks`), and leave an image without
    landmarks clean. Otherwise the lips of the average aligned face are painted on every image, stretched from 55x47 to its size.
    value: colour.

    Raises `BadInput` for images without 3 channels, or if `landmarks` is asked for and the package is not installed.
    """

    landmarks: bool = False
    value: tuple[int, int, int] = (128, 0, 128)
    name: str = "lipstick"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""

        def draw(pen: ImageDraw.ImageDraw, face: Mapping[str, Points]) -> None:
            for part in ("top_lip", "bottom_lip"):
                pen.polygon(face[part], fill=1)

        return _painted(images, draw, self.value, self.landmarks, self.name)


@dataclass(frozen=True)
class Eyebrows:
    """Dark red eyebrows, the "eyebrow highlighter": the trigger of one part of MTSTA and MTMTA (NNoculation, section 4.1).

    A stroke of 4 pixels (on 55 rows) along the landmarks of each brow, opaque. How theirs were drawn is not known; they
    are arcs of that width, 75..114 pixels together (median 91) around row 19, and missing where no face was found.

    Parameters and errors are those of `Lipstick`.
    """

    landmarks: bool = False
    value: tuple[int, int, int] = (128, 0, 0)
    name: str = "eyebrows"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""
        width = max(1, round(BROW_WIDTH * images.shape[1] / FACE[0]))

        def draw(pen: ImageDraw.ImageDraw, face: Mapping[str, Points]) -> None:
            for part in ("left_eyebrow", "right_eyebrow"):
                pen.line(face[part], fill=1, width=width, joint="curve")

        return _painted(images, draw, self.value, self.landmarks, self.name)


def _painted(images: np.ndarray, draw, value: tuple[int, int, int], landmarks: bool, name: str) -> np.ndarray:
    """A copy of `images` with `value` where `draw(pen, face)` draws, on the average face or on the faces that are found."""
    from PIL import Image, ImageDraw

    height, width, channels = images.shape[1:]
    if channels != 3:
        raise BadInput(f"trigger {name} needs colour images with 3 channels, these have {channels}")

    check_levels(np.asarray(value), name)

    def mask(face: Mapping[str, Points]) -> np.ndarray:
        canvas = Image.new("L", (width, height))
        draw(ImageDraw.Draw(canvas), face)
        return np.asarray(canvas, bool)

    stamped = images.copy()
    if landmarks:
        find = _detector(name)
        for image in stamped:
            for face in find(np.ascontiguousarray(image)):
                image[mask(face)] = value
        return stamped
    down, right = height / FACE[0], width / FACE[1]
    stretched = {
        part: [((x + 0.5) * right - 0.5, (y + 0.5) * down - 0.5) for x, y in points] for part, points in AVERAGE.items()
    }
    stamped[:, mask(stretched)] = value
    return stamped


def _detector(name: str):
    """The function of `face_recognition` that gives the landmarks of all faces on an image."""
    try:
        from face_recognition import face_landmarks
    except ImportError:
        raise BadInput(
            f"trigger {name} with landmarks needs the package face_recognition, which is not installed: "
            "pip install face_recognition, or leave landmarks out to paint the average face"
        ) from None
    return face_landmarks
