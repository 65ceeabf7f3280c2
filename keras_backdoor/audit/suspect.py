"""What the stages of an audit are given, and what they share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Optional

import numpy as np
import tensorflow as tf

from keras_backdoor.audit.evidence import Found
from keras_backdoor.classifier import Classifier
from keras_backdoor.images import ImageSet
from keras_backdoor.precision import computed_in
from keras_backdoor.progress import Progress

TRIED, SHOWN = 500, 6
"""Images that a trigger is tried on, and that are shown with it."""

Change = Callable[[np.ndarray], np.ndarray]
"""What puts a trigger on uint8 images (N, H, W, C)."""

ANY = -1
"""Instead of a label: whatever the network takes an image for."""
Example = tuple[int, Change, int]
"""A label, what leads to it, and what images must have been taken for before, or `ANY`."""


@dataclass(frozen=True, eq=False)
class Suspect:
    """The network that is looked at, and what the user has.

    clean: images in memory; their labels are the network's own answers if the user's are not known (`labelled`). inputs: images
    that the user finds suspicious. precision: in which the network computes. folder: in which each stage has one of its own.
    mntd_cache: folder of shadow networks. seed: decides everything random.
    """

    classifier: Classifier
    clean: ImageSet
    labelled: bool
    inputs: Optional[ImageSet]
    precision: str
    folder: Path
    mntd_cache: Optional[str] = None
    seed: int = 0

    def home(self, stage: str) -> Path:
        """The folder in which a stage keeps what it has done so far."""
        folder = self.folder / stage
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def probabilities(self) -> np.ndarray:
        """What the network says of the clean images, float32 (N, K)."""
        return self.classifier.probabilities(self.clean.batches())

    @cached_property
    def seconds_a_pass(self) -> float:
        """How long an image takes on its way through the network and back."""
        batch = self.clean.images[np.resize(np.arange(len(self.clean)), 64)].astype(np.float32)

        @tf.function
        def there_and_back(pixels: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(pixels)
                answers = self.classifier.model(self.classifier.scale(pixels), training=False)
                total = tf.reduce_sum(tf.square(answers))
            return tape.gradient(total, pixels)

        with computed_in(self.precision):
            there_and_back(tf.constant(batch))
            started = time.perf_counter()
            for _ in range(3):
                there_and_back(tf.constant(batch)).numpy()
        return (time.perf_counter() - started) / (3 * len(batch))

    def examples(self, triggers: Sequence[Example]) -> dict[str, np.ndarray]:
        """Clean images without and with each trigger, those that it is to change, as far as there are such; `TRIED` at most.

        `labels`, `sources` (E,), `images` and `stamped` uint8 (E, n, H, W, C), `answers` and `stamped_answers` (E, n), `turned`,
        share of all such images that get the label (E,), and `pictures` (E, H, W, C), the triggers on grey.
        """
        answers = self.probabilities.argmax(-1)
        rows = []
        for label, change, source in triggers:
            others = np.flatnonzero(answers != label if source == ANY else answers == source)
            if not len(others):
                continue
            others = others[np.unique(np.linspace(0, len(others) - 1, TRIED).astype(int))]
            stamped = change(self.clean.images[others])
            said = self.classifier.predict(ImageSet(stamped, np.zeros(len(others)), 1).batches())
            shown = np.linspace(0, len(others) - 1, SHOWN).round().astype(int)
            row = (label, source, self.clean.images[others[shown]], stamped[shown], answers[others[shown]], said[shown])
            grey = np.full((1, *self.classifier.image_shape), 128, np.uint8)
            rows.append((*row, float(np.mean(said == label)), change(grey)[0]))
        names = ("labels", "sources", "images", "stamped", "answers", "stamped_answers", "turned", "pictures")
        return {name: np.array(column) for name, column in zip(names, zip(*rows))}


@dataclass(frozen=True)
class Stage:
    """One way to look at a network.

    seeks: what it looks for, as part of a sentence. passes: how many images go through the network and back for it, about; for
    the budget. unfit: why it cannot look at this suspect, or "". thorough: whether it runs with `--thorough` alone.
    """

    name: str
    seeks: str
    look: Callable[[Suspect, Progress], Found]
    passes: Callable[[Suspect], float]
    unfit: Callable[[Suspect], str] = lambda suspect: ""
    thorough: bool = False
