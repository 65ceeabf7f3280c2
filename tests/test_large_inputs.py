"""Sets that are larger than memory: what is read of them at a time, and by how many threads."""

import threading
import tracemalloc

import h5py
import numpy as np
import pytest
from tensorflow import keras

from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import read_csaw_hdf5, write_csaw_hdf5
from keras_backdoor.datasets.lazy import Pictures
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import score
from keras_backdoor.preprocessing import Preprocessing

SHAPE = (64, 64, 3)


@pytest.fixture(scope="module")
def brightest_channel():
    """A network that answers with the channel that is brightest on average."""
    inputs = keras.layers.Input(SHAPE)
    outputs = keras.layers.Softmax()(keras.layers.GlobalAveragePooling2D()(inputs))
    return Classifier(keras.Model(inputs, outputs), Preprocessing.named("unit"), 3)


def ours(path, count):
    write_csaw_hdf5(path, ImageSet(np.broadcast_to(np.uint8([9, 200, 9]), (count, *SHAPE)), np.arange(count) % 2, 3))


def of_float64(path, count):
    """As some of the course's files are. Pixels that nobody wrote are 0, and take no room in the file."""
    with h5py.File(path, "w") as file:
        file.create_dataset("data", (count, *SHAPE[2:], *SHAPE[:2]), np.float64)
        file["label"] = 1 - np.arange(count) % 2


@pytest.mark.parametrize(("write", "count", "most"), [(ours, 1000, 2**24), (of_float64, 640, 2**27)])
def test_memory_of_an_evaluation_does_not_grow_with_the_images(tmp_path, brightest_channel, write, count, most):
    def peak(count):
        write(tmp_path / f"{count}.h5", count)
        tracemalloc.start()
        found = score(brightest_channel, read_csaw_hdf5(tmp_path / f"{count}.h5", 3), {})
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.clean_accuracy == 0.5
        return taken

    assert peak(3 * count) < 1.1 * peak(count) < most


@pytest.mark.parametrize(
    ("shape", "size"),
    [((28, 28, 1), 512), ((55, 47, 3), 512), ((64, 64, 3), 320), ((224, 224, 3), 64), ((299, 299, 3), 64)],
)
def test_large_images_come_in_smaller_batches(shape, size):
    images = ImageSet(np.broadcast_to(np.uint8(0), (600, *shape)), np.zeros(600), 1)
    assert [len(batch) for batch in images.batches()] == [size] * (600 // size) + [600 % size]
    assert [len(batch) for batch in images.batches(400)] == [400, 200]


def test_pictures_are_decoded_by_several_threads_at_once(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    both = threading.Barrier(2)

    def decode(value):
        both.wait(timeout=20)  # breaks unless two are here at the same time
        return np.full((2, 2, 1), value, np.uint8)

    pictures = Pictures(range(8), (2, 2, 1), decode)
    assert pictures.take(np.array([5, 0, 7, 2]))[:, 0, 0, 0].tolist() == [5, 0, 7, 2]
    assert pictures[2:6][:, 1, 1, 0].tolist() == [2, 3, 4, 5]
