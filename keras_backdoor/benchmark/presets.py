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
# Neither digits nor signs may be mirrored; the rate is what the help of kbd defend nad says of such networks.
DIGITS: Settings = {"nad": {"mirror": False, "learning_rate": 0.01}, "abl": {"mirror": False}}
SIGNS: Settings = {"nad": {"mirror": False}, "abl": {"mirror": False}}
# With a higher rate and smaller batches than the default, generators learn as much of these images in a seventh of the time.
SHORT_SEARCH = {"search_steps": 150, "search_batch": 32, "search_rate": 2e-3, "hidden": 128}
DIGIT_SEARCH = {"at": "24,24", **SHORT_SEARCH}  # where the triggers of mnist-patch and mnist-aaa are
SIGN_SEARCH = {"size": 4, "at": "27,27", **SHORT_SEARCH, "search_batch": 16}  # where that of gtsrb-square is
# What takes minutes with its defaults is given less; the table shows what.
QUICK: Settings = {
    **DIGITS,
    "nad": {**DIGITS["nad"], "teacher_epochs": 5, "epochs": 10},
    "mntd": {"shadows": 16, "held_out": 8, "images": 200, "epochs": 20},
    "mode-connectivity": {"tuning_epochs": 20, "epochs": 20},
    "unlearning": {"starts": 1},
    "abs": {"filters": False},
    "generative-modeling": DIGIT_SEARCH,
    "generative-modeling-scan": DIGIT_SEARCH,
    "nnoculation-pre": {"alpha": [1.0, 3.0, 6.0], "gamma": [0.2, 0.6]},
    "nnoculation": {"alpha": [1.0, 3.0, 6.0], "gamma": [0.2, 0.6], "quarantined": 100, "reverse": "averaging"},
}
# What makes a preset of a whole data set end in about two hours of one processor core: fewer epochs where the default has a
# hundred, a coarse grid and a small CycleGAN, fewer shadow networks. STRIP has the false-rejection rate of NNoculation's table 5.
SHORT: Settings = {
    "fine-pruning-rounds": {"epochs": 3},
    "strip": {"false_rejection_rate": 0.05, "first_overlays": 20},
    "mntd": {"shadows": 24, "held_out": 8, "images": 400, "epochs": 20},
    "mode-connectivity": {"tuning_epochs": 20, "epochs": 20},
    "abs": {"filters": False},
}
SMALL_GAN = {"gan_epochs": 20, "gan_width": 16, "gan_blocks": 3, "gan_discriminator_width": 16, "gan_batch": 4}
DIGIT_GRID = {"alpha": [3.0, 6.0], "gamma": [0.2, 0.6]}
SIGN_GRID = {"alpha": [2.0], "gamma": [0.2, 0.4]}
MNIST: Settings = {
    **DIGITS,
    **SHORT,
    "nad": QUICK["nad"],
    "generative-modeling": DIGIT_SEARCH,
    "generative-modeling-scan": DIGIT_SEARCH,
    "nnoculation-pre": DIGIT_GRID,
    "nnoculation": {**DIGIT_GRID, **SMALL_GAN},
}
GTSRB: Settings = {
    **SIGNS,
    **SHORT,
    "fine-pruning-rounds": {"epochs": 1},
    "strip": {**SHORT["strip"], "precision": "bfloat16"},
    "neural-cleanse": {"labels": "search", "precision": "bfloat16"},
    "unlearning": {"labels": "search"},
    "neuron-pruning": {"labels": "search"},
    "activation-filter": {"labels": "search"},
    "mntd": {**SHORT["mntd"], "shadows": 16, "images": 430},
    "mode-connectivity": {"tuning_epochs": 10, "epochs": 10},
    "nad": {**SIGNS["nad"], "teacher_epochs": 5, "epochs": 10},
    "generative-modeling": SIGN_SEARCH,
    "generative-modeling-scan": SIGN_SEARCH,
    "nnoculation-pre": SIGN_GRID,
    "nnoculation": {**SIGN_GRID, **SMALL_GAN},
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
    "mnist": Preset(
        "every recipe for MNIST; many defenses with fewer steps than by default", _of("mnist"), ("mnist-patch",), MNIST
    ),
    "gtsrb": Preset(
        "every recipe for GTSRB; many defenses with fewer steps than by default", _of("gtsrb"), ("gtsrb-square",), GTSRB
    ),
    "paper": Preset("every recipe there is, every defense with its defaults", _of()),
}
