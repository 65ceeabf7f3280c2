"""NNoculation's first stage (Veldanda et al., AISec 2021, section 3.2): retraining with noise, as fast as accuracy allows.

The suspect network is trained on clean images and noisy copies of them, at learning rates above its own. Noise makes it attend
to what is left of the image, and the rate takes it away from what it learned. A grid of rates alpha and shares of noise gamma is
tried; of the networks that lose little accuracy, the one with the highest rate, then the most noise, is taken. Assumed: clean,
labelled images. The backdoor is weakened rather than removed: what is left to disagree about feeds the later stages.

Paper and released code. The selection is the paper's; the code has none, and its README picks the network that loses about as
much as the threshold, whatever its rate (`rule` nearest). If no network stays within the threshold, the paper does not say what
to do, though in its table 7 some lose more; here the most accurate is taken. The code's noise is "rowwise", which the paper's
text does not have (`triggers.GaussianNoise`). It writes noisy images once a gamma, and so uses them at every alpha.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Optional

import numpy as np

from keras_backdoor.augmentation import with_noisy_copies
from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets.splits import held_out
from keras_backdoor.defenses.kept import Kept
from keras_backdoor.defenses.side_by_side import side_by_side
from keras_backdoor.defenses.step import Step, Stepwise
from keras_backdoor.files import BadInput, PathLike, lookup
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import clean_accuracy
from keras_backdoor.progress import Progress, silent
from keras_backdoor.training import Schedule, check_seed, fit, seed_everything
from keras_backdoor.triggers import GaussianNoise

PAPER, NEAREST = RULES = ("paper", "nearest")


@dataclass(frozen=True)
class Cell:
    """One network of the grid. alpha: its learning rate, in multiples of the BadNet's own. gamma: the share of noise, 0..1."""

    alpha: float
    gamma: float

    @property
    def name(self) -> str:
        """Of its files."""
        return f"alpha-{self.alpha:g}-gamma-{self.gamma:g}"


@dataclass(frozen=True)
class PreDeployment(Stepwise):
    """Train on clean images and noisy copies, at the highest learning rate and with the most noise that accuracy allows.

    A grid of rates (--alpha 1 --alpha 3 …) and shares of noise (--gamma 0.1 …). The paper uses the optimizer and batch size that
    the network was trained with. Higher rates are not tried once accuracy has collapsed at one, whatever the noise.

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    max_drop: float = 0.03  # accuracy on images held out that may be lost, as a fraction (the paper: 3 points)
    learning_rate: float = 1e-3  # that the network was trained with, which alpha multiplies; files do not say it
    alpha: tuple[float, ...] = (1.0, 3.0, 4.0, 5.0, 6.0)  # multiples of that rate; repeatable (table 2)
    gamma: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)  # shares of an image that noise replaces; repeatable
    layout: str = "rowwise"  # of the noise: rowwise (the released code), block (what it means to do), pixel (the paper)
    noise: bool = True  # train on noisy copies, too; without them, alpha alone is varied (table 13)
    fixed_lr: bool = False  # train at the network's own rate alone (table 13)
    epochs: int = 10  # passes over the images and their copies
    batch_size: int = 32  # images a step
    optimizer: str = "adam"  # adam, adadelta, sgd, momentum or nesterov
    held_out: float = 0.2  # share of each class to choose by instead of training on it, if there is no --evaluation
    collapse: float = 0.1  # accuracy that every network of an alpha has lost, as a fraction, when alpha stops growing
    rule: str = "paper"  # paper (within max_drop, then largest alpha, then gamma) or nearest (to max_drop: the README)
    workers: int = 1  # processes that train networks of the grid side by side
    keep: bool = False  # write the networks of the whole grid, not of the chosen cell alone
    seed: int = 0  # decides the noise and the order of the images

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_seed(self.seed)
        lookup(self.rule, RULES, "rule")
        if self.workers < 1:
            raise BadInput(f"workers is {self.workers}, expected at least 1")
        for name in ("max_drop", "collapse"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} is {getattr(self, name)}, expected a fraction in 0..1")
        if not 0 < self.held_out < 1:
            raise BadInput(f"held_out is {self.held_out}, expected a share between 0 and 1")
        for name in ("alpha", "gamma"):
            if not getattr(self, name):
                raise BadInput(f"no {name} is given")
        for alpha in (1.0, *self.alpha):
            self._schedule(alpha)
        for gamma in self.gamma:
            GaussianNoise(gamma, self.layout).check()

    def steps(
        self,
        classifier: Classifier,
        clean: ImageSet,
        progress: Progress = silent,
        folder: Optional[PathLike] = None,
        *,
        evaluation: Optional[ImageSet] = None,
    ) -> Iterator[Step]:
        """The network of each cell, by growing alpha, then gamma; then once more the chosen one, which is the result.

        `done` has the accuracy on the images held out, and what it lost there. folder: if given, the network of each cell is kept
        there (`kept.Kept`) and not trained again by a call with the same arguments. evaluation: images to choose by; with them,
        none of `clean` are held out. Of images that are much like those that the network was trained on, held out ones are, too:
        networks that lost 12 points on GTSRB's test set had lost none on other frames of the films that it was trained on.
        Raises `BadInput` if `clean` or `evaluation` does not fit the network, or a class has a single image to hold out of.
        """
        lesson, exam = self.split(classifier, clean, evaluation)
        before = accuracy_on(classifier, exam)
        found: dict[Cell, float] = {}
        best, kept = classifier, Kept(folder, classifier)
        while due := self.due(before, found):
            missing = [cell for cell in due if cell.name not in kept]
            made = side_by_side(self.workers, self.treat, classifier, lesson, missing)
            for place, cell in enumerate(due, start=1):
                network = kept.get(cell.name, partial(next, made))
                found[cell] = accuracy_on(network, exam)
                if self.choose(before, found) == cell:
                    best = network
                progress(f"alpha {cell.alpha:g}", place, len(due), {"clean_accuracy": found[cell]})
                yield Step(network, self._done(cell, before, found), cell.name if self.keep else None)
        yield Step(best, self._done(self.choose(before, found), before, found), "")

    def split(
        self, classifier: Classifier, clean: ImageSet, evaluation: Optional[ImageSet] = None
    ) -> tuple[ImageSet, ImageSet]:
        """The clean images to train on, and those to choose by. Raises `BadInput` as `steps` does."""
        classifier.check(clean, "clean images")
        if evaluation is not None:
            classifier.check(evaluation, "images for evaluation")
            return clean, evaluation
        try:
            return held_out(clean, self.held_out)
        except BadInput as error:
            raise BadInput(f"clean images: {error}") from None

    def treat(self, classifier: Classifier, lesson: ImageSet, cell: Cell) -> Classifier:
        """The network of one cell, trained on `lesson`; depends on no other cell, so that they can be trained in any order.

        With a gamma of 0 there are no copies.
        """
        if cell.gamma:
            generator = np.random.default_rng([self.seed, round(cell.gamma * 1e6)])
            lesson = with_noisy_copies(lesson, GaussianNoise(cell.gamma, self.layout), generator)
        seed_everything(self.seed)
        network = classifier.clone()
        fit(network, lesson, self._schedule(cell.alpha), seed=self.seed, stage=cell.name)
        return network

    def due(self, before: float, found: Mapping[Cell, float]) -> list[Cell]:
        """The cells that can be trained next, side by side: what is missing at the lowest alpha; none when the grid is done.

        before: the suspect network's accuracy on the images held out. found: that of the cells so far.
        """
        *_, last = self._reached(before, found)
        return [cell for cell in last if cell not in found]

    def choose(self, before: float, found: Mapping[Cell, float]) -> Cell:
        """The cell to take of those in `found`, by `rule`; what lies beyond a collapse does not count."""
        reached = [cell for column in self._reached(before, found) for cell in column if cell in found]
        return max(reached, key=lambda cell: self._merit(cell, before - found[cell]))

    def _reached(self, before: float, found: Mapping[Cell, float]) -> Iterator[list[Cell]]:
        """The cells of each alpha, up to the first that is not whole, or at which accuracy collapsed."""
        for alpha in sorted(set(self.alpha)) if not self.fixed_lr else [1.0]:
            column = [Cell(alpha, gamma) for gamma in (sorted(set(self.gamma)) if self.noise else [0.0])]
            yield column
            if not found.keys() >= set(column) or all(above(before - found[cell], self.collapse) for cell in column):
                return

    def _merit(self, cell: Cell, drop: float) -> tuple[float, ...]:
        """By which cells are compared: of two, the one with the greater merit is taken. drop: accuracy lost."""
        if self.rule == NEAREST:
            return -round(abs(drop - self.max_drop), 9), cell.alpha, cell.gamma
        if above(drop, self.max_drop):
            return 0, -drop, cell.alpha, cell.gamma
        return 1, cell.alpha, cell.gamma

    def _done(self, cell: Cell, before: float, found: Mapping[Cell, float]) -> dict[str, float]:
        return {
            "alpha": cell.alpha,
            "learning_rate": self._schedule(cell.alpha).learning_rate,
            "gamma": cell.gamma,
            "held_out_accuracy": found[cell],
            "held_out_drop": before - found[cell],
        }

    def _schedule(self, alpha: float) -> Schedule:
        return Schedule(self.optimizer, alpha * self.learning_rate, self.batch_size, self.epochs)


def above(drop: float, limit: float) -> bool:
    """Whether a difference of two shares is above a limit, and not by rounding alone."""
    return drop > limit + 1e-9


def accuracy_on(classifier: Classifier, image_set: ImageSet) -> float:
    """Share of the images to which the network gives their labels."""
    return clean_accuracy(classifier.predict(image_set.batches()), image_set.labels)
