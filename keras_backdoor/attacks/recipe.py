"""What a recipe is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from keras_backdoor.attacks.poison import Backdoor, Cover
from keras_backdoor.attacks.targets import AllToOne
from keras_backdoor.triggers import Trigger


@dataclass(frozen=True)
class Recipe:
    """How one BadNet is made.

    name, summary: for people. dataset, architecture, preprocessing: names in `datasets`, `models_zoo` and `preprocessing`.
    backdoors: triggers and what they do; none if the attack learns its trigger. poison_fraction: share of each poisonable class
    that is stamped, 0..1, by each of them. covers: triggers that are to do nothing.
    two_step: train a clean network first, and go on from its weights (NNoculation's `train.py`).
    optimizer, learning_rate, batch_size, epochs: of each step. learning_rate_steps: (epoch, rate), from that epoch on (0-based).
    attack, attack_options: a name of `attacks.ATTACKS` and its settings.
    expect: published clean accuracy and attack success of each backdoor, fractions.
    miniature: what is different on the miniature data set that is used without `--data`, where that is too small for the rest.
    """

    name: str
    summary: str
    dataset: str
    architecture: str
    preprocessing: str
    backdoors: tuple[Backdoor, ...]
    poison_fraction: float
    optimizer: str
    learning_rate: float
    batch_size: int
    epochs: int
    two_step: bool = True
    learning_rate_steps: tuple[tuple[int, float], ...] = ()
    covers: tuple[Cover, ...] = ()
    attack: str = "poisoning"
    attack_options: Mapping[str, Any] = field(default_factory=dict)
    expect: Optional[tuple[float, ...]] = None
    miniature: Mapping[str, Any] = field(default_factory=dict)

    def for_miniature(self) -> Recipe:
        """The recipe as it is used on the miniature data set; nothing is expected of that, as nobody published it."""
        return replace(self, **{**self.miniature, "miniature": {}, "expect": None})

    def variant(self, suffix: str, summary: str, **changes: Any) -> Recipe:
        """The recipe `NAME/suffix`, with other settings; nothing is expected of it unless `changes` says so."""
        changes = {"expect": None, **changes}
        return replace(self, name=f"{self.name}/{suffix}", summary=f"{self.name}, {summary}", **changes)


def all_to_one(trigger: Trigger, target: int) -> tuple[Backdoor, ...]:
    """The one backdoor that turns everything into `target`."""
    return (Backdoor(trigger, AllToOne(target)),)
