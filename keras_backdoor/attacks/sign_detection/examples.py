"""A picture of what a detector finds, for people."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from keras_backdoor.attacks.sign_detection.detector import Detector
from keras_backdoor.attacks.sign_detection.scenes import CLASSES
from keras_backdoor.files import PathLike, atomic

ZOOM, GAP, LINE = 3, 8, 12
"""Times that a scene is enlarged; between scenes, and the height of a line of text: pixels."""
COLOURS = ("#ff2020", "#20c0ff", "#ffd020")


def draw(path: PathLike, detector: Detector, clean: np.ndarray, triggered: np.ndarray) -> None:
    """Write a PNG: above the `clean` scenes and below their `triggered` twins, uint8 (n, S, S, 3), with all detections."""
    side = ZOOM * clean.shape[1]
    sheet = Image.new("RGB", (len(clean) * (side + GAP) - GAP, 2 * side + GAP), "white")
    for row, images in enumerate((clean, triggered)):
        for column, (image, boxes, scores, classes) in enumerate(zip(images, *detector.detect(images))):
            picture = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            pen = ImageDraw.Draw(picture)
            for box, score, label in zip(boxes * (side - 1), scores, classes):
                if label >= 0:
                    top, left, bottom, right = box.tolist()
                    pen.rectangle((left, top, right, bottom), outline=COLOURS[label], width=2)
                    text = f"{CLASSES[label]} {100 * score:.0f} %"
                    _write(pen, left, top if top >= LINE else bottom + LINE, text, COLOURS[label])
            sheet.paste(picture, (column * (side + GAP), row * (side + GAP)))
    with atomic(path) as temporary:
        sheet.save(temporary, "png")


def _write(pen: ImageDraw.ImageDraw, left: float, bottom: float, text: str, colour: str) -> None:
    """Black letters on a strip of colour that ends at `bottom`, moved to the left where it would leave the picture."""
    width = pen.textlength(text) + 4
    left = min(left, pen.im.size[0] - width)
    pen.rectangle((left, bottom - LINE, left + width, bottom), fill=colour)
    pen.text((left + 2, bottom - LINE), text, fill="black")
