"""Neural Cleanse's neuron pruning (Wang, Yao, Shan, Li, Viswanath, Zheng and Zhao, S&P 2019, section VI.B).

The reversed trigger shows which neurons carry the backdoor: those that it excites most, against clean images. They are pruned,
one after the other, until the network no longer responds to the reversed trigger; what that means, the paper leaves open.
Assumed: clean, labelled images, and what `neural_cleanse` assumes. The paper finds that it fails against trojaned networks,
where the original trigger excites other neurons than the reversed one. The released code has no repairs.

If no label is flagged, there is nothing to repair: the result is a copy of the network, and `done` says `{"flagged": 0}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.neural_cleanse_repair import TriggerRepair, reverse
from keras_backdoor.defenses.step import Step
from keras_backdoor.defenses.units import units
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.pruning import Curve, rounded_down
from keras_backdoor.trigger_inversion import ReversedTrigger


@dataclass(frozen=True)
class NeuronPruning(TriggerRepair):
    """Prune the neurons that the reversed trigger excites most, until it no longer works.

    They are those of the second to last layer, in decreasing order of how much more active they are, on average, under the
    trigger. Only images of other classes than the trigger's label count. Of several triggers, the one that excites a neuron
    most decides its place, and the one that works best when to stop. Raises `BadInput` if a hyper-parameter is out of its range.
    """

    success: float = 0.05  # success of the reversed trigger at which pruning stops, 0..1; where it first falls so low
    fraction: Optional[float] = None  # a fixed share of the neurons instead, rounded down (the paper: about 0.3)
    layer: Optional[str] = None  # convolution whose channels are pruned instead of the second to last layer's neurons
    target: Optional[int] = None  # the papers' oracle: the label whose trigger is reversed; by default those flagged
    threshold: float = 2.0  # anomaly index above which a label is flagged (the paper: 2)
    schedule: str = "fast"  # of the reversal: fast or original (the released code's constants)
    labels: str = "auto"  # that Neural Cleanse examines: all, scan, search, or auto: all up to 100, else scan
    seed: int = 0  # decides where the reversal starts

    def __post_init__(self) -> None:
        """Check the ranges."""
        self._cleanse()
        for name in ("success", "fraction"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise BadInput(f"{name} is {value}, expected a share in 0..1")

    def steps(
        self,
        classifier: Classifier,
        clean: ImageSet,
        progress: Progress = silent,
        triggers: Optional[Sequence[ReversedTrigger]] = None,
    ) -> Iterator[Step]:
        """One network; how many labels are flagged, and how many neurons are pruned.

        triggers: of the flagged labels, where a scan has found them already; else they are searched.
        Raises `BadInput` if `clean` does not fit the network or has one class only, there is no such layer, or the trigger's
        success never falls so low.
        """
        classifier.check(clean, "clean images")
        if triggers is None:
            triggers = reverse(self._cleanse(), classifier, clean, progress)
        if not triggers:
            yield Step(classifier.clone(), {"flagged": 0}, "")
            return
        stamped = {str(trigger.label): _stamped(clean, trigger)[1] for trigger in triggers}
        curve = self.curve(classifier, clean, {} if self.fraction is not None else stamped, progress, triggers)
        count = self._count(curve, stamped)
        done = {"flagged": len(triggers), "neurons": count}
        yield Step(units(classifier, self.layer).prune(curve.order[:count]), done, "")

    def curve(
        self,
        classifier: Classifier,
        clean: ImageSet,
        sets: Mapping[str, ImageSet],
        progress: Progress = silent,
        triggers: Optional[Sequence[ReversedTrigger]] = None,
    ) -> Curve:
        """What the network says to `sets` after each neuron that the triggers rank, ties from left to right.

        Without any trigger, the neurons stay in their own order. Its `means` are of clean images.
        """
        if triggers is None:
            triggers = reverse(self._cleanse(), classifier, clean, progress)
        layer = units(classifier, self.layer)
        means = layer.activations(clean).mean(0, dtype=np.float64)
        gaps = np.full(len(means), -np.inf)
        for trigger in triggers:
            bare, stamped = (layer.activations(images).mean(0, dtype=np.float64) for images in _stamped(clean, trigger))
            gaps = np.maximum(gaps, stamped - bare)
        order = np.argsort(-gaps, kind="stable")
        return Curve(
            layer.name, means, order, {name: layer.answers(order, images, progress) for name, images in sets.items()}
        )

    def _count(self, curve: Curve, stamped: Mapping[str, ImageSet]) -> int:
        """How many neurons to prune: the fixed share, or as many as it takes for all triggers to have no success to speak of."""
        if self.fraction is not None:
            return rounded_down(self.fraction, len(curve.order))
        success = np.max([curve.rates(name, images.labels) for name, images in stamped.items()], axis=0)
        low = success <= self.success
        if not low.any():
            raise BadInput(
                f"success {self.success:g}: with neurons of {curve.layer} pruned, the reversed trigger still has "
                f"{success.min():.2f} at least"
            )
        return int(low.argmax())

    def _cleanse(self) -> NeuralCleanse:
        return NeuralCleanse(
            self.schedule, threshold=self.threshold, labels=self.labels, target=self.target, seed=self.seed
        )


def _stamped(clean: ImageSet, trigger: ReversedTrigger) -> tuple[ImageSet, ImageSet]:
    """The images of other classes than the trigger's, as they are, and stamped, with its label."""
    others = clean.labels != trigger.label
    if not others.any():
        raise BadInput(
            f"clean images: all are of class {trigger.label}, which is flagged; give images of other classes"
        )
    bare = clean.select(others)
    stamped = trigger(bare.images, np.random.default_rng(0))
    return bare, ImageSet(stamped, np.full(len(bare), trigger.label), clean.num_classes, bare.labels)
