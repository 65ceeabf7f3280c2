"""A sheet of images as one picture: each with its labels, and above those its triggered twin and the difference, if asked."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_backdoor.files import printable
from keras_backdoor.images import ImageSet
from keras_backdoor.triggers import Trigger
from keras_backdoor.triggers.language import spell

PAPER, INK, FAINT, ATTACK, FRAME = "#ffffff", "#202124", "#63686d", "#c4391d", "#c9ccd1"
LETTERS, LINE = 14, 20
"""Height of the letters and of a line, in pixels; LETTER is how wide one is at most, on average."""
LETTER = 9
GAP, MARGIN = 12, 24
SHEET_WIDTH = 1280
IMAGE_SIDE = 112
"""What small images are magnified to at most; always by a whole number, so that each of their pixels stays a square."""
GREY = 128
"""How the difference shows what did not change."""
FACTORS = (64, 32, 16, 8, 4, 2, 1)


@dataclass(frozen=True)
class Section:
    """Images that belong together.

    title: what they are. images: uint8 (N, H, W, 1 or 3), at least one. labels: int (N,). true_labels: the labels before
    poisoning, where they are known. triggered: the same images with the trigger that is written `trigger`.
    """

    title: str
    images: np.ndarray
    labels: np.ndarray
    true_labels: Optional[np.ndarray] = None
    triggered: Optional[np.ndarray] = None
    trigger: str = ""


def section(
    name: str, image_set: ImageSet, chosen: np.ndarray, trigger: Optional[Trigger], rng: np.random.Generator
) -> Section:
    """The images at `chosen`, int (N,), of the set called `name`, and with `trigger` their twins; no others are read."""
    images = np.concatenate([image_set.images[index : index + 1] for index in chosen])
    truth = None if image_set.true_labels is None else image_set.true_labels[chosen]
    size = "×".join(map(str, image_set.image_shape))
    title = f"{name}: {len(chosen)} of {len(image_set):,} images, {size}, labels in 0..{image_set.num_classes - 1}"
    twins = (trigger(images, rng), spell(trigger)) if trigger else (None, "")
    return Section(title, images, image_set.labels[chosen], truth, *twins)


def pick(image_set: ImageSet, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `count` images at most, int64, by true label: as many different (true label, label) pairs as possible."""
    truth = image_set.labels if image_set.true_labels is None else image_set.true_labels
    order = rng.permutation(len(image_set))
    pair = (truth * image_set.num_classes + image_set.labels)[order]
    by_pair = np.argsort(pair, kind="stable")
    turn = np.empty(len(order), np.int64)  # how many images of the same pair come before
    turn[by_pair] = np.arange(len(order)) - np.searchsorted(pair[by_pair], pair[by_pair])
    chosen = order[np.argsort(turn, kind="stable")[:count]]
    return chosen[np.lexsort((chosen, image_set.labels[chosen], truth[chosen]))]


def amplified(images: np.ndarray, triggered: np.ndarray) -> tuple[np.ndarray, int]:
    """What the trigger changed, uint8 of the same shape around `GREY`, and the factor by which it was multiplied.

    The factor is the largest power of two, 64 at most, that keeps the difference in range; 1 if none does, and it is clipped.
    """
    difference = triggered.astype(np.int32) - images
    most = int(np.abs(difference).max(initial=0))
    factor = next((factor for factor in FACTORS if most * factor < GREY), 1)
    return np.clip(GREY + factor * difference, 0, 255).astype(np.uint8), factor


def contact_sheet(sections: Sequence[Section]) -> Image.Image:
    """All sections below each other, dark on white, about `SHEET_WIDTH` pixels wide or as wide as the widest image needs."""
    blocks = [_block(section) for section in sections]
    width = max(block.width for block in blocks) + 2 * MARGIN
    height = sum(block.height for block in blocks) + MARGIN * (len(blocks) + 1)
    sheet = Image.new("RGB", (width, height), PAPER)
    top = MARGIN
    for block in blocks:
        sheet.paste(block, (MARGIN, top))
        top += block.height + MARGIN
    return sheet


def _block(section: Section) -> Image.Image:
    """One section: its heading, then as many images beside each other as fit, with their twins and labels below them."""
    font, bold = _font("DejaVuSans"), _font("DejaVuSans-Bold")
    heading, rows = _wrap(section.title), [("", section.images)]
    notes: list[str] = []
    if section.triggered is not None:
        difference, factor = amplified(section.images, section.triggered)
        rows = [("image", section.images), ("triggered", section.triggered), (f"difference ×{factor}", difference)]
        meaning = "difference: grey is unchanged, lighter is added, darker is taken"
        notes = [*_wrap(f"trigger: {section.trigger}"), meaning]
    captions = [_caption(section, index) for index in range(len(section.images))]

    count, height, width = section.images.shape[:3]
    scale = max(1, IMAGE_SIDE // max(height, width))
    image_height, image_width = height * scale + 2, width * scale + 2  # with its frame
    gutter = max(int(font.getlength(name)) + GAP for name, _ in rows) if len(rows) > 1 else 0
    step = max([image_width, *(int(font.getlength(line)) + 1 for caption in captions for line, _ in caption)]) + GAP
    lines = -(-count // max(1, (SHEET_WIDTH - 2 * MARGIN - gutter + GAP) // step))
    columns = -(-count // lines)  # so that no line is nearly empty
    group = len(rows) * (image_height + GAP // 2) + LINE * len(captions[0]) + GAP
    top = LINE * len(heading + notes) + GAP
    text_width = max(int(bold.getlength(line)) + 1 for line in heading + notes)
    size = (max(gutter + columns * step - GAP, text_width), top + lines * group - GAP)

    block = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(heading + notes):
        is_heading = number < len(heading)
        draw.text((0, number * LINE), line, INK if is_heading else FAINT, bold if is_heading else font)
    for index in range(count):
        left, y = gutter + index % columns * step, top + index // columns * group
        for name, images in rows:
            if index % columns == 0:
                draw.text((0, y + image_height // 2), name, FAINT, font, anchor="lm")
            draw.rectangle((left, y, left + image_width - 1, y + image_height - 1), outline=FRAME)
            block.paste(_magnified(images[index], scale), (left + 1, y + 1))
            y += image_height + GAP // 2
        for number, (line, colour) in enumerate(captions[index]):
            draw.text((left, y + number * LINE), line, colour, font)
    return block


def _caption(section: Section, index: int) -> list[tuple[str, str]]:
    """Lines and their colours: a label that the attacker changed stands out."""
    label = int(section.labels[index])
    if section.true_labels is None:
        return [(f"label {label}", INK)]
    truth = int(section.true_labels[index])
    return [(f"label {label}", INK if label == truth else ATTACK), (f"true {truth}", FAINT)]


def _magnified(image: np.ndarray, scale: int) -> Image.Image:
    pixels = image.repeat(scale, 0).repeat(scale, 1)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(printable(text, 600), (SHEET_WIDTH - 2 * MARGIN) // LETTER)


def _font(name: str) -> ImageFont.FreeTypeFont:
    """A font that ships with matplotlib, so that the sheet looks the same everywhere."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), LETTERS)
