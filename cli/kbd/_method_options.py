"""Options of `kbd defend METHOD`, one a hyper-parameter of the method, of a type in `TYPES`."""

from __future__ import annotations

from typing import Any

import click

from keras_backdoor.defenses.described import HyperParameter, docstring, hyper_parameters, verbs

TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "Optional[str]": str,
    "Optional[int]": int,
    "Optional[float]": float,
    "tuple[float, ...]": float,
    "tuple[str, ...]": str,
}


def method_options(method: str) -> list[click.Option]:
    """One option a field, in the order of the dataclass: inherited ones first."""
    return [_option(field) for field in hyper_parameters(method)]


def _option(field: HyperParameter) -> click.Option:
    flag = f"--{field.name.replace('_', '-')}"
    kind, multiple = TYPES[field.annotation], field.annotation.startswith("tuple")
    return click.Option(
        [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag],
        type=kind,
        default=field.default,
        show_default=field.default not in (None, ()),
        help=field.help,
        multiple=multiple,
    )


def scans(method: str) -> bool:
    """Whether the method looks for triggers, chunk by chunk, and gives a verdict."""
    return "chunks" in verbs(method)


def resumes(method: str) -> bool:
    """Whether the method can go on after an interrupt: it works through chunks, or keeps in a folder what it made."""
    return scans(method) or any("folder" in verbs(method).get(verb, ()) for verb in ("steps", "inspect"))


def watches(method: str) -> bool:
    """Whether the method watches streams of images."""
    return "streams" in verbs(method).get("steps", ())


def evaluates(method: str) -> bool:
    """Whether the method chooses its result by its accuracy on clean images."""
    return "evaluation" in verbs(method).get("steps", ())


def method_summary(method: str) -> str:
    """The docstring of the method's class, but for what it raises, which is for callers."""
    return docstring(method).partition("Raises `BadInput`")[0].rstrip()
