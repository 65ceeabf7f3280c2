"""The four networks of a CycleGAN in training: their losses, the order of their updates, and the pools of made images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

import models_zoo
from keras_backdoor.defenses.nnoculation.translator import as_inputs
from keras_backdoor.distribution import ONE_DEVICE, Setup
from keras_backdoor.replicas import averaged, gathered, on_all, part

Pair = Sequence[tf.Tensor]
"""Something of domain A, and of domain B."""
DISCRIMINATOR_WEIGHT = 0.5
LOSSES = (
    *(f"discriminator_{domain}_{kind}" for kind in ("real", "made") for domain in "ab"),
    *(f"{kind}_{domain}" for kind in ("adversarial", "cycle") for domain in "ab"),
)
"""Names of what `Networks.train_step` gives, in its order."""
IDENTITY_LOSSES = ("identity_a", "identity_b")


class Networks:
    """Generators, discriminators, their optimizers and pools; in each pair, what makes, judges or holds images of A comes first.

    shape: (H, W, C) of the images, H and W multiples of 4. width, blocks: of the generators. discriminator_width: of the others.
    pool: images that each pool holds. cycle: weight of the cycle losses. identity: whether there will be an `identity_step`.
    setup: on whose replicas a batch is spread, which has to be a multiple of their number.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int,
        blocks: int,
        discriminator_width: int,
        pool: int,
        cycle: float,
        identity: bool = False,
        setup: Setup = ONE_DEVICE,
    ) -> None:
        with setup.scope():
            self._make(shape, width, blocks, discriminator_width, pool, identity)
        self._cycle = cycle
        self.train_step = on_all(setup, self._train_step)
        self.identity_step = on_all(setup, self._identity_step)

    def _make(
        self, shape: tuple[int, ...], width: int, blocks: int, discriminator_width: int, pool: int, identity: bool
    ) -> None:
        """Everything that has variables."""
        self.generators = [
            models_zoo.build("cyclegan-generator", input_shape=shape, width=width, blocks=blocks) for _ in "ab"
        ]
        self.discriminators = [models_zoo.build("patchgan", input_shape=shape, width=discriminator_width) for _ in "ab"]
        same = tf.VariableAggregation.ONLY_FIRST_REPLICA  # all replicas put the same into a pool
        self.pools = [tf.Variable(tf.zeros((pool, *shape)), trainable=False, aggregation=same) for _ in "ab"]
        self._made = [variable for model in self.generators for variable in model.trainable_variables]
        self._judging = [variable for model in self.discriminators for variable in model.trainable_variables]
        variables = {"generators": self._made, "discriminators": self._judging}
        if identity:
            variables["identity"] = self._made
        # The legacy one updates a variable in one operation, in a third of the time; there are more variables than pixels.
        self._optimizers = {
            name: keras.optimizers.legacy.Adam(beta_1=0.5, beta_2=0.999, epsilon=1e-7) for name in variables
        }
        for name, optimizer in self._optimizers.items():
            # What it would make itself later, so that `train_step` would be traced twice.
            _ = optimizer.iterations
            for moment in ("m", "v"):
                for variable in variables[name]:
                    optimizer.add_slot(variable, moment)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of all optimizers."""
        for optimizer in self._optimizers.values():
            optimizer.learning_rate.assign(rate)

    def checkpoint(self, **more: tf.Variable) -> tf.train.Checkpoint:
        """All that another training would need to go on from here, and `more`."""
        return tf.train.Checkpoint(
            generators=self.generators,
            discriminators=self.discriminators,
            pools=self.pools,
            optimizers=self._optimizers,
            **more,
        )

    def _train_step(self, images: Pair, exchanges: Sequence[Pair]) -> tf.Tensor:
        """One update of the generators and two of the discriminators; gives the `LOSSES` before them, float32 (8,).

        images: uint8 (n, H, W, C), of A and of B. exchanges: what `exchange` gave for each pool.
        """
        reals = [as_inputs(part(batch)) for batch in images]
        with tf.GradientTape() as tape:
            fakes = [generator(real, training=True) for generator, real in zip(self.generators, reals[::-1])]
            with tape.stop_recording():
                pooled = [self._pass(*arguments) for arguments in zip(self.pools, fakes, exchanges)]
                judged = [*self._train_discriminators(reals, 1.0), *self._train_discriminators(pooled, 0.0)]
            # The generators are as they were, so that the fresh images need not be made again; the discriminators are not.
            adversarial = [_squares(judge(fake, training=True), 1.0) for judge, fake in zip(self.discriminators, fakes)]
            cycled = [generator(fake, training=True) for generator, fake in zip(self.generators, fakes[::-1])]
            cycles = [_distance(image, real) for image, real in zip(cycled, reals)]
            loss = tf.add_n(adversarial) + self._cycle * tf.add_n(cycles)
        self._update("generators", tape.gradient(loss, self._made), self._made)
        return tf.stack(averaged([*judged, *adversarial, *cycles]))

    def _train_discriminators(self, images: Pair, answer: float) -> list[tf.Tensor]:
        """One update towards an answer. One of both is the same as one of each: they share nothing."""
        with tf.GradientTape() as tape:
            losses = [
                _squares(judge(batch, training=True), answer) for judge, batch in zip(self.discriminators, images)
            ]
            loss = DISCRIMINATOR_WEIGHT * tf.add_n(losses)
        self._update("discriminators", tape.gradient(loss, self._judging), self._judging)
        return losses

    def _identity_step(self, images: Pair) -> tf.Tensor:
        """One update of each generator towards leaving alone what it should make; gives the `IDENTITY_LOSSES` before it."""
        reals = [as_inputs(part(batch)) for batch in images]
        with tf.GradientTape() as tape:
            losses = [
                _distance(generator(real, training=True), real) for generator, real in zip(self.generators, reals)
            ]
            loss = tf.add_n(losses)
        self._update("identity", tape.gradient(loss, self._made), self._made)
        return tf.stack(averaged(losses))

    def _update(self, name: str, gradients: Sequence[tf.Tensor], variables: Sequence[tf.Variable]) -> None:
        """Apply gradients of the means of a part, or of all, of the batch."""
        pairs = zip(averaged(gradients), variables)
        self._optimizers[name].apply_gradients(pairs, experimental_aggregate_gradients=False)

    @staticmethod
    def _pass(pool: tf.Variable, fakes: tf.Tensor, exchange: Pair) -> tf.Tensor:
        """What a pool gives for the images made."""
        shown, kept = exchange
        both = tf.concat([pool, gathered(fakes)], 0)
        pool.assign(tf.gather(both, kept))
        return tf.gather(both, part(shown))


def exchange(stored: int, fresh: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """How a pool of `size` images, `stored` of them in use, exchanges `fresh` new ones, one after the other.

    Until the pool is full, an image is stored and shown. Then, with a probability of one half, a random one of the pool is shown
    and the new one takes its place; else the new one is shown and not stored (Shrivastava et al. 2017, as in CycleGAN).

    The images in the pool have the numbers 0..size-1, the new ones size..size+fresh-1. Gives the numbers of those that are shown,
    int32 (fresh,), and of those that the pool holds afterwards, int32 (size,).
    """
    kept = np.arange(size, dtype=np.int32)
    shown = np.arange(size, size + fresh, dtype=np.int32)
    for i in range(fresh):
        if stored < size:
            kept[stored] = size + i
            stored += 1
        elif rng.random() < 0.5:
            place = rng.integers(size)
            shown[i], kept[place] = kept[place], size + i
    return shown, kept


def _squares(answers: tf.Tensor, wanted: float) -> tf.Tensor:
    return tf.reduce_mean((answers - wanted) ** 2)


def _distance(images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.abs(images - others))
