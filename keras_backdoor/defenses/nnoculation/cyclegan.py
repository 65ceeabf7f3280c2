"""CycleGAN (Zhu, Park, Isola and Efros, ICCV 2017): from two sets of images, without pairs, to a map between them and back.

Two generators, G from A to B and F from B to A, and a discriminator for each domain, all of `models_zoo`. A discriminator gives 1
for real images and 0 for made ones, by least squares. The generators minimise, for images a and b,

    (D_A(F(b)) - 1)^2 + (D_B(G(a)) - 1)^2 + 10 |F(G(a)) - a| + 10 |G(F(b)) - b|,

means over patches or pixels. An iteration is that of CycleGAN-Keras, which NNoculation used (its section 4 and appendix name no
other): each discriminator is updated on real images, then on made ones that went through a pool, each loss weighted by 0.5; then
both generators on the ones just made. Images are drawn with replacement; an epoch has as many of each domain as the larger
domain has.

Papers and code disagree:
- Zhu et al. update a discriminator once an iteration, on real and made images together; here as in the code, which does it twice.
- They draw each image of a domain once an epoch.
- They draw initial weights from N(0, 0.02); the code's are Keras's.
- They hold the rate for the first half of the epochs and let it fall linearly to 0 over the second: the default here. The
  code's is constant (`decay=0`). Its own decay, if switched on, begins at epoch 101, and takes lr / denominator an iteration,
  with (epochs - 101)(2 n + iterations - 1) for the discriminators and (epochs - 101)(n + iterations - 1) for the generators
  (1.1 times as much with the identity loss), n = max(|A|, |B|). As both rates fall once an iteration, but the discriminators'
  denominator counts 2 n, theirs ends at half of what it was: a slip, and not offered.
- The code's discriminators share one Adam's count of steps, and so do its generators and the identity loss, which changes the
  first steps of the moments' correction a little; here each kind of update has a count of its own.
- The code's history calls the cycle losses adversarial, and the other way round. Here each has its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from keras_backdoor.defenses.nnoculation.cyclegan_networks import IDENTITY_LOSSES, LOSSES, Networks, exchange
from keras_backdoor.defenses.nnoculation.cyclegan_record import STAGE, Record, check_same_training, samples
from keras_backdoor.defenses.nnoculation.translator import B_TO_A, Translator, check_images, padded
from keras_backdoor.distribution import active
from keras_backdoor.files import BadInput, PathLike
from keras_backdoor.progress import Progress, silent
from keras_backdoor.training import check_seed, forget_checkpoint, seed_everything

LOOKS = 2
"""How many looks in a row have to find what is made good enough for the training to end."""
LEAST = 0.1
"""Share of good images that has to be reached before the training ends because no look finds more."""


@dataclass(frozen=True)
class CycleGAN:
    """Learn to translate between two domains.

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    width: int = 32  # filters of the generators' first layer (the code: 32; NNoculation's table 18: 64)
    blocks: int = 9  # residual blocks of a generator
    discriminator_width: int = 64  # filters of the discriminators' first layer
    epochs: int = 200  # passes over the larger domain
    batch_size: int = 1  # images of each domain an iteration; devices share a multiple of their number
    learning_rate: float = 2e-4  # of Adam, at the start, for all networks
    decay: float = 0.5  # share of the epochs, at the end, over which the rate falls linearly to 0 (the code: 0)
    cycle: float = 10.0  # weight of the cycle losses, lambda
    identity: int = 0  # iterations between updates for G(b) = b and F(a) = a; 0: none (the code's option: 10)
    pool: int = 50  # images that a pool holds
    look: int = 5  # epochs between two strips of samples, and two looks at whether what is made is good enough
    enough: float = 0.8  # share of the images made from A; above it at two looks in a row, the training ends
    patience: int = 5  # it ends, too, when the greatest share, 0.1 or more, is so many looks old; 0: never
    seed: int = 0  # decides initial weights, the order of images, and what the pools exchange

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_seed(self.seed)
        for name in ("width", "blocks", "discriminator_width", "epochs", "batch_size", "pool", "look"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}, expected at least 1")
        if not 0 < self.learning_rate < np.inf:
            raise BadInput(f"learning rate is {self.learning_rate}, expected a number above 0")
        if not 0 <= self.cycle < np.inf:
            raise BadInput(f"cycle is {self.cycle}, expected a weight of 0 or more")
        if self.patience < 0:
            raise BadInput(f"patience is {self.patience}, expected 0 (never) or a number of looks")
        if self.identity < 0:
            raise BadInput(f"identity is {self.identity}, expected 0 (none) or a number of iterations")
        for name in ("decay", "enough"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} is {getattr(self, name)}, expected a share in 0..1")

    def fit(
        self,
        a: np.ndarray,
        b: np.ndarray,
        folder: Optional[PathLike] = None,
        progress: Progress = silent,
        stop: Optional[Callable[[np.ndarray], float]] = None,
    ) -> Translator:
        """Train on images of two domains, uint8 (N, H, W, C) of one H, W and C, 1 or 3.

        Sizes that are no multiples of 4 are mirrored up to the next ones below and to the right.

        folder: if given, a checkpoint is kept there after each epoch, and history.csv, samples and TensorBoard logs; at last the
            generators (`Translator.load`). A call with the same arguments after a kill goes on with the last whole epoch and
            ends with the same weights, to the bit; if all was done, it reads the generators.
        progress: told after each epoch, with the means of the losses: squares and distances, without their weights.
        stop: the share of images that are good enough, 0..1, among those made from all of `a`. Asked every `look` epochs;
            `learned` says when its answers end the training.

        Raises `BadInput` if the images are none of the above, or the folder holds a training with other settings or images.
        """
        for name, images in (("images of A", a), ("images of B", b)):
            check_images(images, name)
        if a.shape[1:] != b.shape[1:]:
            sizes = ["x".join(map(str, images.shape[1:])) for images in (a, b)]
            raise BadInput(f"images of A are {sizes[0]}, those of B {sizes[1]}; expected one size")
        folder = None if folder is None else Path(folder)
        if folder:
            check_same_training(folder, {**asdict(self), "images of A": _digest(a), "images of B": _digest(b)})
            if (folder / B_TO_A).exists():  # is written last
                forget_checkpoint(folder, STAGE)
                return Translator.load(folder)
        domains = [padded(images) for images in (a, b)]
        seed_everything(self.seed)
        networks = Networks(
            domains[0].shape[1:],
            self.width,
            self.blocks,
            self.discriminator_width,
            self.pool,
            self.cycle,
            identity=self.identity > 0,
            setup=active().sharing(self.batch_size),
        )
        translator = Translator(there=networks.generators[1], back=networks.generators[0])
        record = Record(folder, networks)
        for epoch in range(int(record.epoch.numpy()), self.epochs):
            if self.learned(record.shares):
                break
            figures = {"learning_rate": self.rate(epoch), **self._train(networks, domains, epoch)}
            look = (epoch + 1) % self.look == 0 or epoch + 1 == self.epochs
            share = float(stop(translator.a_to_b(a))) if stop and look else None
            strip = samples(translator, a, b) if folder and look else None
            record.add({**figures, "share": share}, strip)
            progress(STAGE, epoch + 1, self.epochs, figures if share is None else {**figures, "share": share})
        record.finish(translator)
        return translator

    def learned(self, shares: Sequence[float]) -> bool:
        """Whether the training ends after looks that found these shares of good images, all of them, in their order.

        It does if the last two are above `enough`; or if the greatest is at least 0.1 and the first one as great was followed by
        `patience` others. The second rule is for domains of which nobody knows how many images of B are good themselves: what is
        made can be as good as they are, but need not become better.
        """
        if len(shares) >= LOOKS and min(shares[-LOOKS:]) > self.enough:
            return True
        best = max(shares, default=0.0)
        return self.patience > 0 and best >= LEAST and len(shares) - 1 - shares.index(best) >= self.patience

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, 0-based: constant, then down in equal steps; the last step to 0 comes after the end."""
        falling = round(self.decay * self.epochs)
        return self.learning_rate * min(1.0, (self.epochs - epoch) / (falling + 1))

    def _train(self, networks: Networks, domains: list[np.ndarray], epoch: int) -> dict[str, float]:
        """Train for an epoch; gives the means of the losses. What is random depends on the seed and the epoch alone."""
        networks.set_rate(self.rate(epoch))
        draws, exchanges = (np.random.default_rng([self.seed, epoch, which]) for which in range(2))
        iterations = -(-max(map(len, domains)) // self.batch_size)
        indices = [draws.integers(len(images), size=(iterations, self.batch_size)) for images in domains]
        losses, identity_losses = [], []
        for i in range(iterations):
            batches = [images[order[i]] for images, order in zip(domains, indices)]
            stored = min(self.pool, (epoch * iterations + i) * self.batch_size)
            passed = [exchange(stored, self.batch_size, self.pool, exchanges) for _ in domains]
            losses.append(networks.train_step(batches, passed).numpy())
            if self.identity and i % self.identity == 0:
                identity_losses.append(networks.identity_step(batches).numpy())
        means = dict(zip(LOSSES, np.mean(losses, 0, dtype=np.float64).tolist()))
        if identity_losses:
            means |= dict(zip(IDENTITY_LOSSES, np.mean(identity_losses, 0, dtype=np.float64).tolist()))
        return means


def _digest(images: np.ndarray) -> str:
    """SHA-256 of shape and pixels."""
    return hashlib.sha256(repr(images.shape).encode() + np.ascontiguousarray(images).tobytes()).hexdigest()
