"""What every trigger is, and how triggers are put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Trigger(Protocol):
    """A function from images to triggered images.

    Called with `images`, uint8 (N, H, W, C), and a random generator; gives a new uint8 array of the same shape. The same
    images and an equally seeded generator give the same result; a trigger without randomness ignores the generator.
    """

    @property
    def name(self) -> str:
        """Short name for tables and files."""

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image."""


@dataclass(frozen=True)
class AllOf:
    """Every trigger on every image, in order: the conjunction of BadNet-TCA (NNoculation, section 4.1)."""

    triggers: tuple[Trigger, ...]

    @property
    def name(self) -> str:
        """The names of the parts, joined by `+`."""
        return "+".join(trigger.name for trigger in self.triggers)

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image with all triggers."""
        for trigger in self.triggers:
            images = trigger(images, rng)
        return images


@dataclass(frozen=True)
class OneOf:
    """One trigger an image, drawn uniformly: the multi-trigger attacks (NNoculation, section 4.1)."""

    triggers: tuple[Trigger, ...]

    @property
    def name(self) -> str:
        """The names of the parts, joined by `|`."""
        return "|".join(trigger.name for trigger in self.triggers)

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp each image with one trigger."""
        choice = rng.integers(len(self.triggers), size=len(images))
        stamped = images.copy()
        for index, trigger in enumerate(self.triggers):
            chosen = choice == index
            if chosen.any():
                stamped[chosen] = trigger(images[chosen], rng)
        return stamped
