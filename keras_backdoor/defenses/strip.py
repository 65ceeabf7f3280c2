"""STRIP (Gao, Xu, Wang, Chen, Ranasinghe and Nepal, ACSAC 2019): backdoored inputs keep their answer, whatever is laid over them.

Each input is blended with N clean images. A clean input then looks now like this class, now like that, and the network wavers;
a trigger survives the blending, and the network says its target almost every time. The score is the entropy of the answers, over
classes, in bits, averaged over the N overlays; below what clean images show, the input is flagged. The network stays as it is.
Assumed: clean images (no labels), and a trigger that turns all inputs into one class. Both papers that compare it find that it
fails where the target depends on the input (all-to-all).

The algorithm "superimposes" two images and does not say how; the released code adds them with weights 1 and 1, unclipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Callable

import numpy as np
import tensorflow as tf

from keras_backdoor import distribution, replicas
from keras_backdoor.classifier import Classifier
from keras_backdoor.detection import normal_threshold, quantile_threshold
from keras_backdoor.files import BadInput, lookup
from keras_backdoor.images import ImageSet
from keras_backdoor.precision import PRECISIONS, computed_in
from keras_backdoor.progress import Progress, silent
from keras_backdoor.training import check_seed

BLENDINGS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "sum": tf.identity,
    "saturating": lambda total: tf.minimum(total, 255.0),
    "half": lambda total: total / 2,
}
"""What becomes of the sum of two images' pixels, 0..510, before it is scaled.

`sum` is the released code: with its inputs of pixel/255, what the network sees lies in 0..2. Whatever the scaling, the pixels are
added and the result is scaled once, as one picture would be: with `standardise` the mean is subtracted once and not twice, which
for `unit` and `raw` is the same. `saturating` clips at 255, as the addition of uint8 images in WaNet's code does.
"""
THRESHOLDS = {"normal": normal_threshold, "quantile": quantile_threshold}
"""How the preset false-rejection rate becomes a threshold: the entropy that this share of clean images does not exceed, or the
normal fit of paper and released code. The fit takes entropies to be spread evenly round their mean. A network that is sure of
itself has many near zero and few large ones: the fit's tail lies below zero, nothing is flagged, and the preset rate is not met
(docs/results.md). So the quantile is the default, against the rule that paper and code decide.
"""
FEWEST = 20
"""Clean images below which a fit says nothing about the share of 1 % in its tail."""
HASTE = 0.0005
"""Share of clean inputs that may be flagged at an early look though all overlays would clear them."""


@dataclass(frozen=True)
class Strip:
    """Flag inputs whose answer hardly changes when clean images are laid over them.

    With first_overlays, inputs are looked at after that many overlays, twice as many, and so on, and only those that are still
    open get more. Raises `BadInput` if a hyper-parameter is out of its range.
    """

    overlays: int = 100  # clean images that each input is blended with (the released code: 100)
    blending: str = "sum"  # sum (the released code), saturating (clipped at white) or half (50/50)
    false_rejection_rate: float = 0.01  # share of clean inputs that may be flagged; the papers: 0.01, 0.03, 0.05
    threshold: str = "quantile"  # how that share sets it: quantile (of clean entropies) or normal (the paper's fit)
    first_overlays: int = 0  # overlays after which clear cases are decided, others go on; 0: all inputs get all
    backgrounds: int = 2000  # clean images, at most, that the threshold is fitted on (the released code: 2000)
    memory: int = 256  # MiB that a batch of blended images may take in the network
    precision: str = "float32"  # of the network's passes; bfloat16 is faster where the processor has it
    seed: int = 0  # decides which images are laid over which

    def __post_init__(self) -> None:
        """Check the ranges."""
        lookup(self.blending, BLENDINGS, "blending", f"choose from {', '.join(BLENDINGS)}")
        lookup(self.threshold, THRESHOLDS, "threshold", f"choose from {', '.join(THRESHOLDS)}")
        lookup(self.precision, PRECISIONS, "precision", f"choose from {', '.join(PRECISIONS)}")
        check_seed(self.seed)
        for name, least in (("overlays", 1), ("backgrounds", FEWEST), ("memory", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"{name} is {getattr(self, name)}, expected at least {least}")
        if not 0 < self.false_rejection_rate < 1:
            raise BadInput(f"false_rejection_rate is {self.false_rejection_rate}, expected a fraction between 0 and 1")
        if self.first_overlays != 0 and not 2 <= self.first_overlays < self.overlays:
            raise BadInput(
                f"first_overlays is {self.first_overlays}, expected 0, or 2 or more and fewer than overlays ({self.overlays})"
            )

    def fit_filter(self, classifier: Classifier, clean: ImageSet, progress: Progress = silent) -> StripFilter:
        """A filter whose threshold is fitted on `clean`, images that the network was not trained on; their labels are not used.

        They are the backgrounds of the fit, and then the overlays of every input. An image is never laid over itself.

        Raises `BadInput` if `classifier` is a GoodNet, or `clean` does not fit it, is too small, or all of it has one entropy.
        """
        if classifier.detects:
            raise BadInput(
                'STRIP: the network is a GoodNet, which says "backdoored input" itself; give the network it was made of'
            )
        classifier.check(clean, "clean images")
        distinct = {_fingerprint(image): image for image in clean.sample()}
        if len(distinct) < FEWEST:
            raise BadInput(
                f"clean images: {len(distinct)} different ones are too few to fit STRIP's threshold, expected at least {FEWEST}"
            )
        pool = np.stack(list(distinct.values()))
        places = {fingerprint: place for place, fingerprint in enumerate(distinct)}
        entropies = _entropies(classifier, pool, BLENDINGS[self.blending])
        unfitted = StripFilter(self, classifier, places, entropies, -np.inf, np.empty((0, self.overlays)))
        chosen = np.sort(np.random.default_rng(self.seed).permutation(len(pool))[: self.backgrounds])
        backgrounds = ImageSet(pool[chosen], np.zeros(len(chosen)), 1)
        found = unfitted._batches(backgrounds, unfitted._over, progress)
        threshold = THRESHOLDS[self.threshold](found.mean(1), self.false_rejection_rate)
        return replace(unfitted, threshold=threshold, clean_entropies=found)


@dataclass(frozen=True, eq=False)
class StripFilter:
    """An `InputFilter`; its scores are mean entropies in bits. `dataclasses.replace` gives one with another threshold.

    places: fingerprints of the overlays, and where in the pool they are. entropies: what `_entropies` gives.
    clean_entropies: of the backgrounds, each under its overlays, in bits, float64 (M, overlays).
    """

    settings: Strip
    classifier: Classifier
    places: Mapping[int, int]
    entropies: Callable[[tuple[np.ndarray, np.ndarray], np.ndarray], tf.Tensor]
    threshold: float
    clean_entropies: np.ndarray

    @property
    def clean_scores(self) -> np.ndarray:
        """What the threshold was fitted on, float64 (M,): the scores that the backgrounds get under all overlays."""
        return self.clean_entropies.mean(1)

    def flags(self, images: ImageSet, progress: Progress = silent) -> np.ndarray:
        """Which images are taken for backdoored, bool (N,)."""
        return self.scores(images, progress) <= self.threshold

    def scores(self, images: ImageSet, progress: Progress = silent) -> np.ndarray:
        """The mean entropy of each image, in bits, float64 (N,); with first_overlays, over as many as decided it.

        Which overlays an image gets follows from its pixels and the seed: its score is the same in whatever company, every time.
        Raises `BadInput` if the images do not fit the network.
        """
        self.classifier.check(images, "images")
        return self._batches(images, self._mean, progress)

    @cached_property
    def looks(self) -> list[tuple[int, float]]:
        """After how many overlays inputs are looked at, and up to which sum of entropies they are flagged then.

        To clear an input early is never wrong, as entropies are not negative: a sum that is too large for all overlays stays so.
        To flag it is a guess, learned from the backgrounds: at most `HASTE` of them would be flagged in error. Each counts
        several times, with its overlays begun with another one, as their order is random.
        """
        first, overlays = self.settings.first_overlays or self.settings.overlays, self.settings.overlays
        limit = self.threshold * overlays
        starts = range(0, overlays, max(first, overlays // 10))
        sums = np.concatenate([np.roll(self.clean_entropies, -start, axis=1).cumsum(1) for start in starts])
        sums, looks, wrong = sums[sums[:, -1] > limit], [], 0
        allowed = HASTE * len(self.clean_entropies) * len(starts)
        for count in range(first, overlays, first):
            sums = sums[sums[:, count - 1] <= limit]
            so_far = np.sort(sums[:, count - 1])
            more = int(allowed * (count / overlays) ** 2) - wrong  # little at first, when one knows little
            most = self.threshold * count
            if more < len(so_far):
                most = min(most, float(np.nextafter(so_far[more], -np.inf)))
            looks.append((count, most))
            wrong += int((so_far <= most).sum())
            sums = sums[sums[:, count - 1] > most]
        return [*looks, (overlays, -np.inf)]

    def _batches(
        self, images: ImageSet, work: Callable[[np.ndarray, np.ndarray], np.ndarray], progress: Progress
    ) -> np.ndarray:
        """What `work` makes of batches of images and their overlays, in one array."""
        parts, done = [], 0
        for batch in images.batches(max(1, 40 * self._size // self.settings.overlays)):
            parts.append(work(batch, np.stack([self._draw(image) for image in batch])))
            done += len(batch)
            progress("STRIP", done, len(images), {})
        return np.concatenate(parts)

    def _draw(self, image: np.ndarray) -> np.ndarray:
        """The overlays of `image`, places in the pool, int32 (overlays,), with replacement as in the released code."""
        fingerprint, count = _fingerprint(image), len(self.places)
        own = self.places.get(fingerprint, count)
        generator = np.random.default_rng([self.settings.seed, fingerprint])
        drawn = generator.integers(count - (own < count), size=self.settings.overlays, dtype=np.int32)
        return drawn + (drawn >= own)

    def _mean(self, batch: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Mean entropies, float64 (B,), of uint8 images (B, H, W, C) under overlays int32 (B, overlays), or the first few."""
        total, seen, still, start = np.zeros(len(batch)), np.zeros(len(batch)), np.arange(len(batch)), 0
        for stop, most in self.looks:
            total[still] += self._over(batch[still], drawn[still, start:stop]).sum(1)
            seen[still] = start = stop
            still = still[(total[still] > most) & (total[still] <= self.threshold * drawn.shape[1])]
        return total / seen

    def _over(self, batch: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Entropies float64 (B, n) of uint8 images (B, H, W, C) under the overlays int32 (B, n)."""
        images, overlays = np.repeat(np.arange(len(batch), dtype=np.int32), drawn.shape[1]), drawn.reshape(-1)
        entropies = np.empty(drawn.size)
        with computed_in(self.settings.precision):
            for start in range(0, drawn.size, self._size):
                part = slice(start, start + self._size)
                entropies[part] = self.entropies((images[part], overlays[part]), batch)
        return entropies.reshape(drawn.shape)

    @cached_property
    def _size(self) -> int:
        """How many images go through the network at once: what passes its widest layer fits the budget of each device."""
        widest = max(
            sum(int(np.prod(tensor.shape[1:])) for tensor in tf.nest.flatten([node.keras_inputs, node.outputs]))
            for layer in self.classifier.model.layers
            for node in layer.inbound_nodes
        )
        return max(1, (self.settings.memory << 20) // (4 * widest)) * distribution.active().replicas


def _entropies(
    classifier: Classifier, pool: np.ndarray, blending: Callable[[tf.Tensor], tf.Tensor]
) -> Callable[[tuple[np.ndarray, np.ndarray], np.ndarray], tf.Tensor]:
    """One graph from places in B and in the pool, both int32 (P,), and uint8 images (B, H, W, C), to bits, float32 (P,)."""
    overlays, model = tf.constant(pool), replicas.replicated(classifier.model)
    places = tf.TensorSpec((None,), tf.int32)

    def entropies(pairs: tuple[tf.Tensor, tf.Tensor], images: tf.Tensor) -> tf.Tensor:
        below, above = pairs
        total = tf.cast(tf.gather(images, below), tf.float32) + tf.cast(tf.gather(overlays, above), tf.float32)
        answers = model(classifier.scale(blending(total)), training=False)
        return -tf.reduce_sum(tf.math.xlogy(answers, answers), -1) / np.log(2)

    return replicas.by_rows(entropies, [(places, places), tf.TensorSpec((None, *classifier.image_shape), tf.uint8)])


def _fingerprint(image: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "little")
