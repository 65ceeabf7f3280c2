"""`kbd data show`: a contact sheet of images as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import click

from kbd._options import JSON, SEED
from kbd._triggers import TriggerCommand, trigger_option, try_on

if TYPE_CHECKING:
    from keras_backdoor.images import ImageSet


@click.command(cls=TriggerCommand)
@click.argument("sources", metavar="FILE|NAME...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="PNG", required=True, help="The picture to write; an older one is replaced.")
@click.option("--data", metavar="DIR", help="Where the data set called NAME is; without it, what ships of it.")
@trigger_option("Show each image with this trigger, too, and what the trigger changes.")
@click.option(
    "--count", type=click.IntRange(1, 200), default=20, show_default=True, help="Images of each file, of mixed labels."
)
@SEED
@JSON
def show(
    sources: tuple[str, ...], output: str, data: Optional[str], trigger: Any, count: int, seed: int, as_json: bool
) -> None:
    """Draw images of FILEs (the course's HDF5 or .npz), or test images of the data sets called NAME, on one sheet.

    Each image is magnified by a whole number and has its label below it, and its true label, too, where the file holds that.

    \b
    kbd data show mnist -o digits.png --trigger "square(4, at=bottom-right)"
    kbd data show clean.h5 triggered.h5 -o sheet.png
    """
    import numpy as np

    from kbd._outputs import check_output_file, writing
    from kbd._show import print_json
    from keras_backdoor.files import BadInput, atomic
    from keras_backdoor.report.contact_sheet import contact_sheet, pick, section
    from keras_backdoor.triggers.language import spell

    if not output.lower().endswith(".png"):
        raise BadInput(f"{output}: the sheet is a PNG picture, expected a name that ends in .png")
    check_output_file(output)
    sections, shown = [], []
    for name in sources:
        image_set = _images(name, data)
        if trigger:
            try_on(trigger, image_set)
        rng = np.random.default_rng(seed)
        chosen = pick(image_set, count, rng)
        one = section(Path(name).name, image_set, chosen, trigger, rng)
        sections.append(one)
        counts = {"source": name, "n_images": len(image_set), "num_classes": image_set.num_classes}
        truth = None if one.true_labels is None else one.true_labels.tolist()
        shown.append({**counts, "shown": chosen.tolist(), "labels": one.labels.tolist(), "true_labels": truth})
    sheet = contact_sheet(sections)
    with writing(output), atomic(output) as temporary:
        sheet.save(temporary, "png", optimize=True)
    if as_json:
        facts = {"output": output, "width": sheet.width, "height": sheet.height}
        print_json({**facts, "trigger": spell(trigger) if trigger else None, "sources": shown})
        return
    drawn = sum(len(one.images) for one in sections)
    click.echo(f"{output}: {drawn} images, {sheet.width}x{sheet.height} pixels")


def _images(name: str, data: Optional[str]) -> ImageSet:
    """A file of images, or the test images of a data set."""
    from keras_backdoor import datasets
    from keras_backdoor.files import BadInput

    if name in datasets.DATASETS and not Path(name).is_file():
        return datasets.load(name, data).test
    if not Path(name).exists():
        raise BadInput(f"{name}: no such file, and no data set of that name ({', '.join(datasets.DATASETS)})")
    return datasets.read_images(name)
