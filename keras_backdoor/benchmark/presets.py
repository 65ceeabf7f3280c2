"""Plans of a bench that have a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from keras_backdoor.attacks.recipes import RECIPES


@dataclass(frozen=True)
class Preset:
    """summary: for people. recipes, innocent: as in `cells.Plan`. settings: those that are not the default, by defense."""

    summary: str
    recipes: tuple[str, ...]
    innocent: Optional[tuple[str, ...]] = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


Settings = dict[str, dict[str, Any]]
# What the help of kbd defend nad says of such images and networks.
SIGNS: Settings = {"nad": {"mirror": False}}
DIGITS: Settings = {"nad": {"mirror": False, "learning_rate": 0.01}}
# What takes minutes with its defaults is given less, and the place of mnist-patch's trigger is given; the table shows what.
QUICK: Settings = {
    "nad": {**DIGITS["nad"], "teacher_epochs": 5, "epochs": 10},
    "mntd": {"shadows": 16, "held_out": 8, "images": 200, "epochs": 20},
    "mode-connectivity": {"tuning_epochs": 20, "epochs": 20},
    "unlearning": {"starts": 1},
    "abs": {"filters": False, "updates": 300},
    "generative-modeling": {"at": "24,24", "search_steps": 150, "hidden": 128},
    "generative-modeling-scan": {"at": "24,24", "search_steps": 150, "hidden": 128},
    "nnoculation-pre": {"alpha": [1.0, 3.0, 6.0], "gamma": [0.2, 0.6]},
    "nnoculation": {"alpha": [1.0, 3.0, 6.0], "gamma": [0.2, 0.6], "quarantined": 100, "reverse": "averaging"},
}
# Of what an attacker does who knows NNoculation, beside the data sets' own recipes.
ADAPTIVE = "noise-aware"


def _of(*wanted: str) -> tuple[str, ...]:
    """The recipes of these data sets, all if there is none: without the variants, but for those of adaptive attackers."""
    return tuple(
        name
        for name, recipe in RECIPES.items()
        if (not wanted or recipe.dataset in wanted) and name.partition("/")[2] in ("", ADAPTIVE)
    )


PRESETS = {
    "quick": Preset(
        "the digits that ship with a dependency, in minutes", ("mnist-patch", "mnist-aaa"), ("mnist-patch",), QUICK
    ),
    "mnist": Preset("every recipe for MNIST", _of("mnist"), settings=DIGITS),
    "gtsrb": Preset("every recipe for GTSRB", _of("gtsrb"), settings=SIGNS),
    "paper": Preset("every recipe there is", _of()),
}
