"""ABS, artificial brain stimulation (Liu, Lee, Tao, Ma, Aafer and Zhang, CCS 2019): a backdoor is one neuron that decides alone.

A neuron is given other values than images give it, and everything else in its layer stays. If one label rises far above all
others in nearly all images, the neuron may be compromised: then a trigger is reversed that raises this neuron, a small patch or
a filter of the whole image. The network is backdoored if one turns more than 80 % of the images into that label (REASR).
Assumed: a few labelled images of each class, and one neuron that is enough. NNoculation (section 6.3) and the paper before it
(section 3.3) find that it misses a backdoor that opens only to two triggers together, as that takes several neurons.

The constants are those of the released code, which is for one network for CIFAR-10. What is more general here:
- A neuron is a channel of a convolution or a unit of a dense layer, behind the activation; the code takes it before, which with
  a ReLU is the same, as no value is negative. The last layer with weights and layers as wide as the output are left out.
- The largest patch is a share of the image: its 64 pixels of 32x32 (--size).
- The filter's penalty for images that are hardly the same counts by image (`feature_filter`).
- All candidates' triggers are tried on all images; the code first drops those below 60 % on the images they were made on.
Images that have the label anyway are counted, as in the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Optional

import numpy as np

from keras_backdoor.activations import without_softmax
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.artificial_brain_stimulation.candidates import Candidate, candidates
from keras_backdoor.defenses.artificial_brain_stimulation.feature_filter import FeatureFilter
from keras_backdoor.defenses.artificial_brain_stimulation.neurons import layers_of_neurons
from keras_backdoor.defenses.artificial_brain_stimulation.pixel_mask import PixelMask
from keras_backdoor.defenses.artificial_brain_stimulation.reversal import Kind, Reversal
from keras_backdoor.defenses.artificial_brain_stimulation.stimulation import Response, Stimulation
from keras_backdoor.defenses.kept import kept_arrays
from keras_backdoor.files import BadInput, PathLike, lookup
from keras_backdoor.images import ImageSet
from keras_backdoor.precision import PRECISIONS, computed_in
from keras_backdoor.progress import Progress, silent
from keras_backdoor.training import check_seed
from keras_backdoor.trigger_inversion import images_at_once
from keras_backdoor.verdict import StrengthVerdict

SHOWN = 6
"""Images that are shown with each label's trigger."""


@dataclass(frozen=True)
class ABS:
    """Stimulate neurons one by one, and flag the labels to which a small patch or a filter leads that raises a suspicious one.

    Finds backdoors that a single neuron decides on.

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    images: int = 50  # clean images that it looks at, evenly of all classes; triggers are made on the first third
    levels: int = 5  # values that a neuron is given, evenly spaced from 0
    reach: float = 8.0  # how far these go, in maxima of the layer (one level more would reach it)
    candidates: int = 20  # neurons out of which triggers are reversed (and one more, as in the released code)
    size: float = 0.0625  # share of the pixels that a patch may cover: 64 of 32x32
    filters: bool = True  # look for filters of the whole image, too
    updates: int = 1000  # of a trigger, by Adam
    bound: float = 0.8  # share of the images beyond which a trigger that turns so many is a backdoor (REASR)
    memory: int = 512  # MiB that the images may take in the network that go through it at once
    precision: str = "float32"  # of the network's passes; bfloat16 is faster where the processor has it
    seed: int = 0  # decides which images are taken, and where the optimisation starts

    def __post_init__(self) -> None:
        """Check the ranges."""
        lookup(self.precision, PRECISIONS, "precision", f"choose from {', '.join(PRECISIONS)}")
        check_seed(self.seed)
        for name, least in (("images", 3), ("levels", 2), ("candidates", 1), ("updates", 1), ("memory", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"{name} is {getattr(self, name)}, expected at least {least}")
        if not 0 < self.reach < np.inf:
            raise BadInput(f"reach is {self.reach}, expected a number above 0")
        for name in ("size", "bound"):
            if not 0 < getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}, expected a share between 0 and 1")

    def inspect(
        self,
        classifier: Classifier,
        clean: ImageSet,
        progress: Progress = silent,
        folder: Optional[PathLike] = None,
    ) -> StrengthVerdict:
        """Whether the network is backdoored. clean: labelled images.

        folder: where what is found is kept, layer by layer; a call with the same arguments goes on with what is there.
        Raises `BadInput` if `classifier` is a GoodNet, does not end in a softmax or has no neurons that could be stimulated, or
        takes other images, or a file in `folder` is damaged.
        """
        if classifier.detects:
            raise BadInput(
                'ABS: the network is a GoodNet, which says "backdoored input" itself; give the network it was made of'
            )
        classifier.check(clean, "clean images")
        model = without_softmax(classifier.model)
        model.set_weights(classifier.model.get_weights())
        layers = layers_of_neurons(model)
        if not layers:
            raise BadInput(
                "ABS: the network has no convolution or dense layer but its last one: no neuron to stimulate"
            )
        seen = clean.select(spread_over_classes(clean.labels, self.images, self.seed))
        keep = partial(kept_arrays, None if folder is None else Path(folder))
        at_once = images_at_once(classifier, self.memory)
        with computed_in(self.precision):
            responses = []
            for place, neurons in enumerate(layers):
                stimulation = Stimulation(classifier, model, neurons, self.levels, self.reach)
                respond = partial(_respond, stimulation, seen.images, at_once)
                responses.append(Response(**keep(f"stimulation-{place}", respond)))
                progress("stimulating layers", place + 1, len(layers), {})
            if not all(np.isfinite(response.gaps).all() for response in responses):
                raise BadInput("ABS: the network answers with numbers that are not finite, with a neuron stimulated")
            chosen = candidates(responses, seen.labels, self.candidates)
            work = [
                (
                    Reversal(classifier, model, neurons, kind, self.updates),
                    [one for one in chosen if one.layer == place],
                )
                for kind in self._kinds(classifier.image_shape)
                for place, neurons in enumerate(layers)
            ]
            tried = self._tried(
                [(reversal, own) for reversal, own in work if own], seen.images, at_once, keep, progress
            )
            return self._verdict(classifier.num_classes, seen.images, tried)

    def _kinds(self, image_shape: tuple[int, int, int]) -> list[Kind]:
        height, width, channels = image_shape
        patch = PixelMask(max(1, round(self.size * height * width)), image_shape)
        return [patch, FeatureFilter(channels)] if self.filters else [patch]

    def _tried(
        self,
        work: Sequence[tuple[Reversal, Sequence[Candidate]]],
        images: np.ndarray,
        at_once: int,
        keep: Callable[..., Mapping[str, np.ndarray]],
        progress: Progress,
    ) -> Iterator[tuple[int, float, np.ndarray]]:
        """For each kind and candidate: its label, the share of the images that its trigger turns, and some with it."""
        done, total, best = 0, sum(len(own) for _, own in work), 0.0
        made_on = images[: len(images) // 3]

        def told(finished: int) -> None:
            progress("reversing triggers", finished, total, {"strongest": best})

        def tried(reversal: Reversal, some: Sequence[Candidate]) -> dict[str, np.ndarray]:
            numbers = [one.number for one in some]
            generators = [np.random.default_rng([self.seed, 1, one.layer, one.number]) for one in some]

            def report(updates: int) -> None:
                if updates < self.updates:
                    told(done + len(some) * updates // self.updates)

            stamped = reversal.stamped(reversal.triggers(numbers, generators, made_on, report), images)
            answers = np.stack([reversal.classifier.predict([row]) for row in stamped])
            labels = np.array([[one.label] for one in some])
            return {"strengths": (answers == labels).mean(1), "examples": stamped[:, :SHOWN]}

        for reversal, own in work:
            size = max(1, at_once // len(made_on))
            for start in range(0, len(own), size):
                some = own[start : start + size]
                name = f"{reversal.kind.name}-{some[0].layer}-{start}"
                arrays = keep(name, partial(tried, reversal, some))
                done, best = done + len(some), max(best, *arrays["strengths"].tolist())
                told(done)
                yield from zip([one.label for one in some], arrays["strengths"].tolist(), arrays["examples"])

    def _verdict(
        self, num_classes: int, images: np.ndarray, tried: Iterable[tuple[int, float, np.ndarray]]
    ) -> StrengthVerdict:
        strengths = np.full(num_classes, np.nan)
        examples: dict[int, np.ndarray] = {}
        for label, strength, stamped in tried:
            if label not in examples or strength > strengths[label]:
                strengths[label], examples[label] = strength, stamped
        shown = [examples[label][None] for label in sorted(examples)]
        return StrengthVerdict.of(strengths, self.bound, np.concatenate([images[None, :SHOWN][:0], *shown]))


def _respond(stimulation: Stimulation, images: np.ndarray, at_once: int) -> dict[str, np.ndarray]:
    return vars(stimulation.response(images, at_once))


def spread_over_classes(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Places of `count` images, or of all if there are fewer, int64: one of each class in turn, at random, as far as they go."""
    order = np.random.default_rng([seed, 0]).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        turn[own] = np.arange(len(own))
    return order[np.argsort(turn[order], kind="stable")][:count]
