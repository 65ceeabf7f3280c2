"""`kbd env`: what a report of a bug needs to say about the machine."""

from __future__ import annotations

import sys
from typing import Any

import click

from kbd._options import JSON


@click.command()
@click.option("--check", "checking", is_flag=True, help="Also try whether the parts work: takes about a minute.")
@JSON
def env(checking: bool, as_json: bool) -> int:
    """Print versions, devices, processor and memory, for a report of a bug.

    With --check a small network is trained, saved, read and asked, and the libraries that others depend on are tried; if one of
    these fails, the exit code is 1.
    """
    from kbd._show import print_json
    from keras_backdoor.environment import check, environment

    facts = environment()
    if not as_json:
        _show(facts)
    results: list[dict[str, Any]] = []
    for name, failure, seconds in check() if checking else ():
        results.append({"name": name, "failure": failure, "seconds": round(seconds, 3)})
        if not as_json:
            said = click.style("works", fg="green") if failure is None else click.style(f"FAILED: {failure}", fg="red")
            click.echo(f"{name:<26}{said} ({seconds:.1f} s)")
            sys.stdout.flush()
    if as_json:
        print_json({**facts, **({"checks": results} if checking else {})})
    return int(any(result["failure"] is not None for result in results))


def _show(facts: dict[str, Any]) -> None:
    lines = [("keras-backdoor", facts["keras_backdoor"]), ("Python", facts["python"]), ("system", facts["system"])]
    lines += [(name, version or "–") for name, version in facts["packages"].items()]
    for device in facts["devices"]:
        capability = device["compute_capability"]
        lines.append((device["type"], device["name"] + (f", compute capability {capability}" if capability else "")))
    lines += [("CUDA, cuDNN", f"{facts['cuda'] or '–'}, {facts['cudnn'] or '–'} (that TensorFlow was built for)")]
    lines += [("processor", f"{facts['processor'] or '–'}; {facts['cores']} cores usable")]
    lines += [("instructions", " ".join(facts["instructions"]) or "–")]
    lines += [("memory", f"{_gib(facts['memory'])}, of which {_gib(facts['memory_available'])} available")]
    lines += [(name, value) for name, value in facts["variables"].items()]
    for name, value in lines:
        click.echo(f"{name:<26}{value}")


def _gib(count: Any) -> str:
    return "–" if count is None else f"{count / 2**30:.1f} GiB"
