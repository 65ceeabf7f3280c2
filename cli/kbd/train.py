"""`kbd train`: make a BadNet of the literature."""

from __future__ import annotations

from typing import Any, Optional

import click
from click.core import ParameterSource

from kbd._method_options import method_options
from kbd._options import JSON, RESUME, SEED, STRATEGY
from keras_backdoor.defenses import TRAINING


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
@click.option(
    "--defense",
    metavar="NAME",
    help=f"Let a defense train the network from the poisoned images ({', '.join(TRAINING)}), of recipes that poison the training "
    "set once and have one step. It is written to badnet.h5 all the same: the backdoor may well still be there.",
)
@click.option(
    "--epochs", type=click.IntRange(1), help="Epochs of each step, instead of the recipe's; of the second stage of abl."
)
@click.option("--limit", type=click.IntRange(1), help="Use only this many training images of each class.")
@SEED
@STRATEGY
@click.option(
    "--precision",
    type=click.Choice(["float32", "mixed_float16", "mixed_bfloat16"]),
    default="float32",
    show_default=True,
    help="Numbers that layers compute in while they are trained; weights, and the files, have float32. For GPUs.",
)
@click.option("--jit", is_flag=True, help="Compile training steps with XLA. For one device.")
@RESUME
@JSON
@click.pass_context
def train(
    ctx: click.Context,
    recipe: str,
    output: Optional[str],
    data: Optional[str],
    dataset: Optional[str],
    clean: bool,
    start: Optional[str],
    defense: Optional[str],
    epochs: Optional[int],
    limit: Optional[int],
    seed: int,
    strategy: str,
    precision: str,
    jit: bool,
    resume: bool,
    as_json: bool,
    **settings: Any,
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
    from keras_backdoor.defenses import find
    from keras_backdoor.distribution import is_chief, own_folder, using
    from keras_backdoor.files import BadInput, lookup
    from keras_backdoor.runs import check_output_folder

    lookup(recipe, [*RECIPES, *ATTACKS], "recipe", "kbd train --help lists them")
    own = _settings(ctx, defense, settings)
    suffix = "-clean" if clean else f"-{defense}" if defense else ""
    folder = output or f"runs/{recipe.replace('/', '-')}{suffix}"
    check_output_folder(folder, resume)
    if clean and start:
        raise BadInput("--clean trains a clean network, --start brings one: not both")
    if start:
        admit(start, trust=False)
    signs = ATTACKS.get(recipe)
    if signs and (start or dataset or defense):
        raise BadInput(
            f"{recipe} trains a detector from GTSRB: --start, --dataset and --defense are for networks that classify"
        )
    trainer = find(defense)(**own) if defense else None
    splits = datasets.load(dataset or ("gtsrb" if signs else RECIPES[recipe].dataset), data).limited(limit)
    notice(f"{recipe}: {len(splits.train)} training images from {splits.source}")
    if splits.miniature:
        notice("no --data: these are few; --data DIR takes the whole set")
        if RECIPES[recipe].miniature:
            changed = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in RECIPES[recipe].miniature.items())
            notice(f"for so few images the recipe is changed: {changed}")
    options: dict[str, Any] = {"epochs": epochs, "seed": seed, "resume": resume, "reproduce": command_line()}
    with using(strategy, precision, jit), own_folder(folder) as place, progress_display() as progress:
        if signs:
            from keras_backdoor.attacks.sign_detection.train import train as train_detector

            metrics = train_detector(signs, splits, place, clean=clean, progress=progress, **options)
        else:
            from keras_backdoor.attacks.train import train as train_classifier

            options |= {"start": start, "defense": trainer}
            metrics = train_classifier(RECIPES[recipe], splits, place, clean_only=clean, progress=progress, **options)
        if not is_chief():
            return
    if as_json:
        print_json(metrics)
        return
    trained = f"trained by {defense}" if defense else "BadNet"
    rates_table({name: metrics[key] for key, name in (("clean", "clean twin"), ("badnet", trained)) if key in metrics})
    _show_expected(metrics)
    _show_isolation(metrics)
    click.echo(f"written to {folder}")


def _of_defenses() -> dict[str, list[click.Option]]:
    """The options of each defense that trains a network; their help says whose they are."""
    options = {method: method_options(method) for method in TRAINING}
    for method, own in options.items():
        for option in own:
            option.help = f"{method}: {option.help}"
    return options


OF_DEFENSES = _of_defenses()
train.params.extend(option for options in OF_DEFENSES.values() for option in options)


def _settings(ctx: click.Context, defense: Optional[str], given: dict[str, Any]) -> dict[str, Any]:
    """Of all defenses' settings, those of `defense`; `BadInput` if one of another was given."""
    from keras_backdoor.files import BadInput, lookup

    if defense:
        lookup(defense, TRAINING, "defense")
    own: dict[str, Any] = {}
    for method, options in OF_DEFENSES.items():
        for option in options:
            name = str(option.name)
            if method == defense:
                own[name] = given[name]
            elif ctx.get_parameter_source(name) != ParameterSource.DEFAULT:
                raise BadInput(f"{option.opts[0]} is a setting of --defense {method}")
    return own


def _show_expected(metrics: dict[str, Any]) -> None:
    from kbd._show import percent

    for name, rate in metrics.get("badnet", {}).get("cover_accuracy", {}).items():
        click.echo(f"with {name}, which is to do nothing, the true answer for {percent(rate)}")
    if metrics["expect"]:
        accuracy, *success = map(percent, metrics["expect"])
        click.echo(f"published: clean accuracy {accuracy}, attack success rate {', '.join(success)}")


def _show_isolation(metrics: dict[str, Any]) -> None:
    from kbd._show import percent

    found = metrics.get("isolation")
    if found and found["recall"] is not None:
        click.echo(
            f"of the images that it isolated, {percent(found['precision'])} were poisoned; "
            f"these are {percent(found['recall'])} of the poisoned ones"
        )
