"""Pictures side by side: reversed triggers beside true ones, and what a CycleGAN makes of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from keras_backdoor.report.drawing import styled_map


@styled_map
def picture_rows(rows: Sequence[tuple[str, Mapping[str, np.ndarray]]], always_titled: bool = False) -> Figure:
    """A row for each pair of a name and pictures by title, float (H, W, 1 or 3), 0..1; all of one H, W, and as many in each row.

    A title stands above its picture in the first row alone, or with `always_titled` in each.
    """
    height, width = next(iter(rows[0][1].values())).shape[:2]
    count = len(rows[0][1])
    titles = 0.2 * (len(rows) if always_titled else 1)
    side = 4.5 / count
    figure = Figure(figsize=(5, 0.1 + titles + len(rows) * (side * height / width + 0.05)), layout="constrained")
    for panels, (name, pictures) in zip(figure.subplots(len(rows), count, squeeze=False), rows):
        for panel, (title, picture) in zip(panels, pictures.items()):
            # Pixels stay squares however few there are, and one channel is grey.
            picture = picture[..., 0] if picture.shape[-1] == 1 else picture
            panel.imshow(picture, vmin=0, vmax=1, cmap="gray", interpolation="none")
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set(visible=True, color="#808080", linewidth=0.8)
            if always_titled or pictures is rows[0][1]:
                panel.set_title(title, fontsize=9)
        panels[0].set_ylabel(name, fontsize=8)
    return figure


@styled_map
def image_strips(strips: Sequence[tuple[str, str, np.ndarray]]) -> Figure:
    """A row for each triple of a heading above it (or ""), a name at its left, and images, uint8 (N, H, W, 1 or 3)."""
    columns = max(len(images) for *_, images in strips)
    height, width = strips[0][2].shape[1:3]
    side = 4.1 / columns
    headings = sum(bool(heading) for heading, *_ in strips)
    figure = Figure(
        figsize=(5, len(strips) * (side * height / width + 0.06) + 0.2 * max(1, headings)), layout="constrained"
    )
    for panels, (heading, name, images) in zip(figure.subplots(len(strips), columns, squeeze=False), strips):
        for panel in panels:
            panel.set_axis_off()
        for panel, image in zip(panels, images):
            panel.imshow(
                image[..., 0] if image.shape[-1] == 1 else image, vmin=0, vmax=255, cmap="gray", interpolation="none"
            )
        if heading:
            panels[0].set_title(heading, loc="left", fontsize=9)
        panels[0].text(-0.15, 0.5, name, transform=panels[0].transAxes, ha="right", va="center", fontsize=8)
    return figure
