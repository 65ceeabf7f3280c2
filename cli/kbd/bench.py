"""`kbd bench`: networks and defenses side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import click

from kbd._options import JSON
from keras_backdoor.files import BadInput, lookup


def _presets() -> str:
    from keras_backdoor.benchmark.presets import PRESETS

    lines = ["\b\nPresets:", *(f"  {name:<7}{preset.summary}" for name, preset in PRESETS.items())]
    return "\n".join(lines)


class _Names(click.ParamType):
    """Words with commas between them."""

    name = "NAMES"

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(dict.fromkeys(word.strip() for word in value.split(",") if word.strip()))


class _Seeds(_Names):
    """Whole numbers with commas between them."""

    name = "SEEDS"

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        words = super().convert(value, param, ctx)
        return tuple(click.IntRange(0, 2**31 - 1).convert(word, param, ctx) for word in words)


@click.command(epilog=_presets())
@click.option("--preset", metavar="NAME", help="A plan that has a name, listed below; by default quick.")
@click.option(
    "--recipes",
    type=_Names(),
    help="Instead of the preset's: names with commas between them, as kbd train lists them; RECIPE@DATASET for another data set.",
)
@click.option(
    "--defenses", type=_Names(), help="Instead of all that there are: names as kbd defend lists them, and abl."
)
@click.option(
    "--innocent",
    type=_Names(),
    help="Recipes whose innocent network every defense meets. By default, with --recipes, detectors meet that of each recipe.",
)
@click.option("--seeds", type=_Seeds(), default="0", show_default=True, help="Each makes networks of its own.")
@click.option(
    "--data",
    metavar="[DATASET=]PATH",
    multiple=True,
    help="Folder or file that holds a data set, or all of them; without it, the images that ship with a dependency.",
)
@click.option(
    "--networks",
    metavar="DIR",
    multiple=True,
    help="Run folder of kbd train, or a folder of such: what the bench would train and is there is copied; repeatable.",
)
@click.option("--epochs", type=click.IntRange(1), help="Epochs of each step of training, instead of the recipes'.")
@click.option("--limit", type=click.IntRange(1), help="Train on only this many images of each class.")
@click.option(
    "--set",
    "settings",
    metavar="METHOD.NAME=VALUE",
    multiple=True,
    help="A hyper-parameter of a defense, named as kbd defend METHOD --help has it; several values with commas between them.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Cells that run side by side; by default one a core, 4 at most."
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Run the cells on the Ray cluster there (auto: that of this machine), --workers or one a processor at a time.",
)
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), metavar="MINUTES", help="That one cell may take at most."
)
@click.option(
    "--memory",
    type=click.IntRange(1),
    metavar="MIB",
    help="That the processes of one cell may hold at most; by default its share of the machine's, none with --ray.",
)
@click.option("-o", "--output", metavar="DIR", help="Folder for the results; by default runs/bench-PRESET.")
@click.option("--resume", is_flag=True, help="Go on in DIR, also with other recipes, defenses and seeds.")
@click.option("--again", is_flag=True, help="With --resume: try what has failed once more.")
@JSON
def bench(
    preset: Optional[str],
    recipes: Optional[tuple[str, ...]],
    defenses: Optional[tuple[str, ...]],
    innocent: Optional[tuple[str, ...]],
    seeds: tuple[int, ...],
    data: tuple[str, ...],
    networks: tuple[str, ...],
    epochs: Optional[int],
    limit: Optional[int],
    settings: tuple[str, ...],
    workers: Optional[int],
    ray: Optional[str],
    timeout: Optional[float],
    memory: Optional[int],
    output: Optional[str],
    resume: bool,
    again: bool,
    as_json: bool,
) -> None:
    """Put recipes and defenses side by side, beside what the papers print: the table of the papers.

    Every cell, a network and a defense, runs in a process of its own. One that fails is tried again, recorded with its reason,
    and does not stop the others. What is there is not run again: the bench can be stopped in any way, and goes on with
    --resume. Detectors meet innocent networks as well, for their false alarms.

    Writes table.csv, .json, .md, .tex and .html (the page that kbd report makes), cells/ (a record each), and the run folders of
    kbd train and kbd defend in networks/ and runs/.
    """
    from kbd._show import command_line, print_json
    from keras_backdoor.benchmark.bench import bench as run_bench
    from keras_backdoor.benchmark.cells import Plan
    from keras_backdoor.benchmark.presets import PRESETS
    from keras_backdoor.benchmark.process import Limits
    from keras_backdoor.benchmark.ray_cluster import cluster
    from keras_backdoor.benchmark.runner import share_of_memory, usual_workers
    from keras_backdoor.benchmark.tables import told
    from keras_backdoor.defenses import DEFENSES, SIFTING, TRAINING
    from keras_backdoor.report import build_report

    preset = preset or "quick"
    chosen = PRESETS[lookup(preset, PRESETS, "preset")]
    known = [*DEFENSES, *SIFTING, *TRAINING]
    plan = Plan(
        recipes or chosen.recipes,
        [lookup(method, known, "method") for method in defenses or known],
        seeds,
        _by_name(data),
        epochs,
        limit,
        chosen.innocent if innocent is None and recipes is None else innocent,
        _settings(settings, chosen.settings, preset),
    )
    folder = output or f"runs/bench-{preset}"
    with contextlib.ExitStack() as stack:
        elsewhere: dict[str, Any] = {}
        if ray:
            start, processors = stack.enter_context(cluster(ray))
            elsewhere, workers = {"start": start, "words": ()}, min(workers or processors, processors)
        else:
            workers = workers or usual_workers()
            memory = memory or int(share_of_memory(workers))
        found = run_bench(
            plan,
            folder,
            resume=resume,
            reproduce=command_line(),
            tell=_tell,
            workers=workers,
            limits=Limits(timeout and 60 * timeout, memory),
            again=again,
            networks=networks,
            **elsewhere,
        )
    page = build_report(folder, Path(folder) / "table.html")
    if as_json:
        print_json({"folder": folder, "rows": told(found)})
        return
    _show(found)
    click.echo(f"written to {folder}: {page.name}, table.md, table.csv, table.json, table.tex")


def _by_name(data: tuple[str, ...]) -> dict[str, str]:
    """Path by data set; one without a name is for all of them."""
    from keras_backdoor.datasets import DATASETS

    found: dict[str, str] = {}
    for text in data:
        name, equals, path = text.partition("=")
        found.update({name: path} if equals and name in DATASETS else {"": text})
    return found


def _settings(texts: tuple[str, ...], of_preset: Mapping[str, Mapping[str, Any]], preset: str) -> dict[str, Any]:
    """Hyper-parameters by defense, and of each the value and where it comes from; those of `texts` come last."""
    from kbd._method_options import TYPES
    from keras_backdoor.defenses.described import hyper_parameters

    found = {
        method: {name: (value, f"preset {preset}") for name, value in own.items()} for method, own in of_preset.items()
    }
    for text in texts:
        place, equals, value = text.partition("=")
        method, dot, name = place.partition(".")
        if not (equals and dot):
            raise BadInput(f"--set {text}: expected METHOD.NAME=VALUE, such as strip.overlays=50")
        known = {one.name: one for one in hyper_parameters(method)}
        annotation = known[lookup(name.replace("-", "_"), known, f"hyper-parameter of {method}")].annotation
        kind = click.types.convert_type(TYPES[annotation])
        try:
            values = [
                kind.convert(word, None, None)
                for word in (value.split(",") if annotation.startswith("tuple") else [value])
            ]
        except click.BadParameter as error:
            raise BadInput(f"--set {text}: {error.message}") from None
        own = values if annotation.startswith("tuple") else values[0]
        found.setdefault(method, {})[name.replace("-", "_")] = (own, "command line")
    return found


def _tell(done: int, total: int, record: Mapping[str, Any]) -> None:
    """A line for each cell."""
    from kbd._show import notice

    about = [
        record["recipe"],
        *(["innocent"] if record["innocent"] else []),
        record["defense"],
        f"seed {record['seed']}",
    ]
    said = f"{record['status']}: {record['reason']}" if record["reason"] else f"{record['process_seconds']:.1f} s"
    notice(f"cell {done}/{total}: {', '.join(about)}: {said}")


def _show(found: Any) -> None:
    """The side-by-side table."""
    from kbd._show import table
    from keras_backdoor.benchmark.prose import side_by_side

    heading, *rows = side_by_side(found)
    table(heading, [tuple(row) for row in rows])
