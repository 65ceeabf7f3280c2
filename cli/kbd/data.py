"""`kbd data`: data sets, and files of images."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any, Optional

import click

from kbd._options import JSON
from kbd.data_poison import poison
from kbd.data_show import show
from keras_backdoor.files import BadInput, lookup


@click.group(invoke_without_command=True)
@click.pass_context
def data(ctx: click.Context) -> None:
    """Data sets, and files of images."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@data.command("list")
@JSON
def list_all(as_json: bool) -> None:
    """List the data sets: how many images, who uses them, and what must be there for --data."""
    from kbd._show import print_json, table
    from keras_backdoor.datasets import ABOUT, IMPORTS
    from keras_backdoor.datasets.sources import files_of, folder_of, is_cached

    if as_json:
        print_json({"data_sets": [_facts(name) for name in ABOUT]})
        return
    table(
        ["data set", "classes", "images", "train", "valid", "test", "import", "download", "used by"],
        (
            (
                name,
                str(about.classes or "–"),
                "×".join(map(str, about.shape or "–")),
                *(f"{count:,}" for count in about.counts or ()),
                *("–" for _ in range(0 if about.counts else 3)),
                "yes" if name in IMPORTS else "–",
                ("in the cache" if is_cached(name) else "yes") if files_of(name) else "–",
                about.papers,
            )
            for name, about in ABOUT.items()
        ),
    )
    click.echo()
    for name, about in ABOUT.items():
        click.echo(f"{name} needs {about.wanted}")
        if is_cached(name):
            click.echo(f"  --data {folder_of(name)}")


@data.command()
@click.argument("name")
@click.option("-o", "--output", metavar="FILE|DIR", help="Also copy to this file, or into this folder.")
@click.option("--accept-hash", is_flag=True, help="Take a file whose hash is not known, and require it from then on.")
@click.option("--offline", is_flag=True, help="Take only what was downloaded before.")
@JSON
def fetch(name: str, output: Optional[str], accept_hash: bool, offline: bool, as_json: bool) -> None:
    """Download the official files of the data set NAME, and verify them.

    Prints what --data takes then: a folder in $KBD_CACHE, or among your caches. What is there already is verified again.
    """
    from kbd._show import notice, print_json, progress_display
    from keras_backdoor import downloads
    from keras_backdoor.datasets import sources
    from keras_backdoor.files import sha256
    from keras_backdoor.progress import silent

    entries = sources.files_of(_known(name))
    with progress_display() if sys.stderr.isatty() else nullcontext(silent) as progress:
        paths = sources.fetch(name, offline, accept_hash, progress)
    hashes = [sha256(path) for path in paths]
    for entry, digest in zip(entries, hashes):
        if accept_hash and entry["sha256"] is None:
            notice(f"{entry['name']}: accepted SHA-256 {digest}, which is required from now on")
    if output:
        paths = downloads.export(paths, output)
    ready = paths[0] if len(paths) == 1 else paths[0].parent
    if as_json:
        files = [{"path": str(path), "sha256": digest} for path, digest in zip(paths, hashes)]
        print_json({"name": name, "data": str(ready), "files": files})
        return
    click.echo(ready)


@data.command("import")
@click.argument("name")
@click.argument("source")
@click.argument("output", metavar="OUT.h5")
@click.option("--part", type=click.Choice(["train", "valid", "test"]), help="Write this part as the course's HDF5.")
@click.option("--size", metavar="HEIGHTxWIDTH", help="Resize the pictures of an image_folder.")
@click.option("--least", type=click.IntRange(2), help="Photographs that a person of lfw must have.  [default: 10]")
@click.option("--overwrite", is_flag=True, help="Replace OUT.h5 if it is there.")
@JSON
def import_(
    name: str,
    source: str,
    output: str,
    part: Optional[str],
    size: Optional[str],
    least: Optional[int],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make one file of the data set NAME from SOURCE, its official archives or folders.

    OUT.h5 is what --data takes from then on, and loads much faster. With --part it is one part, as the course's HDF5 that all
    commands take for images.
    """
    from kbd._outputs import check_new_file, check_output_file, writing
    from kbd._show import notice, print_json
    from keras_backdoor import datasets
    from keras_backdoor.datasets.prepared import existing, write_prepared

    _known(name)
    options: dict[str, Any] = {}
    for option, value, owner in (("size", _size(size), "image_folder"), ("least", least, "lfw")):
        if value is not None:
            if name != owner or part:
                raise BadInput(f"--{option}: belongs to the import of {owner}, and not to --part")
            options[option] = value
    (check_output_file if overwrite else check_new_file)(output)
    if part:
        image_set = getattr(datasets.load(name, source), part)
        counts = {part: len(image_set)}
        with writing(output):
            datasets.write_csaw_hdf5(output, image_set)
    else:
        if name not in datasets.IMPORTS:
            raise BadInput(f"{name}: needs no import: --data takes {datasets.ABOUT[name].wanted}")
        parts = datasets.IMPORTS[name](existing(source, datasets.ABOUT[name]), **options)
        image_set, counts = parts.train, {"train": len(parts.train), "test": len(parts.test)}
        with writing(output):
            write_prepared(output, parts)
    if as_json:
        shape, classes = list(image_set.image_shape), image_set.num_classes
        print_json({"name": name, "output": output, "counts": counts, "shape": shape, "classes": classes})
        return
    notice(f"{name}: {', '.join(f'{count} {which}' for which, count in counts.items())} images")
    click.echo(output)


def _known(name: str) -> str:
    from keras_backdoor.datasets import ABOUT

    return lookup(name, ABOUT, "data set", "kbd data list shows them")


def _facts(name: str) -> dict[str, Any]:
    from keras_backdoor.datasets import ABOUT, IMPORTS
    from keras_backdoor.datasets.sources import files_of, folder_of, is_cached

    cached = str(folder_of(name)) if is_cached(name) else None
    return {
        **ABOUT[name].as_json(),
        "importable": name in IMPORTS,
        "fetchable": bool(files_of(name)),
        "cached": cached,
    }


def _size(text: Optional[str]) -> Optional[tuple[int, int]]:
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and 1 <= int(height) <= 4096 and 1 <= int(width) <= 4096):
        raise BadInput(f"--size: {text!r} is no HEIGHTxWIDTH, such as 32x32")
    return int(height), int(width)


data.add_command(poison)
data.add_command(show)
