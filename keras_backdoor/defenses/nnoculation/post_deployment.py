"""NNoculation's last stage (Veldanda et al., AISec 2021, section 3.3): unlearning the trigger that a generator has learned.

The treatment set has clean images and what the generator made of them, a trigger if all went well, both under the true labels.
A network that is trained on it learns to ignore the trigger. Assumed: clean, labelled images, and a generator that adds what the
quarantined images have in common to any image.

Paper and released code. The paper fine-tunes both networks of the ensemble; the code only the patched one (to start from the
BadNet is a comment there). Here the caller gives the network, and `nnoculation` gives both. The paper says nothing of how to
train; the code does it as in its first stage: the network's own optimizer, rate (alpha 1) and batch size, 10 epochs. The code
scales clean images to 0..1 and leaves generated ones at 0..255, which is a slip and not offered: `Classifier` scales all alike.

At its own rate a network learns too much from a generator that spoils all images instead of only adding the trigger. So lower
rates are tried if that one costs too much accuracy, and the choice is that of the first stage: the highest within a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Protocol

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.nnoculation.pre_deployment import above, accuracy_on
from keras_backdoor.files import BadInput, write_json
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.training import Schedule, check_seed, fit, forget_checkpoint, seed_everything


class Generator(Protocol):
    """What makes triggered images of clean ones: `Translator`, or `Averaging`."""

    def a_to_b(self, images: np.ndarray) -> np.ndarray:
        """Of clean images, uint8 (N, H, W, C), such as were quarantined: uint8 of the same shape."""


@dataclass(frozen=True)
class PostDeployment:
    """Fine-tune a network on clean images and generated ones, under their true labels.

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    learning_rates: tuple[float, ...] = (1e-3, 1e-4)  # of the optimizer; the code: the network's own alone
    epochs: int = 10  # passes over the treatment set
    batch_size: int = 32  # images a step
    optimizer: str = "adam"  # adam, adadelta, sgd, momentum or nesterov
    seed: int = 0  # decides the order of the images

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_seed(self.seed)
        if not self.learning_rates:
            raise BadInput("no learning rate is given for the treatment")
        for rate in self.learning_rates:
            self._schedule(rate)

    def treatment(self, clean: ImageSet, generator: Generator) -> ImageSet:
        """The clean images, then what is made of each, under the same labels."""
        images = clean.in_memory().images
        both = np.concatenate([images, generator.a_to_b(images)])
        return ImageSet(both, np.tile(clean.labels, 2), clean.num_classes)

    def treat(
        self,
        network: Classifier,
        treatment: ImageSet,
        exam: ImageSet,
        least: float,
        stage: str = "treatment",
        folder: Optional[Path] = None,
        progress: Progress = silent,
    ) -> Classifier:
        """A copy of the network, trained on the treatment set at the highest rate that leaves it accurate.

        Lower rates are not tried. If none does, it is the most accurate copy; of several, that of the highest rate.

        exam: clean images that are not trained on. least: the accuracy on them, 0..1, that is enough.
        stage: with the rate behind it, names a training in progress.
        folder: if given, checkpoints, history and logs are kept there (`training.fit`), and a call with the same arguments after
            a kill goes on with the last whole epoch; `forget` drops the checkpoints. STAGE.json tells the rate that was taken,
            `learning_rate`, and the accuracy at each that was tried, `accuracy`.
        """
        accuracy: dict[str, float] = {}
        for rate in self._rates():
            seed_everything(self.seed)
            copy, name = network.clone(), _stage(stage, rate)
            fit(copy, treatment, self._schedule(rate), seed=self.seed, stage=name, folder=folder, progress=progress)
            found = accuracy_on(copy, exam)
            if found > max(accuracy.values(), default=-1.0):
                best, taken = copy, rate
            accuracy[f"{rate:g}"] = found
            if not above(least - found, 0.0):
                break
        if folder is not None:
            write_json(folder / f"{stage}.json", {"learning_rate": taken, "accuracy": accuracy})
        return best

    def forget(self, folder: Path, stage: str) -> None:
        """Drop the checkpoints of a stage whose result is safe."""
        for rate in self._rates():
            forget_checkpoint(folder, _stage(stage, rate))

    def _rates(self) -> list[float]:
        return sorted(set(self.learning_rates), reverse=True)

    def _schedule(self, rate: float) -> Schedule:
        return Schedule(self.optimizer, rate, self.batch_size, self.epochs)


def _stage(stage: str, rate: float) -> str:
    return f"{stage}-{rate:g}"
