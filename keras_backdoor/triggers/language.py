"""Triggers in words, as the command line takes them: `square(4, at=bottom-right)|noise(64)`.

`|` between triggers means one of them for each image (`OneOf`), `+` all of them (`AllOf`); `+` binds tighter, and round
brackets group. Names are those of `TRIGGERS`; arguments are the fields of its dataclasses, by position or by name. A value is a
number, True, False or None, a tuple in brackets, a word (`bottom-right`, or the path of a file), or a text in quotation marks.

Nothing is evaluated: the text is read from left to right, and what it does not provide for is refused.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import typing
from typing import Any, Callable, NoReturn

from keras_backdoor.files import BadInput, lookup, printable
from keras_backdoor.triggers import TRIGGERS, AllOf, OneOf, Trigger
from keras_backdoor.triggers.values import default, describe, fit, read_word, spell_value

MOST_CHARACTERS = 10_000
MOST_NESTED = 20

NAME = re.compile(r"[A-Za-z][\w-]*")
KEYWORD = re.compile(r"([A-Za-z_][\w-]*)\s*=")
WORD = re.compile(r"""[^\s()\[\],='"]+""")
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")


def parse(text: str) -> Trigger:
    """The trigger that `text` describes; `BadInput` with what is wrong and what would be right if it describes none."""
    return _Reader(text).whole()


def spell(trigger: Trigger) -> str:
    """`trigger` in words, such that `parse(spell(trigger)) == trigger`; fields that have their default are left out.

    Raises `BadInput` for a trigger that the language has no words for: of a class that is not in `TRIGGERS`, or a
    composition of fewer than two.
    """
    if isinstance(trigger, (AllOf, OneOf)) and len(trigger.triggers) > 1:
        # What binds as tightly as the whole, or less, keeps its brackets: (a+b)+c is nested, a+b+c is not.
        loose, sign = ((AllOf, OneOf), "+") if isinstance(trigger, AllOf) else (OneOf, "|")
        parts = [(spell(part), isinstance(part, loose)) for part in trigger.triggers]
        return sign.join(f"({words})" if grouped else words for words, grouped in parts)
    for name, known in TRIGGERS.items():
        if type(trigger) is known:
            values = [(field, getattr(trigger, field.name)) for field in dataclasses.fields(known)]
            changed = [f"{field.name}={spell_value(value)}" for field, value in values if value != default(field)]
            return f"{name}({', '.join(changed)})" if changed else name
    raise BadInput(f"trigger {trigger.name!r} cannot be written in words: it is none of {', '.join(TRIGGERS)}")


def signatures() -> dict[str, str]:
    """What there is, for help texts: each name with its parameters and their defaults, and what it is in one sentence."""
    told = {}
    for name, known in TRIGGERS.items():
        words = [
            field.name if default(field) is dataclasses.MISSING else f"{field.name}={spell_value(default(field))}"
            for field in dataclasses.fields(known)
            if field.name != "name"
        ]
        summary = (known.__doc__ or "").split("\n\n")[0]
        told[f"{name}({', '.join(printable(word, 40) for word in words)})"] = " ".join(summary.split())
    return told


class _Reader:
    """Reads a text from left to right; `place` is the next character."""

    def __init__(self, text: str) -> None:
        self.text, self.place, self.depth = text, 0, 0

    def whole(self) -> Trigger:
        if len(self.text) > MOST_CHARACTERS:
            self.fail(f"{len(self.text)} characters are too many, at most {MOST_CHARACTERS} are read")
        if not self.text.isprintable():
            self.fail("holds characters that cannot be printed")
        trigger = self.either()
        if self.peek():
            self.fail(f"found {self.rest()} where + or | or the end was expected")
        return trigger

    def either(self) -> Trigger:
        parts = self.joined("|", self.all_of)
        return OneOf(parts) if len(parts) > 1 else parts[0]

    def all_of(self) -> Trigger:
        parts = self.joined("+", self.single)
        return AllOf(parts) if len(parts) > 1 else parts[0]

    def joined(self, sign: str, part: Callable[[], Trigger]) -> tuple[Trigger, ...]:
        parts = [part()]
        while self.skip(sign):
            parts.append(part())
        return tuple(parts)

    def single(self) -> Trigger:
        if self.skip("("):
            self.enter()
            trigger = self.either()
            self.close(")", "+ or |")
            return trigger
        name = self.match(NAME)
        if name is None:
            self.fail(f"found {self.rest()} where the name of a trigger was expected")
        name = lookup(printable(name, 40), TRIGGERS, "trigger")
        return self.build(name, *(self.arguments() if self.skip("(") else ([], {})))

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """The values between round brackets, by position and by name."""
        self.enter()
        positional: list[Any] = []
        named: dict[str, Any] = {}
        while self.peek() != ")":
            found = KEYWORD.match(self.text, self.place)
            if found:
                self.place = found.end()
                key = found[1].replace("-", "_")
                if key in named:
                    self.fail(f"{printable(key, 40)} is given twice")
                named[key] = self.value()
            elif named:
                self.fail(f"found {self.rest()} after an argument with a name: those come last")
            else:
                positional.append(self.value())
            if not self.skip(","):
                break
        self.close(")", "a comma")
        return positional, named

    def value(self) -> Any:
        for opening, closing in (("(", ")"), ("[", "]")):
            if self.skip(opening):
                return self.items(closing)
        if self.peek() in ("'", '"'):
            return self.quoted()
        word = self.match(WORD)
        if word is None:
            self.fail(f"found {self.rest()} where a value or a closing bracket was expected")
        try:
            return read_word(word)
        except OverflowError:
            self.fail(f"{printable(word, 20)} is too large a number")

    def items(self, closing: str) -> Any:
        """A tuple; a single value in round brackets is that value, as in Python."""
        self.enter()
        values, comma = [], closing == "]"
        while self.peek() != closing:
            values.append(self.value())
            if not self.skip(","):
                break
            comma = True
        self.close(closing, "a comma")
        return values[0] if len(values) == 1 and not comma else tuple(values)

    def quoted(self) -> str:
        text = self.match(QUOTED)
        if text is None:
            self.fail(f"the quotation mark before {self.rest(1)} is never closed")
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = "\n"
        if not value.isprintable():
            self.fail(f"{printable(text, 40)} is no text that can be printed (a backslash is written twice)")
        return value

    def build(self, name: str, positional: list[Any], named: dict[str, Any]) -> Trigger:
        """The trigger called `name`, if the values are what its dataclass takes."""
        known = TRIGGERS[name]
        fields = {field.name: field for field in dataclasses.fields(known)}
        if len(positional) > len(fields):
            self.fail(f"{name} takes {', '.join(fields)}, but {len(positional)} values are given")
        given = dict(zip(fields, positional))
        for key in named:
            if key not in fields:
                self.fail(f"{name} has no parameter {printable(key, 40)!r}: it takes {', '.join(fields)}")
            if key in given:
                self.fail(f"{key} of {name} is given twice, by position and by name")
        given.update(named)
        missing = [key for key, f in fields.items() if key not in given and default(f) is dataclasses.MISSING]
        if missing:
            self.fail(f"{name} needs a value for {missing[0]}")
        hints = typing.get_type_hints(known)
        for key, value in given.items():
            try:
                given[key] = fit(value, hints[key])
            except TypeError:
                found = printable(spell_value(value), 60)
                self.fail(f"{key} of {name} is {found}, expected {describe(hints[key])}")
        return known(**given)

    def peek(self) -> str:
        """The next character that is no blank, empty at the end."""
        while self.text[self.place : self.place + 1] == " ":
            self.place += 1
        return self.text[self.place : self.place + 1]

    def skip(self, sign: str) -> bool:
        """Whether `sign` comes next; it is passed."""
        found = self.peek() == sign
        self.place += found
        return found

    def match(self, pattern: re.Pattern[str]) -> str | None:
        self.peek()
        found = pattern.match(self.text, self.place)
        self.place = found.end() if found else self.place
        return found[0] if found else None

    def enter(self) -> None:
        self.depth += 1
        self.peek()
        if self.depth > MOST_NESTED:
            self.fail(f"more than {MOST_NESTED} brackets in each other")

    def close(self, bracket: str, otherwise: str) -> None:
        if not self.skip(bracket):
            what = f"found {self.rest()}" if self.peek() else "it ends"
            self.fail(f"{what} where {otherwise} or the closing {bracket} was expected")
        self.depth -= 1

    def rest(self, skipped: int = 0) -> str:
        """What comes next, for messages."""
        return f"'{printable(self.text[self.place + skipped :], 20)}'" if self.peek() else "the end"

    def fail(self, what: str) -> NoReturn:
        raise BadInput(f"trigger '{printable(self.text, 80)}': {what}")
