"""`kbd predict`: the class of single images."""

from __future__ import annotations

from typing import Optional

import click

from kbd._options import ARCHITECTURE, JSON, PREPROCESSING, TRUST


@click.command()
@click.argument("model")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@PREPROCESSING
@ARCHITECTURE
@TRUST
@JSON
def predict(
    model: str,
    images: tuple[str, ...],
    preprocessing: Optional[str],
    architecture: Optional[str],
    trust: bool,
    as_json: bool,
) -> None:
    """Print the class that MODEL gives each IMAGE (PNG or JPEG of the network's own size), one line an image.

    Classes are 0..N-1; a GoodNet answers N for "backdoored input".
    """
    from kbd._inputs import admit
    from kbd._show import print_json
    from keras_backdoor.files import check_file

    for path in images:
        check_file(path)
    admitted = admit(model, trust)
    from keras_backdoor.classifier import Classifier
    from keras_backdoor.datasets.image_file import read_image

    classifier = Classifier.load(admitted, preprocessing, architecture)
    answers = classifier.predict(read_image(path, classifier.image_shape)[None] for path in images)
    if not as_json:
        click.echo("\n".join(map(str, answers)))
        return
    rows = [
        {"image": path, "label": int(a), "flagged": bool(a == classifier.num_classes)}
        for path, a in zip(images, answers)
    ]
    print_json({"model": model, "num_classes": classifier.num_classes, "predictions": rows})
