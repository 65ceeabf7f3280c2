"""Neural Cleanse (Wang, Yao, Shan, Li, Viswanath, Zheng and Zhao, S&P 2019): a backdoor is a short way to one label.

For each label, the smallest trigger that turns all images into it is reversed out of the network (`trigger_inversion`). A
backdoored label needs a much smaller one than the others: it lies more than two deviations (MAD) below the median of the norms.
Assumed: clean images (no labels), and a trigger that is small and turns all inputs into one class. The papers that compare it
find that it fails where the target depends on the input, or the trigger covers the image.

Paper and released code agree on the rule (`rule="norms"`). By default a label must stand out by the logarithm of its norm, too,
and twice as far: a backdoor's trigger is many times smaller than the others, while the least of innocent norms often lies two
deviations below their median. The code reads the norms from masks that it saved as 8-bit pictures (`quantised`).

A network with very many labels is not optimised label by label (`labels`): rounds of a search choose their labels themselves,
and a scan gives up on most labels early (`trigger_inversion.target_free`). Of the labels that are examined to the end, some were
drawn at random. Median and deviation are of these alone, as the others were chosen for their small triggers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput, lookup
from keras_backdoor.images import ImageSet
from keras_backdoor.precision import PRECISIONS
from keras_backdoor.progress import Progress, silent
from keras_backdoor.training import check_seed
from keras_backdoor.trigger_inversion import (
    BACKGROUND,
    LOSSES,
    RESTARTS,
    SCHEDULES,
    ReversedTrigger,
    TargetFree,
    TriggerInversion,
    background_labels,
    images_at_once,
    latest,
    lone_bound,
)
from keras_backdoor.verdict import Verdict, deviations_below, innocence, spread

ALL, SCAN, SEARCH, AUTO = LABELS = ("all", "scan", "search", "auto")
MANY = 100
"""Labels up to which `auto` optimises all of them."""
BOTH, NORMS = RULES = ("both", "norms")


@dataclass(frozen=True)
class NeuralCleanse:
    """Reverse a trigger for every label, and flag the labels whose trigger is small beyond chance.

    Where there are very many, only promising labels and some random ones are examined to the end (--labels).

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    schedule: str = "fast"  # fast (the controller looks after fewer images) or original (the released constants)
    loss: str = "cross-entropy"  # cross-entropy, or linear: 16.118 (1 - p), what the released code minimises in fact
    threshold: float = 2.0  # anomaly index above which a label is flagged (the paper: 2)
    rule: str = "both"  # norms (the paper: by their index alone), or both: twice as far by their logarithms, too
    labels: str = "auto"  # all; scan (drops most early); search (finds them itself); auto: all up to 100, else scan
    target: Optional[int] = None  # the papers' oracle: reverse this label's trigger alone, and take it as flagged
    quantised: bool = False  # norms of masks in 256 grey levels, rounded down, as the released code reads them
    memory: int = 512  # MiB that the labels that are optimised at once may take in the network
    precision: str = "float32"  # of the network's passes; bfloat16 is faster where the processor has it
    seed: int = 0  # decides where the optimisation starts, and the order of the images

    def __post_init__(self) -> None:
        """Check the ranges."""
        lookup(self.schedule, SCHEDULES, "schedule", f"choose from {', '.join(SCHEDULES)}")
        lookup(self.loss, LOSSES, "loss", f"choose from {', '.join(LOSSES)}")
        lookup(self.rule, RULES, "rule", f"choose from {', '.join(RULES)}")
        lookup(self.labels, LABELS, "labels", f"choose from {', '.join(LABELS)}")
        lookup(self.precision, PRECISIONS, "precision", f"choose from {', '.join(PRECISIONS)}")
        if self.target is not None and self.labels != AUTO:
            raise BadInput(
                f"labels {self.labels}: with target {self.target}, that label alone is examined; give one of them"
            )
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
        self,
        classifier: Classifier,
        clean: ImageSet,
        done: Sequence[ReversedTrigger] = (),
        progress: Progress = silent,
    ) -> Iterator[list[ReversedTrigger]]:
        """The reversed triggers of the labels that are examined, but for what is `done`: all that earlier chunks gave, in order.

        A scan that was cut short can go on with that, and together they give what one scan would have given. Where all labels
        are optimised, a chunk is as many at a time as the memory allows. Else it is the search's random labels, then each
        label that it found, one a round, then all that came to the end of a scan: a label may come again, and its last trigger
        counts.
        Raises `BadInput` if `classifier` is a GoodNet, `clean` does not fit it, it has no class `target`, or schedule or loss
        are set, which optimisation label by label has alone.
        """
        if classifier.detects:
            raise BadInput(
                'Neural Cleanse: the network is a GoodNet, which says "backdoored input" itself; give the network it was made of'
            )
        way = self._way(classifier.num_classes)
        if way != ALL:
            if (self.schedule, self.loss) != (NeuralCleanse.schedule, NeuralCleanse.loss):
                raise BadInput(
                    f"schedule {self.schedule}, loss {self.loss}: of {classifier.num_classes} labels, these are for optimising "
                    f"all (labels all) or one (target), and not for {way}"
                )
            at_once = images_at_once(classifier, self.memory)
            search = TargetFree(classifier, clean, self.seed, at_once=at_once, precision=self.precision)
            return self._search(search, way, list(done), progress)
        schedule = SCHEDULES[self.schedule]
        inversion = TriggerInversion(classifier, clean, schedule, self.loss, self.seed, self.memory, self.precision)
        labels = range(classifier.num_classes) if self.target is None else [self.target]
        found = {trigger.label for trigger in done}
        return inversion.chunks([label for label in labels if label not in found], progress)

    def _way(self, num_classes: int) -> str:
        """How a network of so many labels is examined."""
        if self.target is not None:
            return ALL
        if self.labels != AUTO:
            return self.labels
        return ALL if num_classes <= MANY else SCAN

    def _search(
        self, search: TargetFree, way: str, done: list[ReversedTrigger], progress: Progress
    ) -> Iterator[list[ReversedTrigger]]:
        """Rounds, and in a scan the labels that came to its end."""
        first = min(RESTARTS, len(search.background))
        if set(search.background) <= {trigger.label for trigger in done[first:]}:
            return  # the scan came to its end: rounds find fewer labels than that
        for chunk in search.rounds(self.threshold, done=done, progress=progress):
            yield chunk
            done += chunk
        if way == SCAN:
            yield list(search.scan(done[first:], progress=progress).triggers)

    def verdict(self, triggers: Sequence[ReversedTrigger], num_classes: int) -> Verdict:
        """What the triggers that `chunks` gave say about a network of `num_classes` classes; of each label the last counts.

        In a search or scan, those that were examined are the smallest of all that the network has, so the probability is of as
        many; and to be flagged, a trigger must work.
        """
        triggers = latest(triggers)
        labels = np.array([trigger.label for trigger in triggers], np.int64)
        masks = np.stack([trigger.mask for trigger in triggers])
        sizes = (np.floor(masks * 255.0) / 255 if self.quantised else masks).sum((1, 2), dtype=np.float64)
        way = self._way(num_classes)
        if way == ALL:
            background, count = tuple(labels.tolist()), len(labels)
            works = np.ones(len(labels), bool)
        else:
            background = background_labels(num_classes, self.seed, RESTARTS if way == SEARCH else BACKGROUND)
            works, count = np.array([trigger.works for trigger in triggers]), num_classes
        compared = sizes[np.isin(labels, background)]
        median, mad = spread(compared)
        bound = lone_bound(compared, self.threshold) if self.rule == BOTH else median - self.threshold * mad
        indices = deviations_below(sizes, median, mad)
        flags, score, probability = np.ones(1, bool), np.nan, np.nan
        if self.target is None:
            flags = works & (sizes < bound)
            if works.any():
                score = float(indices[works].max())
                probability = innocence(score, count, len(background))
        norms = np.full(num_classes, np.nan)
        norms[labels] = sizes
        return Verdict(
            backdoored=bool(flags.any()),
            flagged=tuple(labels[flags].tolist()),
            score=score,
            probability=probability,
            norms=norms,
            background=background,
            median=median,
            mad=mad,
            bound=bound,
            labels=labels,
            masks=masks,
            patterns=np.stack([trigger.pattern for trigger in triggers]),
        )
