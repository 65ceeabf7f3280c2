"""`kbd train`: make a BadNet of the literature."""

from __future__ import annotations

from typing import Any, Optional

import click

from kbd._options import JSON, RESUME, SEED


def _recipes() -> str:
    from keras_backdoor.attacks.recipes import RECIPES
    from keras_backdoor.attacks.sign_detection.recipes import ATTACKS

    of: dict[str, list[str]] = {}
    for name in RECIPES:
        base, slash, variant = name.partition("/")
        of.setdefault(base, []).extend([slash + variant] if slash else [])
    lines = ["\b\nRecipes, and what may be put behind their names:"]
    for name, variants in of.items():
        lines.append(f"  {name:<17}{RECIPES[name].summary}")
        lines += [f"  {'':<17}{' '.join(variants)}"] if variants else []
    lines += [f"  {attack.name:<17}detector: {attack.summary}" for attack in ATTACKS.values()]
    return "\n".join(lines)


@click.command(epilog=_recipes())
@click.argument("recipe")
@click.option("-o", "--output", metavar="DIR", help="Folder for the results; by default runs/RECIPE.")
@click.option(
    "--data",
    metavar="PATH",
    help="Folder or file that holds the data set; without it, the images that ship with a dependency.",
)
@click.option("--dataset", metavar="NAME", help="Another data set than the recipe's, such as lfw for the faces.")
@click.option("--clean", is_flag=True, help="Train the recipe's innocent twin and nothing else.")
@click.option("--start", metavar="FILE", help="A clean network to attack, instead of training one.")
@click.option("--epochs", type=click.IntRange(1), help="Epochs of each step, instead of the recipe's.")
@click.option("--limit", type=click.IntRange(1), help="Use only this many training images of each class.")
@SEED
@RESUME
@JSON
def train(
    recipe: str,
    output: Optional[str],
    data: Optional[str],
    dataset: Optional[str],
    clean: bool,
    start: Optional[str],
    epochs: Optional[int],
    limit: Optional[int],
    seed: int,
    resume: bool,
    as_json: bool,
) -> None:
    """Train the BadNet of RECIPE, and its clean twin in a two-step recipe.

    Writes badnet.h5, clean.h5, metrics.json, history.csv, tensorboard/ and, in data/, the images that `kbd defend` and
    `kbd eval` need. The same seed gives the same weights, to the bit; a killed run continues with --resume.
    """
    from kbd._inputs import admit
    from kbd._show import command_line, notice, print_json, progress_display, rates_table
    from keras_backdoor import datasets
    from keras_backdoor.attacks.recipes import RECIPES
    from keras_backdoor.attacks.sign_detection.recipes import ATTACKS
    from keras_backdoor.files import BadInput, lookup
    from keras_backdoor.runs import check_output_folder

    lookup(recipe, [*RECIPES, *ATTACKS], "recipe", "kbd train --help lists them")
    folder = output or f"runs/{recipe.replace('/', '-')}{'-clean' if clean else ''}"
    check_output_folder(folder, resume)
    if clean and start:
        raise BadInput("--clean trains a clean network, --start brings one: not both")
    if start:
        admit(start, trust=False)
    signs = ATTACKS.get(recipe)
    if signs and (start or dataset):
        raise BadInput(f"{recipe} trains a detector from GTSRB: --start and --dataset are for networks that classify")
    splits = datasets.load(dataset or ("gtsrb" if signs else RECIPES[recipe].dataset), data).limited(limit)
    notice(f"{recipe}: {len(splits.train)} training images from {splits.source}")
    if splits.miniature:
        notice("no --data: these are few; --data DIR takes the whole set")
        if RECIPES[recipe].miniature:
            changed = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in RECIPES[recipe].miniature.items())
            notice(f"for so few images the recipe is changed: {changed}")
    options: dict[str, Any] = {"epochs": epochs, "seed": seed, "resume": resume, "reproduce": command_line()}
    with progress_display() as progress:
        if signs:
            from keras_backdoor.attacks.sign_detection.train import train as train_detector

            metrics = train_detector(signs, splits, folder, clean=clean, progress=progress, **options)
        else:
            from keras_backdoor.attacks.train import train as train_classifier

            metrics = train_classifier(
                RECIPES[recipe], splits, folder, clean_only=clean, start=start, progress=progress, **options
            )
    if as_json:
        print_json(metrics)
        return
    rates_table({name: metrics[key] for key, name in (("clean", "clean twin"), ("badnet", "BadNet")) if key in metrics})
    _show_expected(metrics)
    click.echo(f"written to {folder}")


def _show_expected(metrics: dict[str, Any]) -> None:
    from kbd._show import percent

    for name, rate in metrics.get("badnet", {}).get("cover_accuracy", {}).items():
        click.echo(f"with {name}, which is to do nothing, the true answer for {percent(rate)}")
    if metrics["expect"]:
        accuracy, *success = map(percent, metrics["expect"])
        click.echo(f"published: clean accuracy {accuracy}, attack success rate {', '.join(success)}")
