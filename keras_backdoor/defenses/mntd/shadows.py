"""Shadow networks: many copies of one architecture, trained in one graph on the defender's images, each with a trojan or none.

Each network has its own initial weights, order of images, poisoned copies and optimizer, all from the seed, its kind and its
number: it becomes what it would become alone, to the bit. In the graph they stand side by side, so that cores work on different
networks and need not share one, and the work around the steps is done once for all. Any layer may be in them.

To stack their weights, and make one operation of theirs, is slower on processors, which have arithmetic enough in each one: of an
MNIST network, a step takes 7 ms of one core so, 13 with `tf.vectorized_map`, and 36 with batched products (im2col).
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.mntd.jumbo import ATTACKS, Trojan
from keras_backdoor.files import BadInput, PathLike, lookup, write_arrays, write_json
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.training import check_seed, seed_everything

Weights = list[np.ndarray]
"""What `keras.Model.get_weights` gives."""

INNOCENT = "innocent"
KINDS = (INNOCENT, *ATTACKS)
"""Kinds of networks: innocent, or trojaned by one of the attacks. Their places decide the randomness: add new ones at the end."""

STEPS = 50
"""Steps that are one call of the graph."""

ABOUT = "shadows.json"


@dataclass(frozen=True)
class ShadowTraining:
    """How a shadow network is trained: Adam, cross-entropy. Raises `BadInput` if a number is out of its range."""

    epochs: int = 100
    batch_size: int = 100
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_seed(self.seed)
        if self.epochs < 1 or self.batch_size < 1 or not 0 < self.learning_rate < np.inf:
            raise BadInput(
                f"epochs ({self.epochs}) and batch size ({self.batch_size}) of the shadow networks must be at least 1, "
                f"and their learning rate ({self.learning_rate}) above 0"
            )


class Shadows:
    """The shadow networks of one architecture, one scaling, and one set of clean images.

    With a folder, each is kept there as soon as those that are trained with it are done, and what is there is not trained again:
    after a kill, in another run, or for another suspect. The folder of a network is named by a digest of all that it depends on.
    """

    def __init__(
        self,
        network: Classifier,
        clean: ImageSet,
        training: ShadowTraining,
        at_once: int = 32,
        folder: Optional[PathLike] = None,
    ) -> None:
        """network: what they are to look like; its weights play no part. at_once: how many are trained together.

        Raises `BadInput` if the images do not fit the network.
        """
        network.check(clean, "clean images")
        if at_once < 1:
            raise BadInput(f"at_once is {at_once}, expected at least 1")
        self._network, self._clean, self._training, self._at_once = network, clean.in_memory(), training, at_once
        about = {
            "architecture": _architecture(network.model),
            "preprocessing": network.preprocessing.as_json(),
            "num_classes": network.num_classes,
            "clean": clean.fingerprint(),
            "training": asdict(training),
        }
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        self._folder = None if folder is None else Path(folder) / digest[:20]
        self._about = about

    @property
    def folder(self) -> Optional[Path]:
        """Where the networks are kept, if they are; named by all that they depend on."""
        return self._folder

    def networks(self, kind: str, numbers: Sequence[int], progress: Progress = silent) -> list[Weights]:
        """The weights of the networks of a kind with these numbers. Raises `BadInput` if the file of one is damaged."""
        lookup(kind, KINDS, "kind of network")
        found = {number: weights for number in numbers if (weights := self._read(kind, number)) is not None}
        missing = [number for number in numbers if number not in found]
        for start in range(0, len(missing), self._at_once):
            some = missing[start : start + self._at_once]

            def report(share: float, loss: float, count: int = len(some)) -> None:
                progress(f"{kind} shadow networks", len(found) + int(share * count), len(numbers), {"loss": loss})

            for number, weights in zip(some, self._train(kind, some, report)):
                self._write(kind, number, weights)
                found[number] = weights
        return [found[number] for number in numbers]

    def trojan(self, number: int, attack: str = ATTACKS[0]) -> Trojan:
        """The trojan of a network."""
        rng = self._random(attack, number, "trojan")
        return Trojan.draw(attack, self._network.image_shape, self._network.num_classes, rng)

    def _random(self, kind: str, number: int, what: str) -> np.random.Generator:
        """What is random about a network, which depends on no other one."""
        purposes = ("weights", "trojan", "copies", "order", "layers")
        return np.random.default_rng([self._training.seed, KINDS.index(kind), number, purposes.index(what)])

    def _train(self, kind: str, numbers: Sequence[int], report: Callable[[float, float], None]) -> Iterator[Weights]:
        """Networks that are trained together."""
        settings = self._training
        seed_everything(settings.seed)
        models = []
        for number in numbers:
            keras.utils.set_random_seed(int(self._random(kind, number, "weights").integers(2**31)))
            models.append(keras.models.clone_model(self._network.model))
            _reset(models[-1], self._random(kind, number, "layers"))
        pool, members = self._pool(kind, numbers)
        orders = [
            list(_batches(one, settings, self._random(kind, number, "order"))) for number, one in zip(numbers, members)
        ]
        train = _trainer(self._network, models, pool, settings.learning_rate)
        total = max(map(len, orders))
        for start in range(0, total, STEPS):
            places = np.full((min(STEPS, total - start), len(models), settings.batch_size), -1, np.int32)
            for which, order in enumerate(orders):
                for step, batch in enumerate(order[start : start + STEPS]):
                    places[step, which, : len(batch)] = batch
            loss = train(places)
            report((start + len(places)) / total, float(loss))
        return (model.get_weights() for model in models)

    def _pool(self, kind: str, numbers: Sequence[int]) -> tuple[ImageSet, list[np.ndarray]]:
        """The clean images with all poisoned copies behind them, and for each network the places of its images in that."""
        clean, sets = self._clean, [self._clean]
        members = [np.arange(len(clean))] * len(numbers)
        if kind != INNOCENT:
            sets += [
                self.trojan(number, kind).copies(clean, self._random(kind, number, "copies")) for number in numbers
            ]
            ends = np.cumsum([len(one) for one in sets])
            members = [
                np.concatenate([all_, np.arange(*span)]) for all_, span in zip(members, zip(ends[:-1], ends[1:]))
            ]
        images = np.concatenate([one.images for one in sets])
        return ImageSet(images, np.concatenate([one.labels for one in sets]), clean.num_classes), members

    def _path(self, kind: str, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{kind}-{number:04}.npz"

    def _read(self, kind: str, number: int) -> Optional[Weights]:
        """A network that was kept, None if it was not."""
        if self._folder is None or not (path := self._path(kind, number)).exists():
            return None
        shapes = [variable.shape for variable in self._network.model.weights]
        try:
            with np.load(path) as file:
                weights = [file[str(place)] for place in range(len(shapes))]
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            detail = (str(error).splitlines() or [type(error).__name__])[0]
            raise BadInput(f"{path}: not a shadow network ({detail}); remove it to train it again") from None
        if [one.shape for one in weights] != shapes or not all(np.isfinite(one).all() for one in weights):
            raise BadInput(f"{path}: not weights of this architecture; remove it to train it again")
        return weights

    def _write(self, kind: str, number: int, weights: Weights) -> None:
        if self._folder is None:
            return
        if not (self._folder / ABOUT).exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / ABOUT, self._about)
        write_arrays(self._path(kind, number), {str(place): array for place, array in enumerate(weights)})


def _architecture(model: keras.Model) -> Any:
    """The layers of a network, without its own name, as JSON holds them."""
    return {name: value for name, value in json.loads(model.to_json())["config"].items() if name != "name"}


def _reset(model: keras.Model, rng: np.random.Generator) -> None:
    """Give the layers that draw something while they train (dropout) states of this network's own."""
    for layer in model.submodules:
        state = getattr(getattr(layer, "_random_generator", None), "_generator", None)
        if state is not None:
            state.reset_from_seed(int(rng.integers(2**31)))


def _batches(members: np.ndarray, settings: ShadowTraining, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The images of every step, as places in the pool: all in random order, then all in another one, and so on."""
    for _ in range(settings.epochs):
        order = rng.permutation(members)
        for start in range(0, len(order), settings.batch_size):
            yield order[start : start + settings.batch_size]


def _trainer(
    network: Classifier, models: Sequence[keras.Model], pool: ImageSet, learning_rate: float
) -> Callable[[np.ndarray], tf.Tensor]:
    """A function that trains each network on its batches, int32 (steps, networks, images), -1 where there is none.

    A network without an image in a step is over, and stays as it is. Gives the mean of the last losses.
    """
    images, labels = tf.constant(pool.images), tf.constant(pool.labels)
    optimizers = [keras.optimizers.legacy.Adam(learning_rate, epsilon=1e-7) for _ in models]
    for optimizer, model in zip(optimizers, models):
        optimizer._create_all_weights(model.trainable_variables)

    def update(model: keras.Model, optimizer: Any, batch: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            answers = model(network.scale(tf.gather(images, batch)), training=True)
            losses = keras.losses.sparse_categorical_crossentropy(tf.gather(labels, batch), answers)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    @tf.function(input_signature=[tf.TensorSpec((None, len(models), None), tf.int32)])
    def train(places: tf.Tensor) -> tf.Tensor:
        losses = tf.zeros(len(models))
        for step in tf.range(tf.shape(places)[0]):
            found = []
            for which, (model, optimizer) in enumerate(zip(models, optimizers)):
                batch = places[step, which]
                batch = tf.boolean_mask(batch, batch >= 0)
                found.append(
                    tf.cond(
                        tf.size(batch) > 0,
                        lambda m=model, o=optimizer, b=batch: update(m, o, b),
                        lambda: tf.constant(np.nan),
                    )
                )
            losses = tf.where(tf.math.is_nan(found), losses, found)
        return tf.reduce_mean(losses)

    return train
