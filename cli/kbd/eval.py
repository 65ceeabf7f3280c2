"""`kbd eval`: clean accuracy and attack success rate of a network file."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import click

from kbd._options import ARCHITECTURE, CLEAN, EXCLUDE_TARGET, JSON, POISONED, PREPROCESSING, TRUST


@click.command()
@click.argument("model")
@CLEAN
@POISONED
@EXCLUDE_TARGET
@PREPROCESSING
@ARCHITECTURE
@TRUST
@JSON
def eval(
    model: str,
    clean: str,
    poisoned: tuple[str, ...],
    exclude_target: bool,
    preprocessing: Optional[str],
    architecture: Optional[str],
    trust: bool,
    as_json: bool,
) -> None:
    """Measure MODEL, an .h5 or .keras file, as the course's eval.py does.

    An answer of N ("backdoored input") counts as an error on clean images, and as a defended attack on triggered ones.
    """
    from kbd._inputs import admit, images_for, named_files
    from kbd._show import print_json, rates_table
    from keras_backdoor.files import check_file

    files = named_files(poisoned)
    for path in (clean, *files.values()):
        check_file(path)
    admitted = admit(model, trust)
    from keras_backdoor.classifier import Classifier
    from keras_backdoor.metrics import score

    classifier = Classifier.load(admitted, preprocessing, architecture)
    sets = {name: images_for(classifier, path, exclude_target) for name, path in files.items()}
    scores = score(classifier, images_for(classifier, clean), sets, exclude_target).as_json()
    if as_json:
        trusted = {"trusted": [finding.as_json() for finding in admitted.report.findings]} if admitted.trusted else {}
        print_json({"model": model, "num_classes": classifier.num_classes, **scores, **trusted})
    else:
        rates_table({Path(model).name: scores})
