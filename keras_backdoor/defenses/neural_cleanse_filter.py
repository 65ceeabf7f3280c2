"""Neural Cleanse's filter of inputs (Wang, Yao, Shan, Li, Viswanath, Zheng and Zhao, S&P 2019, section VI.A).

The reversed trigger need not look like the original one, but it excites the same neurons. The 1 % of the second to last layer's
neurons that it excites most, against clean images, are watched: an input on which they are more active, on average, than on
nearly all clean images is flagged. The network stays as it is. Assumed: clean images (no labels), and what Neural Cleanse
assumes. The paper finds it good against BadNets, and less so against trojaned networks. The released code has no filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional, Union

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.neural_cleanse_repair import reverse
from keras_backdoor.defenses.units import Channels, Neurons, units
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.trigger_inversion import ReversedTrigger


@dataclass(frozen=True)
class NeuralCleanseFilter:
    """Flag inputs that excite the neurons which the reversed trigger excites.

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    neurons: float = 0.01  # share of the second to last layer's neurons that is watched, rounded up (the paper: 0.01)
    false_rejection_rate: float = 0.05  # share of clean inputs that may be flagged (the paper reports 0.05)
    layer: Optional[str] = None  # convolution whose channels are watched instead of the second to last layer's neurons
    target: Optional[int] = None  # the papers' oracle: the label whose trigger is reversed; by default those flagged
    threshold: float = 2.0  # anomaly index above which a label is flagged (the paper: 2)
    schedule: str = "fast"  # of the reversal: fast or original (the released code's constants)
    labels: str = "auto"  # that Neural Cleanse examines: all, scan, search, or auto: all up to 100, else scan
    seed: int = 0  # decides where the reversal starts

    def __post_init__(self) -> None:
        """Check the ranges."""
        self._cleanse()
        if not 0 < self.neurons <= 1:
            raise BadInput(f"neurons is {self.neurons}, expected a share above 0, up to 1")
        if not 0 < self.false_rejection_rate < 1:
            raise BadInput(f"false_rejection_rate is {self.false_rejection_rate}, expected a fraction between 0 and 1")

    def fit_filter(
        self,
        classifier: Classifier,
        clean: ImageSet,
        progress: Progress = silent,
        triggers: Optional[Sequence[ReversedTrigger]] = None,
    ) -> ActivationFilter:
        """A filter that would flag at most the preset share of `clean`, whose labels are not used.

        triggers: of the flagged labels, where a scan has found them already; else they are searched. If none is flagged, the
        filter flags nothing.
        Raises `BadInput` if `clean` does not fit the network, or there is no such layer.
        """
        classifier.check(clean, "clean images")
        if triggers is None:
            triggers = reverse(self._cleanse(), classifier, clean, progress)
        layer = units(classifier, self.layer)
        sample = clean.sample()
        images = ImageSet(sample, np.zeros(len(sample)), 1)
        bare = layer.activations(images)
        watched = tuple(self._watched(layer, images, bare, trigger) for trigger in triggers)
        unfitted = ActivationFilter(classifier, layer, watched, -np.inf)
        scores = np.sort(unfitted._scores(bare))
        first_kept = scores[int(self.false_rejection_rate * len(scores) + 1e-9)]
        return replace(unfitted, threshold=float(np.nextafter(first_kept, -np.inf)))

    def _watched(
        self, layer: Union[Neurons, Channels], images: ImageSet, bare: np.ndarray, trigger: ReversedTrigger
    ) -> Watched:
        """The neurons that a trigger excites most, by what `layer` gives for `images` without it, (N, U)."""
        stamped = replace(images, images=trigger(images.images, np.random.default_rng(0)))
        means = bare.mean(0, dtype=np.float64)
        gaps = layer.activations(stamped).mean(0, dtype=np.float64) - means
        neurons = np.argsort(-gaps, kind="stable")[: int(np.ceil(self.neurons * len(gaps) - 1e-9))]
        gap = float(gaps[neurons].mean())
        if not gap > 0:
            raise BadInput(f"the reversed trigger of label {trigger.label} excites no neuron of {layer.name}")
        return Watched(trigger.label, neurons, float(means[neurons].mean()), gap)

    def _cleanse(self) -> NeuralCleanse:
        return NeuralCleanse(
            self.schedule, threshold=self.threshold, labels=self.labels, target=self.target, seed=self.seed
        )


@dataclass(frozen=True, eq=False)
class Watched:
    """Neurons that one label's reversed trigger excites, int64 (n,), most excited first.

    mean: their average activation on clean images. gap: how much higher it is under the trigger, above 0.
    """

    label: int
    neurons: np.ndarray
    mean: float
    gap: float


@dataclass(frozen=True, eq=False)
class ActivationFilter:
    """An `InputFilter`. `dataclasses.replace` gives one with another threshold.

    A score is minus the average activation of the watched neurons, on a scale from 0, as on clean images, to -1, as under the
    reversed trigger; with several triggers the least. The scale changes nothing for one trigger, and makes several comparable.
    """

    classifier: Classifier
    layer: Union[Neurons, Channels]
    watched: tuple[Watched, ...]
    threshold: float

    def flags(self, images: ImageSet, progress: Progress = silent) -> np.ndarray:
        """Which images are taken for backdoored, bool (N,)."""
        return self.scores(images, progress) <= self.threshold

    def scores(self, images: ImageSet, progress: Progress = silent) -> np.ndarray:
        """One score an image, float64 (N,). Raises `BadInput` if the images do not fit the network."""
        self.classifier.check(images, "images")
        scores = self._scores(self.layer.activations(images))
        progress("Neural Cleanse filter", len(images), len(images), {})
        return scores

    def _scores(self, activations: np.ndarray) -> np.ndarray:
        """Of what all neurons give, (N, U)."""
        profiles = [
            (one.mean - activations[:, one.neurons].mean(1, dtype=np.float64)) / one.gap for one in self.watched
        ]
        return np.min(profiles, axis=0) if profiles else np.zeros(len(activations))
