"""Options of `kbd defend METHOD`, from the source text of the method's dataclass: importing it would take TensorFlow's seconds.

A hyper-parameter is one line, `name: type = default  # help`, of a type in `TYPES`.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from keras_backdoor.defenses import DEFENSES

TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "Optional[str]": str,
    "Optional[int]": int,
    "Optional[float]": float,
    "tuple[float, ...]": float,
}


def method_options(method: str) -> list[click.Option]:
    """One option a field, in the order of the dataclass."""
    definition, lines = _definition(method)
    options = []
    for field in definition.body:
        if not isinstance(field, ast.AnnAssign) or field.value is None:
            continue
        name, default = ast.unparse(field.target), ast.literal_eval(field.value)
        flag = f"--{name.replace('_', '-')}"
        help_text = lines[field.lineno - 1].partition("  # ")[2].strip()
        annotation = ast.unparse(field.annotation)
        kind, multiple = TYPES[annotation], annotation.startswith("tuple")
        flags = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
        options.append(
            click.Option(
                flags,
                type=kind,
                default=default,
                show_default=default not in (None, ()),
                help=help_text,
                multiple=multiple,
            )
        )
    return options


def resumes(method: str) -> bool:
    """Whether the method works through chunks and can go on after an interrupt."""
    return _has(method, "chunks")


def inspects(method: str) -> bool:
    """Whether the method looks for triggers and gives a verdict."""
    return _has(method, "inspect")


def _has(method: str, verb: str) -> bool:
    return any(isinstance(part, ast.FunctionDef) and part.name == verb for part in _definition(method)[0].body)


def method_summary(method: str) -> str:
    """The docstring of the method's class, but for what it raises, which is for callers."""
    return (ast.get_docstring(_definition(method)[0]) or "").partition("Raises `BadInput`")[0].rstrip()


def _definition(method: str) -> tuple[ast.ClassDef, list[str]]:
    module, name = DEFENSES[method]
    package = find_spec("keras_backdoor.defenses")
    assert package is not None and package.submodule_search_locations
    source = Path(package.submodule_search_locations[0], f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    definitions = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name]
    return definitions[0], source.splitlines()
