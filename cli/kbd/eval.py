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
@click.option(
    "--course",
    is_flag=True,
    help="Print exactly what the course's eval.py prints; with --poisoned FILE, that of lab 3.",
)
@PREPROCESSING
@ARCHITECTURE
@TRUST
@JSON
def eval(
    model: str,
    clean: str,
    poisoned: tuple[str, ...],
    exclude_target: bool,
    course: bool,
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
    from keras_backdoor.files import BadInput, check_file

    files = named_files(poisoned)
    if course and (as_json or exclude_target or len(files) > 1):
        raise BadInput("--course takes at most one --poisoned file, and neither --json nor --exclude-target")
    for path in (clean, *files.values()):
        check_file(path)
    admitted = admit(model, trust)
    from keras_backdoor.classifier import Classifier
    from keras_backdoor.metrics import score

    classifier = Classifier.load(admitted, preprocessing, architecture)
    sets = {name: images_for(classifier, path, exclude_target) for name, path in files.items()}
    scores = score(classifier, images_for(classifier, clean), sets, exclude_target).as_json()
    if course:
        accuracy = 100 * scores["clean_accuracy"]
        click.echo(f"{'Clean Classification' if files else 'Classification'} accuracy: {accuracy}")
        for rate in scores["attack_success_rate"].values():
            click.echo(f"Attack Success Rate: {100 * rate}")
    elif as_json:
        trusted = {"trusted": [finding.as_json() for finding in admitted.report.findings]} if admitted.trusted else {}
        print_json({"model": model, "num_classes": classifier.num_classes, **scores, **trusted})
    else:
        rates_table({Path(model).name: scores})
