"""What TensorBoard shows of a finished run, besides what training wrote while it went on: `tensorboard --logdir FOLDER`.

Scalars: curves of pruning against the number of channels, and the search of a scan for triggers, step by step. Images: reversed
triggers. In the HParams tab: every run with its hyper-parameters and final rates, and every network of a sweep.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hyper_parameters

from keras_backdoor.files import PathLike
from keras_backdoor.report.inspection import read_found, read_inspection
from keras_backdoor.report.run_folder import RunFolder, read_run

HOME = "tensorboard"
SWEPT = ("learning_rate", "channels", "gamma")
"""What the networks of a sweep differ in."""

Curves = Mapping[str, Mapping[int, float]]
"""Values by step, by tag."""


def log_run(folder: PathLike) -> None:
    """Write the logs of the run in `folder` into `tensorboard/` in it, in place of those of an earlier call.

    Nothing is written of a run that is not finished. Raises `BadInput` if the run's files are not what they should be.
    """
    run = read_run(Path(folder))
    if run is None:
        return
    _write(run, "result", _final(run), _settings(run))
    for place, step in enumerate(run.metrics.get("steps", [])):
        if "learning_rate" in step:
            swept = {name: step[name] for name in SWEPT if name in step}
            _write(run, f"sweep/{place:03}", _rates(step["after"]), {**_settings(run), **swept})
    if (curve := run.curve()) is not None:
        for name, rates in zip(("curve", "curve-goodnet"), curve):
            if rates:
                _write(run, name, dict(_by_channel(*rates)))
    for name, curves, images in _search(run):
        _write(run, name, curves, images=images)


def _final(run: RunFolder) -> Curves:
    """The rates that the run ended with, and what a detector says."""
    metrics = run.metrics
    curves: dict[str, Mapping[int, float]] = {}
    scores = metrics.get("after") or metrics.get("badnet") or metrics.get("clean")
    if scores:
        curves |= _rates(scores)
    for part in ("verdict", "sifted", "filter"):
        told = metrics.get(part) or {}
        curves |= {f"{part}/{name}": {0: value} for name, value in told.items() if isinstance(value, (int, float))}
    return curves


def _rates(scores: Mapping[str, Any]) -> dict[str, Mapping[int, float]]:
    """With the highest attack success under a name of its own, as triggers are called otherwise in other runs."""
    attacks = scores["attack_success_rate"]
    told = {
        "clean_accuracy": scores["clean_accuracy"],
        **{f"attack_success_rate/{name}": attacks[name] for name in attacks},
    }
    told |= {"attack_success_rate": max(attacks.values())} if attacks else {}
    return {name: {0: rate} for name, rate in told.items()}


def _settings(run: RunFolder) -> dict[str, Any]:
    """The hyper-parameters, and what they are of."""
    metrics = run.metrics
    known = {name: metrics[name] for name in ("recipe", "method", "model", "seed", "epochs") if name in metrics}
    own = {name: value for name, value in metrics.get("settings", {}).items() if name not in ("name", "summary")}
    return {**own, **known}


def _by_channel(clean_accuracy: Any, attack_success: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[int, float]]]:
    yield "clean_accuracy", dict(enumerate(clean_accuracy))
    for name, rates in attack_success.items():
        yield f"attack_success_rate/{name}", dict(enumerate(rates))


def _search(run: RunFolder) -> Iterator[tuple[str, Curves, Mapping[str, np.ndarray]]]:
    """Of a scan for triggers: the norms of all labels, and for those that the report shows, how their triggers were found."""
    inspection = read_inspection(run)
    if inspection is None:
        return
    yield "norms", {"norm of the label": dict(zip(inspection.labels.tolist(), inspection.norms.tolist()))}, {}
    for found in read_found(run, inspection) or ():
        cost, success, norm = ({step: float(value) for step, value in enumerate(column)} for column in found.history.T)
        mask, pattern = found.mask[..., None].astype(np.float32), found.pattern.astype(np.float32) / 255
        images = {"mask": mask, "pattern": pattern, "mask x pattern": mask * pattern}
        yield f"label-{found.label}", {"attack success": success, "norm": norm, "cost of the mask": cost}, images


def _write(
    run: RunFolder,
    name: str,
    curves: Curves,
    settings: Optional[Mapping[str, Any]] = None,
    images: Optional[Mapping[str, np.ndarray]] = None,
) -> None:
    """One of the logs. settings: for the HParams tab. images: float32 (H, W, 1 or 3), 0..1."""
    home = run.folder / HOME / name
    shutil.rmtree(home, ignore_errors=True)
    with tf.summary.create_file_writer(str(home)).as_default():
        if settings is not None:
            hyper_parameters.hparams(
                {key: _plain(value) for key, value in settings.items()}, trial_id=f"{run.name}/{name}"
            )
        for tag, values in curves.items():
            for step, value in values.items():
                tf.summary.scalar(tag, value, step)
        for tag, image in (images or {}).items():
            tf.summary.image(tag, image[None], 0)


def _plain(value: Any) -> Any:
    """A hyper-parameter as TensorBoard takes it."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)
