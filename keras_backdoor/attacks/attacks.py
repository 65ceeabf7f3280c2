"""Attacks by name. Looked up here, imported when used: most need TensorFlow, and a list of names must not."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from keras_backdoor.files import lookup

if TYPE_CHECKING:
    from keras_backdoor.attacks.task import Attack

ATTACKS = {
    "poisoning": "task:Poisoning",
    "noise-aware": "noise_aware:NoiseAware",
    "pruning-aware": "pruning_aware:PruningAware",
    "transfer": "transfer:Transfer",
    "trojan": "trojan:Trojan",
    "latent": "latent:Latent",
    "label-consistent": "label_consistent:LabelConsistent",
    "feature-collision": "feature_collision:FeatureCollision",
    "input-aware": "input_aware:InputAware",
    "sample-specific": "sample_specific:SampleSpecific",
    "composite": "composite:Composite",
    "deep-feature-space": "dfst:DeepFeatureSpace",
}


def attack(name: str, options: Mapping[str, Any]) -> Attack:
    """The attack called `name` with its settings; `BadInput` with the nearest name if there is none."""
    module, _, kind = ATTACKS[lookup(name, ATTACKS, "attack")].partition(":")
    return getattr(import_module(f"keras_backdoor.attacks.{module}"), kind)(**options)
