"""JSON from strangers: one meaning only, and no surprises in size or depth."""

from __future__ import annotations

import json
import re
from typing import Any

from keras_backdoor.gate.report import Stop

MOST_BYTES = 4 << 20
DEEPEST = 64
LONGEST_NUMBER = 32
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{}\]]', re.DOTALL)


def parse(text: bytes | str, where: str) -> Any:
    """What the text says.

    Raises `Stop` if it is not JSON, longer than 4 MiB, nested deeper than 64, or holds a name twice in one object (readers
    differ in which they take), NaN, or a number of more than 32 characters.
    """
    if len(text) > MOST_BYTES:
        raise Stop("bomb", where, f"JSON of more than {MOST_BYTES >> 20} MiB")
    try:
        string = text.decode("utf-8") if isinstance(text, bytes) else text
        _check_depth(string, where)
        return json.loads(
            string, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_integer, parse_float=_float
        )
    except (ValueError, RecursionError) as error:
        raise Stop("malformed", where, f"not strict JSON ({error})") from None


def _check_depth(text: str, where: str) -> None:
    depth = 0
    for token in _TOKENS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group(), 0)
        if depth > DEEPEST:
            raise Stop("bomb", where, f"JSON nested deeper than {DEEPEST}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int:
    return int(_short(digits))


def _float(digits: str) -> float:
    return float(_short(digits))


def _short(digits: str) -> str:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError("a number of too many digits")
    return digits
