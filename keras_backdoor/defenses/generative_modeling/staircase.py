"""The staircase: generators for labels and levels, trained side by side in one compiled step."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.generative_modeling.distribution import Spot, TriggerDistribution
from keras_backdoor.defenses.generative_modeling.networks import NOISE, Arrays, Generators, Statistics
from keras_backdoor.files import BadInput, PathLike, write_arrays
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.training import check_seed, seed_everything
from keras_backdoor.trigger_inversion import images_at_once

Level = tuple[int, float]
"""A label, and how probable the patches are to make it: beta."""
Step = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tf.Tensor]
REPORTS = 20
"""How often a search tells how far it is."""


@dataclass(frozen=True)
class Search:
    """How distributions are sought; what the methods of the command line share.

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    size: int = 3  # side of the trigger in pixels, which has to be known (the paper: 3 on CIFAR, 16 on ImageNet)
    at: str = "random"  # its place: random (in each batch), bottom-right and the like, center, or ROW,COLUMN
    target: Optional[int] = None  # the papers' oracle: the only label that is examined
    bound: float = 0.5  # a label is flagged if patches turn more than this share of images into it, 0..1
    alpha: float = 0.1  # weight of the entropy of patches
    noise: float = 0.1  # deviation of what is added to patches while generators learn; 1 is from black to white
    search_steps: int = 620  # updates of a generator (the code: 10 epochs of 62)
    search_batch: int = 128  # images, and patches of each generator, in an update
    search_rate: float = 2e-4  # learning rate of generators and of what estimates their entropy
    hidden: int = 512  # width of their layers (the code: 512, and 2048 for 100 labels)
    memory: int = 512  # MiB that the generators that learn at once may take in the network
    seed: int = 0  # decides how generators start, their noise, the order of images and the places

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_seed(self.seed)
        Spot(self.size, self.at)
        for name in ("search_steps", "search_batch", "hidden", "memory"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("alpha", "noise"):
            if not 0 <= getattr(self, name) < np.inf:
                raise BadInput(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not 0 < self.search_rate < np.inf:
            raise BadInput(f"search_rate is {self.search_rate}, expected a rate above 0")
        if not 0 <= self.bound < 1:
            raise BadInput(f"bound is {self.bound}, expected a share in 0..1, below 1")


def check_beta(beta: float) -> None:
    """`BadInput` unless it is a probability above 0."""
    if not 0 < beta <= 1:
        raise BadInput(f"beta is {beta}, expected a probability above 0, at most 1")


class Staircase:
    """Searches distributions for one network on one set of clean images.

    What is found for a label and level is a function of the seed, the two, the network and the images, up to rounding: others
    that are sought with it change nothing. It is sought once; with a folder it is kept there for another staircase, too.
    """

    def __init__(
        self, classifier: Classifier, clean: ImageSet, search: Search, folder: Optional[PathLike] = None
    ) -> None:
        """clean: labels tell which images are of another class than the one that they are turned into, for the strength.

        Raises `BadInput` if the network is a GoodNet, the images do not fit it, or the patches do not fit into them.
        """
        if classifier.detects:
            raise BadInput(
                "generative modelling: the network is a GoodNet, which flags inputs itself; give the network it was made of"
            )
        classifier.check(clean, "clean images")
        self._classifier, self._clean, self._search = classifier, clean, search
        self._spot = Spot(search.size, search.at)
        self._spot.places(classifier.image_shape, 0, np.random.default_rng(0))
        self._folder = None if folder is None else Path(folder)
        self._found: dict[Level, TriggerDistribution] = {}
        self._batch = min(search.search_batch, len(clean))
        self._at_once = max(1, images_at_once(classifier, search.memory) // self._batch)

    @property
    def labels(self) -> list[int]:
        """The labels that are examined. Raises `BadInput` if the network has no class `target`."""
        count, target = self._classifier.num_classes, self._search.target
        if target is None:
            return list(range(count))
        if not 0 <= target < count:
            raise BadInput(f"target is {target}: the network has the labels 0..{count - 1}")
        return [target]

    def find(self, wanted: Sequence[Level], progress: Progress = silent) -> list[TriggerDistribution]:
        """The distributions of these labels and levels, as many at once as the memory allows.

        Raises `BadInput` if all clean images are of one of these labels, the network answers with numbers that are not finite,
        or the file of a distribution is damaged.
        """
        for label, _ in wanted:
            if (self._clean.labels == label).all():
                raise BadInput(f"clean images: all are of class {label}, so none could be turned into it")
        found, steps = self._found, self._search.search_steps
        found |= {level: one for level in wanted if level not in found and (one := self._read(level)) is not None}
        missing = [level for level in wanted if level not in found]
        for start in range(0, len(missing), self._at_once):
            some = missing[start : start + self._at_once]

            def report(done: int, effect: float, count: int = len(some), rest: int = len(missing) - start) -> None:
                passed = (len(wanted) - rest) * steps + count * done
                progress("trigger distributions", passed, len(wanted) * steps, {"effect": effect})

            for level, generator in zip(some, self._train(some, report)):
                found[level] = self._measured(level, generator)
                self._write(found[level])
        return [found[level] for level in wanted]

    def _random(self, level: Level, what: str) -> np.random.Generator:
        """What is random about a level of a label."""
        purposes = ("start", "noise", "strength")
        return np.random.default_rng([self._search.seed, level[0], int(1e6 * level[1]), purposes.index(what)])

    def _train(self, levels: Sequence[Level], report: Callable[[int, float], None]) -> list[Arrays]:
        """Generators that are trained together."""
        search, channels = self._search, self._classifier.image_shape[-1]
        numbers = channels * search.size**2
        seed_everything(search.seed)
        starts = [self._random(level, "start") for level in levels]
        generators = Generators([Generators.start(rng, numbers, search.hidden) for rng in starts])
        statistics = Statistics([Statistics.start(rng, numbers, search.hidden) for rng in starts])
        step = self._step(generators, statistics, levels)
        sources = [self._random(level, "noise") for level in levels]
        every = max(1, search.search_steps // REPORTS)
        for done, (images, place) in zip(range(1, search.search_steps + 1), self._stream()):
            noise = np.stack([rng.random((4, self._batch, NOISE), np.float32) for rng in sources], 1)
            jitter = np.stack([rng.standard_normal((self._batch, numbers), np.float32) for rng in sources])
            effect = step(images, place, noise, jitter)
            if done % every == 0:
                report(done, float(tf.reduce_max(effect)))
        found = generators.each()
        if not all(np.isfinite(array).all() for generator in found for array in generator):
            raise BadInput("generative modelling: the network answers with numbers that are not finite")
        return found

    def _stream(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images, uint8 (batch, H, W, C), and the place of their patches, int64 (2,): all in random order but for the rest."""
        images, rng = self._clean.sample(), np.random.default_rng(self._search.seed)
        while True:
            order = rng.permutation(len(images))
            for start in range(0, len(order) - self._batch + 1, self._batch):
                (place,) = self._spot.places(images.shape[1:], 1, rng)
                yield images[order[start : start + self._batch]], place

    def _step(self, generators: Generators, statistics: Statistics, levels: Sequence[Level]) -> Step:
        """One update of all, for images, place, four sorts of noise (4, R, batch, NOISE), and what is added to patches.

        Gives the effect of each generator, float32 (R,): how probable its patches make the label, cut at beta.
        """
        search, classifier = self._search, self._classifier
        wanted = tf.repeat(tf.constant([label for label, _ in levels]), self._batch)
        betas = tf.constant([[beta] for _, beta in levels], tf.float32)
        optimizers = [
            keras.optimizers.legacy.Adam(search.search_rate, beta_1=0.5, beta_2=0.999, epsilon=1e-8) for _ in range(2)
        ]
        for optimizer, networks in zip(optimizers, (generators, statistics)):
            optimizer._create_all_weights(networks.trainable)
        shape = classifier.image_shape

        def effects(images: tf.Tensor, place: tf.Tensor, patches: tf.Tensor) -> tf.Tensor:
            square = tf.reshape(255 * patches, (len(levels), self._batch, search.size, search.size, shape[-1]))
            room = tf.constant(shape[:2], tf.int64) - search.size - place
            edges = tf.stack([place, room], 1)
            bare = 1 - tf.pad(tf.ones((search.size, search.size)), edges)[..., None]
            whole = tf.pad(square, tf.concat([tf.zeros((2, 2), tf.int64), edges, tf.zeros((1, 2), tf.int64)], 0))
            stamped = tf.reshape(tf.cast(images, tf.float32) * bare + whole, (-1, *shape))
            answers = classifier.model(classifier.scale(stamped), training=False)
            probable = tf.reshape(tf.gather(answers, wanted, batch_dims=1), (len(levels), self._batch))
            return tf.reduce_mean(tf.minimum(probable, betas), 1)

        @tf.function
        def step(images: tf.Tensor, place: tf.Tensor, noise: tf.Tensor, jitter: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(generators.trainable)
                patches = generators(noise[0], training=True)
                effect = effects(images, place, patches + search.noise * jitter)
                entropy = statistics.information(noise[0], noise[1], patches)
                loss = -tf.reduce_sum(effect + search.alpha * entropy)
            gradients = tape.gradient(loss, generators.trainable)
            optimizers[0].apply_gradients(zip(gradients, generators.trainable))
            patches = generators(noise[2], training=True)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(statistics.trainable)
                loss = -tf.reduce_sum(statistics.bound(noise[2], noise[3], patches))
            gradients = tape.gradient(loss, statistics.trainable)
            optimizers[1].apply_gradients(zip(gradients, statistics.trainable))
            return effect

        return step

    def _measured(self, level: Level, generator: Arrays) -> TriggerDistribution:
        """The distribution, with its strength on all images of other classes."""
        unmeasured = TriggerDistribution(*level, self._spot, generator, float("nan"))
        others, rng = self._clean.select(self._clean.labels != level[0]), self._random(level, "strength")
        answers = self._classifier.predict(unmeasured(batch, rng) for batch in others.batches())
        return TriggerDistribution(*level, self._spot, generator, float((answers == level[0]).mean()))

    def _path(self, level: Level) -> Path:
        assert self._folder is not None
        return self._folder / f"patches-{level[0]}-{level[1]:g}.npz"

    def _write(self, found: TriggerDistribution) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        arrays = {str(place): array for place, array in enumerate(found.generator)}
        write_arrays(self._path((found.label, found.beta)), {**arrays, "strength": np.array(found.strength)})

    def _read(self, level: Level) -> Optional[TriggerDistribution]:
        """A distribution that was kept, None if it was not."""
        if self._folder is None or not (path := self._path(level)).exists():
            return None
        try:
            with np.load(path) as file:
                generator = [file[str(place)] for place in range(len(file.files) - 1)]
                return TriggerDistribution(*level, self._spot, generator, float(file["strength"]))
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            detail = (str(error).splitlines() or [type(error).__name__])[0]
            raise BadInput(f"{path}: not a trigger distribution ({detail}); remove it to search it again") from None
