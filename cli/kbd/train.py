"""`kbd train`: make a BadNet of the literature."""

from __future__ import annotations

from typing import Optional

import click

from kbd._options import JSON, RESUME, SEED


def _recipes() -> str:
    from keras_backdoor.attacks.recipes import RECIPES

    return "\n".join(["\b\nRecipes:", *(f"  {r.name:<14}{r.summary}" for r in RECIPES.values())])


@click.command(epilog=_recipes())
@click.argument("recipe")
@click.option("-o", "--output", metavar="DIR", help="Folder for the results; by default runs/RECIPE.")
@click.option(
    "--data", metavar="DIR", help="Folder that holds the data set; without it, the images that ship with a dependency."
)
@click.option("--epochs", type=click.IntRange(1), help="Epochs of each step, instead of the recipe's.")
@click.option("--limit", type=click.IntRange(1), help="Use only this many training images of each class.")
@SEED
@RESUME
@JSON
def train(
    recipe: str,
    output: Optional[str],
    data: Optional[str],
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
    from kbd._show import command_line, notice, print_json, progress_display, rates_table
    from keras_backdoor import datasets
    from keras_backdoor.attacks.recipes import recipe as find
    from keras_backdoor.runs import check_output_folder

    chosen = find(recipe)
    folder = output or f"runs/{recipe}"
    check_output_folder(folder, resume)
    splits = datasets.load(chosen.dataset, data).limited(limit)
    notice(f"{recipe}: {len(splits.train)} training images from {splits.source}")
    if splits.miniature:
        notice("no --data: these are few; --data DIR takes the whole set")
        if chosen.miniature:
            changed = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in chosen.miniature.items())
            notice(f"for so few images the recipe is changed: {changed}")
    from keras_backdoor.attacks.train import train as run_training

    with progress_display() as progress:
        metrics = run_training(
            chosen,
            splits,
            folder,
            epochs=epochs,
            seed=seed,
            resume=resume,
            reproduce=command_line(),
            progress=progress,
        )
    if as_json:
        print_json(metrics)
        return
    rates_table({name: metrics[key] for key, name in (("clean", "clean twin"), ("badnet", "BadNet")) if key in metrics})
    if metrics["expect"]:
        from kbd._show import percent

        click.echo("published: clean accuracy {}, attack success rate {}".format(*map(percent, metrics["expect"])))
    click.echo(f"written to {folder}")
