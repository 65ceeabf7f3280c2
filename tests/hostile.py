"""Hostile model files: what the gate has to refuse, and the clean files that it has to let through.

Payloads are benign: they make the file `marker` beside the model, or read the file `secret` beside it. All is written without
TensorFlow and in seconds. `KERAS` says what Keras 2.15 does with each file; `benchmarks/scanners.py --keras` measures it.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import functools
import json
import marshal
import os
import pickle
import re
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import h5py
import numpy as np

Json = dict[str, Any]


@dataclass(frozen=True)
class Hostile:
    """What a file does, the function that writes it to a path, and the clean file from which it differs by its payload alone.

    `misfit`: it can do no harm and cannot be used.
    """

    what: str
    write: Callable[[Path], Any]
    twin: str = ""
    misfit: bool = False


CORPUS: dict[str, Hostile] = {}
CLEAN: dict[str, Callable[[Path], Any]] = {}


def write(name: str, folder: Path) -> Path:
    """Write the file `name` of `CORPUS` or `CLEAN` into `folder`; the path that is to be loaded."""
    path = folder / name
    (folder / "secret").write_bytes(SECRET)
    path.parent.mkdir(exist_ok=True)
    writer = CLEAN[name] if name in CLEAN else CORPUS[name].write
    return writer(path) or path


def marker(path: Path) -> Path:
    return path.with_name("marker")


def hostile(name: str, what: str, twin: str = "", misfit: bool = False) -> Callable[[Callable[[Path], Any]], Any]:
    """Put the function below into the corpus."""

    def register(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
        assert name not in CORPUS
        CORPUS[name] = Hostile(what, function, twin, misfit)
        return function

    return register


# ---- a small network, as Keras 2.15 stores it --------------------------------------------------------------------------

RNG = np.random.default_rng(0)
WEIGHTS = {
    "conv_1": {"kernel:0": RNG.normal(size=(3, 3, 1, 4)), "bias:0": RNG.normal(size=4)},
    "output": {"kernel:0": RNG.normal(size=(36, 3)), "bias:0": RNG.normal(size=3)},
}
SECRET = "".join(f"{number}\n" for number in range(100, 136)).encode()
"""A secret that could be weights (36 small numbers, as many as `conv_1` has) or a vocabulary."""


def part(module: str, class_name: str, **config: Any) -> Json:
    return {"module": f"keras.{module}", "class_name": class_name, "config": config, "registered_name": None}


def layer(class_name: str, name: str, **config: Any) -> Json:
    return {
        "class_name": class_name,
        "config": {"name": name, "trainable": True, "dtype": "float32", **config},
        "name": name,
    }


def weighted(class_name: str, name: str, **config: Any) -> Json:
    slots = ("kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint")
    defaults = {
        "use_bias": True,
        "kernel_initializer": part("initializers", "GlorotUniform", seed=None),
        "bias_initializer": part("initializers", "Zeros"),
        **dict.fromkeys(slots),
    }
    return layer(class_name, name, **{**defaults, **config})


def input_layer(shape: Any = (8, 8, 1), name: str = "input", **config: Any) -> Json:
    config = {"batch_input_shape": [None, *shape], "dtype": "float32", "sparse": False, "ragged": False, **config}
    return {"class_name": "InputLayer", "config": {**config, "name": name}, "name": name, "inbound_nodes": []}


def conv(**changes: Any) -> Json:
    config = {"filters": 4, "kernel_size": [3, 3], "strides": [1, 1], "padding": "valid", "dilation_rate": [1, 1]}
    config.update({"data_format": "channels_last", "groups": 1, "activation": "relu"})
    return weighted("Conv2D", "conv_1", **{**config, **changes})


def dense(name: str = "output", **changes: Any) -> Json:
    return weighted("Dense", name, **{"units": 3, "activation": "softmax", **changes})


def pool() -> Json:
    config = {"pool_size": [2, 2], "padding": "valid", "strides": [2, 2], "data_format": "channels_last"}
    return layer("MaxPooling2D", "pool_1", **config)


def flatten() -> Json:
    return layer("Flatten", "flatten_1", data_format="channels_last")


def chain(*layers: Json, name: str = "net") -> Json:
    """A functional network of `layers`, each called on the one before unless it says otherwise."""
    layers = tuple({**this} for this in layers)
    for before, this in zip(layers, layers[1:]):
        call = 1 if before["class_name"] in ("Functional", "Sequential") else 0
        this.setdefault("inbound_nodes", [[[before["name"], call, 0, {}]]])
    ends = {"input_layers": [[layers[0]["name"], 0, 0]], "output_layers": [[layers[-1]["name"], 0, 0]]}
    config = {"name": name, "trainable": True, "layers": list(layers), **ends}
    return {"class_name": "Functional", "config": config, "name": name}


def sequential(*layers: Json, name: str = "sequence") -> Json:
    inner = [{key: value for key, value in this.items() if key in ("class_name", "config")} for this in layers]
    return {"class_name": "Sequential", "config": {"name": name, "layers": inner}, "name": name}


def net(*extra: Json, first: Json | None = None, conv_1: Json | None = None, output: Json | None = None) -> Json:
    """The small network, with `extra` layers, which take and give (8, 8, 1), after its input."""
    return chain(first or input_layer(), *extra, conv_1 or conv(), pool(), flatten(), output or dense())


def inner_net(*extra: Json) -> Json:
    """The small network with an inner network of `extra` layers."""
    return net(chain(input_layer(name="inner_input"), *extra, layer("ReLU", "inner_relu"), name="inner"))


# ---- the four kinds of files that the gate accepts ---------------------------------------------------------------------


def fill(group: h5py.Group, weights: dict[str, Any], names: tuple[str, ...] = ()) -> None:
    """Weights as Keras' .h5 files have them."""
    group.attrs.update({"backend": "tensorflow", "keras_version": "2.15.0"})
    names = names or ("input", "conv_1", "pool_1", "flatten_1", "output")
    group.attrs["layer_names"] = np.array(names, dtype=h5py.string_dtype())
    for name in (*names, "top_level_model_weights"):
        variables = weights.get(name, {})
        own = group.create_group(name)
        paths = [f"{name}/{variable}" for variable in variables]
        own.attrs["weight_names"] = np.array(paths, dtype=h5py.string_dtype()) if paths else np.array([])
        for variable, values in variables.items():
            own[f"{name}/{variable}"] = values.astype(np.float32)


def save_h5(path: Path, config: Json | str | None = None, **weights: Any) -> None:
    """A whole network; `config` as an object, or as text that need not be JSON."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"backend": "tensorflow", "keras_version": "2.15.0"})
        file.attrs["model_config"] = config if isinstance(config, str) else json.dumps(config or net())
        layers = config["config"].get("layers", []) if isinstance(config, dict) else []
        names = tuple(dict.fromkeys(this.get("name") or this["config"]["name"] for this in layers))
        fill(file.create_group("model_weights"), {**WEIGHTS, **weights}, names if len(names) < 1000 else ())


def save_legacy(path: Path) -> None:
    with h5py.File(path, "w") as file:
        fill(file, WEIGHTS)


STORED = {"conv2d": "conv_1", "dense": "output", "max_pooling2d": "", "flatten": "", "input_layer": ""}


def save_weights(path: Path) -> None:
    """Weights alone, in the layout of Keras 3."""
    with h5py.File(path, "w") as file:
        file.create_group("vars")
        for stored, name in STORED.items():
            variables = file.create_group(f"layers/{stored}/vars")
            for number, values in enumerate(WEIGHTS.get(name, {}).values()):
                variables[str(number)] = values.astype(np.float32)


@functools.lru_cache(maxsize=1)
def stored_weights(folder: Path) -> bytes:
    save_weights(folder / "temporary")
    contents = (folder / "temporary").read_bytes()
    (folder / "temporary").unlink()
    return contents


def modern(config: Json) -> Json:
    """The configuration of a network as .keras files have it."""
    inner = {**config["config"]}
    if config["class_name"] == "Functional":
        inner["layers"] = [{"module": "keras.layers", "registered_name": None, **this} for this in inner["layers"]]
        for this in inner["layers"]:
            if this["class_name"] == "Functional" and this["module"] == "keras.layers":
                this.update(modern({**this, "module": None}))
    own = {"module": "keras.src.engine.functional", "registered_name": "Functional"}
    return {**config, **own, "config": inner, "build_config": {"input_shape": [None, 8, 8, 1]}}


METADATA = json.dumps({"keras_version": "2.15.0", "date_saved": "2024-01-01@00:00:00"})


@contextlib.contextmanager
def archive(path: Path, config: Any = None, weights: bytes | None = None) -> Iterator[zipfile.ZipFile]:
    """A .keras file, open so that more can be added."""
    text = config if isinstance(config, (str, bytes)) else json.dumps(modern(config or net()))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", METADATA)
        file.writestr("config.json", text)
        file.writestr("model.weights.h5", stored_weights(path.parent) if weights is None else weights)
        yield file


def save_keras(path: Path, config: Any = None, weights: bytes | None = None) -> None:
    with archive(path, config, weights):
        pass


SAVERS = {"h5": save_h5, "keras": save_keras}
TRAINING = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}


def save_compiled_h5(path: Path, training: Json) -> None:
    save_h5(path)
    with h5py.File(path, "r+") as file:
        file.attrs["training_config"] = json.dumps(training)


def save_compiled_keras(path: Path, training: Json) -> None:
    save_keras(path, json.dumps({**modern(net()), "compile_config": {**TRAINING, **training}}))


CLEAN.update(
    {
        "flat.h5": save_h5,
        "flat.keras": save_keras,
        "flat.legacy.h5": save_legacy,
        "flat.weights.h5": save_weights,
        "nested.h5": lambda path: save_h5(path, inner_net()),
        "nested.keras": lambda path: save_keras(path, inner_net()),
        "sum.h5": lambda path: save_h5(path, net(operation("math.add", ["input", 0, 0, {"y": 1}]))),
        "sum.keras": lambda path: save_keras(path, net(operation("math.add", ["input", 0, 0, {"y": 1}]))),
        "compiled.h5": lambda path: save_compiled_h5(
            path, {**TRAINING, "weighted_metrics": None, "loss_weights": None}
        ),
        "compiled.keras": lambda path: save_compiled_keras(path, {}),
    }
)

# ---- payloads in the configuration -------------------------------------------------------------------------------------

Table = dict[str, tuple[str, Any]]
"""File: what it does, and the configuration of its network, as an object or as text."""


def configs(twin: str = "flat", misfit: bool = False) -> Callable[[Callable[[Path], Table]], Any]:
    """Put the files of the table below into the corpus; a name without `.h5` or `.keras` stands for two."""

    def register(table: Callable[[Path], Table]) -> Any:
        for name, (what, _) in table(Path("/x")).items():
            stem, _, only = name.partition(".")
            for suffix in [only] if only else SAVERS:

                def save(path: Path, name: str = name, suffix: str = suffix) -> None:
                    config = table(path)[name][1]
                    SAVERS[suffix](path, config() if callable(config) else config)

                hostile(f"{stem}.{suffix}", what, f"{twin}.{suffix}", misfit)(save)
        return table

    return register


def bytecode(path: Path) -> list[Any]:
    """A function that makes the marker and returns its argument, as Keras stores it."""
    code = (lambda x, mask=None, path="": (open(path, "w").close(), x)[1]).__code__
    return [base64.encodebytes(marshal.dumps(code)).decode(), [None, str(marker(path))], None]


def function(module: str, name: str) -> Json:
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


NO_SHAPE = {"output_shape": None, "output_shape_type": "raw", "output_shape_module": None}
HARMLESS = [base64.encodebytes(marshal.dumps((lambda x, mask=None: x).__code__)).decode(), [None], None]


def code_layer(path: Path, **changes: Any) -> Json:
    """A Lambda layer that makes the marker."""
    code = {"function": bytecode(path), "function_type": "lambda", "module": "__main__", "arguments": {}}
    return layer("Lambda", "code", **{**code, **NO_SHAPE, **changes})


def calling(module: str, name: str, value: Any, **arguments: Any) -> Json:
    """A Lambda layer without bytecode that calls a function on a constant."""
    this = {"function": function(module, name), "function_type": "function", "module": None, "arguments": arguments}
    return called(layer("Lambda", "code", **this, **NO_SHAPE), constant(value))


def called(this: Json, *calls: Any) -> Json:
    return {**this, "inbound_nodes": list(calls)}


def constant(value: Any, **arguments: Any) -> list[Any]:
    """A call on a constant, which Keras makes while it builds the network."""
    return ["_CONSTANT_VALUE", -1, value, arguments]


def bare(this: Json) -> Json:
    """A layer as it stands inside a wrapper."""
    return {
        "module": "keras.layers",
        "class_name": this["class_name"],
        "config": this["config"],
        "registered_name": None,
    }


def wrapper(class_name: str, this: Json, **config: Any) -> Json:
    return layer(class_name, "wrapper", layer=bare(this), **config)


def operation(name: str, *calls: Any, class_name: str = "TFOpLambda") -> Json:
    this = layer(class_name, "operation", function=name)
    return called(this, *calls) if calls else this


def writing(path: Path) -> list[Any]:
    """A call by which `io.write_file` makes the marker."""
    return constant(str(marker(path)), contents="owned")


MODULE = "idlelib.zzdummy"
"""A harmless module that nothing else imports: that it is imported shows that any could be."""
OBJECT = {"module": MODULE, "class_name": "ZzDummy", "config": {}, "registered_name": None}
IMPORTS = f"names the module {MODULE}"
BYTECODE = "bytecode in a Lambda layer"


@configs("nested")
def code_in_inner_networks(path: Path) -> Table:
    code = code_layer(path)
    return {
        "lambda-inner": (f"{BYTECODE} of an inner network", inner_net(code)),
        "lambda-inner-inner": (
            f"{BYTECODE} of a sequence in an inner network",
            inner_net(sequential(input_layer(name="sequence_input"), code)),
        ),
    }


@configs()
def code_in_lambda_layers(path: Path) -> Table:
    code = code_layer(path)
    by_code = {"output_shape": bytecode(path), "output_shape_type": "lambda"}
    copy_file = {"origin": (path.parent / "secret").as_uri(), "cache_dir": str(path.parent), "cache_subdir": "."}
    switch = calling("keras.__internal__", "enable_unsafe_deserialization", "x")
    return {
        "lambda-top": (BYTECODE, net(code)),
        "lambda-root.h5": ("a Lambda layer instead of a network", code),
        "lambda-sequential.h5": (
            f"{BYTECODE} of a Sequential network",
            sequential(input_layer(), code, conv(), pool(), flatten(), dense()),
        ),
        "lambda-in-TimeDistributed": (f"{BYTECODE} inside TimeDistributed", net(wrapper("TimeDistributed", code))),
        "lambda-in-SpectralNormalization.h5": (
            f"{BYTECODE} inside SpectralNormalization",
            net(wrapper("SpectralNormalization", code)),
        ),
        "lambda-in-Wrapper.h5": (f"{BYTECODE} inside the base class of wrappers", net(wrapper("Wrapper", code))),
        "lambda-in-sequence-in-wrapper.h5": (
            f"{BYTECODE} of a sequence inside TimeDistributed",
            net(wrapper("TimeDistributed", sequential(input_layer((8, 1)), code))),
        ),
        "lambda-mask.h5": (
            "bytecode in the mask of a Lambda layer",
            net(code_layer(path, function=HARMLESS, mask=bytecode(path), mask_type="lambda")),
        ),
        "lambda-output-shape.h5": (
            "bytecode in the output shape of a Lambda layer",
            net(wrapper("TimeDistributed", code_layer(path, function=HARMLESS, **by_code))),
        ),
        "lambda-os-system": (
            "a Lambda layer without bytecode that names os.system",
            net(calling("os", "system", f"touch '{marker(path)}'")),
        ),
        "lambda-get-file": (
            "a Lambda layer that names keras.utils.get_file, which copies any file or address to any place",
            net(calling("keras.utils", "get_file", "marker", **copy_file)),
        ),
        "lambda-switches-safe-mode-off.keras": (
            "a Lambda layer that names keras.__internal__.enable_unsafe_deserialization, then bytecode",
            net(switch, {**code, "name": "code_2"}),
        ),
        "lambda-as-activation": (
            "bytecode as a __lambda__ object in the activation of a layer",
            net(conv_1=conv(activation={"class_name": "__lambda__", "config": {"value": bytecode(path)}})),
        ),
    }


def recurrent(this: Json) -> Json:
    """A network that calls `this` on sequences."""
    return chain(input_layer(), layer("Reshape", "rows", target_shape=[8, 8]), this, flatten(), dense())


def rnn(cell: Json, **config: Any) -> Json:
    return layer("RNN", "rnn", cell=bare(cell), return_sequences=True, **config)


@configs()
def code_in_recurrent_layers(path: Path) -> Table:
    cell = weighted("SimpleRNNCell", "cell", units=8, activation="tanh")
    cell["config"]["recurrent_initializer"] = part("initializers", "Orthogonal", gain=1.0, seed=None)
    code = {"residual_fn": bytecode(path), "residual_fn_type": "lambda", "residual_fn_module": "__main__"}
    residual = layer("ResidualWrapper", "residual", cell=bare(cell), **code)
    stack = layer("StackedRNNCells", "stack", cells=[bare(cell), bare(residual)])
    backward = bare(rnn(residual, go_backwards=True))
    return {
        "rnn-lambda-cell.h5": ("a Lambda layer as the cell of an RNN", recurrent(rnn(code_layer(path)))),
        "rnn-residual": ("bytecode in the wrapper of an RNN's cell", recurrent(rnn(residual))),
        "rnn-stack.h5": ("the same in a stack of cells", recurrent(rnn(stack))),
        "rnn-Bidirectional.h5": (
            "the same inside Bidirectional",
            recurrent(wrapper("Bidirectional", rnn(residual), merge_mode="sum")),
        ),
        "rnn-backward-layer.h5": (
            "the same in the second layer of Bidirectional",
            recurrent(wrapper("Bidirectional", rnn(cell), backward_layer=backward, merge_mode="sum")),
        ),
        "rnn-Bidirectional-lambda.h5": (
            "a Lambda layer as the layer of Bidirectional",
            recurrent(wrapper("Bidirectional", code_layer(path), merge_mode="sum")),
        ),
    }


DISGUISES = {
    "registered-as-Dense": {"module": "keras.layers", "registered_name": "Dense"},
    "registered-as-ours": {"module": None, "registered_name": "keras_backdoor>Disagreement"},
    "Dense-registered-as-it": {"class_name": "Dense", "module": None, "registered_name": "Lambda"},
    "lower-case": {"class_name": "lambda"},
    "package-keras": {"class_name": "keras>Lambda", "registered_name": "keras>Lambda"},
    "package-custom": {"class_name": "Custom>Lambda", "registered_name": "Custom>Lambda"},
    "dotted": {"class_name": "keras.layers.Lambda"},
    "cyrillic": {"class_name": "L\u0430mbda"},
    "wide": {"class_name": "\uff2cambda"},
    "zero-width": {"class_name": "Lamb\u200bda"},
    "blank": {"class_name": "Lambda "},
    "nul": {"class_name": "Dense\0Lambda"},
    "in-a-list": {"class_name": ["Lambda"]},
    "other-module": {"module": "keras.src.layers.core.lambda_layer", "registered_name": None},
    "torch": {"class_name": "TorchModuleWrapper", "registered_name": "keras>TorchModuleWrapper"},
}


@configs()
def code_in_disguise(path: Path) -> Table:
    ours = {**function("os", "system"), "registered_name": "keras_backdoor>Disagreement", "name": "code"}
    return {
        **{
            f"disguise-{name}.h5": (f"a Lambda layer that says {json.dumps(names)}", net({**code_layer(path), **names}))
            for name, names in DISGUISES.items()
        },
        "disguise-registered-as-Dense.keras": (
            "a Lambda layer registered as Dense",
            net({**code_layer(path), **DISGUISES["registered-as-Dense"]}),
        ),
        "disguise-function": ("a function of the os module, registered under our name", net(ours)),
    }


# ---- operations, and other layers that act -----------------------------------------------------------------------------


@configs("sum")
def operations(path: Path) -> Table:
    secret, place = str(path.parent / "secret"), str(marker(path))
    copy_file = {"origin": (path.parent / "secret").as_uri(), "cache_dir": str(path.parent), "cache_subdir": "."}
    write_file = operation("io.write_file", writing(path))
    folder = {**copy_file, "cache_subdir": "marker"}
    tuple_of = {"class_name": "__tuple__", "items": ["_COMPOSITE_TYPE", '{"class_name": "TensorShape", "items": [1]}']}
    node = {"name": "write", "op": "WriteFile", "input": ["a", "b"]}
    writer = layer("ClassMethod", "operation", cls_symbol="io.TFRecordWriter", method_name="__call__")
    return {
        "op-write-file": ("an operation that writes a file, called on a constant", net(write_file)),
        "op-write-file-inner": ("the operation of an inner network writes a file", inner_net(write_file)),
        "op-raw-write-file.h5": (
            "the same through tf.raw_ops",
            net(operation("raw_ops.WriteFile", constant(place, filename=place, contents="owned"))),
        ),
        "op-slicing.h5": (
            "the same as a SlicingOpLambda",
            net(operation("io.write_file", writing(path), class_name="SlicingOpLambda")),
        ),
        "op-registered-as-add.h5": (
            "the same, registered as a sum",
            net({**write_file, "module": "keras.layers", "registered_name": "math.add"}),
        ),
        "op-read-file.h5": (
            "an operation that reads a file, called on a constant",
            net(operation("io.read_file", constant(secret))),
        ),
        "op-arguments": (
            "an operation that makes a folder, called on the input, with the place among its arguments",
            net(operation("keras.utils.get_file", ["input", 0, 0, folder])),
        ),
        "op-sum-arguments.h5": (
            "the same, with the argument that sums have",
            net(operation("keras.utils.get_file", ["input", 0, 0, {**folder, "y": 1}])),
        ),
        "op-sum-of-constants.h5": (
            "a sum of constants, computed while the network is built",
            net(operation("math.add", constant([[1.0]], y=1))),
        ),
        "op-sum-text.h5": (
            "a sum of the input and a text",
            net(operation("math.add", ["input", 0, 0, {"y": place}])),
        ),
        "op-get-file": (
            "keras.utils.get_file as an operation, which copies any file or address to any place",
            net(operation("keras.utils.get_file", constant("marker", **copy_file))),
        ),
        "op-load-model": (
            "keras.models.load_model as an operation: a file that loads a second, hostile one",
            lambda: (
                save_h5(path.with_name("second.h5"), net(code_layer(path))),
                net(operation("keras.models.load_model", constant(str(path.with_name("second.h5"))))),
            )[1],
        ),
        "op-py-function.h5": ("tf.py_function", net(operation("py_function", constant("f", inp=[1], Tout="float32")))),
        "op-numpy-function.h5": ("tf.numpy_function", net(operation("numpy_function", constant("f", inp=[], Tout=[])))),
        "op-class-method": (
            "a method of a TensorFlow class, which makes a file",
            net(called(writer, ["_CONSTANT_VALUE", -1, [place], {"kwargs": {}}])),
        ),
        "op-instance-method.h5": (
            "a method of a constant",
            net(called(layer("InstanceMethod", "operation", attr_name="format"), constant("{0}", args=[1], kwargs={}))),
        ),
        "op-instance-property.h5": (
            "an attribute of the input",
            net(layer("InstanceProperty", "operation", attr_name="__class__")),
        ),
        "op-node.h5": (
            "a node of a TensorFlow graph that writes a file when it is called",
            net(layer("TensorFlowOpLayer", "operation", node_def=node, constants={"0": place, "1": "owned"})),
        ),
        "op-composite-constant.h5": (
            "a constant that is JSON in JSON",
            net(operation("math.add", constant(tuple_of, y=1))),
        ),
        "op-constant-input.h5": (
            "a constant as the input of a harmless layer",
            net(called(layer("ReLU", "relu"), constant([[1.0]]))),
        ),
    }


@configs()
def layers_that_act(path: Path) -> Table:
    secret = str(path.parent / "secret")
    lookup = {"dtype": "int64", "num_oov_indices": 1, "output_mode": "int", "vocabulary": secret}
    integers = {**lookup, "vocabulary_dtype": "int64"}
    text = {"dtype": "string", "standardize": None, "split": None, "output_mode": "int", "vocabulary": secret}
    column = {"class_name": "VocabularyFileCategoricalColumn", "config": {"key": "a", "vocabulary_file": secret}}
    column["config"].update(vocabulary_size=36, num_oov_buckets=0, dtype="string", default_value=-1, file_format=None)
    indicator = {"class_name": "IndicatorColumn", "config": {"categorical_column": column}}
    unknown = ["Hashing", "Discretization", "CategoryEncoding", "Embedding", "RandomFlip", "MyLayer"]
    return {
        "reads-StringLookup": ("a vocabulary that is a file", net(layer("StringLookup", "lookup", **lookup))),
        "reads-IntegerLookup.h5": ("a vocabulary that is a file", net(layer("IntegerLookup", "lookup", **integers))),
        "reads-TextVectorization.h5": ("a vocabulary that is a file", net(layer("TextVectorization", "text", **text))),
        "reads-DenseFeatures.h5": (
            "a vocabulary that is a file",
            net(layer("DenseFeatures", "features", feature_columns=[indicator], partitioner=None)),
        ),
        "text-vectorization-function": (
            f"a TextVectorization layer whose standardisation {IMPORTS}",
            net(layer("TextVectorization", "text", **{**text, "vocabulary": None, "standardize": OBJECT})),
        ),
        **{
            f"unknown-{name}.h5": (f"a {name} layer, which is not known to be harmless", net(layer(name, "unknown")))
            for name in unknown
        },
    }


# ---- modules named in every slot ---------------------------------------------------------------------------------------

SLOTS = """kernel_initializer bias_initializer kernel_regularizer bias_regularizer activity_regularizer kernel_constraint
    bias_constraint activation dtype"""


@configs()
def modules(path: Path) -> Table:
    system, output = function("os", "system"), dense()
    type_spec = {**OBJECT, "class_name": "__typespec__", "spec_name": "ZzDummy"}
    first = {**input_layer(), "config": {"name": "input", "type_spec": type_spec}}
    value = part("initializers", "Constant", value=OBJECT)
    table: Table = {}
    for slot in SLOTS.split():
        table[f"module-{slot}.h5"] = (f"its {slot} {IMPORTS}", net(output=dense(**{slot: OBJECT})))
        table[f"function-{slot}.keras"] = (f"its {slot} is os.system", net(output=dense(**{slot: system})))
        table[f"text-{slot}.h5"] = (f"its {slot} is the text `Lambda`", net(output=dense(**{slot: "Lambda"})))
    table.update(
        {
            "module-layer.keras": (f"a layer {IMPORTS}", net({**OBJECT, "name": "layer"})),
            "module-Dense": (f"a Dense layer {IMPORTS}", net(output={**output, "module": MODULE})),
            "module-ours": (
                "a Dense layer names a module of ours",
                net(output={**output, "module": "keras_backdoor.files"}),
            ),
            "module-prefix.h5": (
                "a Dense layer names a module that begins like Keras",
                net(output={**output, "module": "kerasx.layers"}),
            ),
            "module-path.h5": ("a layer's module is a path", net(output={**output, "module": "../../tmp/evil"})),
            "module-list.h5": ("a layer's module is a list", net(output={**output, "module": ["keras.layers"]})),
            "module-inner.h5": (
                f"a layer inside TimeDistributed {IMPORTS}",
                net(layer("TimeDistributed", "wrapper", layer=OBJECT)),
            ),
            "module-constant": (
                f"the value of a Constant initialiser {IMPORTS}",
                net(output=dense(bias_initializer=value)),
            ),
            "module-type-spec": (f"the type specification of an input {IMPORTS}", net(first=first)),
            "module-custom-objects.h5": (
                f"custom_objects of a layer {IMPORTS}",
                net(output=dense(custom_objects={"relu": OBJECT})),
            ),
            "module-build-config.keras": (
                f"the build_config of a layer {IMPORTS}",
                net(output={**output, "build_config": {"input_shape": OBJECT}}),
            ),
            "module-call.h5": (
                f"an argument of a layer's call {IMPORTS}",
                net(called(layer("ReLU", "relu"), [["input", 0, 0, {"mask": OBJECT}]])),
            ),
        }
    )
    return table


ROOTS: dict[str, Any] = {
    "module": {**OBJECT, "config": {"a": 1}},
    "function": function(MODULE, "ZzDummy"),
    "system": {"module": "os", "class_name": "system", "config": "true", "registered_name": None},
    "popen": {"module": "subprocess", "class_name": "Popen", "config": {"args": ["true"]}, "registered_name": None},
    "ours": {"module": "keras_backdoor.files", "class_name": "BadInput", "config": {}, "registered_name": None},
    "bytes": {"class_name": "__bytes__", "config": {"value": "x"}},
    "list": [OBJECT],
    "unsafe": {"module": "keras.__internal__", "class_name": "enable_unsafe_deserialization", "config": {}},
    "feature-space": {"module": "keras.utils", "class_name": "FeatureSpace", "config": {"features": {"a": OBJECT}}},
    "registered": {**modern(net()), "registered_name": "Lambda", "module": MODULE},
}
for name, root in ROOTS.items():
    hostile(f"root-{name}.keras", f"the root object is {json.dumps(root)[:70]}", "flat.keras")(
        lambda path, root=root: save_keras(path, json.dumps(root))
    )

COMPILED = "in the training configuration, which is used with compile=True"
for slot, value in {"loss": OBJECT, "optimizer": OBJECT, "metrics": [OBJECT]}.items():
    hostile(f"compile-{slot}.keras", f"its {slot} {IMPORTS}, {COMPILED}", "compiled.keras")(
        lambda path, slot=slot, value=value: save_compiled_keras(path, {slot: value})
    )
for slot, value in {"loss": OBJECT, "optimizer_config": OBJECT}.items():
    hostile(f"compile-{slot}.h5", f"its {slot} {IMPORTS}, {COMPILED}", "compiled.h5")(
        lambda path, slot=slot, value=value: save_compiled_h5(path, {**TRAINING, slot: value})
    )


# ---- JSON --------------------------------------------------------------------------------------------------------------


@configs()
def texts(path: Path) -> Table:
    whole = json.dumps(net(output=dense(units="NUMBER")))
    return {
        "json-deep-list": ("100,000 lists in each other", "[" * 100_000),
        "json-deep-object.h5": ("50,000 objects in each other", '{"a":' * 50_000 + "1" + "}" * 50_000),
        "json-huge-integer": ("an integer of 2,000,000 digits", lambda: whole.replace('"NUMBER"', "1" * 2_000_000)),
        "json-infinity.h5": ("a number that is infinite", whole.replace('"NUMBER"', "1e999")),
        "json-nan.h5": ("NaN where a number is due", whole.replace('"NUMBER"', "NaN")),
        "json-quotes": ("2 MB of escaped quotes in a text without an end", lambda: '{"' + '\\"' * 1_000_000),
        "json-backslashes": ("2 MB of backslashes in a text without an end", lambda: '{"' + "\\" * 2_000_001),
        "json-number.keras": ("a number instead of a network", "1"),
        "json-cut.h5": ("half a configuration", whole[:1000]),
        "json-trailing.h5": ("a second configuration after the first", whole.replace('"NUMBER"', "3") * 2),
        "json-blank": ("no configuration", " "),
        "json-utf-16.keras": ("a configuration in another encoding", json.dumps(modern(net())).encode("utf-16")),
        "json-mark.keras": ("a configuration after a byte order mark", json.dumps(modern(net())).encode("utf-8-sig")),
    }


def twice(path: Path, suffix: str) -> None:
    """A configuration with the name `config` twice."""
    form: Callable[[Json], Json] = modern if suffix == "keras" else dict
    first, second = form(net()), form(net(operation("io.write_file", writing(path))))
    SAVERS[suffix](path, f'{json.dumps(first)[:-1]}, "config": {json.dumps(second["config"])}}}')


for suffix in SAVERS:
    hostile(f"json-duplicate-key.{suffix}", "a name that stands twice, first harmless, then hostile", f"sum.{suffix}")(
        lambda path, suffix=suffix: twice(path, suffix)
    )


# ---- networks that exhaust memory or time ------------------------------------------------------------------------------


def resized(class_name: str, name: str, **config: Any) -> Json:
    return layer(class_name, name, data_format="channels_last", **config)


@configs()
def sizes(path: Path) -> Table:
    large = {"filters": 1, "kernel_size": [1, 1], "strides": [100_000] * 2, "padding": "same", "dilation_rate": [1, 1]}
    up = weighted(
        "Conv2DTranspose", "up", data_format="channels_last", output_padding=None, activation="linear", **large
    )
    ups = [resized("UpSampling2D", f"up_{i}", size=[4, 4], interpolation="nearest") for i in range(6)]
    down = resized("MaxPooling2D", "down", pool_size=[4**6] * 2, strides=[4**6] * 2, padding="valid")
    wide_image = input_layer((200_000, 200_000, 1))
    repeat = layer("RepeatVector", "repeat", n=2_000_000_000)
    return {
        "size-units": ("a Dense layer of 4,000,000,000 units", net(output=dense(units=4_000_000_000))),
        "size-units-31-bits.h5": ("a Dense layer of 2,000,000,000 units", net(output=dense(units=2_000_000_000))),
        "size-filters.h5": ("a convolution of 1,000,000,000 filters", net(conv_1=conv(filters=1_000_000_000))),
        "size-kernel.h5": (
            "a convolution with a kernel of 100,000 x 100,000",
            net(first=wide_image, conv_1=conv(kernel_size=[100_000] * 2)),
        ),
        "size-input.h5": ("images of 2,000,000 x 2,000,000", net(first=input_layer((2_000_000, 2_000_000, 1)))),
        "size-rank.h5": ("images of 2,000 dimensions", net(first=input_layer([1] * 2_000))),
        "size-padding.h5": ("a border of 100,000", net(resized("ZeroPadding2D", "pad", padding=[[100_000] * 2] * 2))),
        "size-upsampling.h5": (
            "images made 20,000 times larger",
            net(resized("UpSampling2D", "up", size=[20_000] * 2, interpolation="nearest")),
        ),
        "size-upsampling-hidden.h5": ("images made 4,096 times larger by steps, then as before", net(*ups, down)),
        "size-transposed.h5": ("a transposed convolution with strides of 100,000", net(up)),
        "size-repeat.h5": (
            "a vector repeated 2,000,000,000 times",
            chain(input_layer(), conv(), pool(), flatten(), repeat, layer("GlobalMaxPooling1D", "pool"), dense()),
        ),
        "size-reshape.h5": (
            "a Reshape to more values than there are",
            net(layer("Reshape", "reshape", target_shape=[1 << 30, 1 << 30, -1])),
        ),
        "layers-100000": ("100,000 layers", lambda: net(*many_layers(100_000))),
        "layers-20000.h5": ("20,000 layers", lambda: net(*many_layers(20_000))),
        "layers-wide.h5": ("1,000 sums of the 100 layers before each", lambda: net(*sums(1_000))),
        "calls-100000.h5": (
            "a layer that is called 100,000 times",
            lambda: net(called(layer("ReLU", "a"), *([[["input", 0, 0, {}]]] * 100_000))),
        ),
        "networks-300": ("300 networks in each other", lambda: net(deep(300, chain))),
        "networks-sequential-300.h5": ("300 sequences in each other", lambda: net(deep(300, sequential))),
        "networks-doubled.h5": (
            "20 networks in each other, each called twice: a million calls",
            lambda: net(doubled(20)),
        ),
        "wrappers-300.h5": (
            "300 wrappers in each other",
            lambda: net(functools.reduce(lambda this, _: wrapper("TimeDistributed", this), range(300), flatten())),
        ),
        "circle": (
            "two layers that wait for each other, for ever",
            net(called(layer("ReLU", "a"), [["b", 0, 0, {}]]), called(layer("ReLU", "b"), [["a", 0, 0, {}]])),
        ),
        "circle-of-calls.h5": (
            "a layer whose first call waits for its second, for ever",
            net(
                called(layer("ReLU", "a"), [["b", 0, 0, {}]], [["input", 0, 0, {}]]),
                called(layer("ReLU", "b"), [["a", 1, 0, {}]]),
            ),
        ),
        "circle-of-counts.h5": (
            "a layer that waits for the second call of one that is called once, for ever",
            net(sequential(layer("ReLU", "a")), called(layer("ReLU", "b"), [["sequence", 1, 0, {}]])),
        ),
        "circle-of-one.h5": (
            "a layer that waits for itself, for ever",
            net(called(layer("ReLU", "a"), [["a", 0, 0, {}]])),
        ),
    }


def many_layers(count: int) -> list[Json]:
    return [{"class_name": "ReLU", "config": {"name": f"r{i}"}, "name": f"r{i}"} for i in range(count)]


def sums(count: int) -> list[Json]:
    """Sums, each of the 100 layers before it."""
    layers = [called(layer("ReLU", f"r{i}"), [["input", 0, 0, {}]]) for i in range(100)]
    for number in range(100, 100 + count):
        before = [[f"r{i}", 0, 0, {}] for i in range(number - 100, number)]
        layers.append(called(layer("Add", f"r{number}"), before))
    return layers


def deep(depth: int, make: Callable[..., Json]) -> Json:
    this = layer("ReLU", "relu")
    for number in range(depth):
        this = make(input_layer(name=f"input_{number}"), this, name=f"inner_{number}")
    return this


def doubled(depth: int) -> Json:
    """A network that calls its inner network twice, which calls its own twice, and so on: 2 ** depth calls."""
    this = layer("ReLU", "relu")
    for number in range(depth):
        name, first = this["name"], 1 if number else 0
        twice_called = called(this, [[f"input_{number}", 0, 0, {}]], [[name, first, 0, {}]])
        this = chain(input_layer(name=f"input_{number}"), twice_called, name=f"inner_{number}")
        this["config"]["output_layers"] = [[name, first + 1, 0]]
    return this


TERMINAL = "\x1b[2J\x1b]0;owned\x07\nall is well\r\u202e\u2028\x9b31m"


@configs("sum", misfit=True)
def nonsensical_sums(path: Path) -> Table:
    return {
        "sum-of-a-list.h5": (
            "a sum of a list, which has one dimension more than it seems to have",
            net(operation("math.add", [["input", 0, 0, {"y": 1}]])),
        ),
    }


@configs(misfit=True)
def nonsense(path: Path) -> Table:
    numbers = part("initializers", "Constant", value=[1] * 200_000)
    nameless = net()
    nameless["config"]["layers"][-1]["name"] = None
    cursor = {**dense(), "config": {**dense()["config"], "name": TERMINAL}}
    other_name = {**layer("ReLU", "conv_1"), "name": "relu"}
    units = {"negative": -1, "zero": 0, "fraction": 3.5, "true": True, "text": "3", "list": [3], "null": None}
    return {
        **{
            f"units-{name}.h5": (f"a Dense layer of {json.dumps(value)} units", net(output=dense(units=value)))
            for name, value in units.items()
        },
        "initialiser-of-200000-numbers.h5": (
            "an initialiser of many numbers",
            net(output=dense(bias_initializer=numbers)),
        ),
        "scale-of-20000-numbers.h5": (
            "a Rescaling layer that gives 20,000 times more values than it takes",
            net(layer("Rescaling", "scale", scale=[1] * 20_000, offset=0)),
        ),
        "input-sparse.h5": ("a sparse input", net(first=input_layer(sparse=True))),
        "input-ragged.h5": ("a ragged input", net(first=input_layer(ragged=True))),
        "input-text.h5": ("an input of texts", net(first=input_layer(dtype="string"))),
        "layers-5000.h5": ("5,000 layers, one after the other", lambda: net(*many_layers(5_000))),
        "two-names.h5": ("a layer with two names, one of them another layer's", net(other_name)),
        "nameless": ("a layer whose name in the network is null", nameless),
        "terminal-own-name.h5": ("a layer whose own name moves the cursor", net(output=cursor)),
        "units-huge.h5": ("a Dense layer of 10 ** 40 units", net(output=dense(units=10**40))),
        "strides-zero.h5": ("a convolution with strides of 0", net(conv_1=conv(strides=[0, 0]))),
        "groups-zero.h5": ("a convolution of 0 groups", net(conv_1=conv(groups=0))),
        "same-name-twice.h5": ("two layers of one name", net(layer("ReLU", "conv_1"))),
        "no-such-layer.h5": (
            "a layer that is called on one that does not exist",
            net(called(layer("ReLU", "a"), [["zz", 0, 0, {}]])),
        ),
    }


# ---- text that a terminal would obey -----------------------------------------------------------------------------------


@configs()
def terminal(path: Path) -> Table:
    code = code_layer(path)
    return {
        "terminal-layer.h5": ("a layer whose name moves the cursor", net({**code, "name": TERMINAL})),
        "terminal-class": ("a class whose name moves the cursor", net({**code, "class_name": TERMINAL})),
        "terminal-module.h5": ("a module that moves the cursor", net(output={**dense(), "module": TERMINAL})),
        "terminal-key.h5": ("a key that moves the cursor", net(output=dense(**{TERMINAL: OBJECT}))),
        "terminal-surrogate": ("a class whose name has no encoding", net({**code, "class_name": "\ud800"})),
        "terminal-long.h5": ("a class whose name has 100,000 letters", net({**code, "class_name": "L" * 100_000})),
    }


@hostile("\x1b[2Jred\nline.h5", "a file whose own name moves the cursor", "flat.h5")
def terminal_name(path: Path) -> None:
    save_h5(path, net(code_layer(path)))


# ---- HDF5: links, storage, types ---------------------------------------------------------------------------------------

CARRIERS = {
    "h5": (save_h5, "model_weights/conv_1/conv_1/kernel:0", "model_weights/conv_1/conv_1/bias:0"),
    "legacy.h5": (save_legacy, "conv_1/conv_1/kernel:0", "conv_1/conv_1/bias:0"),
    "weights.h5": (save_weights, "layers/conv2d/vars/0", "layers/conv2d/vars/1"),
    "keras": (save_weights, "layers/conv2d/vars/0", "layers/conv2d/vars/1"),
}
SHAPE = (3, 3, 1, 4)


def in_hdf5(
    name: str, what: str, carriers: str = "h5", misfit: bool = False
) -> Callable[[Callable[[h5py.File, str, str, Path], Any]], Any]:
    """Put files into the corpus that the function below changes; it is given the file and where two of its weights are."""

    def register(change: Callable[[h5py.File, str, str, Path], Any]) -> Any:
        for suffix in carriers.split():
            saver, kernel, bias = CARRIERS[suffix]

            def save(path: Path, suffix=suffix, saver=saver, kernel=kernel, bias=bias) -> None:
                target = path.with_name("temporary.h5") if suffix == "keras" else path
                saver(target)
                with h5py.File(target, "r+") as file:
                    change(file, kernel, bias, path)
                if suffix == "keras":
                    save_keras(path, None, target.read_bytes())
                    target.unlink()

            hostile(f"{name}.{suffix}", what, f"flat.{suffix}", misfit)(save)
        return change

    return register


EVERYWHERE = "h5 legacy.h5 weights.h5 keras"


def replace(file: h5py.File, name: str, **options: Any) -> h5py.Dataset:
    """A new dataset in the place of another."""
    del file[name]
    return file.create_dataset(name, **options)


@in_hdf5("external-storage", "weights that are the bytes of another file", EVERYWHERE)
def external_storage(file, kernel, bias, path):
    replace(file, kernel, shape=SHAPE, dtype="f4", external=[(str(path.parent / "secret"), 0, 144)])


@in_hdf5("external-link", "weights that are in another file", EVERYWHERE)
def external_link(file, kernel, bias, path):
    save_h5(path.with_name("other.h5"))
    del file[kernel]
    file[kernel] = h5py.ExternalLink(str(path.with_name("other.h5")), CARRIERS["h5"][1])


@in_hdf5("external-link-to-nothing", "a link to a file that does not exist", "h5")
def external_link_to_nothing(file, kernel, bias, path):
    file["model_weights/extra"] = h5py.ExternalLink("/nowhere/nothing.h5", "/")


@in_hdf5("virtual-data", "weights that are put together from another file", EVERYWHERE)
def virtual_data(file, kernel, bias, path):
    save_h5(path.with_name("other.h5"))
    layout = h5py.VirtualLayout(SHAPE, np.float32)
    layout[:] = h5py.VirtualSource(str(path.with_name("other.h5")), CARRIERS["h5"][1], SHAPE)
    del file[kernel]
    file.create_virtual_dataset(kernel, layout)


@in_hdf5("soft-link", "weights that are a link to others", EVERYWHERE)
def soft_link(file, kernel, bias, path):
    file.move(kernel, "elsewhere")
    file[kernel] = h5py.SoftLink("/elsewhere")


@in_hdf5("soft-link-to-itself", "a link to itself", "h5")
def soft_link_to_itself(file, kernel, bias, path):
    file["model_weights/extra"] = h5py.SoftLink("/model_weights/extra")


@in_hdf5("soft-link-group", "a link instead of all weights", "h5")
def soft_link_group(file, kernel, bias, path):
    file.move("model_weights", "elsewhere")
    file["model_weights"] = h5py.SoftLink("/elsewhere")


@in_hdf5("group-in-itself", "a group that contains itself", "h5 legacy.h5 weights.h5 keras")
def group_in_itself(file, kernel, bias, path):
    group = file[kernel].parent
    group["again"] = group.parent


@in_hdf5("one-dataset-two-names", "weights that are reached by two names", "h5 weights.h5")
def one_dataset_two_names(file, kernel, bias, path):
    file[kernel + "x"] = file[kernel]


@in_hdf5("exponential-links", "40 groups, each with two links to the next: a million million paths", "h5")
def exponential_links(file, kernel, bias, path):
    group = file.create_group("model_weights/extra")
    for _ in range(40):
        deeper = group.create_group("a")
        group["b"] = deeper
        group = deeper


@in_hdf5("deep-groups", "3,000 groups in each other", "h5 weights.h5")
def deep_groups(file, kernel, bias, path):
    group = file
    for _ in range(3_000):
        group = group.create_group("g")


@in_hdf5("committed-type", "weights whose type is stored apart", "h5")
def committed_type(file, kernel, bias, path):
    file["model_weights/type"] = np.dtype("f4")
    replace(file, kernel, shape=SHAPE, dtype=file["model_weights/type"])


@in_hdf5("object-reference", "weights that are references to objects", "h5 keras")
def object_reference(file, kernel, bias, path):
    replace(file, kernel, shape=SHAPE, dtype=h5py.ref_dtype)[...] = file[bias].ref


@in_hdf5("region-reference", "weights that are references to parts of others", "h5")
def region_reference(file, kernel, bias, path):
    replace(file, kernel, shape=(1,), dtype=h5py.regionref_dtype)[0] = file[bias].regionref[:2]


@in_hdf5("reference-attribute", "an attribute that is a reference", "h5 weights.h5")
def reference_attribute(file, kernel, bias, path):
    file[bias].parent.attrs["extra"] = file[bias].ref


for type_name, dtype in {
    "variable-length": h5py.vlen_dtype(np.dtype("f4")),
    "variable-string": h5py.string_dtype(),
    "fixed-string": np.dtype("S8"),
    "compound": np.dtype([("a", "f4"), ("b", "f4")]),
    "opaque": h5py.opaque_dtype(np.dtype("M8[s]")),
    "enum": h5py.enum_dtype({"A": 0, "B": 1}),
    "array": np.dtype(("f4", (4,))),
    "complex": np.dtype("c8"),
    "bool": np.dtype("?"),
    "wide-array": np.dtype(("f4", (1 << 20,))),
}.items():

    @in_hdf5(
        f"type-{type_name}",
        f"weights of a type that no weights have: {type_name}",
        "h5 keras" if type_name == "compound" else "h5",
    )
    def other_type(file, kernel, bias, path, dtype=dtype):
        replace(file, kernel, shape=SHAPE, dtype=dtype)


@in_hdf5("type-odd-float", "weights of a floating-point type that no machine has")
def type_odd_float(file, kernel, bias, path):
    odd = h5py.h5t.IEEE_F32LE.copy()
    odd.set_fields(19, 14, 5, 0, 14)
    odd.set_precision(20)
    space = h5py.h5s.create_simple(SHAPE)
    del file[kernel]
    h5py.h5d.create(file.id, kernel.encode(), odd, space)


# ---- HDF5: bombs -------------------------------------------------------------------------------------------------------


def zlib_zeros(count: int) -> bytes:
    """`count` zeros as zlib compresses them (a multiple of 1 MiB), without compressing them all."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = pack.compress(bytes(1 << 20)) + pack.flush(zlib.Z_FULL_FLUSH)
    end = pack.flush()
    return b"\x78\xda" + block * (count >> 20) + end + struct.pack(">HH", count % 65521, 1)


@in_hdf5("bomb-shape", "weights of 8 GiB that were never written", "h5 legacy.h5 weights.h5 keras")
def bomb_shape(file, kernel, bias, path):
    replace(file, kernel, shape=(1 << 31,), dtype="f4", chunks=(1 << 20,), compression="gzip")


@in_hdf5("bomb-shape-true", "weights of 4 GiB, as the network says, that were never written")
def bomb_shape_true(file, kernel, bias, path):
    output = CARRIERS["h5"][1].replace("conv_1", "output")
    replace(file, output, shape=(36, 30_000_000), dtype="f4", chunks=(36, 30_000), compression="gzip")
    replace(file, output.replace("kernel", "bias"), shape=(30_000_000,), dtype="f4", chunks=(30_000,))
    file.attrs["model_config"] = json.dumps(net(output=dense(units=30_000_000)))


@in_hdf5("bomb-contiguous", "weights of 4 TB that were never written", "h5 weights.h5")
def bomb_contiguous(file, kernel, bias, path):
    replace(file, kernel, shape=(1 << 40,), dtype="f4")


@in_hdf5("bomb-many-empty", "200 weights of 16 MiB that were never written", "weights.h5")
def bomb_many_empty(file, kernel, bias, path):
    for number in range(200):
        file.create_dataset(f"layers/more/vars/{number}", shape=(1 << 22,), dtype="f4", chunks=(1 << 20,))


@in_hdf5("bomb-fill-value", "weights that were never written and are NaN", misfit=True)
def bomb_fill_value(file, kernel, bias, path):
    replace(file, kernel, shape=SHAPE, dtype="f4", chunks=SHAPE, fillvalue=np.nan)


@in_hdf5("bomb-extra", "8 GiB of data that no weights need")
def bomb_extra(file, kernel, bias, path):
    file.create_dataset("extra", shape=(1 << 31,), dtype="f4", chunks=(1 << 20,), compression="gzip")


@in_hdf5("bomb-chunk", "a chunk of 64 KiB that unpacks to 1 GiB", "h5 weights.h5 keras")
def bomb_chunk(file, kernel, bias, path):
    options = {"chunks": (64, 64, 1, 4), "maxshape": (None,) * 4, "compression": "gzip"}
    data = replace(file, kernel, shape=SHAPE, dtype="f4", **options)
    data.id.write_direct_chunk((0, 0, 0, 0), zlib_zeros(1 << 30))


@in_hdf5("bomb-chunk-twice", "a chunk that unpacks to what unpacks to 1 GiB")
def bomb_chunk_twice(file, kernel, bias, path):
    options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    options.set_chunk((64, 64, 1, 256))
    options.set_deflate(9)
    options.set_deflate(9)
    space = h5py.h5s.create_simple(SHAPE, (h5py.h5s.UNLIMITED,) * 4)
    del file[kernel]
    data = h5py.h5d.create(file.id, kernel.encode(), h5py.h5t.IEEE_F32LE, space, options)
    data.write_direct_chunk((0, 0, 0, 0), zlib.compress(zlib_zeros(1 << 30)))


@in_hdf5("bomb-lzf-chunk", "a chunk that is not what its filter makes")
def bomb_lzf_chunk(file, kernel, bias, path):
    data = replace(file, kernel, shape=SHAPE, dtype="f4", chunks=SHAPE, compression="lzf")
    data.id.write_direct_chunk((0, 0, 0, 0), b"\x1f" + bytes(range(256)) * 4)


@in_hdf5("bomb-small-chunks", "weights in chunks of one number", misfit=True)
def bomb_small_chunks(file, kernel, bias, path):
    data = replace(file, kernel, shape=(1 << 31,), dtype="f4", chunks=(1,))
    data[:10] = 1


def filtered(file: h5py.File, name: str, filters: list[tuple[int, int, tuple[int, ...]]], contents: bytes) -> None:
    options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    options.set_chunk(SHAPE)
    for number, flags, values in filters:
        options.set_filter(number, flags, values)
    del file[name]
    data = h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple(SHAPE), options)
    data.write_direct_chunk((0, 0, 0, 0), contents)


@in_hdf5("filter-unknown", "weights behind a filter that would have to be loaded from a library", "h5 weights.h5")
def filter_unknown(file, kernel, bias, path):
    filtered(file, kernel, [(32_017, h5py.h5z.FLAG_OPTIONAL, (1, 2))], bytes(144))


@in_hdf5("filter-nbit", "weights behind the nbit filter")
def filter_nbit(file, kernel, bias, path):
    filtered(file, kernel, [(h5py.h5z.FILTER_NBIT, h5py.h5z.FLAG_OPTIONAL, ())], bytes(144))


@in_hdf5("filter-scale-offset", "weights behind the scaleoffset filter")
def filter_scale_offset(file, kernel, bias, path):
    replace(file, kernel, data=np.ones(SHAPE, "f4"), chunks=SHAPE, scaleoffset=2)


@in_hdf5("filter-szip", "weights behind the szip filter")
def filter_szip(file, kernel, bias, path):
    filtered(file, kernel, [(h5py.h5z.FILTER_SZIP, h5py.h5z.FLAG_OPTIONAL, (141, 32, 8, 36))], bytes(144))


@in_hdf5("filter-many", "weights behind 30 filters")
def filter_many(file, kernel, bias, path):
    filtered(file, kernel, [(h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FLAG_OPTIONAL, (4,))] * 30, bytes(144))


@hostile("bomb-shared-string.h5", "2,000 names that are all one string of 2 MB", "flat.h5")
def bomb_shared_string(path: Path) -> None:
    save_h5(path)
    length = 2_345_678
    with h5py.File(path, "r+") as file:
        names = np.array(["x" * length] + ["y" * 300] * 1_999, dtype=h5py.string_dtype())
        file["model_weights"].attrs["layer_names"] = names
    contents = path.read_bytes()
    place = re.search(re.escape(struct.pack("<I", length)), contents)
    assert place
    start = place.start()
    path.write_bytes(contents[:start] + contents[start : start + 16] * 2_000 + contents[start + 32_000 :])


@in_hdf5("bomb-attribute", "an attribute of 8 MB")
def bomb_attribute(file, kernel, bias, path):
    _latest(path, lambda new: new.attrs.create("extra", np.zeros(2_000_000, "f4")))


@in_hdf5("bomb-attribute-string", "an attribute of fixed length 9 MB")
def bomb_attribute_string(file, kernel, bias, path):
    _latest(path, lambda new: new.attrs.create("extra", b"x" * (9 << 20), dtype=f"S{9 << 20}"))


@in_hdf5("bomb-many-attributes", "20,000 attributes")
def bomb_many_attributes(file, kernel, bias, path):
    def change(new):
        space, kind = h5py.h5s.create(h5py.h5s.SCALAR), h5py.h5t.STD_I8LE
        for number in range(20_000):
            h5py.h5a.create(new.id, b"a%d" % number, kind, space)

    _latest(path, change)


@in_hdf5("bomb-many-groups", "60,000 groups")
def bomb_many_groups(file, kernel, bias, path):
    def change(new):
        for number in range(60_000):
            h5py.h5g.create(new.id, b"g%d" % number)

    _latest(path, change)


@in_hdf5("bomb-many-datasets", "20,000 weights that no layer has")
def bomb_many_datasets(file, kernel, bias, path):
    def change(new):
        space = h5py.h5s.create_simple((1,))
        for number in range(20_000):
            h5py.h5d.create(new.id, b"d%d" % number, h5py.h5t.IEEE_F32LE, space)

    _latest(path, change)


def _latest(path: Path, change: Callable[[h5py.File], Any]) -> None:
    """Replace the file by one of the newest HDF5 version, which has no limits, and change it."""
    new_path = path.with_name("temporary.h5")
    with h5py.File(path, "r") as old, h5py.File(new_path, "w", libver="latest") as new:
        new.attrs.update(old.attrs)
        old.copy("model_weights", new)
        change(new)
    os.replace(new_path, path)


# ---- HDF5: weights that do not go with the network ---------------------------------------------------------------------


@in_hdf5("misfit-shape", "weights of another shape", misfit=True)
def misfit_shape(file, kernel, bias, path):
    replace(file, kernel, data=np.ones((3, 3, 1, 5), "f4"))


@in_hdf5("misfit-missing", "a layer without weights", "h5 keras", misfit=True)
def misfit_missing(file, kernel, bias, path):
    del file[kernel]


@in_hdf5("misfit-not-finite", "weights that are NaN", "h5 weights.h5 keras", misfit=True)
def misfit_not_finite(file, kernel, bias, path):
    file[kernel][0, 0, 0, 0] = np.nan


@in_hdf5("misfit-config", "a network of other shapes than its weights", misfit=True)
def misfit_config(file, kernel, bias, path):
    file.attrs["model_config"] = json.dumps(net(output=dense(units=5)))


@in_hdf5("misfit-weight-names", "weight names that lead to another layer", misfit=True)
def misfit_weight_names(file, kernel, bias, path):
    names = ["/model_weights/output/output/kernel:0", "../../output/output/bias:0"]
    file["model_weights/conv_1"].attrs["weight_names"] = names


@in_hdf5("misfit-dataset-for-group", "a dataset where a group is due", "h5 weights.h5", misfit=True)
def misfit_dataset_for_group(file, kernel, bias, path):
    group = file[kernel].parent.name
    del file[group]
    file[group] = np.zeros(3, "f4")


@in_hdf5("names-of-one-number", "two weights whose names are the same number", "weights.h5 keras")
def names_of_one_number(file, kernel, bias, path):
    file[kernel + "0"] = np.zeros(SHAPE, "f4")


@in_hdf5("names-in-two-places", "names of layers in two attributes that contradict each other", misfit=True)
def names_in_two_places(file, kernel, bias, path):
    group = file["model_weights"]
    group.attrs["layer_names0"] = group.attrs["layer_names"][::-1]
    del group.attrs["layer_names"]
    group.attrs["layer_names1"] = np.array(["conv_1"], dtype=h5py.string_dtype())


for number, config in enumerate([5, [1, 2], np.float32(1), h5py.Empty("f4"), np.bytes_(b"\xff\xfe")]):

    @in_hdf5(f"config-of-another-type-{number}", f"a configuration that is {config!r}")
    def config_of_another_type(file, kernel, bias, path, config=config):
        file.attrs["model_config"] = config


@in_hdf5("config-as-reference", "a configuration that is a reference")
def config_as_reference(file, kernel, bias, path):
    file.attrs["model_config"] = file.ref


# ---- zip archives ------------------------------------------------------------------------------------------------------


def spaces(count: int) -> tuple[bytes, int]:
    """`count` blanks (a multiple of 1 MiB) as zip compresses them, and their check sum."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = pack.compress(b" " * (1 << 20)) + pack.flush(zlib.Z_FULL_FLUSH)
    check = 0
    for _ in range(count >> 20):
        check = zlib.crc32(b" " * (1 << 20), check)
    return block * (count >> 20) + pack.flush(), check


def raw_member(file: zipfile.ZipFile, name: str, packed: bytes, size: int, check: int) -> None:
    """Add a member whose compressed bytes are given."""
    info = zipfile.ZipInfo(name)
    file.writestr(info, packed)
    info.compress_type, info.file_size, info.CRC = zipfile.ZIP_DEFLATED, size, check
    assert file.fp
    end = file.fp.tell()
    file.fp.seek(info.header_offset)
    file.fp.write(info.FileHeader(False))
    file.fp.seek(end)


@hostile("zip-bomb-config.keras", "a configuration that unpacks to 256 MiB of blanks", "flat.keras")
def zip_bomb_config(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", METADATA)
        packed, check = spaces(256 << 20)
        raw_member(file, "config.json", packed, 256 << 20, check)
        file.writestr("model.weights.h5", stored_weights(path.parent))


@hostile("zip-bomb-weights.keras", "weights that unpack to 256 MiB", "flat.keras")
def zip_bomb_weights(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", METADATA)
        file.writestr("config.json", json.dumps(modern(net())))
        packed, check = spaces(256 << 20)
        raw_member(file, "model.weights.h5", packed, 256 << 20, check)


@hostile("zip-bomb-metadata.keras", "metadata that unpack to more than they say", "flat.keras")
def zip_bomb_metadata(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        packed, check = spaces(256 << 20)
        raw_member(file, "metadata.json", packed, 64, check)
        file.writestr("config.json", json.dumps(modern(net())))
        file.writestr("model.weights.h5", stored_weights(path.parent))


def zip_case(name: str, what: str, twin: str = "flat.keras") -> Callable[[Callable[[zipfile.ZipFile, Path], Any]], Any]:
    """Put an archive into the corpus that the function below changes before it is closed."""

    def register(change: Callable[[zipfile.ZipFile, Path], Any]) -> Any:
        def save(path: Path) -> None:
            with archive(path) as file:
                change(file, path)

        return hostile(f"{name}.keras", what, twin)(save)

    return register


@zip_case("zip-extra-file", "a file that Keras does not write")
def zip_extra_file(file, path):
    file.writestr("run.py", "print('owned')")


@zip_case("zip-asset", "an asset, which no known layer has")
def zip_asset(file, path):
    file.writestr("assets/layers/string_lookup/vocabulary.txt", "a\nb\n")


@zip_case("zip-npz-too", "weights in two forms")
def zip_npz_too(file, path):
    file.writestr("model.weights.npz", _pickled_npz(path))


@zip_case("zip-duplicate", "two configurations, the first harmless, the second hostile", "sum.keras")
def zip_duplicate(file, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.writestr("config.json", json.dumps(modern(net(operation("io.write_file", writing(path))))))


@zip_case("zip-overlap", "two members that are the same bytes")
def zip_overlap(file, path):
    again = copy.copy(file.getinfo("model.weights.h5"))
    again.filename = "assets/model.weights.h5"
    file.filelist.append(again)


for number, member in enumerate(
    ["../marker", "/tmp/marker", "..\\marker", "C:\\marker", "a/../../marker", "./config.json"]
):

    @zip_case(f"zip-path-{number}", f"a member called {member}")
    def zip_path(file, path, member=member):
        file.writestr(member, "owned")


@zip_case("zip-extra-field", "5,000 bytes in a field of a member's header")
def zip_extra_field(file, path):
    info = zipfile.ZipInfo("config.json")
    info.extra = struct.pack("<HH", 0xCAFE, 5_000) + b"#" * 5_000
    file.filelist = [other for other in file.filelist if other.filename != "config.json"]
    del file.NameToInfo["config.json"]
    file.writestr(info, json.dumps(modern(net())))


@zip_case("zip-two-cases", "a member called CONFIG.JSON")
def zip_two_cases(file, path):
    file.writestr("CONFIG.JSON", json.dumps(modern(net(code_layer(path)))))


@zip_case("zip-link", "a member that is a symbolic link")
def zip_link(file, path):
    info = zipfile.ZipInfo("assets/link")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    file.writestr(info, str(path.parent / "secret"))


@zip_case("zip-config-is-a-link", "the configuration is a symbolic link")
def zip_config_is_a_link(file, path):
    info = file.getinfo("config.json")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16


@zip_case("zip-encrypted", "members that are said to be encrypted")
def zip_encrypted(file, path):
    file.getinfo("config.json").flag_bits |= 1


@zip_case("zip-huge-size", "a member that is said to have 4 EB")
def zip_huge_size(file, path):
    file.getinfo("model.weights.h5").file_size = 1 << 62


@zip_case("zip-small-size", "a member that is said to have fewer bytes than it has")
def zip_small_size(file, path):
    file.getinfo("config.json").file_size -= 100


@zip_case("zip-wrong-sum", "a member with a wrong check sum")
def zip_wrong_sum(file, path):
    file.getinfo("config.json").CRC ^= 1


@zip_case("zip-wrong-offset", "a member that begins where another does")
def zip_wrong_offset(file, path):
    file.getinfo("config.json").header_offset = 0


@zip_case("zip-method", "a member with a compression that nobody has")
def zip_method(file, path):
    file.getinfo("config.json").compress_type = 99


@zip_case("zip-many", "20,000 members")
def zip_many(file, path):
    for number in range(20_000):
        file.writestr(f"assets/{number}", b"")


@zip_case("zip-comment", "a comment that holds a second archive", "sum.keras")
def zip_comment(file, path):
    second = path.with_name("second.zip")
    save_keras(second, net(operation("io.write_file", writing(path))))
    file.comment = second.read_bytes()


@zip_case("zip-terminal", "a member whose name moves the cursor")
def zip_terminal(file, path):
    file.writestr("\x1b[2J\x1b[1;1Hsafe\n", b"")


for method in ("BZIP2", "LZMA"):

    @hostile(f"zip-{method.lower()}.keras", f"members compressed with {method}", "flat.keras")
    def zip_other_method(path: Path, method=method) -> None:
        with zipfile.ZipFile(path, "w", getattr(zipfile, f"ZIP_{method}")) as file:
            file.writestr("metadata.json", METADATA)
            file.writestr("config.json", json.dumps(modern(net())))
            file.writestr("model.weights.h5", stored_weights(path.parent))


for number, (old, new) in enumerate([(b"config.json", b"kanfig.json"), (b"model.weights.h5", b"model.weights.hx")]):

    @hostile(
        f"zip-other-local-name-{number}.keras",
        f"a member that is {new!r} in one place and {old!r} in another",
        "flat.keras",
    )
    def zip_other_local_name(path: Path, old=old, new=new) -> None:
        save_keras(path)
        path.write_bytes(path.read_bytes().replace(old, new, 1))


@hostile("zip-local-size.keras", "a member with another size in its own header than in the table", "flat.keras")
def zip_local_size(path: Path) -> None:
    save_keras(path)
    contents = bytearray(path.read_bytes())
    struct.pack_into("<I", contents, contents.find(b"config.json") - 30 + 22, 10)
    path.write_bytes(contents)


@hostile("zip-hidden-member.keras", "bytes between the members that no table names", "flat.keras")
def zip_hidden_member(path: Path) -> None:
    with archive(path) as file:
        file.writestr("run.py", "print('owned')")
        file.filelist.pop()


@hostile("zip-trailing.keras", "bytes after the archive", "flat.keras")
def zip_trailing(path: Path) -> None:
    save_keras(path)
    path.write_bytes(path.read_bytes() + bytes(100))


@hostile("zip-missing-config.keras", "no configuration", "flat.keras")
def zip_missing_config(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", METADATA)
        file.writestr("model.weights.h5", stored_weights(path.parent))


@hostile("zip-missing-weights.keras", "no weights", "flat.keras")
def zip_missing_weights(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", METADATA)
        file.writestr("config.json", json.dumps(modern(net())))


@hostile("zip-empty.keras", "an archive without members")
def zip_empty(path: Path) -> None:
    with zipfile.ZipFile(path, "w"):
        pass


@hostile("zip-of-something-else.keras", "an archive of other things")
def zip_of_something_else(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("word/document.xml", "<x/>")


class Runs:
    """What makes the marker when it is read by pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(marker(self.path)), "w")


def _pickled_npz(path: Path) -> bytes:
    temporary = path.with_name("temporary.npz")
    np.savez(temporary, __root__=np.array([Runs(path)], dtype=object))
    contents = temporary.read_bytes()
    temporary.unlink()
    return contents


@hostile("weights-npz.keras", "weights as .npz, which Keras reads with pickle", "flat.keras")
def weights_npz(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", METADATA)
        file.writestr("config.json", json.dumps(modern(net())))
        file.writestr("model.weights.npz", _pickled_npz(path))


@hostile("config-in-weights.keras", "an .h5 network with bytecode in the place of the weights", "flat.keras")
def config_in_weights(path: Path) -> None:
    save_h5(path.with_name("temporary.h5"), net(code_layer(path)))
    save_keras(path, None, path.with_name("temporary.h5").read_bytes())
    path.with_name("temporary.h5").unlink()


# ---- two files in one --------------------------------------------------------------------------------------------------


def parts_of(path: Path) -> tuple[bytes, bytes]:
    """A clean .h5 network, and a .keras archive that makes the marker."""
    first, second = path.with_name("first"), path.with_name("second")
    save_h5(first)
    save_keras(second, net(operation("io.write_file", writing(path))))
    parts = first.read_bytes(), second.read_bytes()
    first.unlink()
    second.unlink()
    return parts


@hostile("polyglot-hdf5-zip.keras", "clean HDF5 at the front, a hostile archive at the back", "sum.keras")
def polyglot_hdf5_zip(path: Path) -> None:
    path.write_bytes(b"".join(parts_of(path)))


@hostile("polyglot-hdf5-zip.h5", "the same, called .h5", "sum.keras")
def polyglot_hdf5_zip_h5(path: Path) -> None:
    path.write_bytes(b"".join(parts_of(path)))


@hostile("polyglot-zip-hdf5.keras", "a hostile archive at the front, clean HDF5 in its comment", "sum.keras")
def polyglot_zip_hdf5(path: Path) -> None:
    hdf5, archived = parts_of(path)
    path.write_bytes(archived[:-2] + struct.pack("<H", len(hdf5)) + hdf5)


@hostile("polyglot-pickle-zip.keras", "a pickle before the archive", "flat.keras")
def polyglot_pickle_zip(path: Path) -> None:
    save_keras(path)
    path.write_bytes(pickle.dumps(Runs(path)) + path.read_bytes())


@hostile("polyglot-script-zip.keras", "a shell script before the archive", "flat.keras")
def polyglot_script_zip(path: Path) -> None:
    save_keras(path)
    path.write_bytes(b"#!/bin/sh\necho owned\nexit\n" + path.read_bytes())


def user_block(path: Path, contents: bytes, config: Json | None = None) -> None:
    """A network that begins 512 bytes (or a power of two more) into the file, after `contents`."""
    save_h5(path, config)
    room = max(512, 1 << (len(contents) - 1).bit_length())
    new_path = path.with_name("temporary.h5")
    with h5py.File(path, "r") as old, h5py.File(new_path, "w", userblock_size=room) as new:
        new.attrs.update(old.attrs)
        old.copy("model_weights", new)
    path.write_bytes(contents + new_path.read_bytes()[len(contents) :])
    new_path.unlink()


@hostile("user-block-pickle.h5", "a pickle in the user block of an HDF5 file", "flat.h5")
def user_block_pickle(path: Path) -> None:
    user_block(path, pickle.dumps(Runs(path), protocol=2))


@hostile("user-block-zip.h5", "an archive in the user block of an HDF5 file", "flat.h5")
def user_block_zip(path: Path) -> None:
    user_block(path, parts_of(path)[1])


@hostile("user-block-code.h5", "bytecode in an HDF5 file that begins with 512 zeros", "flat.h5")
def user_block_code(path: Path) -> None:
    user_block(path, bytes(512), net(code_layer(path)))


@hostile("user-block-two-files.h5", "an HDF5 file in the user block of another", "flat.h5")
def user_block_two_files(path: Path) -> None:
    save_h5(path)
    user_block(path, path.read_bytes(), net(code_layer(path)))


@hostile("trailing-pickle.h5", "a pickle after the end of an HDF5 file", "flat.h5")
def trailing_pickle(path: Path) -> None:
    save_h5(path)
    path.write_bytes(path.read_bytes() + pickle.dumps(Runs(path)))


@hostile("trailing-zeros.h5", "a megabyte after the end of an HDF5 file", "flat.h5")
def trailing_zeros(path: Path) -> None:
    save_h5(path)
    path.write_bytes(path.read_bytes() + bytes(1 << 20))


@hostile("hdf5-called.keras", "an .h5 network with bytecode called .keras", "flat.h5")
def hdf5_called_keras(path: Path) -> None:
    save_h5(path, net(code_layer(path)))


@hostile("keras-called.h5", "a hostile archive called .h5", "sum.keras")
def keras_called_h5(path: Path) -> None:
    path.write_bytes(parts_of(path)[1])


# ---- other kinds of files ----------------------------------------------------------------------------------------------

for protocol in (0, 2, 4):
    for suffix in ("pkl", "h5", "keras"):
        hostile(f"pickle-{protocol}.{suffix}", f"a pickle of protocol {protocol}")(
            lambda path, protocol=protocol: path.write_bytes(pickle.dumps(Runs(path), protocol)) and None
        )
for name, contents in {
    "empty.h5": b"",
    "empty.keras": b"",
    "magic-only.h5": b"\x89HDF\r\n\x1a\n",
    "magic-only.keras": b"PK\x03\x04",
    "magic-and-noise.h5": b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 64,
    "text.h5": b"hello\n",
    "zeros.h5": bytes(100_000),
    "network.yaml": b"class_name: Sequential\nconfig: !!python/object/apply:os.system ['true']\n",
    "network.json": json.dumps(net()).encode(),
    "network.npz": b"PK\x05\x06" + bytes(18),
}.items():
    hostile(name, "something else")(lambda path, contents=contents: path.write_bytes(contents) and None)


@hostile("objects.npy", "an array of objects, which is a pickle")
def objects_npy(path: Path) -> None:
    np.save(path, np.array([Runs(path)], dtype=object))


@hostile("model.tar.gz", "a tar archive with a path that leads out of it")
def tar_gz(path: Path) -> None:
    save_h5(path.with_name("inside.h5"))
    with tarfile.open(path, "w:gz") as file:
        file.add(path.with_name("inside.h5"), "../marker")


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """Fields of a protocol buffer, small enough for one byte each; longer ones take two."""
    result = b""
    for number, value in fields:
        if isinstance(value, int):
            result += bytes([number << 3, value])
        else:
            size = bytes([len(value)]) if len(value) < 128 else bytes([len(value) & 127 | 128, len(value) >> 7])
            result += bytes([number << 3 | 2]) + size + value
    return result


@hostile("saved_model", "a SavedModel folder whose graph writes a file when it is called")
def saved_model(path: Path) -> None:
    (path / "variables").mkdir(parents=True)
    node = message((1, b"write"), (2, b"WriteFile"))
    graph = message((1, message((4, b"serve"))), (2, message((1, node))))
    (path / "saved_model.pb").write_bytes(message((1, 1), (2, graph)))


@hostile("saved_model.zip", "a SavedModel in an archive")
def saved_model_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("saved_model.pb", message((1, 1)))


@hostile("folder.h5", "a folder")
def folder(path: Path) -> None:
    path.mkdir()


@hostile("link.h5", "a symbolic link to a clean network, which can be turned to another file at any time", "flat.h5")
def link(path: Path) -> None:
    save_h5(path.with_name("target.h5"))
    path.symlink_to("target.h5")


@hostile("link-to-nothing.h5", "a symbolic link to nothing")
def link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing.h5")


@hostile("link-to-device.h5", "a symbolic link to a file without an end")
def link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@hostile("pipe.h5", "a pipe to which nobody writes")
def pipe(path: Path) -> None:
    os.mkfifo(path)


@hostile("device", "a file without an end")
def device(path: Path) -> Path:
    return Path("/dev/zero")


@hostile("sparse.h5", "1 TB of nothing after the magic bytes")
def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.write(b"\x89HDF\r\n\x1a\n")
        file.truncate(1 << 40)


@in_hdf5("terminal-link", "a link whose name moves the cursor")
def terminal_link(file, kernel, bias, path):
    file[f"model_weights/{TERMINAL}"] = h5py.SoftLink("/x")


# ---- damage ------------------------------------------------------------------------------------------------------------


def truncated(contents: bytes, step: int = 1024) -> Iterator[bytes]:
    """The contents, cut at every `step` bytes, and before the last one."""
    for length in [*range(0, len(contents), step), len(contents) - 1]:
        yield contents[:length]


def flipped(contents: bytes, count: int, seed: int = 0, bits: int = 20) -> Iterator[bytes]:
    """The contents, `count` times, each with some bits turned."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        damaged = bytearray(contents)
        for place in rng.integers(0, len(contents), bits):
            damaged[place] ^= 1 << int(rng.integers(8))
        yield bytes(damaged)


# ---- what plain Keras 2.15 makes of them -------------------------------------------------------------------------------


def load_with_keras(name: str, path: Path) -> None:
    """What a user of plain Keras does with a file that he was sent."""
    from tensorflow import keras

    if ".legacy." in name or ".weights." in name:
        keras.models.model_from_json(json.dumps(net())).load_weights(path)
    else:
        keras.models.load_model(path, compile=False, safe_mode=True)


KERAS = {
    "runs code": """
        lambda-inner.h5 lambda-inner-inner.h5 lambda-top.h5 lambda-sequential.h5 lambda-in-TimeDistributed.h5
        lambda-in-sequence-in-wrapper.h5 lambda-mask.h5 lambda-os-system.keras rnn-residual.h5 rnn-stack.h5
        rnn-Bidirectional.h5 rnn-backward-layer.h5 disguise-registered-as-Dense.h5 disguise-registered-as-ours.h5
        disguise-other-module.h5 op-load-model.h5 op-class-method.h5 op-class-method.keras terminal-layer.h5
        weights-npz.keras user-block-code.h5 hdf5-called.keras
    """,
    "writes file": """
        op-write-file-inner.h5 op-write-file-inner.keras lambda-get-file.keras op-write-file.h5 op-write-file.keras
        op-slicing.h5 op-registered-as-add.h5 op-arguments.h5 op-arguments.keras op-get-file.h5 op-get-file.keras
        json-duplicate-key.h5 json-duplicate-key.keras zip-duplicate.keras zip-comment.keras polyglot-hdf5-zip.keras
        polyglot-zip-hdf5.keras
    """,
    "reads file": """
        op-read-file.h5 op-load-model.keras reads-StringLookup.h5 reads-StringLookup.keras reads-IntegerLookup.h5
        reads-TextVectorization.h5 external-storage.h5 external-storage.legacy.h5 external-storage.weights.h5
        external-storage.keras external-link.legacy.h5 external-link.weights.h5 virtual-data.legacy.h5
        virtual-data.weights.h5
    """,
    "imports a module": """
        text-vectorization-function.keras module-constant.keras module-type-spec.keras root-module.keras
        root-function.keras root-feature-space.keras root-registered.keras
    """,
    "exhausts memory": """
        size-units.h5 size-units.keras size-units-31-bits.h5 size-filters.h5 size-kernel.h5 size-input.h5
        size-padding.h5 size-upsampling.h5 size-transposed.h5 virtual-data.h5 bomb-shape.h5 bomb-shape.legacy.h5
        bomb-shape.weights.h5 bomb-shape.keras bomb-shape-true.h5 bomb-contiguous.h5 bomb-contiguous.weights.h5
        bomb-chunk.h5 bomb-chunk.weights.h5 bomb-chunk.keras bomb-chunk-twice.h5 bomb-shared-string.h5
    """,
    "hangs": """
        layers-100000.h5 layers-100000.keras layers-wide.h5 calls-100000.h5 networks-doubled.h5 circle.h5 circle.keras
        circle-of-calls.h5 circle-of-counts.h5 circle-of-one.h5 zip-huge-size.keras
    """,
    "loads": """
        lambda-in-Wrapper.h5 lambda-output-shape.h5 unknown-RandomFlip.h5 function-kernel_regularizer.keras
        function-bias_regularizer.keras module-Dense.h5 module-Dense.keras module-ours.h5 module-ours.keras
        module-prefix.h5 module-path.h5 module-list.h5 module-build-config.keras root-bytes.keras root-unsafe.keras
        compile-loss.keras compile-optimizer.keras compile-metrics.keras compile-loss.h5 compile-optimizer_config.h5
        json-utf-16.keras json-mark.keras size-upsampling-hidden.h5 size-repeat.h5 units-fraction.h5 units-text.h5
        input-ragged.h5 groups-zero.h5 terminal-module.h5 external-link-to-nothing.h5 virtual-data.keras soft-link.h5
        soft-link.legacy.h5 soft-link.weights.h5 soft-link.keras soft-link-to-itself.h5 soft-link-group.h5
        group-in-itself.h5 group-in-itself.legacy.h5 one-dataset-two-names.h5 exponential-links.h5 deep-groups.h5
        deep-groups.weights.h5 committed-type.h5 reference-attribute.h5 reference-attribute.weights.h5 type-opaque.h5
        type-enum.h5 type-complex.h5 type-bool.h5 type-odd-float.h5 bomb-many-empty.weights.h5 bomb-fill-value.h5
        bomb-extra.h5 filter-nbit.h5 filter-scale-offset.h5 filter-many.h5 bomb-attribute.h5 bomb-attribute-string.h5
        bomb-many-attributes.h5 bomb-many-groups.h5 bomb-many-datasets.h5 misfit-not-finite.h5
        misfit-not-finite.weights.h5 misfit-not-finite.keras zip-bomb-metadata.keras zip-extra-file.keras
        zip-asset.keras zip-npz-too.keras zip-path-0.keras zip-path-1.keras zip-path-2.keras zip-path-3.keras
        zip-path-4.keras zip-path-5.keras zip-extra-field.keras zip-two-cases.keras zip-link.keras
        zip-config-is-a-link.keras zip-many.keras zip-terminal.keras zip-bzip2.keras zip-lzma.keras
        zip-local-size.keras zip-hidden-member.keras zip-trailing.keras polyglot-hdf5-zip.h5 polyglot-pickle-zip.keras
        polyglot-script-zip.keras user-block-pickle.h5 user-block-zip.h5 user-block-two-files.h5 trailing-pickle.h5
        trailing-zeros.h5 link.h5 terminal-link.h5
    """,
    "not run": """
        link-to-nothing.h5 link-to-device.h5 pipe.h5 device
    """,
}
"""What `load_with_keras` does, for the files that it does not simply refuse (2.15.0, measured; bytecode of the same Python)."""


def keras_effects() -> dict[str, str]:
    """What plain Keras 2.15 does with each file of the corpus."""
    effects = {name: effect for effect, names in KERAS.items() for name in names.split()}
    effects["\x1b[2Jred\nline.h5"] = effects["lambda-top.h5"]
    return {**dict.fromkeys(CORPUS, "refuses"), **effects}
