"""Architectures of the literature by name, one file each, and the registry of published artifacts."""

from __future__ import annotations

from importlib import import_module
from typing import Any

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "deepid": ("models_zoo.deepid", {}),
    "mnist-badnets": ("models_zoo.mnist_badnets", {}),
    "mnist-badnets/relu": ("models_zoo.mnist_badnets", {"activation": "relu"}),
    "mnist-clean-label": ("models_zoo.mnist_clean_label", {}),
}
"""Name of the architecture, and the module and arguments of the `build` that makes it."""


def build(name: str, **sizes: Any) -> Any:
    """A new, untrained `keras.Model`; `sizes` are `input_shape` and `num_classes`, by default those of the original.

    Raises KeyError if there is no such architecture.
    """
    module, options = ARCHITECTURES[name]
    return import_module(module).build(**sizes, **options)
