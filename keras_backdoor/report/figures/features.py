"""Where images lie in the space of a network's features: on a plane that keeps what varies most, or what is near."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from inspect import signature

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from keras_backdoor.files import printable
from keras_backdoor.report.drawing import ATTACKS, CLEAN, styled_map

COMPONENTS = 50
"""Principal components that t-SNE starts from, as is usual."""
STEPS = 500
"""Of t-SNE's optimisation; with more, a few hundred images do not move any further."""
LOOKS = ((CLEAN, "o"), (ATTACKS[0][0], "x"), (ATTACKS[1][0], "^"), (ATTACKS[2][0], "s"))
"""Colour and marker of the first kind, the second …; beyond the last, they start again."""


@styled_map
def feature_maps(kinds: Mapping[str, np.ndarray], seed: int = 0) -> Figure:
    """Features of several kinds of images, on the plane of the first two principal components, and by t-SNE.

    kinds: of each by name (clean, triggered), one row an image, float (N, D); D is the same in all, and at least 4 images in all.
    seed: of t-SNE's optimisation.
    """
    features = np.concatenate([np.asarray(own, np.float64) for own in kinds.values()])
    kind = np.repeat(np.arange(len(kinds)), [len(own) for own in kinds.values()])
    components = _principal(features, min(COMPONENTS, *features.shape))
    panels = {"principal components": components[:, :2], "t-SNE": _neighbours(components, seed)}
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    for axes, (title, places) in zip(figure.subplots(1, 2), panels.items()):
        for which in range(len(kinds)):
            colour, marker = LOOKS[which % len(LOOKS)]
            own = places[kind == which]
            # As pixels: hundreds of marks are smaller so than as shapes.
            axes.plot(*own.T, marker, color=colour, markersize=3, markeredgewidth=0.9, alpha=0.7, rasterized=True)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set(visible=True, color="#808080", linewidth=0.8)
    lines = [
        Line2D([], [], color=colour, marker=marker, linewidth=0, markersize=5)
        for colour, marker in (LOOKS[which % len(LOOKS)] for which in range(len(kinds)))
    ]
    names = [f"{printable(name, 50)} ({len(own)})" for name, own in kinds.items()]
    figure.legend(lines, names, loc="outside lower left", frameon=False)
    return figure


def _principal(features: np.ndarray, count: int) -> np.ndarray:
    """The first principal components of the rows, (N, at least 2); the largest loading of each is positive, to settle signs."""
    centred = features - features.mean(0)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(np.take_along_axis(right, np.abs(right).argmax(1)[:, None], 1)[:, 0])
    found = (left * sizes * np.where(signs == 0, 1, signs))[:, :count]
    return np.pad(found, ((0, 0), (0, max(0, 2 - found.shape[1]))))


def _neighbours(features: np.ndarray, seed: int) -> np.ndarray:
    """t-SNE of the rows, (N, 2), from the first two principal components."""
    return _embedded(features.tobytes(), features.shape, seed)


@lru_cache(maxsize=16)
def _embedded(content: bytes, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The same for features, float64, given by their bytes: a page may show those of a network and of copies of it."""
    from sklearn.manifold import TSNE

    features = np.frombuffer(content).reshape(shape)
    spread = features[:, :2].std()
    start = features[:, :2] / (spread or 1) * 1e-4
    perplexity = min(30.0, (len(features) - 1) / 3)
    steps = "max_iter" if "max_iter" in signature(TSNE).parameters else "n_iter"  # until scikit-learn 1.4
    return TSNE(perplexity=perplexity, init=start, random_state=seed, n_jobs=1, **{steps: STEPS}).fit_transform(
        features
    )
