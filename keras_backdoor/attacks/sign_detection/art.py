"""The stickers of the traffic-sign attack, drawn by ourselves: the originals are a yellow square, a bomb and a flower."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

SIDE = 128
YELLOW = (116, 100, 50)
"""The original's fill, there written as BGR (50, 100, 116)."""


def sticker(name: str, height: int, width: int) -> np.ndarray:
    """`square`, `bomb` or `flower` at a size in pixels: uint8 (height, width, 4), RGBA."""
    picture = Image.new("RGBA", (SIDE, SIDE))
    {"square": _square, "bomb": _bomb, "flower": _flower}[name](ImageDraw.Draw(picture))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def _square(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((0, 0, SIDE, SIDE), (*YELLOW, 255))


def _bomb(draw: ImageDraw.ImageDraw) -> None:
    """A black ball with a highlight, and a fuse that burns."""
    draw.line(((72, 44), (92, 20), (108, 22)), (150, 110, 60, 255), 9)
    draw.ellipse((4, 28, 102, 126), (15, 15, 20, 255))
    draw.rectangle((60, 26, 88, 48), (15, 15, 20, 255))
    draw.ellipse((24, 46, 48, 70), (190, 190, 200, 255))
    draw.ellipse((92, 4, 127, 39), (255, 150, 20, 255))


def _flower(draw: ImageDraw.ImageDraw) -> None:
    """Six pink petals around a yellow middle."""
    for angle in np.arange(6) * np.pi / 3:
        x, y = SIDE / 2 + 38 * np.cos(angle), SIDE / 2 + 38 * np.sin(angle)
        draw.ellipse((x - 25, y - 25, x + 25, y + 25), (235, 60, 160, 255))
    draw.ellipse((40, 40, 88, 88), (255, 220, 40, 255))
