"""What a defense takes and what it can do, from the source text of its dataclass: importing it would take TensorFlow's seconds.

A hyper-parameter is one line, `name: type = default  # help`; it may be inherited from a class of the package that the module
has itself or imports by name (`from keras_backdoor.… import …`).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import keras_backdoor
from keras_backdoor.defenses import place

Definition = tuple[ast.ClassDef, list[str]]
"""A class, and the lines of the file that it stands in."""
DETECTING = ("chunks", "inspect", "fit_filter", "sift")
"""Verbs of defenses that say something of a network or of images, which may be a false alarm."""


@dataclass(frozen=True)
class HyperParameter:
    """One field of a defense: its name, its annotation as it is written, its default, and the help behind it."""

    name: str
    annotation: str
    default: Any
    help: str


@cache
def hyper_parameters(method: str) -> tuple[HyperParameter, ...]:
    """One a field, in the order of the dataclass: inherited ones first. Raises `BadInput` if there is no such method."""
    found: dict[str, HyperParameter] = {}
    for definition, lines in _definitions(method):
        for field in definition.body:
            if isinstance(field, ast.AnnAssign) and field.value is not None:
                name, text = ast.unparse(field.target), lines[field.lineno - 1].partition("  # ")[2].strip()
                found[name] = HyperParameter(name, ast.unparse(field.annotation), ast.literal_eval(field.value), text)
    return tuple(found.values())


def verbs(method: str) -> dict[str, list[str]]:
    """The functions of the method's class, and the names of their parameters."""
    return {
        part.name: [argument.arg for argument in (*part.args.args, *part.args.kwonlyargs)]
        for definition, _ in _definitions(method)
        for part in definition.body
        if isinstance(part, ast.FunctionDef)
    }


@cache
def detects(method: str) -> bool:
    """Whether the method says that a network is backdoored, or which images are."""
    return any(verb in verbs(method) for verb in DETECTING)


def docstring(method: str) -> str:
    """That of the method's class."""
    definition, _ = _definitions(method)[-1]
    return ast.get_docstring(definition) or ""


def _definitions(method: str) -> list[Definition]:
    return _read(*place(method))


@cache
def _read(module: str, name: str) -> list[Definition]:
    """A class of the package and the classes of the package that it is derived from, those first."""
    path = Path(keras_backdoor.__path__[0], *module.split(".")[1:])
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    parts = ast.parse(source).body
    imported = {
        alias.asname or alias.name: (part.module, alias.name)
        for part in parts
        if isinstance(part, ast.ImportFrom) and (part.module or "").startswith("keras_backdoor.")
        for alias in part.names
    }
    (definition,) = (part for part in parts if isinstance(part, ast.ClassDef) and part.name == name)
    found: list[Definition] = []
    here = {part.name for part in parts if isinstance(part, ast.ClassDef)}
    for base in reversed([ast.unparse(base) for base in definition.bases]):  # as a dataclass collects its fields
        if base in here or base in imported:
            found += _read(*((module, base) if base in here else imported[base]))
    return [*found, (definition, source.splitlines())]
