"""`kbd zoo`: architectures, and network files that others published."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, Optional

import click

from kbd._options import JSON
from kbd.scan import scan


@click.group(invoke_without_command=True)
@click.pass_context
def zoo(ctx: click.Context) -> None:
    """Architectures, and network files that others published."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@zoo.command("list")
@JSON
def list_all(as_json: bool) -> None:
    """List architectures and published files."""
    from kbd._show import print_json, table
    from models_zoo import ARCHITECTURES
    from models_zoo.artifacts import entries

    if as_json:
        architectures = [_architecture(name) for name in ARCHITECTURES]
        print_json({"architectures": architectures, "artifacts": list(entries())})
        return
    table(
        ["architecture", "input", "classes", "parameters", "what it is"],
        (
            (name, "×".join(map(str, a.input_shape)), str(a.num_classes or "–"), f"{a.parameters:,}", a.what)
            for name, a in ARCHITECTURES.items()
        ),
    )
    click.echo()
    table(
        ["published file", "clean", "attacks", "hash", "what it is"],
        (
            (
                entry["name"],
                _percent(entry["clean_accuracy"]),
                ", ".join(_percent(attack["success"]) for attack in entry["attacks"]) or "–",
                "known" if entry["sha256"] else "–",
                entry["what"],
            )
            for entry in entries()
        ),
    )


@zoo.command()
@click.argument("name")
@JSON
def show(name: str, as_json: bool) -> None:
    """Show all that is known of NAME, one of those."""
    from kbd._show import print_json
    from models_zoo import ARCHITECTURES

    facts = _architecture(name) if name in ARCHITECTURES else _artifact(name, ARCHITECTURES)
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        for i, item in enumerate(value if isinstance(value, list) else [value]):
            text = _percent(item) if isinstance(item, float) else _attack(item) if key == "attacks" else item
            click.echo(f"{key.replace('_', ' ') if i == 0 else '':<16}{'–' if text is None else text}")


@zoo.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE|DIR", help="Also copy to this file, or into this folder.")
@click.option("--accept-hash", is_flag=True, help="Take a file whose hash is not known, and require it from then on.")
@click.option("--offline", is_flag=True, help="Take only what was downloaded before.")
@JSON
def fetch(names: tuple[str, ...], output: Optional[str], accept_hash: bool, offline: bool, as_json: bool) -> None:
    """Download published files, and verify them.

    Prints where they are: in $KBD_CACHE, or in a folder among your caches. What is there already is verified again.
    """
    from kbd._show import notice, print_json, progress_display
    from keras_backdoor import downloads
    from keras_backdoor.files import sha256
    from keras_backdoor.progress import silent

    entries = [_artifact(name) for name in names]
    with progress_display() if sys.stderr.isatty() else nullcontext(silent) as progress:
        paths = [downloads.fetch(entry, None, offline, accept_hash, progress=progress) for entry in entries]
    hashes = [sha256(path) for path in paths]
    for entry, digest in zip(entries, hashes):
        if accept_hash and entry["sha256"] is None:
            notice(f"{entry['name']}: accepted SHA-256 {digest}, which is required from now on")
    if output:
        paths = downloads.export(paths, output)
    if as_json:
        rows = zip(names, paths, hashes)
        print_json({"files": [{"name": name, "path": str(path), "sha256": digest} for name, path, digest in rows]})
        return
    click.echo("\n".join(map(str, paths)))


@zoo.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--name", help="The published file that each must be; by default, that of which it has the name.")
@JSON
def verify(files: tuple[str, ...], name: Optional[str], as_json: bool) -> int:
    """Recognise published files by their hash.

    Ends with exit code 3 if one is not known, or is not the one that it must be.
    """
    from kbd._show import print_json
    from models_zoo.artifacts import identify

    expected = _artifact(name)["name"] if name else None
    found = [identify(file, expected) for file in files]
    verified = all(row["verdict"] == "known" for row in found)
    if as_json:
        print_json({"verified": verified, "files": found})
    else:
        click.echo("\n".join(f"{row['file']}: {_verdict(row)}" for row in found))
    return 0 if verified else 3


def _verdict(row: dict[str, Any]) -> str:
    what = f"is {row['name']}" if row["name"] else f"not known by its SHA-256 {row['sha256']}"
    return f"is not {row['expected']}; {what}" if row["verdict"] == "mismatch" else what


def _artifact(name: str, besides: Iterable[str] = ()) -> dict[str, Any]:
    from keras_backdoor.files import lookup
    from models_zoo.artifacts import by_name, entries

    names = [entry["name"] for entry in entries()] + list(besides)
    return by_name(lookup(name, names, "name in the zoo", "kbd zoo list shows them"))


def _architecture(name: str) -> dict[str, Any]:
    from dataclasses import asdict

    from models_zoo import ARCHITECTURES

    return {"name": name, **asdict(ARCHITECTURES[name])}


def _percent(rate: Optional[float]) -> str:
    from kbd._show import percent

    return "–" if rate is None else percent(rate)


def _attack(attack: dict[str, Any]) -> str:
    target = "not published" if attack["target"] is None else attack["target"]
    return f"{attack['trigger']} → {target}: {_percent(attack['success'])}"


zoo.add_command(scan)
