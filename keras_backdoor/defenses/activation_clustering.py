"""Activation clustering (Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy and Srivastava, SafeAI@AAAI 2019).

Poisoned images of a class get its label for another reason than the others, and so excite the network's second to last layer in
another way. Of each class, these activations are reduced to a few components and divided into two clusters. An innocent class
is divided somewhere in the middle; where the clusters stand apart (silhouette) and one is small (relative size), that one is
poisoned. Assumed: a network that was trained on the poisoned set, and that most images of each class are clean. Where they are
not, as in `mnist-patch`, whose zeros are stamped for the most part, the clusters are right and the smaller one is clean.

--trusted is ours and needs no such assumption: of two clusters that stand apart, the one is poisoned, of whatever size, that next
to none of some clean images of the class are in. These must be like the clean training images. Where they are not, as the
held-out signs of GTSRB, which are on other films, innocent clusters miss them, too.

The paper gives relative size and silhouette as two ways to analyse clusters, and as a third one exclusionary reclassification: a
network is trained without a cluster, which is poisoned if more of its images get one other class than their own. That is not
here, as it was no help: without the clean zeros of `mnist-patch` a network takes them for twos; without half of the innocent
ones, it takes most of these for sevens. The authors' code has a choice: by default it flags the smaller cluster of every class
(--largest 0.5 --silhouette -1), which throws away two fifths of an innocent set; `relative-size` is --silhouette -1;
`silhouette-scores` is both rules together, as here. Its reduction is PCA by default, and the paper's is ICA. Its bound of 0.1 on
the silhouette fits ICA, with which classes of innocent MNIST networks have 0.08 to 0.18. With PCA, innocent classes that are
divided as unevenly have up to 0.25, and poisoned ones of networks that were trained to the end 0.30 and more, so the default here
is 0.28. That was chosen on a few MNIST networks; a BadNet of 1,360 digits has 0.26, and its poisoned images are not found, and
many innocent classes of traffic signs, which are films of a few signs, have more.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional

import numpy as np
from scipy.linalg import eigh
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score

from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import read_images
from keras_backdoor.defenses.units import units
from keras_backdoor.files import BadInput, lookup
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.sifted import Sifted
from keras_backdoor.training import check_seed

REDUCTIONS = ("pca", "ica")
FEWEST = 10
"""Images of a class below which it is not judged."""
SELDOM, EXPECTED = 0.2, 5
"""A cluster is poisoned if less than this share of the trusted images that its size lets expect are in it; and the least number
that these must be."""


@dataclass(frozen=True, eq=False)
class Halves:
    """Two clusters of one class. centres: float64 (2, components), of the smaller one first. share: the smaller one's, 0..0.5."""

    centres: np.ndarray
    share: float
    silhouette: float

    def scores(self, reduced: np.ndarray) -> np.ndarray:
        """How much nearer points, float64 (N, components), are to the smaller cluster's centre than to the other, (N,), -1..1."""
        near, far = cdist(self.centres, reduced)
        return (far - near) / (far + near)


@dataclass(frozen=True)
class ActivationClustering:
    """Divide the training images of each class in two by their activations; flag the smaller cluster if it stands apart.

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    components: int = 10  # that activations are reduced to (paper and code: 10)
    reduction: str = "pca"  # to principal components, pca (the code's default), or independent ones, ica (the paper)
    largest: float = 0.35  # share of its class that a flagged cluster has at most (the code: 0.35); 0.5: any
    silhouette: float = 0.28  # of its clusters, that a flagged class exceeds (the code: 0.1, which fits ica); -1: any
    trusted: Optional[str] = None  # file of clean images like those trained on; they judge clusters, not size
    layer: Optional[str] = None  # convolution whose channels are looked at instead of the second to last layer
    seed: int = 0  # decides where the search for components and clusters starts

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_seed(self.seed)
        lookup(self.reduction, REDUCTIONS, "reduction", f"choose from {', '.join(REDUCTIONS)}")
        if self.components < 1:
            raise BadInput(f"components is {self.components}, expected at least 1")
        if not 0 < self.largest <= 0.5:
            raise BadInput(
                f"largest is {self.largest}, expected a share above 0, up to 0.5: of two clusters the smaller"
            )
        if not -1 <= self.silhouette < 1:
            raise BadInput(f"silhouette is {self.silhouette}, expected a number from -1 to below 1")

    def sift(self, classifier: Classifier, training: ImageSet, progress: Progress = silent) -> Sifted:
        """Scores and flags of the images that `classifier` was trained on, under the labels that it was trained with.

        A score says how much nearer an image is to the centre of its class's suspect cluster than to the other one's, -1..1;
        it is above 0 within it, whether or not that is flagged. The suspect cluster is the smaller one, or that which has fewer
        trusted images than its size lets expect. Of each class: its `share`, the `silhouette`, and, with trusted images, the
        share of the class's that are in it (`trusted`; NaN if there are none).
        A class with fewer than 10 images, or whose images are all the same to the network, is not judged.
        Raises `BadInput` if the images do not fit the network, it has no such layer, or no class can be judged.
        """
        classifier.check(training, "training images")
        looked_at = units(classifier, self.layer)
        labels, trusted = np.unique(training.labels), self._trusted(classifier)
        known = None if trusted is None else (trusted.labels, looked_at.activations(trusted))
        activations = looked_at.activations(training)
        scores, flags = np.full(len(training), np.nan), np.zeros(len(training), bool)
        names = ("share", "silhouette", *(() if trusted is None else ("trusted",)))
        by_class = {name: np.full(training.num_classes, np.nan) for name in names}
        for done, label in enumerate(labels, start=1):
            members = np.flatnonzero(training.labels == label)
            reduce = self._reduction(activations[members]) if len(members) >= FEWEST else None
            if reduce is not None:
                reduced = reduce(activations[members])
                halves = self.clusters(reduced)
                side, share, flagged = 1, halves.share, halves.share <= self.largest
                if known is not None and (own := known[0] == label).any():
                    inside = float(np.mean(halves.scores(reduce(known[1][own])) > 0))
                    if inside / share > (1 - inside) / (1 - share):
                        side, share, inside = -1, 1 - share, 1 - inside
                    expected = share * own.sum()
                    flagged = expected >= EXPECTED and inside < SELDOM * share
                    by_class["trusted"][label] = inside
                scores[members] = side * halves.scores(reduced)
                by_class["share"][label], by_class["silhouette"][label] = share, halves.silhouette
                flags[members] = (scores[members] > 0) & flagged & (halves.silhouette > self.silhouette)
            progress("activation clustering", done, len(labels), {})
        if np.isnan(scores).all():
            raise BadInput(
                f"training images: no class has {FEWEST} images that are different to the network, so none can be judged"
            )
        return Sifted(scores, flags, by_class)

    def clusters(self, reduced: np.ndarray) -> Halves:
        """Two clusters of one class: float64 (N, components), not all the same."""
        found = KMeans(2, n_init=10, random_state=self.seed).fit(reduced)
        sizes = np.bincount(found.labels_, minlength=2)
        centres = found.cluster_centers_[np.argsort(sizes, kind="stable")]
        return Halves(centres, float(sizes.min() / len(reduced)), float(silhouette_score(reduced, found.labels_)))

    def _reduction(self, activations: np.ndarray) -> Optional[Callable[[np.ndarray], np.ndarray]]:
        """What makes (M, components) of activations (M, U), or as few as those of one class, (N, U), span; None if these are all
        the same."""
        if not np.ptp(activations, axis=0).any():
            return None
        values, width = activations.astype(np.float64), activations.shape[1]
        centre = values.mean(0)
        values -= centre
        first = max(0, width - min(self.components, len(values)))
        variances, directions = eigh(values.T @ values, subset_by_index=(first, width - 1))
        rounding = np.finfo(np.float32).eps * np.abs(activations).max() * np.sqrt(len(activations))
        directions = directions[:, np.sqrt(variances.clip(0)) > rounding][:, ::-1]

        def principal(others: np.ndarray) -> np.ndarray:
            return (others.astype(np.float64) - centre) @ directions

        if not directions.size or self.reduction == "pca":
            return principal if directions.size else None
        # Some never settle; what 1000 steps give is used then, as in the authors' code.
        independent = FastICA(whiten="unit-variance", max_iter=1000, tol=0.005, random_state=self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            independent.fit(principal(activations))
        return lambda others: independent.transform(principal(others))

    def _trusted(self, classifier: Classifier) -> Optional[ImageSet]:
        """The trusted images, None if there are none."""
        if self.trusted is None:
            return None
        images = read_images(self.trusted, classifier.num_classes)
        classifier.check(images, self.trusted)
        return images
