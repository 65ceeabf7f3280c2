"""The papers' figures, from `published.json`: one entry a cell of a table, in percent as it is printed there.

Of an entry: `paper`, `table`, `recipe`, `defense` (our names; Neural Cleanse's repair is our unlearning), `called` (the paper's
name of the defense), and what is printed: `clean_accuracy`; `attack_success` and `false_acceptance`, one a trigger in the order
of the recipe, null where the paper is silent; `false_rejection`, that is preset; `probability` of a backdoor; or an `outcome` in
words. `oracle`: the defense was told the target. `variant`: what is not as usual in it. Table 9 of NNoculation gives GTSRB-PN
the baseline of another network, which is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Optional

from keras_backdoor.benchmark.cells import NONE

NO_RESULT = ("nnoculation-pre", "anti-repair")
"""A stage of another defense, which the papers do not count among the final results; and what breaks a network on purpose."""


@dataclass(frozen=True)
class Published:
    """One published cell; rates are fractions in 0..1. `paper` is the title, the rest as in the module's docstring."""

    paper: str
    table: str
    recipe: str
    defense: str
    called: str
    clean_accuracy: Optional[float] = None
    attack_success: tuple[Optional[float], ...] = ()
    false_acceptance: tuple[Optional[float], ...] = ()
    false_rejection: Optional[float] = None
    probability: Optional[float] = None
    outcome: Optional[str] = None
    oracle: bool = False
    variant: Optional[str] = None

    @property
    def source(self) -> str:
        """Short, as it stands beside the figures."""
        table = f"table {self.table}" if self.table[:1].isdigit() else self.table
        return f"{self.paper.partition(',')[0].partition(':')[0]}, {table}"


@cache
def published() -> tuple[Published, ...]:
    """All of them, in the order of the papers."""
    known = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return tuple(_entry(known["papers"], cell) for cell in known["cells"])


def figures_for(recipe: str, defense: str) -> list[Published]:
    """What the papers print of a recipe and a defense, without the variants."""
    return [one for one in published() if (one.recipe, one.defense, one.variant) == (recipe, defense, None)]


def counts(defense: str, oracle: bool) -> bool:
    """Whether a defense is among those of which NNoculation's table 5 prints the Pareto front in bold, trigger by trigger.

    They are the final results of defenses that are not told the target: NNoculation after deployment, not its first stage.
    """
    return defense not in (NONE, *NO_RESULT) and not oracle


def _entry(papers: Mapping[str, str], cell: Mapping[str, object]) -> Published:
    values = dict(cell)
    for name in ("clean_accuracy", "false_rejection", "probability"):
        if name in values:
            values[name] = _fraction(values[name])
    for name in ("attack_success", "false_acceptance"):
        values[name] = tuple(_fraction(value) for value in values.get(name, ()))  # type: ignore[attr-defined]
    return Published(**{**values, "paper": papers[str(values["paper"])]})  # type: ignore[arg-type]


def _fraction(percent: object) -> Optional[float]:
    return None if percent is None else round(float(percent) / 100, 6)  # type: ignore[arg-type]
