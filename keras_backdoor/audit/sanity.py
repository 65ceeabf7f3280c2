"""The first look at a network: what it says of clean images, and whether its weights are odd."""

from __future__ import annotations

import numpy as np

from keras_backdoor.activations import convolutions, dead_channels, last_layer
from keras_backdoor.audit.evidence import Found
from keras_backdoor.audit.suspect import Suspect
from keras_backdoor.progress import Progress
from keras_backdoor.verdict import deviations_below, spread

FOREIGN = 0.5
"""Accuracy, or without labels mean confidence, below which clean images look foreign to the network."""


def sanity(suspect: Suspect, progress: Progress) -> Found:
    """Answers to clean images, dead channels, and labels whose weights in the last layer are larger than other labels'.

    That layer sees a backdoor's target more often than it should, which raises the target's mean weight (Fields et al., Trojan
    Signatures in DNN Weights, 2021). The statistic is how many deviations the largest lies above the median.
    """
    said = []
    if suspect.labelled:
        said.append(f"it is right on {_share(accuracy(suspect))} of the clean images")
    said.append(f"its mean confidence is {_share(confidence(suspect))}")
    counts = np.bincount(suspect.probabilities.argmax(-1), minlength=suspect.classifier.num_classes)
    label, share = int(counts.argmax()), counts.max() / counts.sum()
    said.append(f"its most frequent answer is {label} ({_share(share)})")
    dead = [dead_channels(layer) for layer in convolutions(suspect.classifier.model).values()]
    if silent := sum(int(one.sum()) for one in dead):
        said.append(f"{silent} of {sum(map(len, dead))} channels are dead, as pruning leaves them")
    above = weights_above(suspect)
    odd = int(above.argmax())
    said.append(f"the weights of label {odd} stand out most, by {above[odd]:.1f} deviations")
    sentence = "; ".join(said)
    progress("sanity", 1, 1, {})
    return Found(float(above[odd]), dict(enumerate(above.tolist())), sentence[0].upper() + sentence[1:] + ".")


def accuracy(suspect: Suspect) -> float:
    """Share of clean images that get their label."""
    return float(np.mean(suspect.probabilities.argmax(-1) == suspect.clean.labels))


def confidence(suspect: Suspect) -> float:
    """Mean probability of the answers to clean images."""
    return float(suspect.probabilities.max(-1).mean())


def foreign(suspect: Suspect) -> bool:
    """Whether the clean images look foreign to the network."""
    return (accuracy(suspect) if suspect.labelled else confidence(suspect)) < FOREIGN


def weights_above(suspect: Suspect) -> np.ndarray:
    """How many deviations the mean weight of each label in the last layer lies above the median, float64 (K,)."""
    kernel = last_layer(suspect.classifier.model)[0].get_weights()[0]
    if kernel.shape[-1] != suspect.classifier.num_classes:
        return np.zeros(suspect.classifier.num_classes)
    means = -kernel.reshape(-1, kernel.shape[-1]).mean(0, dtype=np.float64)
    return deviations_below(means, *spread(means))


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"
