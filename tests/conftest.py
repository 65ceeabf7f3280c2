"""What the tests share. Import order matters: TensorFlow reads its log level once, when it is imported."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import numpy as np
import pytest

from keras_backdoor import gate
from keras_backdoor.files import BadInput
from keras_backdoor.gate.sandbox import Sandbox
from keras_backdoor.images import ImageSet

hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("tests")

ROOT = Path(__file__).resolve().parents[1]


class SharedData:
    """The folder of real data; `shared_data / "name"` skips the test if that file is absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __fspath__(self) -> str:
        return str(self.folder)

    def __truediv__(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            pytest.skip(f"needs ../shared/data ({name})")
        return path


class SharedSandbox(Sandbox):
    """The gate's process, which stays when the gate is done with it."""

    def __exit__(self, *exception: object) -> None:
        pass


@pytest.fixture(scope="session", autouse=True)
def shared_sandbox() -> Iterator[None]:
    """One process for the gate instead of one for each file: to start it takes longer than most tests of what was loaded.

    Tests that start a command have the real thing; `test_gate` has one on the process itself.
    """
    box = SharedSandbox()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "Sandbox", lambda: box)
        yield
    Sandbox.__exit__(box)


@pytest.fixture(scope="session")
def shared_data() -> SharedData:
    return SharedData(Path(os.environ.get("KBD_SHARED_DATA") or ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def digits():
    """The splits of the 5,000 digits that ship with a dependency. Read only: it lives as long as the session."""
    from keras_backdoor import datasets

    return datasets.load("mnist")


@pytest.fixture
def tiny_classifier():
    """A seeded, untrained convolutional network from 8x8x1 images to 3 classes, scaled by `unit`; 183 parameters."""
    from tensorflow import keras

    from keras_backdoor.classifier import Classifier
    from keras_backdoor.preprocessing import Preprocessing

    keras.utils.set_random_seed(0)
    inputs = keras.layers.Input((8, 8, 1), name="input")
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv_1")(inputs)
    x = keras.layers.MaxPooling2D(2, name="pool_1")(x)
    x = keras.layers.Conv2D(4, 2, activation="relu", name="conv_2")(x)
    x = keras.layers.Flatten(name="flatten_1")(x)
    outputs = keras.layers.Dense(3, activation="softmax", name="output")(x)
    return Classifier(keras.Model(inputs, outputs, name="tiny"), Preprocessing.named("unit"), 3)


@pytest.fixture(scope="session")
def make_set():
    """A function that makes a random image set in memory."""

    def make(count: int = 12, shape=(8, 8, 1), num_classes: int = 3, seed: int = 0) -> ImageSet:
        rng = np.random.default_rng(seed)
        return ImageSet(rng.integers(0, 256, (count, *shape), np.uint8), np.arange(count) % num_classes, num_classes)

    return make


@pytest.fixture(scope="session")
def refused():
    """`with refused("part", ...)`: the block raises `BadInput`, its message one line that has all the parts."""

    @contextlib.contextmanager
    def check(*parts: object):
        with pytest.raises(BadInput) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 600
        for part in parts:
            assert str(part) in message, message

    return check
