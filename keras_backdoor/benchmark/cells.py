"""What a cell of the table is: a network and what is done to it; and what makes it the same cell again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Optional

import keras_backdoor
from keras_backdoor import datasets
from keras_backdoor.attacks.recipe import Recipe
from keras_backdoor.attacks.recipes import recipe as find_recipe
from keras_backdoor.defenses import TRAINING
from keras_backdoor.defenses.described import detects, hyper_parameters
from keras_backdoor.files import BadInput, lookup

NONE = "none"
"""The defense of a cell in which a network is trained, and nothing done to it."""
SEED = "seed"
OWN = RECIPE, CELL = ("recipe", "cell")
"""Where hyper-parameters come from that nobody has chosen: the recipe, and the seed of the cell."""
AS_TRAINED = dict.fromkeys(("nnoculation-pre", "nnoculation"), ("learning_rate", "optimizer", "batch_size"))
"""Hyper-parameters of a defense that are those of the network's training, of which its file does not tell."""


@dataclass(frozen=True)
class Training:
    """How a network is made: of what, with what, from which seed.

    recipe: its name. dataset: where its images come from, which may be another set than the recipe's. data: the path that they
    are read from, None for those that ship with a dependency. fingerprints: of the parts of the data set. miniature: whether it
    is a small part of the set. clean_only: the innocent twin and nothing else. epochs: instead of the recipe's. limit: of the
    training images of each class.
    """

    recipe: str
    dataset: str
    data: Optional[str]
    fingerprints: Mapping[str, str]
    miniature: bool = False
    clean_only: bool = False
    seed: int = 0
    epochs: Optional[int] = None
    limit: Optional[int] = None

    @property
    def settings(self) -> Recipe:
        """The recipe as it is used on these images."""
        found = find_recipe(self.recipe)
        return found.for_miniature() if self.miniature else found


@dataclass(frozen=True)
class Cell:
    """One cell.

    training: of its network. innocent: whether it is the recipe's clean twin. defense: a name of `defenses`, or NONE.
    settings: the defense's hyper-parameters that are not the default, as JSON has them. origins: where each of these comes from.
    """

    training: Training
    innocent: bool = False
    defense: str = NONE
    settings: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def network(self) -> Cell:
        """The cell in which this one's network is trained: the cell itself if nothing is done to it."""
        return Cell(self.training, innocent=self.training.clean_only)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the cell's figures depend on, as JSON has it."""
        training = self.training
        known: dict[str, Any] = {
            "version": keras_backdoor.__version__,
            "recipe": repr(training.settings),
            "dataset": training.dataset,
            "data": dict(training.fingerprints),
            "epochs": training.epochs or training.settings.epochs,
            "clean_only": training.clean_only,
            "seed": training.seed,
        }
        if self.defense != NONE:
            known |= {"innocent": self.innocent, "defense": self.defense, "settings": self.all_settings}
        return json.loads(json.dumps(known))

    @property
    def all_settings(self) -> dict[str, Any]:
        """Every hyper-parameter of the defense."""
        return {**{one.name: one.default for one in hyper_parameters(self.defense)}, **self.settings}

    @cached_property
    def key(self) -> str:
        """Equal for equal cells: the beginning of the SHA-256 of `identity`."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Of its files."""
        words = [self.training.recipe.replace("/", "-"), *(["innocent"] if self.innocent else []), self.defense]
        return "-".join([*words, str(self.training.seed), self.key])

    def as_json(self) -> dict[str, Any]:
        """The cell as `from_json` takes it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Cell:
        """What `as_json` gave."""
        return cls(**{**value, "training": Training(**value["training"])})


@dataclass(frozen=True)
class Plan:
    """What is to be put side by side.

    recipes: names, each with another data set behind it if it is to use that (`youtube-sg@lfw`). defenses, seeds: each meets each
    recipe. data: path by data set, or under "" for all of them. epochs, limit: as in `Training`.
    innocent: recipes whose innocent network every defense meets; None: those that detect meet that of each recipe.
    settings: hyper-parameters by name of the defense, and of each the value and where it comes from.
    """

    recipes: Sequence[str]
    defenses: Sequence[str]
    seeds: Sequence[int] = (0,)
    data: Mapping[str, str] = field(default_factory=dict)
    epochs: Optional[int] = None
    limit: Optional[int] = None
    innocent: Optional[Sequence[str]] = None
    settings: Mapping[str, Mapping[str, tuple[Any, str]]] = field(default_factory=dict)

    def cells(self) -> list[Cell]:
        """All of them, each network before what is done to it. Reads the data sets, for their fingerprints.

        Raises `BadInput` if there is no such recipe, defense or hyper-parameter, or a data set is not at hand.
        """
        if stray := [name for name in self.innocent or () if name not in self.recipes]:
            raise BadInput(f"innocent network of {', '.join(stray)}: the recipe is not among those of the bench")
        loaded: dict[str, dict[str, Any]] = {}
        cells: dict[str, Cell] = {}
        for seed in self.seeds:
            for text in self.recipes:
                name, _, dataset = text.partition("@")
                dataset = dataset or find_recipe(name).dataset
                if dataset not in loaded:
                    loaded[dataset] = self._load(dataset)
                attacked = Training(name, dataset, seed=seed, epochs=self.epochs, limit=self.limit, **loaded[dataset])
                for cell in (
                    *self._against(attacked, text, innocent=False),
                    *self._against(attacked, text, innocent=True),
                ):
                    cells.setdefault(cell.key, cell)
        return list(cells.values())

    def _load(self, dataset: str) -> dict[str, Any]:
        """What a `Training` says of its images."""
        lookup(dataset, datasets.DATASETS, "data set")
        path = self.data.get(dataset, self.data.get(""))
        try:
            splits = datasets.load(dataset, path).limited(self.limit)
        except BadInput as error:
            raise BadInput(f"data set {dataset}: {error}") from None
        return {"data": path, "fingerprints": splits.fingerprints(), "miniature": splits.miniature}

    def _against(self, attacked: Training, text: str, innocent: bool) -> Iterable[Cell]:
        """The cells of one network: its training, if there is anything to be done to it, and that."""
        # A recipe of two steps leaves its clean twin beside the BadNet.
        training = replace(attacked, clean_only=innocent and not attacked.settings.two_step)
        met = [method for method in self.defenses if not innocent or self._meets_innocent(method, text)]
        if met or not innocent:
            yield Cell(training, training.clean_only)
        for method in met:
            chosen = self._settings(method, attacked)
            values, origins = ({name: pair[place] for name, pair in chosen.items()} for place in (0, 1))
            yield Cell(training, innocent, method, values, origins)

    def _meets_innocent(self, method: str, text: str) -> bool:
        if method in TRAINING:  # which trains its own network, on poisoned images
            return False
        return detects(method) if self.innocent is None else text in self.innocent

    def _settings(self, method: str, training: Training) -> dict[str, tuple[Any, str]]:
        """The hyper-parameters that are not the default: those of the plan, of the recipe, and the seed."""
        defaults = {one.name: one.default for one in hyper_parameters(method)}
        chosen = {name: (getattr(training.settings, name), RECIPE) for name in AS_TRAINED.get(method, ())}
        chosen |= {SEED: (training.seed, CELL)} if SEED in defaults else {}
        chosen |= self.settings.get(method, {})
        for name in chosen:
            lookup(name, defaults, f"hyper-parameter of {method}")
        return {name: pair for name, pair in chosen.items() if pair[0] != defaults[name] or name == SEED}
