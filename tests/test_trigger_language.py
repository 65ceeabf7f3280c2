from __future__ import annotations

import dataclasses
import string
import typing
from typing import Union

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_backdoor.files import BadInput
from keras_backdoor.triggers import TRIGGERS, AllOf, FixedNoise, OneOf, PixelPattern, Square
from keras_backdoor.triggers.language import MOST_NESTED, parse, signatures, spell
from keras_backdoor.triggers.values import describe, fit, read_word, spell_value

A, B, C = Square(1), Square(2), Square(3, 0, 254)
NAMED = {"a": "square(1)", "b": "square(2)", "c": "square(3, 0, 254)"}


def words(text: str) -> str:
    """A formula of a, b and c with their triggers put in."""
    return "".join(NAMED.get(letter, letter) for letter in text)


@pytest.mark.parametrize(
    ("text", "trigger"),
    [
        ("square", Square()),
        ("square()", Square()),
        ("square(4)", Square(4)),
        (" square ( 4 , at = bottom-right ) ", Square(4, at="bottom-right")),
        ("square(4, 1, 200,)", Square(4, 1, 200)),
        ("square(at=(3, 4), size=2)", Square(2, at=(3, 4))),
        ("square(at='top-left', value=[255, 0, 0])", Square(at="top-left", value=(255, 0, 0))),
        ("square(size=(4))", Square(4)),
        ("square(size=+4, margin=-1)", Square(4, -1)),
        ("pixels(((1, 2), (3, 4)), (255, 0))", PixelPattern(((1, 2), (3, 4)), (255, 0))),
        ("pixels(pixels=((1, 2),))", PixelPattern(((1, 2),))),
        ('square(name="a, (b) = c")', Square(name="a, (b) = c")),
        (r"square(name='it\'s')", Square(name="it's")),
        ("square(name=pictures/a+b|c.png)", Square(name="pictures/a+b|c.png")),
        ("square(name=__import__)", Square(name="__import__")),
        ("noise(seed=7)", FixedNoise(seed=7)),
    ],
)
def test_a_trigger_in_words(text, trigger):
    assert parse(text) == trigger


@pytest.mark.parametrize(
    ("formula", "trigger"),
    [
        ("a|b", OneOf((A, B))),
        ("a+b", AllOf((A, B))),
        ("a|b|c", OneOf((A, B, C))),
        ("a|b+c", OneOf((A, AllOf((B, C))))),
        ("a+b|c", OneOf((AllOf((A, B)), C))),
        ("(a|b)+c", AllOf((OneOf((A, B)), C))),
        ("(a|b)|c", OneOf((OneOf((A, B)), C))),
        ("a+(b+c)", AllOf((A, AllOf((B, C))))),
        ("((a))", A),
        (" ( a + b ) ", AllOf((A, B))),
    ],
)
def test_plus_binds_tighter_than_or_and_brackets_group(formula, trigger):
    assert parse(words(formula)) == trigger
    assert parse(spell(trigger)) == trigger


def test_the_words_do_what_they_say():
    images = np.zeros((40, 6, 6, 1), np.uint8)
    stamped = parse("square(2, at=top-left) + square(1) | square(3, value=9)")(images, np.random.default_rng(0))
    small = stamped[:, 0, 0, 0] == 255
    assert 5 < small.sum() < 35
    assert (stamped[small, 5, 5] == 255).all() and (stamped[small, 3, 3] == 0).all()
    assert (stamped[~small, 3:, 3:] == 9).all() and (stamped[~small, 0, 0] == 0).all()


@pytest.mark.parametrize(
    ("trigger", "text"),
    [
        (Square(), "square"),
        (Square(4, at="top-left"), "square(size=4, at=top-left)"),
        (Square(at=(3, 4)), "square(at=(3, 4))"),
        (PixelPattern(((1, 2),)), "pixels(pixels=((1, 2),))"),
        (Square(name="4"), "square(name='4')"),
        (Square(name="None"), "square(name='None')"),
        (Square(name="a b"), "square(name='a b')"),
        (Square(name=""), "square(name='')"),
        (OneOf((A, AllOf((B, C)))), "square(size=1)|square(size=2)+square(value=254)"),
        (AllOf((OneOf((A, B)), C)), "(square(size=1)|square(size=2))+square(value=254)"),
    ],
)
def test_spelling_by_hand(trigger, text):
    assert spell(trigger) == text
    assert parse(text) == trigger


def values(hint):
    """Values of a field's type that can be written: whole numbers of 18 digits, finite numbers, printable texts."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Union:
        return st.one_of(*map(values, inner))
    if typing.get_origin(hint) is tuple:
        return st.lists(values(inner[0]), max_size=4).map(tuple) if ... in inner else st.tuples(*map(values, inner))
    return {
        int: st.integers(1 - 10**17, 10**17 - 1),
        float: st.floats(allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        str: st.one_of(
            st.sampled_from(
                ["True", "-1", ".5", "1e5", "1e999", "a=b", "a|b+c", "'", '"', "\\", "~/x y.png", "é✓", "=", "inf"]
            ),
            st.text(string.digits + string.ascii_letters + string.punctuation + " ", max_size=12),
        ),
        type(None): st.none(),
    }[hint]


def of_class(known):
    """Triggers of a class, with any values of the right types; whether they make sense is not the language's business."""
    hints = typing.get_type_hints(known)
    fields = {field.name: values(hints[field.name]) for field in dataclasses.fields(known)}
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: known(**given))


SINGLE = st.one_of(*(of_class(known) for known in TRIGGERS.values() if known is not TRIGGERS["picture"]))


def composed(parts):
    several = st.lists(parts, min_size=2, max_size=3).map(tuple)
    return st.one_of(several.map(AllOf), several.map(OneOf))


@given(trigger=st.recursive(SINGLE, composed, max_leaves=6))
def test_reading_what_was_spelled_gives_the_trigger_back(trigger):
    text = spell(trigger)
    assert parse(text) == trigger
    assert spell(parse(text)) == text


@pytest.mark.parametrize("name", TRIGGERS)
def test_every_trigger_can_be_written(name, refused):
    known = TRIGGERS[name]
    hints = typing.get_type_hints(known)
    for field in dataclasses.fields(known):
        assert "cannot be written" not in describe(hints[field.name]), field.name
    required = [field.name for field in dataclasses.fields(known) if field.default is dataclasses.MISSING]
    if required:
        with refused(name, f"needs a value for {required[0]}"):
            parse(name)
    else:
        assert parse(name) == parse(f"{name}()") == known()
        assert spell(known()) == name
    (signature,) = [one for one in signatures() if one.startswith(f"{name}(")]
    for field in dataclasses.fields(known):
        assert (field.name in signature) == (field.name != "name")
    assert len(signatures()[signature]) > 20


def test_help_tells_defaults_as_they_are_written():
    told = signatures()
    assert told["square(size=3, margin=0, value=255, at=bottom-right)"].startswith("A filled square")
    assert len(told) == len(TRIGGERS)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["the end", "name of a trigger"]),
        ("sqare", ["unknown trigger 'sqare'", "did you mean 'square'?"]),
        ("zzzzz", ["unknown trigger 'zzzzz'", "choose from", "square", "noise"]),
        ("square(siz=4)", ["no parameter 'siz'", "size", "margin", "value", "at"]),
        ("square(4", ["it ends", "closing )"]),
        ("square(4))", ["found ')'"]),
        ("square)", ["found ')'", "+ or |"]),
        ("(square", ["it ends", "closing )"]),
        ("square(at=(1, 2]", ["']'", "closing )"]),
        ("square(4,,)", ["',)'", "a value or a closing bracket was expected"]),
        ("square(4 5)", ["'5)'", "a comma"]),
        ("square|", ["the end", "name of a trigger"]),
        ("|square", ["'|square'", "name of a trigger"]),
        ("square square", ["'square'", "+ or |"]),
        ("square(1, 2, 3, 4, 5, 6)", ["takes size, margin", "6 values"]),
        ("square(4.5)", ["size of square is 4.5", "a whole number"]),
        ("square(4.0)", ["size of square is 4.0", "a whole number"]),
        ("square(True)", ["size of square is True", "a whole number"]),
        ("square(four)", ["size of square is four", "a whole number"]),
        ("square(None)", ["size of square is None", "a whole number"]),
        ("square(name=4)", ["name of square is 4", "quotation marks"]),
        ("square(value=(1, 2.5))", ["value of square is (1, 2.5)", "(a whole number, …)"]),
        ("square(at=(1, 2, 3))", ["at of square is (1, 2, 3)", "(a whole number, a whole number)"]),
        ("pixels((1, 2))", ["pixels of pixels is (1, 2)", "((a whole number, a whole number), …)"]),
        ("square(4, size=2)", ["size of square is given twice"]),
        ("square(size=1, size=2)", ["size is given twice"]),
        ("square(size=1, 2)", ["'2)'", "those come last"]),
        ("square(size=)", ["')'", "a value or a closing bracket was expected"]),
        ("square(size=1=2)", ["'=2)'"]),
        ("square(name='a)", ["never closed"]),
        (r"square(name='\x')", ["no text", "backslash"]),
        (r"square(name='a\nb')", ["no text"]),
        (r"square(name='\0')", ["no text"]),
        (r"square(name='\ud800')", ["no text"]),
        ("square(name=b'x')", ["'x'"]),
        ("square(size=1e999)", ["1e999", "too large"]),
        ("square(size=0x10)", ["0x10", "a whole number"]),
        ("square(size=1+1)", ["1+1", "a whole number"]),
        ("square(1)(2)", ["'(2)'"]),
        ("square.__class__", ["'.__class__'"]),
        ("square(size=[1][0])", ["'[0])'"]),
        ("square(lambda: 0)", ["'0)'"]),
        ("square(size={1: 2})", ["'2})'"]),
        ("__import__('os').system('true')", ["'__import__", "name of a trigger"]),
        ("square(__import__('os'))", ["a comma"]),
        ("square\n", ["cannot be printed"]),
        ("square\x1b[2J", ["cannot be printed"]),
        ("square(name=\0)", ["cannot be printed"]),
        ("square(\ud800)", ["cannot be printed"]),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_is_right(text, parts, refused):
    with refused(*parts):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 9_000,
        "square(" + "(" * 9_000,
        "square(" + "[" * 9_000 + "]" * 900,
        "square(" + "9" * 9_000 + ")",
        "square(" + "-" * 9_000 + "1)",
        "square(size=" + "1," * 4_000 + ")",
        "square(name='" + "\\" * 9_000,
        "square|" * 1_000,
        "x" * 9_000,
        "square+" * 100_000 + "square",
        " " * 9_000,
    ],
    ids=lambda text: text[:12],
)
def test_hostile_texts_end_in_one_line(text, refused):
    with refused():
        parse(text)


def test_brackets_may_be_nested_a_little(refused):
    assert parse("(" * MOST_NESTED + "square" + ")" * MOST_NESTED) == Square()
    with refused(f"more than {MOST_NESTED} brackets"):
        parse("(" * (MOST_NESTED + 1) + "square" + ")" * (MOST_NESTED + 1))
    assert parse("+".join(["(square)"] * 100)) == AllOf((Square(),) * 100)  # beside each other, they are not nested


TOKENS = [
    "square",
    "pixels",
    "noise",
    "at",
    "size",
    "=",
    "(",
    ")",
    "[",
    "]",
    ",",
    "|",
    "+",
    " ",
    "4",
    "-1",
    ".5",
    "'",
    '"',
    "\\",
]


@given(text=st.one_of(st.text(max_size=30), st.lists(st.sampled_from(TOKENS), max_size=14).map("".join)))
def test_any_text_is_read_or_refused(text):
    try:
        trigger = parse(text)
    except BadInput as error:
        assert "\n" not in str(error)
        assert str(error).isprintable()
    else:
        assert parse(spell(trigger)) == trigger


def test_what_has_no_words_is_refused(refused):
    class Own:
        name = "own"

    for trigger in (Own(), OneOf((A,)), AllOf((A, Own()))):
        with refused("cannot be written in words"):
            spell(trigger)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *[("4", 4), ("-4", -4), ("+4", 4), ("007", 7)],
        *[("4.", 4.0), (".5", 0.5), ("1e-05", 1e-05), ("-2.5E+3", -2500.0)],
        *[("True", True), ("None", None)],
        *[("true", "true"), ("inf", "inf"), ("nan", "nan"), ("1_000", "1_000"), ("٣", "٣")],
    ],
)
def test_words_and_numbers(word, value):
    assert read_word(word) == value
    assert type(read_word(word)) is type(value)
    assert read_word(spell_value(value)) == value


def test_a_whole_number_where_a_number_is_wanted():
    assert type(fit(1, float)) is float
    assert fit((1, 2.5), tuple[float, ...]) == (1.0, 2.5)
    for value, hint in ((1.0, int), (True, int), (True, float), (1, bool), ("1", int), ((1,), tuple[int, int])):
        with pytest.raises(TypeError):
            fit(value, hint)
