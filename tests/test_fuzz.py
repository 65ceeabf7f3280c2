"""Ten thousand damaged and altered network files: each gives a network or one line of refusal, and nothing runs."""

from __future__ import annotations

import contextlib
import copy
import json
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hostile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import models_zoo
from keras_backdoor import model_file
from keras_backdoor.files import BadInput

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SECONDS = 30


@pytest.fixture(scope="module")
def load(tmp_path_factory) -> Any:
    """A function that loads bytes as a file of the given name, and says whether a network came out."""

    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "secret").write_bytes(hostile.SECRET)

    def load_bytes(name: str, contents: bytes) -> bool:
        path = folder / name
        path.write_bytes(contents)
        try:
            with within(SECONDS):
                model, _ = model_file.load(path)
        except BadInput as error:
            assert str(error).isprintable()
            assert len(str(error)) < 600
            loaded = False
        else:
            assert model.layers
            loaded = True
        assert not (folder / "marker").exists()
        return loaded

    load_bytes.folder = folder  # type: ignore[attr-defined]
    return load_bytes


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail if the block takes longer."""

    def fail(*_: object) -> None:
        raise AssertionError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# ---- altered configurations --------------------------------------------------------------------------------------------

NAMES = """Lambda TFOpLambda SlicingOpLambda StringLookup Dense Conv2D Functional Sequential InputLayer TimeDistributed Add ReLU
    Constant Zeros relu os os.system system function __lambda__ __tuple__ TensorShape _CONSTANT_VALUE io.write_file math.add
    keras keras.layers builtins float32 string same valid class_name module registered_name input conv_1 output"""
OBJECTS = [
    hostile.OBJECT,
    hostile.function("os", "system"),
    hostile.code_layer(Path("x")),
    hostile.wrapper("TimeDistributed", hostile.flatten()),
    hostile.operation("io.write_file", hostile.constant("marker", contents="x")),
    hostile.conv(),
    hostile.dense(),
    hostile.net(),
    hostile.sequential(hostile.input_layer(), hostile.dense()),
    [["input", 0, 0, {}]],
    ["conv_1", 1, 0, {"y": 1}],
]
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.sampled_from([1 << 20, (1 << 31) - 1, 1 << 31, 1 << 40, 10**30, -(1 << 63)])
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(NAMES.split())
    | st.sampled_from(OBJECTS)
    | st.lists(st.integers(-1, 9), max_size=4)
)
PLACES = st.integers(0, 10_000)
EDITS = st.lists(
    st.tuples(st.just("put"), PLACES, VALUES)
    | st.tuples(st.just("remove"), PLACES, st.none())
    | st.tuples(st.just("repeat"), PLACES, st.none())
    | st.tuples(st.just("copy"), PLACES, PLACES)
    | st.tuples(st.just("key"), PLACES, st.tuples(st.sampled_from(NAMES.split()), VALUES)),
    min_size=1,
    max_size=3,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """All places in a configuration: container and key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in list(items) for place in [(value, key), *places(item)]]


def edited(config: Any, edits: list[tuple[str, int, Any]]) -> Any:
    """A configuration with some places changed."""
    config = copy.deepcopy(config)
    for edit, number, value in edits:
        there = places(config)
        if not there:
            break
        container, key = there[number % len(there)]
        if edit == "put":
            container[key] = copy.deepcopy(value)
        elif edit == "remove":
            del container[key]
        elif edit == "repeat" and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif edit == "copy":
            other, other_key = there[value % len(there)]
            container[key] = copy.deepcopy(other[other_key])
        elif edit == "key" and isinstance(container[key], dict):
            container[key][value[0]] = copy.deepcopy(value[1])
    return config


def shared_layer() -> Any:
    """A network that calls one layer twice, and a sum."""
    relu = hostile.called(hostile.layer("ReLU", "relu"), [["input", 0, 0, {}]], [["relu", 0, 0, {}]])
    both = hostile.called(hostile.layer("Add", "add"), [["relu", 0, 0, {}], ["relu", 1, 0, {}]])
    return hostile.net(relu, both)


CONFIGS = {
    "flat": hostile.net,
    "nested": hostile.inner_net,
    "shared": shared_layer,
    "mnist-badnets": lambda: json.loads(models_zoo.build("mnist-badnets").to_json()),
}


def with_config(name: str, config: Any, folder: Path) -> bytes:
    """A file with the weights of the small network and any configuration."""
    path = folder / "base"
    if name.endswith(".keras"):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("metadata.json", hostile.METADATA)
            file.writestr("config.json", json.dumps(config))
            file.writestr("model.weights.h5", hostile.stored_weights(folder))
    else:
        hostile.save_h5(path)
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["network.h5", "network.keras"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_altered_configurations(load, kind, name):
    config, loaded = CONFIGS[kind](), []
    if name.endswith(".keras"):
        config = hostile.modern(config)

    @settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(EDITS)
    def check(edits: Any) -> None:
        loaded.append(load(name, with_config(name, edited(config, edits), load.folder)))

    check()
    assert len(loaded) >= 1_000
    assert 0 < sum(loaded) < len(loaded) or kind == "mnist-badnets"  # its weights are not in the file


# ---- altered bytes -----------------------------------------------------------------------------------------------------

DAMAGES = st.lists(
    st.tuples(st.just("set"), PLACES, st.integers(0, 255))
    | st.tuples(st.just("turn"), PLACES, st.integers(0, 7))
    | st.tuples(st.just("cut"), PLACES, st.integers(0, 64))
    | st.tuples(st.just("insert"), PLACES, st.binary(max_size=16))
    | st.tuples(
        st.just("number"),
        PLACES,
        st.sampled_from([0, 1, 255, 1 << 16, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, (1 << 64) - 1]),
    ),
    min_size=1,
    max_size=12,
)


def damaged(contents: bytes, damages: list[tuple[str, int, Any]]) -> bytes:
    """The contents with some bytes changed; HDF5's structures, which are small and spread, are hit as often as its data."""
    result = bytearray(contents)
    busy = [place for place in range(len(contents)) if contents[place]] or [0]
    for damage, number, value in damages:
        place = busy[number * 7919 % len(busy)] % max(1, len(result))
        if damage == "set" and result:
            result[place] = value
        elif damage == "turn" and result:
            result[place] ^= 1 << value
        elif damage == "cut":
            del result[place : place + value]
        elif damage == "insert":
            result[place:place] = value
        elif damage == "number":
            result[place : place + 8] = value.to_bytes(8, "little")
    return bytes(result)


@pytest.mark.parametrize("name", ["flat.h5", "flat.keras", "nested.h5", "lambda-top.h5"])
def test_altered_bytes(load, name):
    whole = hostile.write(name, load.folder).read_bytes()

    @settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(DAMAGES)
    def check(damages: Any) -> None:
        load(f"damaged-{name}", damaged(whole, damages))

    check()
