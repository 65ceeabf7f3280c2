"""From a vetted copy of a file to plain data: a configuration, what we know of it, and arrays.

This is what the gate's own process writes, and all that the process with TensorFlow ever reads: JSON, and numbers in a row.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from keras_backdoor.gate import archive, hdf5, strict_json
from keras_backdoor.gate.config import vet, vet_training
from keras_backdoor.gate.network import Network, Weights, stored_paths, weights_of
from keras_backdoor.gate.report import Findings, Stop

ATTRIBUTE = "keras_backdoor"
"""Root attribute of our files: JSON with what plain Keras has no place for."""

OTHER_GROUPS = ("optimizer_weights", "optimizer", "metrics", "loss_tracker")
"""State of a training, which is not used."""


MOST_WEIGHTS = 64
"""Of one layer, in the format of Keras 2.12 and later."""


@dataclass(frozen=True)
class Contents:
    """A network file, taken apart.

    config: the network as `keras.models.model_from_json` takes it, or None for weights alone. known: our attribute, or {}.
    layout: `legacy` (weights by layer) or `v3` (by place). weights: arrays by layer name, or by group, in their order.
    """

    format: str
    config: dict[str, Any] | None
    known: dict[str, Any]
    layout: str
    weights: dict[str, list[np.ndarray]]

    @classmethod
    def read(cls, folder: Path) -> Contents:
        """What `take_apart` wrote to `folder`."""
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        groups: dict[str, list[np.ndarray]] = {}
        for group, arrays in index.pop("weights").items():
            groups[group] = [
                np.fromfile(folder / "weights.bin", dtype, math.prod(shape), offset=offset).reshape(shape)
                for dtype, shape, offset in arrays
            ]
        return cls(weights=groups, **index)


def take_apart(path: Path, folder: Path, findings: Findings, keep: bool) -> str:
    """Vet the file and give its format; with `keep`, write what `Contents.read` reads to `folder`.

    Raises `Stop` where there is no point in looking further.
    """
    with open(path, "rb") as file:
        head = file.read(8)
    if head.startswith(archive.MAGIC):
        config_text, metadata, weights_path = archive.unpack(path, folder, findings)
        root = strict_json.parse(config_text, archive.CONFIG)
        about = strict_json.parse(metadata, archive.METADATA)
        if not isinstance(root, dict) or not isinstance(about, dict):
            raise Stop("malformed", archive.CONFIG, "is not a JSON object")
        _check_version(about.get("keras_version"), archive.METADATA)
        return _vet_file(weights_path, archive.WEIGHTS, root, folder, findings, keep)
    return _vet_file(path, "", None, folder, findings, keep)


def _check_version(version: Any, where: str) -> None:
    if version is not None and not str(version).startswith("2."):
        raise Stop("format", where, f"was written by Keras {version}; only files of Keras 2 can be read")


def _vet_file(path: Path, name: str, root: Any, folder: Path, findings: Findings, keep: bool) -> str:
    with open(path, "rb") as stored:
        hdf5.check_container(stored.read(hdf5.HEAD), path.stat().st_size, name)
    with h5py.File(path, "r", locking=False) as file:
        data = hdf5.walk(file, findings)
        _check_version(hdf5.text(file, "keras_version", ""), "keras_version")
        known = _object(file, ATTRIBUTE)
        kind, where = "keras", archive.CONFIG
        if root is None:
            kind, where, root = "model.h5", "model_config", _object(file, "model_config")
            _note_training(_object(file, "training_config"), findings)
        elif len(file.attrs):
            raise Stop("malformed", name, "has attributes, which Keras does not write there")
        config = None if root is None else vet(root, where, findings)
        groups = _groups(file, data)
        layout = "v3" if groups is None else "legacy"
        if groups is None:
            groups = _places(data)
        if config is None:
            kind = "weights.h5"
            if not groups and layout == "v3":
                raise Stop("format", "", "is HDF5, but no Keras network (neither model_config nor weights of layers)")
        if any(place.split("/")[0] in OTHER_GROUPS for place in data):
            findings.add("training-state", "optimizer", "optimizer state, not used")
        if config is not None and not findings.unsafe:
            _check_weights(Network(config, where), layout, groups, findings)
        if not findings.unsafe:
            _look_at_values(groups, findings)
        if keep and not findings.unsafe:
            facts = {"format": kind, "config": config, "known": known or {}, "layout": layout}
            _write(folder, facts, groups)
    return kind


def _note_training(training: dict[str, Any] | None, findings: Findings) -> None:
    if training is not None:
        vet_training(training, "training_config", findings)
        findings.add("training-state", "training_config", "training configuration, not used")


def _object(file: h5py.File, name: str) -> dict[str, Any] | None:
    """An attribute of the file that is a JSON object; None if it is not there."""
    text = hdf5.text(file, name, name)
    value = None if text is None else strict_json.parse(text, name)
    if text is not None and not isinstance(value, dict):
        raise Stop("malformed", name, "is not a JSON object")
    return value


def _groups(file: h5py.File, data: dict[str, h5py.Dataset]) -> dict[str, list[h5py.Dataset]] | None:
    """Weights by layer, as the format before Keras 2.12 names them; None if the file has another format."""
    top = file["model_weights"] if isinstance(file.get("model_weights"), h5py.Group) else file
    layers = hdf5.names(top, "layer_names")
    if layers is None:
        return None
    groups: dict[str, list[h5py.Dataset]] = {}
    for layer in layers:
        group = top.get(layer)
        if not isinstance(group, h5py.Group) or layer in groups:
            raise Stop("malformed", layer, "is listed as a layer and is none, or twice")
        weights = [f"{group.name}/{weight}".strip("/") for weight in hdf5.names(group, "weight_names") or ()]
        missing = [weight for weight in weights if weight not in data]
        if missing:
            raise Stop("malformed", missing[0], "is listed as a weight and is none")
        groups[layer] = [data[weight] for weight in weights]
    return {layer: weights for layer, weights in groups.items() if weights}


def _places(data: dict[str, h5py.Dataset]) -> dict[str, list[h5py.Dataset]]:
    """Weights by group, as the format of Keras 2.12 and later has them: `layers/dense/vars/0`."""
    groups: dict[str, dict[int, h5py.Dataset]] = {}
    for place, values in data.items():
        group, _, number = place.rpartition("/")
        if group.endswith("/vars") and group.startswith("layers/"):
            if number not in map(str, range(MOST_WEIGHTS)):
                raise Stop("malformed", place, "is not the number of a weight")
            groups.setdefault(group, {})[int(number)] = values
    for group, numbered in groups.items():
        if sorted(numbered) != list(range(len(numbered))):
            raise Stop("malformed", group, "misses a weight")
    return {group: [numbered[place] for place in sorted(numbered)] for group, numbered in groups.items()}


def _check_weights(network: Network, layout: str, groups: dict[str, list[h5py.Dataset]], findings: Findings) -> None:
    """Compare what the file stores with what its network needs."""
    if layout == "legacy":
        expected: Weights = {layer.name: weights_of(layer) for layer in network.layers if weights_of(layer)}
    else:
        expected = stored_paths(network.layers)
    for name in sorted(expected.keys() | groups.keys()):
        stored, needed = [data.shape for data in groups.get(name, ())], expected.get(name, [])
        # The order within an inner network depends on what is frozen; it is compared when weights are given to the network.
        if sorted(stored) != sorted(needed):
            findings.add("misfit", name, f"its weights do not fit: stored are {stored}, the network needs {needed}")


def _look_at_values(groups: dict[str, list[h5py.Dataset]], findings: Findings) -> None:
    """Note weights that are not finite, and channels that are dead."""
    for name, weights in groups.items():
        dead = None
        for data in weights:
            alive = None
            for slab in hdf5.slabs(data):
                if slab.dtype.kind == "f" and not np.isfinite(slab).all():
                    findings.add("not-finite", data.name, "holds values that are not finite")
                    break
                if slab.ndim in (2, 4):
                    alive_here = slab.any(axis=tuple(range(slab.ndim - 1)))
                    alive = alive_here if alive is None or len(alive) != len(alive_here) else alive | alive_here
            if alive is not None and len(alive) == data.shape[-1] and dead is None:
                dead = ~alive
        if dead is not None and dead.any():
            findings.add("dead-channels", name, f"{dead.sum()} of {dead.size} channels have no weight that is not zero")


def _write(folder: Path, facts: dict[str, Any], groups: dict[str, list[h5py.Dataset]]) -> None:
    index: dict[str, list[Any]] = {}
    with open(folder / "weights.bin", "wb") as file:
        for name, weights in groups.items():
            index[name] = []
            for data in weights:
                index[name].append([data.dtype.newbyteorder("=").str, list(data.shape), file.tell()])
                for slab in hdf5.slabs(data):
                    file.write(np.ascontiguousarray(slab, slab.dtype.newbyteorder("=")).tobytes())
    (folder / "index.json").write_text(json.dumps({**facts, "weights": index}), encoding="utf-8")
