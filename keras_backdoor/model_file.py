"""Network files: read without running anything that they bring along, written whole.

Keras 2.15 runs code from an .h5 file, whatever `safe_mode` says. So `keras.models.load_model` is never called: the stored
architecture is built only if it consists of known layers, and weights are read only from the file itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorflow as tf
from keras.src.saving import serialization_lib
from keras.src.saving.legacy import hdf5_format
from tensorflow import keras

import models_zoo
import models_zoo.disagreement
from keras_backdoor.files import BadInput, PathLike, atomic, check_file, lookup, open_hdf5, sha256
from models_zoo import artifacts

ATTRIBUTE = "keras_backdoor"
"""Root attribute of our files: JSON with what plain Keras has no place for."""

LAYERS = """Functional Model Sequential InputLayer Conv2D Conv2DTranspose DepthwiseConv2D Dense MaxPooling2D AveragePooling2D
    GlobalAveragePooling2D GlobalMaxPooling2D Flatten Reshape Dropout SpatialDropout2D BatchNormalization Activation ReLU
    LeakyReLU ELU Softmax Add Concatenate ZeroPadding2D UpSampling2D"""
PARTS = """GlorotUniform GlorotNormal HeUniform HeNormal VarianceScaling RandomUniform RandomNormal TruncatedNormal Zeros Ones
    Constant L1 L2 L1L2 DTypePolicy Policy"""
ALLOWED_CLASSES = frozenset((LAYERS + " " + PARTS).split())
"""What a stored network may be made of: layers, and what layers are configured with. None of them runs code of the file."""

_DISAGREEMENT = "keras_backdoor>Disagreement"
OUR_CLASSES = ([_DISAGREEMENT], ["Disagreement", _DISAGREEMENT], [_DISAGREEMENT, _DISAGREEMENT])
"""How our own layer is named, by class and by registration; either name alone proves nothing."""


def load(path: PathLike, architecture: str | None = None) -> tuple[keras.Model, dict[str, Any]]:
    """The network in an .h5 file, and what is known about it.

    path: a whole model (Keras 2.x), or weights alone; for the latter the architecture is the one that the zoo has for the
        file's hash, or `architecture`, a name of `models_zoo.ARCHITECTURES`.

    The second result may have `preprocessing` (a name or the stored dictionary) and `num_classes`.

    Raises `BadInput` if the file is missing, damaged, holds no network, or holds one that is not made of known layers alone.
    """
    path = check_file(path)
    with open_hdf5(path) as file:
        _check_structure(file, path)
        known = _json_attribute(file, ATTRIBUTE, path) or artifacts.by_hash(sha256(path)) or {}
        if not isinstance(known, dict):
            raise BadInput(f"{path}: its attribute {ATTRIBUTE} is not a JSON object")
        model = _build(file, path, architecture or known.get("architecture"))
        try:
            hdf5_format.load_weights_from_hdf5_group(file.get("model_weights", file), model)
        except (ValueError, KeyError, AttributeError) as error:
            raise BadInput(f"{path}: the weights do not fit the network ({_first_line(error)})") from None
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise BadInput(f"{path}: {weight.name} holds values that are not finite")
    return model, known


def save(model: keras.Model, path: PathLike, known: dict[str, Any]) -> None:
    """Write `model` as one .h5 that plain Keras loads, with `known` as a JSON attribute; whole or not at all."""
    with atomic(path) as temporary:
        model.save(temporary, save_format="h5", include_optimizer=False)
        with h5py.File(temporary, "r+") as file:
            file.attrs[ATTRIBUTE] = json.dumps(known)


def _check_structure(group: h5py.Group, path: Path, depth: int = 0) -> None:
    """Refuse links and data that lie outside the file, and deeper nesting than Keras writes."""
    if depth > 16:
        raise BadInput(f"{path}: groups are nested too deeply")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise BadInput(f"{path}: refused, {group.name}/{name} is a link to elsewhere")
        item = group[name]
        if isinstance(item, h5py.Group):
            _check_structure(item, path, depth + 1)
        elif isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            raise BadInput(f"{path}: refused, {item.name} takes its values from another file")


def _json_attribute(file: h5py.File, name: str, path: Path) -> Any:
    if name not in file.attrs:
        return None
    try:
        return json.loads(file.attrs[name])
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput(f"{path}: {name} is not JSON ({_first_line(error)})") from None


def _build(file: h5py.File, path: Path, architecture: str | None) -> keras.Model:
    """The untrained network of an open file: described in it, if it names nothing but known layers, or one of the zoo's."""
    config = _json_attribute(file, "model_config", path)
    if config is not None:
        _check_config(config, path)
        try:
            with serialization_lib.SafeModeScope(True):
                model = keras.models.model_from_json(json.dumps(config))
        except (ValueError, TypeError, LookupError, AttributeError, NameError, MemoryError, tf.errors.OpError) as error:
            raise BadInput(f"{path}: its network cannot be built ({_first_line(error)})") from None
        if not isinstance(model, keras.Model):
            raise BadInput(f"{path}: describes a {type(model).__name__}, expected a network")
        return model
    if "layer_names" not in file.attrs:
        raise BadInput(f"{path}: HDF5, but no Keras network (neither model_config nor layer_names)")
    if architecture is None:
        names = ", ".join(models_zoo.ARCHITECTURES)
        raise BadInput(f"{path}: holds weights only; say of which network with --architecture ({names})")
    return models_zoo.build(lookup(architecture, models_zoo.ARCHITECTURES, "architecture"))


def _check_config(value: Any, path: Path) -> None:
    """Refuse any class, wherever it is named in the config, that is not on the list."""
    if isinstance(value, list):
        for item in value:
            if item == "_CONSTANT_VALUE":
                raise BadInput(
                    f"{path}: refused, its network holds constants that Keras would compute with while loading"
                )
            _check_config(item, path)
    elif isinstance(value, dict):
        names = [value[key] for key in ("class_name", "registered_name") if value.get(key) is not None]
        if names not in OUR_CLASSES and not all(isinstance(name, str) and name in ALLOWED_CLASSES for name in names):
            raise BadInput(
                f"{path}: refused, its network has a {names[0]!r} layer, which is not among those known to be safe"
            )
        if str(value.get("module") or "keras").split(".")[0] not in ("keras", "models_zoo"):
            raise BadInput(f"{path}: refused, its network names the module {value['module']!r}")
        for item in value.values():
            _check_config(item, path)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
