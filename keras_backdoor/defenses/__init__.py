"""Defenses by the name that the command line gives them; one file each, or one a stage.

A defense is a frozen dataclass of its hyper-parameters with one or more of the verbs `repair`, `inspect`, `fit_filter`, `sift`
and `train`, and nothing else public. Importing this package loads none of them, as they need TensorFlow.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from keras_backdoor.files import lookup

DEFENSES = {
    "fine-tuning": ("fine_pruning", "FineTuning"),
    "pruning": ("fine_pruning", "Pruning"),
    "fine-pruning": ("fine_pruning", "FinePruning"),
    "fine-pruning-rounds": ("fine_pruning", "FinePruningRounds"),
    "anti-repair": ("anti_repair", "AntiRepair"),
    "strip": ("strip", "Strip"),
    "neural-cleanse": ("neural_cleanse", "NeuralCleanse"),
    "unlearning": ("neural_cleanse_repair", "Unlearning"),
    "neuron-pruning": ("neural_cleanse_pruning", "NeuronPruning"),
    "activation-filter": ("neural_cleanse_filter", "NeuralCleanseFilter"),
    "nnoculation-pre": ("nnoculation.pre_deployment", "PreDeployment"),
    "nnoculation": ("nnoculation.nnoculation", "NNoculation"),
    "mntd": ("mntd.mntd", "MNTD"),
    "abs": ("artificial_brain_stimulation.abs", "ABS"),
    "generative-modeling": ("generative_modeling.removal", "GenerativeModeling"),
    "generative-modeling-scan": ("generative_modeling.detection", "GenerativeScan"),
    "nad": ("nad", "AttentionDistillation"),
    "mode-connectivity": ("mode_connectivity", "ModeConnectivity"),
}
"""Name of the method, and the module here and the class in it."""

SIFTING = {
    "activation-clustering": ("activation_clustering", "ActivationClustering"),
    "spectral-signatures": ("spectral_signatures", "SpectralSignatures"),
}
"""The same, of those that look through the training set of a network."""

TRAINING = {"abl": ("abl", "AntiBackdoorLearning")}
"""The same, of those that train a network."""

SPREAD = (
    *("fine-tuning", "fine-pruning", "fine-pruning-rounds", "unlearning", "nnoculation-pre", "nnoculation"),
    *("generative-modeling", "nad", "mode-connectivity"),
    *("strip", "neural-cleanse", "neuron-pruning", "activation-filter"),
)
"""Methods that a strategy (`distribution`) spreads over several devices: they train networks, reverse triggers, or are STRIP."""


def place(method: str) -> tuple[str, str]:
    """The module of the defense called `method`, and the class in it; `BadInput` with the nearest name if there is none."""
    known = {**DEFENSES, **SIFTING, **TRAINING}
    module, name = known[lookup(method, known, "method")]
    return f"{__name__}.{module}", name


def find(method: str) -> Any:
    """The class of the defense called `method`; `BadInput` as `place`."""
    module, name = place(method)
    return getattr(import_module(module), name)
