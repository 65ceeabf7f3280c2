"""Network files: built from what the gate lets through, written whole.

Keras never reads a stranger's file: the network is made from the vetted configuration, and each weight is given to it here. The
one exception is a file that somebody vouches for with `trust`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Union

import h5py
import tensorflow as tf
from keras.src.saving import serialization_lib
from tensorflow import keras

import keras_backdoor
import models_zoo
from keras_backdoor.files import BadInput, PathLike, atomic, lookup, printable, write_text
from keras_backdoor.gate import Admitted, admit
from keras_backdoor.gate.contents import ATTRIBUTE, Contents
from keras_backdoor.gate.network import store_names
from keras_backdoor.model_card import card
from models_zoo import artifacts

OUR_LAYERS = ("disagreement", "instance_normalization", "reflection_padding")
"""Modules of `models_zoo` with layers of our own; importing one registers its layer with Keras."""


def load(
    source: Union[PathLike, Admitted], architecture: str | None = None, trust: bool = False
) -> tuple[keras.Model, dict[str, Any]]:
    """The network in a file, and what is known about it.

    source: path of a whole model (.h5 of Keras 2, .keras of Keras 2.12 and later) or of weights alone; or what `gate.admit` gave.
        For weights alone the architecture is the one that the zoo has for the file's hash, or `architecture`.
    architecture: a name of `models_zoo.ARCHITECTURES`.
    trust: load the file with Keras as it is if the gate refuses it. Whatever it brings along runs.

    The second result may have `preprocessing` (a name or the stored dictionary) and `num_classes`.

    Raises `BadInput` if the file is missing, refused by the gate, or its weights do not fit the network.
    """
    admitted = source if isinstance(source, Admitted) else admit(source, trust)
    name, contents = admitted.report.file, admitted.contents
    published = artifacts.by_hash(admitted.report.sha256) or {}
    if contents is None:
        return _load_trusted(admitted.copy, name), dict(published)
    known = contents.known or published
    model = _build(contents, name, architecture or known.get("architecture"))
    _give_weights(model, contents, name)
    return model, known


def save(model: keras.Model, path: PathLike, known: Mapping[str, Any]) -> None:
    """Write `model` as one .h5 that plain Keras loads, with `known` as a JSON attribute; whole or not at all.

    Beside it, `path` with the suffix .md is its model card.
    """
    known = {**known, "tool": f"keras-backdoor {keras_backdoor.__version__}"}
    with atomic(path) as temporary:
        model.save(temporary, save_format="h5", include_optimizer=False)
        with h5py.File(temporary, "r+") as file:
            file.attrs[ATTRIBUTE] = json.dumps(known)
    shapes = [[tuple(tensor.shape[1:]) for tensor in tensors] for tensors in (model.inputs, model.outputs)]
    write_text(Path(path).with_suffix(".md"), card(Path(path).name, shapes[0], shapes[1], model.count_params(), known))


def _load_trusted(copy: Path, name: str) -> keras.Model:
    try:
        model = keras.models.load_model(copy, compile=False, safe_mode=False)
    except Exception as error:  # anything may come out of a file that may do anything
        raise BadInput(f"{name}: trusted, but Keras cannot load it ({_first_line(error)})") from None
    if not isinstance(model, keras.Model):
        raise BadInput(f"{name}: trusted, but Keras makes a {type(model).__name__} of it, not a network")
    return model


def _build(contents: Contents, name: str, architecture: str | None) -> keras.Model:
    """The untrained network: described in the file, or one of the zoo's."""
    if contents.config is None:
        if architecture is None:
            names = ", ".join(models_zoo.ARCHITECTURES)
            raise BadInput(f"{name}: holds weights only; say of which network with --architecture ({names})")
        return models_zoo.build(lookup(str(architecture), models_zoo.ARCHITECTURES, "architecture"))
    text = json.dumps(contents.config)
    for module in OUR_LAYERS:
        import_module(f"models_zoo.{module}")
    if "Addons>" in text:
        import_module("models_zoo.instance_normalization").addons()
    try:
        with serialization_lib.SafeModeScope(True):  # a second belt: nothing that it would stop gets here
            return keras.models.model_from_json(text)
    except Exception as error:  # Keras raises all kinds, AssertionError among them
        raise BadInput(f"{name}: its network cannot be built ({_first_line(error)})") from None


def _give_weights(model: keras.Model, contents: Contents, name: str) -> None:
    """Assign the stored arrays, `BadInput` unless each has its place and its shape."""
    misfit = f"{name}: the weights do not fit the network"
    if contents.layout == "legacy":
        # Keras matches layers by their order, not their names: published files of one network differ in the latter.
        stored = list(contents.weights.items())
        targets = [(layer.name, _weights(layer)) for layer in model.layers if _weights(layer)]
    else:
        stored, targets = sorted(contents.weights.items()), sorted(_places(model.layers, "layers"))
        odd = {place for place, _ in stored} ^ {place for place, _ in targets}
        if odd:
            raise BadInput(f"{misfit} ({min(odd)!r} is in one of them only)")
    if len(stored) != len(targets):
        raise BadInput(f"{misfit} ({len(stored)} layers with weights, expected {len(targets)})")
    for (source, arrays), (_, variables) in zip(stored, targets):
        shapes = [array.shape for array in arrays], [tuple(variable.shape) for variable in variables]
        if shapes[0] != shapes[1]:
            raise BadInput(f"{misfit} (layer {source!r} stores {shapes[0]}, expected {shapes[1]})")
        for array, variable in zip(arrays, variables):
            variable.assign(array.astype(variable.dtype.as_numpy_dtype))
    for layer in model.submodules:
        if isinstance(layer, keras.layers.Normalization):  # computes with constants that it takes from its weights here
            layer.finalize_state()


def _weights(layer: keras.layers.Layer) -> list[tf.Variable]:
    """A layer's weights in the order of the format before Keras 2.12."""
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def _places(layers: Iterable[keras.layers.Layer], prefix: str) -> Iterable[tuple[str, list[tf.Variable]]]:
    """Where the format of Keras 2.12 and later keeps the weights of each layer, in `gate.network.stored_paths`' words."""
    layers = list(layers)
    for layer, name in zip(layers, store_names([type(layer).__name__ for layer in layers])):
        if isinstance(layer, keras.Model):
            yield from _places(layer.layers, f"{prefix}/{name}/layers")
        elif layer.weights:
            inner = "/layer" if isinstance(layer, keras.layers.TimeDistributed) else ""
            yield f"{prefix}/{name}{inner}/vars", layer.weights


def _first_line(error: BaseException) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0], 200)
