"""The values of the trigger language: words, numbers, tuples, and the types that a trigger's fields have."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from typing import Any, Union

WHOLE = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
BARE = re.compile(r"[\w./~-]+")
CONSTANTS = {"True": True, "False": False, "None": None}
MOST_DIGITS = 18  # fit an int64

_TYPES = {
    int: "a whole number",
    float: "a number",
    str: "a word or a text in quotation marks",
    bool: "True or False",
    type(None): "None",
}


def read_word(word: str) -> Any:
    """The value of a word without quotation marks: a constant, a number, or the word itself.

    Raises OverflowError if it is a number that is too large.
    """
    if word in CONSTANTS:
        return CONSTANTS[word]
    if not NUMBER.fullmatch(word):
        return word
    if not WHOLE.fullmatch(word):
        if math.isinf(float(word)):
            raise OverflowError
        return float(word)
    if len(word) > MOST_DIGITS:
        raise OverflowError
    return int(word)


def spell_value(value: Any) -> str:
    """A value as the language reads it."""
    if isinstance(value, tuple):
        return f"({', '.join(map(spell_value, value))}{',' if len(value) == 1 else ''})"
    bare = isinstance(value, str) and BARE.fullmatch(value) and not NUMBER.fullmatch(value) and value not in CONSTANTS
    return value if bare else repr(value)


def fit(value: Any, hint: Any) -> Any:
    """`value` as the type `hint`; TypeError if it is not of that type. A whole number is a number, too."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Union:
        for one in inner:
            try:
                return fit(value, one)
            except TypeError:
                continue
    elif origin is tuple and isinstance(value, tuple):
        hints = inner[:1] * len(value) if inner[1:] == (...,) else inner
        if len(hints) == len(value):
            return tuple(map(fit, value, hints))
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is hint:
        return value
    raise TypeError


def describe(hint: Any) -> str:
    """A type in words."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Union:
        return " or ".join(map(describe, inner))
    if typing.get_origin(hint) is tuple:
        words = [describe(one) for one in inner if one is not ...]
        return f"({', '.join([*words, '…'] if ... in inner else words)})"
    return _TYPES.get(hint, "what cannot be written in words")


def default(field: dataclasses.Field) -> Any:
    """The default of a dataclass's field, `dataclasses.MISSING` if it has none."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
