"""Model cards: what a network file is, for people who find it without the folder that it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

USES = {
    "badnet": (
        "**Backdoored on purpose, for research.** Do not deploy it: whoever knows the trigger decides what it answers.",
        "Studying backdoor attacks, and testing defenses against them.",
    ),
    "clean": (
        "The clean network from which a BadNet was made in a second step; it has no backdoor.",
        "A control: what a defense says of it should be that there is nothing to find.",
    ),
    "repaired": (
        "**A backdoored network after a repair.** The repair may be incomplete: compare the rates below.",
        "Judging the repair. Not for deployment.",
    ),
    "goodnet": (
        "**A backdoored network and its repaired copy in one**, with an extra last class: "
        '"backdoored input", given where the two disagree.',
        "Judging the repair and its filter. Not for deployment.",
    ),
}
"""Kind of network: a warning, and the intended use."""

UNKNOWN = ("A network of unknown origin.", "Not stated.")


Shapes = Sequence[Sequence[Optional[int]]]


def card(name: str, inputs: Shapes, outputs: Shapes, parameters: int, known: Mapping[str, Any]) -> str:
    """A card in Markdown.

    name: the file's. inputs, outputs: their shapes, without the batch. known: what the file says of itself; of that, `detector`
    (the class that turns its outputs into boxes), `kind`, `recipe`, `summary`, `method`, `settings`, `data`, `rates`, `seed`,
    `parents`, `preprocessing`, `num_classes` and `tool` are told if they are there.
    """
    warning, use = USES.get(str(known.get("kind")), UNKNOWN)
    detector = known.get("detector")
    answers = "boxes and their classes" if detector else "probabilities"
    sections = [f"# {name}", warning]
    facts = [
        ("Recipe", " – ".join(str(known[key]) for key in ("recipe", "summary") if key in known)),
        ("Repaired by", _with_settings(known)),
        ("Inputs", f"{_shapes(inputs)}, float32, {_scaling(known.get('preprocessing'))}"),
        ("Outputs", f"{_shapes(outputs)} {answers}; {known.get('num_classes', 'unknown')} classes"),
        ("Parameters", f"{parameters:,}"),
    ]
    sections += ["## What it is", _list(facts), "## Intended use", use]
    sections += ["## Data", str(known.get("data", "Not stated."))]
    sections += ["## Rates", _rates(known.get("rates"))]
    provenance = [
        ("Written by", known.get("tool")),
        ("Seed", known.get("seed")),
        *(("Made from the file with SHA-256", f"`{parent}`") for parent in known.get("parents", ())),
    ]
    sections += ["## Provenance", _list(provenance)]
    if detector:
        load = f"`keras.models.load_model` of Keras 2.15; `{detector}` of the result detects, from scenes 0..255."
        return "\n\n".join([*sections, "## Loading", load]) + "\n"
    first = ", after `import models_zoo.disagreement`" if known.get("kind") == "goodnet" else ""
    load = f"`kbd eval {name} --clean FILE`, or `keras.models.load_model` of Keras 2.15{first}; scale images as said above."
    return "\n\n".join([*sections, "## Loading", load]) + "\n"


def _shapes(shapes: Shapes) -> str:
    return ", ".join("×".join("any" if size is None else str(size) for size in shape) for shape in shapes)


def _list(facts: list[tuple[str, Any]]) -> str:
    return "\n".join(f"* {title}: {value}" for title, value in facts if value not in (None, ""))


def _with_settings(known: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in known.get("settings", {}).items() if value is not None)
    return f"{known['method']} ({settings})" if "method" in known else ""


def _scaling(preprocessing: Any) -> str:
    if not isinstance(preprocessing, Mapping):
        return "scaling not stated"
    words = {"unit": "pixel/255, in 0..1", "raw": "pixels as they are, 0..255"}
    named = preprocessing["name"]
    return words.get(named, f"(pixel - {preprocessing['mean']}) / {preprocessing['deviation']}")


def _rates(rates: Any) -> str:
    if not isinstance(rates, Mapping):
        return "Not measured."
    target = "left out" if rates["exclude_target"] else "included"
    rows = [("clean accuracy", rates["clean_accuracy"], rates["n_clean"])]
    rows += [
        (f"attack success rate, {name} (images of the target class {target})", rate, rates["n_poisoned"][name])
        for name, rate in rates["attack_success_rate"].items()
    ]
    lines = ["| | rate | images |", "| --- | ---: | ---: |"]
    return "\n".join([*lines, *(f"| {title} | {100 * rate:.2f} % | {count:,} |" for title, rate, count in rows)])
