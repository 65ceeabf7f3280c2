"""The anti-repaired network: a detector of triggers from a network whose clean behaviour is broken on purpose.

An early layer's channels that clean images excite most are zeroed until the network no longer knows clean images. A trigger may
still get through; so an input on which the suspect and this network agree is flagged, and the suspect's word counts elsewhere.
Assumed: a small set of clean, labelled images, and that the backdoor does not need the same channels.

Source: repository of the course project "Comparative Analysis of Defenses against the Backdoor Attacks" (Ye, Bamigbade,
Babushkin), on conv_2 of DeepID. Channels were chosen there by eye, with that of one reference channel as the least activation;
the four networks kept 0.5 to 9 % of validation accuracy. Its attack success counts what is not flagged, target or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

import numpy as np
from tensorflow import keras

from keras_backdoor.activations import convolution, convolutions
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.step import Step, Stepwise
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.pruning import Cut, prune


@dataclass(frozen=True)
class AntiRepair(Stepwise):
    """Break clean behaviour and keep the backdoor, by pruning the channels that clean images excite most.

    The GoodNet flags where this network and the suspect agree. The pruned network's own clean accuracy is meant to be low.
    """

    max_accuracy: float = 0.1  # stop at this accuracy on the clean images (the project's networks: 0.005 to 0.09)
    reference: Optional[int] = None  # instead, prune every channel that is at least as active as this one
    layer: Optional[str] = None  # convolution to prune; by default the one before that of fine-pruning (DeepID: conv_2)

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 <= self.max_accuracy <= 1:
            raise BadInput(f"max_accuracy is {self.max_accuracy}, expected a fraction in 0..1")

    def steps(self, classifier: Classifier, clean: ImageSet, progress: Progress = silent) -> Iterator[Step]:
        """One network. Raises `BadInput` if `clean` does not fit, or there is no such layer or channel."""
        classifier.check(clean, "clean images")
        cut = Cut(classifier, self.layer or _convolution_before(classifier.model))
        means = cut.means(clean)
        loudest = np.argsort(-means, kind="stable")
        if self.reference is not None:
            if not 0 <= self.reference < len(means):
                raise BadInput(f"reference channel {self.reference}: {cut.layer} has channels 0..{len(means) - 1}")
            count = int((means >= means[self.reference]).sum())
        else:
            accuracy = (cut.answers(loudest, clean, progress) == clean.labels).mean(1)
            low = accuracy <= self.max_accuracy
            count = int(low.argmax()) if low.any() else len(means)
        done = {"channels": count}
        yield Step(prune(classifier, cut.layer, loudest[:count]), done, "", agreement=True)


def _convolution_before(model: keras.Model) -> str:
    names = list(convolutions(model))
    place = names.index(convolution(model).name)
    if not place:
        raise BadInput(f"there is no convolution before {names[0]}; name a layer with --layer")
    return names[place - 1]
