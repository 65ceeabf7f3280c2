"""What every attack is given: a network, images and backdoors; and the plainest attack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Protocol, Union

import numpy as np

from keras_backdoor.attacks.poison import Backdoor, Cover, poison, poison_all
from keras_backdoor.classifier import Classifier
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.sifted import Sifted
from keras_backdoor.training import Monitor, Schedule, fit, forget_checkpoint


@dataclass(frozen=True, eq=False)
class Task:
    """One BadNet to be made.

    classifier: trained in place; it holds the clean network's weights in a two-step attack. train: the attacker's clean images;
    valid: images on which rates are measured after each epoch. backdoors, poison_fraction, covers: see `poison`.
    schedule, seed: of the training. folder: where checkpoints and history go, nowhere if None. progress: told of every epoch.
    """

    classifier: Classifier
    train: ImageSet
    valid: ImageSet
    backdoors: tuple[Backdoor, ...]
    poison_fraction: float
    schedule: Schedule
    seed: int
    covers: tuple[Cover, ...] = ()
    folder: Optional[Path] = None
    progress: Progress = silent

    def rng(self, number: int) -> np.random.Generator:
        """A random generator that depends on the seed and `number` alone."""
        return np.random.default_rng([self.seed, number])

    def poisoned(self, backdoors: Sequence[Backdoor] | None = None) -> ImageSet:
        """The training set, poisoned."""
        return poison(self.train, backdoors or self.backdoors, self.poison_fraction, self.rng(0), self.covers)[0]

    def monitor(self, backdoors: Iterable[Backdoor] | None = None) -> Monitor:
        """What is measured after each epoch: `backdoors` (the task's, if None) on the defender's images."""
        backdoors = self.backdoors if backdoors is None else backdoors
        return Monitor(
            self.valid, {backdoor.name: poison_all(self.valid, backdoor, self.rng(1)) for backdoor in backdoors}
        )

    def fit(
        self,
        image_set: Union[ImageSet, Callable[[int], ImageSet]],
        *,
        stage: str = "badnet",
        backdoors: Iterable[Backdoor] | None = None,
        classifier: Classifier | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        """Train as `training.fit` does, and measure what `monitor` says."""
        fit(
            classifier or self.classifier,
            image_set,
            schedule or self.schedule,
            seed=self.seed,
            stage=stage,
            monitor=self.monitor(backdoors),
            folder=self.folder,
            progress=self.progress,
        )

    def forget(self, stage: str) -> None:
        """Remove the checkpoint of a stage whose result is safe."""
        if self.folder:
            forget_checkpoint(self.folder, stage)


class Attack(Protocol):
    """How a network is backdoored; a frozen dataclass of its own settings, one file each."""

    def __call__(self, task: Task) -> tuple[Backdoor, ...]:
        """Train `task.classifier`; gives the backdoors it has then, which are the task's unless the attack learns its trigger."""


class Defense(Protocol):
    """A defense that trains the network itself: `defenses.abl`, of which attacks know no more than this."""

    stages: tuple[str, ...]

    def train(
        self,
        classifier: Classifier,
        poisoned: ImageSet,
        schedule: Schedule,
        *,
        seed: int,
        monitor: Optional[Monitor],
        folder: Optional[Path],
        progress: Progress,
    ) -> Sifted:
        """Train `classifier` in place, in these stages of `fit`; says which images it takes for poisoned ones."""


@dataclass(frozen=True)
class Poisoning:
    """Train on poisoned data: the attack of BadNets (Gu et al. 2019), and of most rows of the papers.

    redraw: poison anew in every epoch, which images and how, as attacks do that stamp on the fly (WaNet); else once.
    """

    redraw: bool = False

    def __call__(self, task: Task) -> tuple[Backdoor, ...]:
        """Train."""
        if not self.redraw:
            task.fit(task.poisoned())
            return task.backdoors

        def of_epoch(epoch: int) -> ImageSet:
            rng = np.random.default_rng([task.seed, 0, epoch])
            return poison(task.train, task.backdoors, task.poison_fraction, rng, task.covers)[0]

        task.fit(of_epoch)
        return task.backdoors
