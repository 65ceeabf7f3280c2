"""Which labels have strong distributions: the search of generative modelling over all labels, as a detector.

The authors take it that a label without a backdoor has no patches of the trigger's size that turn images into it, and look at all
labels with one generator each: of the backdoored label they see about 90 % of success, of the others "very low" ones (released
code, `detect_cifar`). They give no bound, and need none between such figures: it is half of the images here. It is absolute, as a
network with several backdoors, or none, has nothing that stands out of the others. What it cannot tell apart is a label that
small patches lead to by nature.

The papers that compare it find that it never names the right label, for triggers which mostly break its assumptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.generative_modeling.distribution import TriggerDistribution
from keras_backdoor.defenses.generative_modeling.staircase import Search, Staircase, check_beta
from keras_backdoor.files import PathLike
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.verdict import StrengthVerdict

SHOWN = 8
"""Images in the verdict's examples."""


@dataclass(frozen=True)
class GenerativeScan(Search):
    """Train a generator of triggers for every label, and flag the labels that its triggers turn most images into.

    The trigger is taken for a square patch of known size (--size), in one place (--at) or in any.

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    beta: float = 0.9  # level of the staircase: triggers gain nothing by making the label more probable

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        check_beta(self.beta)

    def inspect(
        self,
        classifier: Classifier,
        clean: ImageSet,
        progress: Progress = silent,
        folder: Optional[PathLike] = None,
    ) -> StrengthVerdict:
        """Whether the network is backdoored. folder: what is found is kept there, and what is there is not sought again.

        Raises `BadInput` as `Staircase` does, or if there is no label `target`.
        """
        staircase = Staircase(classifier, clean, self, folder)
        found = staircase.find([(label, self.beta) for label in staircase.labels], progress)
        return verdict(found, clean, self.bound)


def verdict(found: list[TriggerDistribution], clean: ImageSet, bound: float) -> StrengthVerdict:
    """What one distribution of each examined label says. Examples are of images that are evenly spaced over the clean ones."""
    shown = clean.select(np.linspace(0, len(clean) - 1, SHOWN).astype(int)).images
    strengths = np.full(clean.num_classes, np.nan)
    strengths[[one.label for one in found]] = [one.strength for one in found]
    return StrengthVerdict.of(strengths, bound, np.stack([one(shown, np.random.default_rng(0)) for one in found]))
