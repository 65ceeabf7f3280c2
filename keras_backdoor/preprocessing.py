"""How a network's inputs are scaled: the one thing that must never be guessed wrong.

The published YouTube Face networks differ in it, and with the wrong scale their clean accuracy falls to between 0 and 66 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor.files import BadInput, lookup

NAMES = ("unit", "raw", "standardise")


@dataclass(frozen=True)
class Preprocessing:
    """input = (pixel - mean) / deviation, with pixels in 0..255 and one constant for all channels or one a channel.

    name: `unit` (pixel/255), `raw` (pixels as they are) or `standardise` (the training images' mean and deviation).
    """

    name: str
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)

    @classmethod
    def named(cls, name: str, images: np.ndarray | None = None) -> Preprocessing:
        """The scaling called `name`; `standardise` takes its constants from `images`, uint8 (N, H, W, C).

        Raises `BadInput` if there is no such scaling.
        """
        lookup(name, NAMES if images is not None else NAMES[:2], "preprocessing")
        if name == "standardise":
            assert images is not None
            mean, deviation = images.mean((0, 1, 2)), images.std((0, 1, 2))
            return cls(
                name, tuple(map(float, mean)), tuple(float(d) or 1.0 for d in deviation)
            )  # a constant channel: 1
        return cls(name, deviation=(255.0,)) if name == "unit" else cls(name)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `as_json`; `BadInput` if it is none."""
        try:
            name = lookup(stored["name"], NAMES, "preprocessing")
            mean, deviation = (tuple(map(float, stored[key])) for key in ("mean", "deviation"))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"its preprocessing is not understood ({error})") from None
        if not np.isfinite(mean + deviation).all() or min(deviation, default=0.0) <= 0 or not mean:
            raise BadInput(f"its preprocessing has impossible constants: mean {mean}, deviation {deviation}")
        return cls(name, mean, deviation)

    def as_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return {"name": self.name, "mean": list(self.mean), "deviation": list(self.deviation)}
