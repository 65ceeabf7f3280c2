"""Triggers reversed out of a network: for each label, the smallest mask and a pattern that turn all images into it.

The optimisation of Neural Cleanse (Wang, Yao, Shan, Li, Viswanath, Zheng and Zhao, S&P 2019, section V.A and appendix): Adam on
answer + cost * |mask|, where a controller raises the cost while the trigger works, and lowers it while it does not. Paper and
code agree on the method; the constants are those of the code's GTSRB example, which gave the paper's figures. Where the code
does not do what it says: see `LOSSES`, and `InversionSchedule.lower_by`.

Many labels are optimised in one batch, all on the same images. Each has its own cost, counters, best mask and moments of Adam,
and goes the way that it would go alone. A label that is finished leaves the batch. `TargetFree` is for networks with many labels.
`find_shortcuts` and `find_filters` are for triggers that have no mask and label of that kind.
"""

from __future__ import annotations

from keras_backdoor.trigger_inversion.candidates import Candidates, ReversedTrigger, adam, latest
from keras_backdoor.trigger_inversion.control import FAST, ORIGINAL, SCHEDULES, Control, InversionSchedule
from keras_backdoor.trigger_inversion.filters import ReversedFilter, ReversedFilters, find_filters
from keras_backdoor.trigger_inversion.legs import lone_bound
from keras_backdoor.trigger_inversion.search import LOSSES, TriggerInversion, images_at_once
from keras_backdoor.trigger_inversion.shortcuts import Shortcut, Shortcuts, find_shortcuts
from keras_backdoor.trigger_inversion.target_free import BACKGROUND, RESTARTS, TargetFree, background_labels

__all__ = [
    "BACKGROUND",
    "FAST",
    "LOSSES",
    "ORIGINAL",
    "RESTARTS",
    "SCHEDULES",
    "Candidates",
    "Control",
    "InversionSchedule",
    "ReversedFilter",
    "ReversedFilters",
    "ReversedTrigger",
    "Shortcut",
    "Shortcuts",
    "TargetFree",
    "TriggerInversion",
    "adam",
    "background_labels",
    "find_filters",
    "find_shortcuts",
    "images_at_once",
    "latest",
    "lone_bound",
]
