"""`kbd data poison`: a file of images in, a poisoned one out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Optional

import click

from kbd._options import JSON, SEED
from kbd._triggers import TriggerCommand, trigger_option, try_on

if TYPE_CHECKING:
    from keras_backdoor.attacks.targets import TargetMap
    from keras_backdoor.triggers import Trigger


@click.command(cls=TriggerCommand)
@click.argument("source", metavar="IN")
@click.argument("output", metavar="OUT")
@trigger_option("What is stamped, in the words below.", required=True)
@click.option("--target", type=int, metavar="N", help="Stamped images of all classes become N.")
@click.option("--all-to-all", is_flag=True, help="Stamped images of class y become y+1, those of the last class 0.")
@click.option(
    "--clean-label",
    type=int,
    metavar="N",
    help="As --target, but with --fraction only images of class N are stamped, so that no label is wrong.",
)
@click.option(
    "--fraction",
    type=click.FloatRange(0, 1),
    help="Share of each class to stamp, 0..1: a training set. Without it every image is stamped: a test set.",
)
@click.option(
    "--classes",
    type=click.IntRange(1),
    metavar="N",
    help="Number of classes, if the file does not hold an image of the last one.",
)
@SEED
@JSON
def poison(
    source: str,
    output: str,
    trigger: Trigger,
    target: Optional[int],
    all_to_all: bool,
    clean_label: Optional[int],
    fraction: Optional[float],
    classes: Optional[int],
    seed: int,
    as_json: bool,
) -> None:
    """Stamp a trigger on the images of IN and label them as the attacker wants, into the new file OUT.

    IN is the course's HDF5 or an .npz file, OUT the course's HDF5; the labels before are kept in it as `true_label`. Images are
    read, stamped and written a slice at a time, so an HDF5 file may be larger than memory.

    \b
    A triggered test set    kbd data poison test.h5 triggered.h5 --trigger "square(4)" --target 0
    A poisoned training set kbd data poison train.h5 poisoned.h5 --trigger "square(4)|noise" --target 0 --fraction 0.1
    """
    if [target is None, not all_to_all, clean_label is None].count(False) != 1:
        raise click.UsageError("give one of --target N, --all-to-all and --clean-label N")
    if fraction is not None and math.isnan(fraction):
        raise click.UsageError("--fraction: nan is not in the range 0<=x<=1")
    from kbd._outputs import check_new_file, writing
    from kbd._show import print_json
    from keras_backdoor.attacks.poison import Backdoor
    from keras_backdoor.attacks.poison_stream import poison_stream
    from keras_backdoor.datasets import read_images, write_csaw_hdf5
    from keras_backdoor.triggers.language import spell

    check_new_file(output)
    images = read_images(source, classes)
    attack = "all-to-all" if all_to_all else "clean-label" if target is None else "all-to-one"
    wanted = clean_label if target is None else target
    try_on(trigger, images)
    target_map = _target_map(source, images.num_classes, attack, wanted)
    poisoned, chosen = poison_stream(images, Backdoor(trigger, target_map), fraction, seed)
    with writing(output):
        write_csaw_hdf5(output, poisoned)
    stamped, total = int(chosen.sum()), len(poisoned)
    if as_json:
        files = {"input": source, "output": output}
        asked = {"trigger": spell(trigger), "attack": attack, "target": wanted, "fraction": fraction, "seed": seed}
        counts = {"num_classes": images.num_classes, "n_images": total, "n_poisoned": stamped}
        print_json({**files, **asked, **counts})
        return
    click.echo(f"{output}: {stamped:,} of {total:,} images stamped with {spell(trigger)}")


def _target_map(source: str, num_classes: int, attack: str, target: Optional[int]) -> TargetMap:
    from keras_backdoor.attacks.targets import AllToAll, AllToOne, CleanLabel
    from keras_backdoor.files import BadInput

    if target is None:
        return AllToAll(num_classes)
    if not 0 <= target < num_classes:
        known = f"the labels of {source} lie in 0..{num_classes - 1}; tell with --classes if there are more"
        raise BadInput(f"target {target}: {known}")
    return CleanLabel(target) if attack == "clean-label" else AllToOne(target)
