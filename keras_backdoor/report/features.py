"""What a run kept of its network's features, the values that the last layer sees: read, and drawn."""

from __future__ import annotations

from typing import Optional

import numpy as np
from matplotlib.figure import Figure

from keras_backdoor.files import BadInput
from keras_backdoor.report.figures import feature_maps
from keras_backdoor.report.run_folder import RunFolder

FEATURES = ("clean", "triggered", "labels", "targets")
FEWEST = 10
"""Images below which there is nothing to see."""


def features_figure(run: RunFolder) -> Optional[Figure]:
    """Where clean and triggered images lie; None if the run has no features. Raises `BadInput` as `read_features` does."""
    kinds = read_features(run)
    return feature_maps(kinds) if kinds else None


def read_features(run: RunFolder) -> Optional[dict[str, np.ndarray]]:
    """Features by kind of image, float (N, D): clean, clean ones of the target label if there is but one, and triggered.

    None if the run has no such file, or it has too few images. Raises `BadInput` if it is not what it should be.
    """
    path = run.folder / "features.npz"
    arrays = run.arrays(path.name, FEATURES)
    if arrays is None:
        return None
    clean, triggered, labels, targets = (arrays[name] for name in FEATURES)
    shapes = clean.ndim == triggered.ndim == 2 and clean.shape[1:] == triggered.shape[1:]
    if not shapes or labels.shape != clean.shape[:1] or targets.shape != triggered.shape[:1] or not clean.shape[1]:
        raise BadInput(f"{path}: expected features (N, D) of clean and triggered images, with a label for each")
    if not all(own.dtype.kind == "f" and np.isfinite(own).all() for own in (clean, triggered)):
        raise BadInput(f"{path}: expected finite numbers as features")
    if min(len(clean), len(triggered)) < FEWEST:
        return None
    kinds = {"clean images": clean, "triggered images": triggered}
    if len(np.unique(targets)) == 1 and 0 < (own := labels == targets[0]).sum() < len(labels):
        kinds["clean images"] = clean[~own]
        kinds["clean images of the target label"] = clean[own]
    return kinds
