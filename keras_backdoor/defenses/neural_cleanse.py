"""Neural Cleanse (Wang, Yao, Shan, Li, Viswanath, Zheng and Zhao, S&P 2019): a backdoor is a short way to one label.

For each label, the smallest trigger that turns all images into it is reversed out of the network (`trigger_inversion`). A
backdoored label needs a much smaller one than the others: it lies more than two deviations (MAD) below the median of the norms.
Assumed: clean images (no labels), and a trigger that is small and turns all inputs into one class. The papers that compare it
find that it fails where the target depends on the input, or the trigger covers the image.

Paper and released code agree on the rule. The code reads the norms from masks that it saved as 8-bit pictures (`quantised`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput, lookup
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.training import check_seed
from keras_backdoor.trigger_inversion import LOSSES, SCHEDULES, ReversedTrigger, TriggerInversion
from keras_backdoor.verdict import Verdict, anomaly_indices, innocence, spread


@dataclass(frozen=True)
class NeuralCleanse:
    """Reverse a trigger for every label, and flag the labels whose trigger is small beyond chance.

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    schedule: str = "fast"  # fast (the controller looks after fewer images) or original (the released constants)
    loss: str = "cross-entropy"  # cross-entropy, or linear: 16.118 (1 - p), what the released code minimises in fact
    threshold: float = 2.0  # anomaly index above which a label is flagged (the paper: 2)
    target: Optional[int] = None  # the papers' oracle: reverse this label's trigger alone, and take it as flagged
    quantised: bool = False  # norms of masks in 256 grey levels, rounded down, as the released code reads them
    memory: int = 512  # MiB that the labels that are optimised at once may take in the network
    seed: int = 0  # decides where the optimisation starts, and the order of the images

    def __post_init__(self) -> None:
        """Check the ranges."""
        lookup(self.schedule, SCHEDULES, "schedule", f"choose from {', '.join(SCHEDULES)}")
        lookup(self.loss, LOSSES, "loss", f"choose from {', '.join(LOSSES)}")
        check_seed(self.seed)
        if not 0 < self.threshold < np.inf:
            raise BadInput(f"threshold is {self.threshold}, expected an anomaly index above 0")
        if self.memory < 1:
            raise BadInput(f"memory is {self.memory}, expected at least 1")

    def inspect(self, classifier: Classifier, clean: ImageSet, progress: Progress = silent) -> Verdict:
        """Whether the network is backdoored, from `clean`, whose labels are not used. Raises `BadInput` as `chunks` does."""
        chunks = self.chunks(classifier, clean, progress=progress)
        return self.verdict([trigger for chunk in chunks for trigger in chunk], classifier.num_classes)

    def chunks(
        self, classifier: Classifier, clean: ImageSet, done: Sequence[int] = (), progress: Progress = silent
    ) -> Iterator[list[ReversedTrigger]]:
        """The reversed triggers of all labels but those that are `done`, as many at a time as the memory allows.

        What is found for a label does not depend on what else is in its chunk: a scan that was cut short can go on with
        those that are left, and together they give what one scan would have given.
        Raises `BadInput` if `classifier` is a GoodNet, `clean` does not fit it, or it has no class `target`.
        """
        if classifier.detects:
            raise BadInput(
                'Neural Cleanse: the network is a GoodNet, which says "backdoored input" itself; give the network it was made of'
            )
        inversion = TriggerInversion(classifier, clean, SCHEDULES[self.schedule], self.loss, self.seed, self.memory)
        labels = range(classifier.num_classes) if self.target is None else [self.target]
        return inversion.chunks([label for label in labels if label not in set(done)], progress)

    def verdict(self, triggers: Sequence[ReversedTrigger], num_classes: int) -> Verdict:
        """What the triggers of all examined labels, in any order, say about a network of `num_classes` classes."""
        triggers = sorted(triggers, key=lambda trigger: trigger.label)
        labels = np.array([trigger.label for trigger in triggers], np.int64)
        masks = np.stack([trigger.mask for trigger in triggers])
        sizes = (np.floor(masks * 255.0) / 255 if self.quantised else masks).sum((1, 2), dtype=np.float64)
        median, mad = spread(sizes)
        indices = anomaly_indices(sizes)
        flags, score, probability = np.ones(1, bool), np.nan, np.nan
        if self.target is None:
            flags = (indices > self.threshold) & (sizes <= median)
            score = float(indices[sizes.argmin()])
            probability = innocence(score, len(sizes))
        norms = np.full(num_classes, np.nan)
        norms[labels] = sizes
        return Verdict(
            backdoored=bool(flags.any()),
            flagged=tuple(labels[flags].tolist()),
            score=score,
            probability=probability,
            norms=norms,
            median=median,
            mad=mad,
            labels=labels,
            masks=masks,
            patterns=np.stack([trigger.pattern for trigger in triggers]),
        )
