"""Defenses by the name that the command line gives them; one file each.

A defense is a frozen dataclass of its hyper-parameters with one or more of the verbs `repair`, `inspect`, `fit_filter` and
`train`.
"""

from __future__ import annotations

from keras_backdoor.defenses.fine_pruning import FinePruning, FineTuning, Pruning

DEFENSES = {"fine-tuning": FineTuning, "pruning": Pruning, "fine-pruning": FinePruning}

__all__ = ["DEFENSES", "FinePruning", "FineTuning", "Pruning"]
