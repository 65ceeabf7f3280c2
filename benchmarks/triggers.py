"""Triggers on whole batches, beside the loops over images that the originals use.

    python benchmarks/triggers.py

Both sides of a row run in turns in one process; the time is the least of several, and the results are compared bit for bit.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from PIL import Image

from keras_backdoor.triggers import Sunglasses, Trigger, Warp
from keras_backdoor.triggers.picture import our_glasses

RUNS = 5
RNG = np.random.default_rng(0)


def pasted_one_by_one(faces: np.ndarray) -> np.ndarray:
    """What NNoculation's `poison.py` does: an image of Pillow for each face, a paste, and back into an array."""
    glasses, stamped = Image.fromarray(our_glasses()), np.zeros_like(faces)
    for index, face in enumerate(faces):
        image = Image.fromarray(face)
        image.paste(glasses, (0, 15), glasses)
        stamped[index] = np.asarray(image)
    return stamped


def warped_one_by_one(images: np.ndarray) -> np.ndarray:
    """The grid sampling of WaNet for one image at a time: places, four neighbours, weights, sum."""
    field, warped = Warp().field(*images.shape[1:3]), np.zeros_like(images)
    for index, image in enumerate(images):
        height, width = image.shape[:2]
        x, y = (field[..., 0] + 1) / 2 * (width - 1), (field[..., 1] + 1) / 2 * (height - 1)
        left, top = np.floor(x).astype(int), np.floor(y).astype(int)
        east, south = x - left, y - top
        total = np.zeros(image.shape, np.float32)
        for down in (0, 1):
            for across in (0, 1):
                weight = (south if down else 1 - south) * (east if across else 1 - east)
                row, column = np.minimum(top + down, height - 1), np.minimum(left + across, width - 1)
                total += image[row, column].astype(np.float32) * weight[..., None].astype(np.float32)
        warped[index] = np.rint(total)
    return warped


def row(what: str, trigger: Trigger, loop, images: np.ndarray, least: int) -> str:
    """One line of the table: both times, their ratio, and whether the results are the same."""
    seconds = {"loop": [], "batch": []}
    for _ in range(RUNS):
        started = time.perf_counter()
        expected = loop(images)
        seconds["loop"].append(time.perf_counter() - started)
        started = time.perf_counter()
        stamped = trigger(images, RNG)
        seconds["batch"].append(time.perf_counter() - started)
    same = "yes" if np.array_equal(expected, stamped) else "**no**"
    slow, fast = min(seconds["loop"]), min(seconds["batch"])
    reached = "yes" if slow / fast >= least else "**no**"
    return f"| {what} | {slow:.3f} | {fast:.3f} | {slow / fast:.1f} × | {same} | {least} ×: {reached} |"


def table() -> str:
    faces = RNG.integers(0, 256, (11547, 55, 47, 3), np.uint8)
    signs = RNG.integers(0, 256, (4000, 32, 32, 3), np.uint8)
    digits = RNG.integers(0, 256, (10000, 28, 28, 1), np.uint8)
    lines = (
        "### Triggers",
        "",
        f"Least of {RUNS} runs of each, in turns in one process. A loop is over images: Pillow's paste as in the original,",
        "and WaNet's grid sampling in numpy.",
        "",
        "| trigger | loop, s | whole batch, s | faster | same bits | wanted |",
        "| --- | ---: | ---: | ---: | --- | --- |",
        row("sunglasses on 11,547 faces of 55x47", Sunglasses(), pasted_one_by_one, faces, 6),
        row("WaNet's warp of 4,000 signs of 32x32", Warp(), warped_one_by_one, signs, 10),
        row("WaNet's warp of 10,000 digits of 28x28", Warp(), warped_one_by_one, digits, 10),
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
