"""Fine-pruning (Liu, Dolan-Gavitt and Garg, RAID 2018), its two halves alone, and the course project's round by round.

A backdoor is thought to live in channels of the last convolution that clean images do not excite. Pruning zeroes channels in
increasing order of their mean activation on clean images, as long as clean accuracy allows; fine-tuning then trains the rest
on clean images. Assumed: a small set of clean, labelled images. No trigger and no target label need to be known.

Both papers that compare it find that it fails where clean and triggered images excite the same channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.step import Step, Stepwise
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import clean_accuracy
from keras_backdoor.progress import Progress, silent
from keras_backdoor.pruning import Curve, Cut, prune, rounded_down, zero
from keras_backdoor.training import Schedule, check_seed, fit, seed_everything

# The paper fine-tunes at the rate that the network was trained with. A file does not say which that was; 1e-3 with Adam is the
# course's choice.

CLEAN = "clean"


@dataclass(frozen=True)
class FineTuning:
    """Train the suspect network on clean images.

    Raises `BadInput` if a hyper-parameter is out of its range, as the others do.
    """

    epochs: int = 10  # passes over the clean images
    batch_size: int = 32  # images a step
    learning_rate: float = 1e-3  # of the optimizer
    optimizer: str = "adam"  # adam, adadelta, sgd, momentum or nesterov
    seed: int = 0  # decides the order of the images

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_seed(self.seed)
        self._schedule()

    def repair(self, classifier: Classifier, clean: ImageSet, progress: Progress = silent) -> Classifier:
        """A fine-tuned copy of `classifier`. Raises `BadInput` if `clean` does not fit it."""
        classifier.check(clean, "clean images")
        seed_everything(self.seed)
        tuned = classifier.clone()
        fit(tuned, clean, self._schedule(), seed=self.seed, stage="fine-tuning", progress=progress)
        return tuned

    def _schedule(self) -> Schedule:
        return Schedule(self.optimizer, self.learning_rate, self.batch_size, self.epochs)


@dataclass(frozen=True)
class Pruning(Stepwise):
    """Zero the channels that clean images excite least, up to a rule.

    The paper's rule keeps clean accuracy within `max_drop`. The course's (--drop) takes the network at the moment when it has
    dropped at least so far, which is beyond: channels are few and large. --fraction asks for no accuracy at all.
    """

    max_drop: float = 0.04  # the paper's rule: accuracy on the clean images that may be lost, as a fraction (4 points)
    drop: tuple[float, ...] = ()  # the course's rule: stop at the first drop of so many points; repeatable
    fraction: Optional[float] = None  # a fixed share of the channels instead, rounded down (the original: 0.8)
    layer: Optional[str] = None  # convolution to prune; by default the last one before the head

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.max_drop <= 1:
            raise BadInput(f"max_drop is {self.max_drop}, expected a fraction in 0..1")
        for points in self.drop:
            if not 0 < points <= 100:
                raise BadInput(f"drop is {points}, expected percentage points above 0, up to 100")
        _check_fraction(self.fraction)
        if self.drop and self.fraction is not None:
            raise BadInput("drop and fraction are two rules; give one")

    def steps(self, classifier: Classifier, clean: ImageSet, progress: Progress = silent) -> Iterator[Step]:
        """One network; with the course's rule one a drop, called drop-2 … if there are several.

        Raises `BadInput` if `clean` does not fit the network, it has no such layer, or accuracy never drops so far.
        """
        curve = self.curve(classifier, clean, progress=progress)
        accuracy = curve.rates(CLEAN, clean.labels)
        if not self.drop:
            count = (
                rounded_down(self.fraction, len(curve.order)) if self.fraction is not None else self._allowed(accuracy)
            )
            yield Step(prune(classifier, curve.layer, curve.order[:count]), {"channels": count}, "")
        for points in self.drop:
            beyond = accuracy <= accuracy[0] - points / 100 + 1e-9
            if not beyond.any():
                lost = 100 * (accuracy[0] - accuracy.min())
                raise BadInput(f"drop {points:g}: pruning {curve.layer} costs {lost:.2f} points at most")
            count = int(beyond.argmax())
            name = f"drop-{points:g}" if len(self.drop) > 1 else ""
            done = {"drop": points, "channels": count}
            yield Step(prune(classifier, curve.layer, curve.order[:count]), done, name)

    def curve(
        self,
        classifier: Classifier,
        clean: ImageSet,
        sets: Optional[dict[str, ImageSet]] = None,
        progress: Progress = silent,
    ) -> Curve:
        """What the network says to `sets`, by default to the clean images, after each channel that they rank."""
        classifier.check(clean, "clean images")
        return Cut(classifier, self.layer).curve(clean, sets or {CLEAN: clean}, progress)

    def _allowed(self, accuracy: np.ndarray) -> int:
        """How many channels can go before accuracy, (C + 1,), first falls below what `max_drop` allows."""
        below = accuracy < accuracy[0] - self.max_drop - 1e-9
        return int(below.argmax()) - 1 if below.any() else len(accuracy) - 1


@dataclass(frozen=True)
class FinePruning(Stepwise):
    """Prune, then fine-tune what is left.

    Pruned channels stay dead in networks with ReLU: where kernel and bias are zero, so is the gradient.
    """

    max_drop: float = 0.04  # accuracy on the clean images that pruning may lose, as a fraction (the paper: 4 points)
    fraction: Optional[float] = None  # prune a fixed share of the channels instead, rounded down
    layer: Optional[str] = None  # convolution to prune; by default the last one before the head
    epochs: int = 10  # passes over the clean images in fine-tuning
    batch_size: int = 32  # images a step
    learning_rate: float = 1e-3  # of the optimizer
    optimizer: str = "adam"  # adam, adadelta, sgd, momentum or nesterov
    seed: int = 0  # decides the order of the images

    def __post_init__(self) -> None:
        """Check the ranges."""
        self._halves()

    def steps(self, classifier: Classifier, clean: ImageSet, progress: Progress = silent) -> Iterator[Step]:
        """One network, pruned and fine-tuned. Raises `BadInput` as `Pruning` and `FineTuning` do."""
        pruning, tuning = self._halves()
        (pruned,) = pruning.steps(classifier, clean, progress)
        yield Step(tuning.repair(pruned.classifier, clean, progress), pruned.done, "")

    def curve(self, classifier: Classifier, clean: ImageSet, sets: dict[str, ImageSet]) -> Curve:
        """As `Pruning.curve`."""
        return self._halves()[0].curve(classifier, clean, sets)

    def _halves(self) -> tuple[Pruning, FineTuning]:
        tuning = FineTuning(self.epochs, self.batch_size, self.learning_rate, self.optimizer, self.seed)
        return Pruning(self.max_drop, (), self.fraction, self.layer), tuning


@dataclass(frozen=True)
class FinePruningRounds(Stepwise):
    """The course project's fine-pruning: prune one channel, train, prune the next; for each of several learning rates.

    Its improved GoodNet G'(B0, B') compares the result with the network after the first few channels, not with the suspect.

    Source: Ye, Bamigbade and Babushkin, "Comparative Analysis of Defenses against the Backdoor Attacks", section II and their
    notebooks. There one Adam is used for all rounds, and channels drift off zero by its momentum; here each round has its own.
    """

    learning_rate: tuple[float, ...] = (1e-3,)  # of Adam; repeatable (the project: 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    fraction: float = 0.1  # share of the channels that is pruned in the end, rounded down
    first: float = 0.03  # share at which B0 of the improved GoodNet is taken
    layer: Optional[str] = None  # convolution to prune; by default the last one before the head
    epochs: int = 10  # passes over the clean images after each channel
    batch_size: int = 32  # images a step
    stale_weights: bool = False  # each round, put back the layer's first weights, as the notebooks do
    seed: int = 0  # decides the order of the images

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_fraction(self.fraction)
        _check_fraction(self.first)
        if not self.learning_rate:
            raise BadInput("no learning rate is given")
        for rate in self.learning_rate:
            self._tuning(rate)

    def steps(self, classifier: Classifier, clean: ImageSet, progress: Progress = silent) -> Iterator[Step]:
        """The network after each channel, for each learning rate; those of the last rate are the result.

        A channel that clean images do not excite at all is counted, but there is nothing to train. Raises `BadInput` as
        `Pruning` and `FineTuning` do, or if the share is less than a channel.
        """
        classifier.check(clean, "clean images")
        cut = Cut(classifier, self.layer)
        means = cut.means(clean)
        order = np.argsort(means, kind="stable")
        count = rounded_down(self.fraction, len(order))
        if not count:
            raise BadInput(f"fraction {self.fraction} of {len(order)} channels is less than one")
        original = classifier.model.get_layer(cut.layer).get_weights()
        for rate in self.learning_rate:
            last = rate == self.learning_rate[-1]
            network, early = classifier.clone(), None
            for pruned, channel in enumerate(order[:count], start=1):
                if means[channel] != 0:
                    if self.stale_weights:
                        network.model.get_layer(cut.layer).set_weights(original)
                    zero(network, cut.layer, order[:pruned])
                    network = self._tuning(rate).repair(network, clean)
                if last and early is None and pruned >= self.first * len(order):
                    early = network.clone()
                progress(
                    f"rate {rate:g}",
                    pruned,
                    count,
                    {"clean_accuracy": clean_accuracy(network.predict(clean.batches()), clean.labels)},
                )
                done = {"learning_rate": rate, "channels": pruned}
                if pruned < count or not last:
                    yield Step(network, done)
            if last:
                if early is not None:
                    yield Step(network, done, "improved", early)
                yield Step(network, done, "")

    def _tuning(self, rate: float) -> FineTuning:
        return FineTuning(self.epochs, self.batch_size, rate, "adam", self.seed)


def _check_fraction(fraction: Optional[float]) -> None:
    if fraction is not None and not 0 <= fraction <= 1:
        raise BadInput(f"fraction is {fraction}, expected a share in 0..1")
