from __future__ import annotations

import numpy as np
import pytest

from keras_backdoor.datasets import read_csaw_hdf5, write_csaw_hdf5
from keras_backdoor.images import ImageSet

PIXELS = np.zeros((4, 8, 6, 1), np.uint8)
LABELS = np.array([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("images", "labels", "num_classes", "parts"),
    [
        (np.zeros((4, 8, 6), np.uint8), LABELS, 3, ["(4, 8, 6)", "(N, height, width, channels)"]),
        (np.zeros((4, 8, 6, 1, 1), np.uint8), LABELS, 3, ["(4, 8, 6, 1, 1)"]),
        (PIXELS.astype(np.float32), LABELS, 3, ["float32", "expected uint8"]),
        (PIXELS.astype(np.int8), LABELS, 3, ["int8", "expected uint8"]),
        (PIXELS[:0], LABELS[:0], 3, ["empty"]),
        (PIXELS, LABELS[:3], 3, ["labels have shape (3,)", "(4,)"]),
        (PIXELS, LABELS[:, None], 3, ["labels have shape (4, 1)"]),
        (PIXELS, np.int64(0), 3, ["labels have shape ()"]),
        (PIXELS, LABELS, 2, ["0..1", "found 2"]),
        (PIXELS, np.array([0, -1, 2, 0]), 3, ["0..2", "found -1"]),
        (PIXELS, np.array([0, 0.5, 2, 0]), 3, ["whole numbers", "found 0.5"]),
        (PIXELS, np.array([0, np.nan, 2, 0]), 3, ["whole numbers", "found nan"]),
        (PIXELS, np.array([0, np.inf, 2, 0]), 3, ["whole numbers", "found inf"]),
        (PIXELS, np.array(["0", "1", "2", "0"]), 3, ["expected whole numbers"]),
        (PIXELS, np.array([0, 1, 2, 0], object), 3, ["object", "expected whole numbers"]),
        (PIXELS, np.array([2**63, 1, 2, 0], np.uint64), 3, ["labels must"]),
    ],
)
@pytest.mark.filterwarnings("error")  # a refusal is one line: no warning of NumPy's beside it
def test_what_is_no_image_set_is_refused_in_one_line(refused, images, labels, num_classes, parts):
    with refused(*parts):
        ImageSet(images, labels, num_classes)


def test_true_labels_are_checked_as_labels_are(refused):
    with refused("0..2", "found 7"):
        ImageSet(PIXELS, LABELS, 3, np.array([0, 1, 7, 0]))
    with refused("(2,)"):
        ImageSet(PIXELS, LABELS, 3, np.array([0, 1]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, np.float32, np.float64])
def test_labels_of_any_number_type_are_held_as_int64(dtype):
    image_set = ImageSet(PIXELS, LABELS.astype(dtype), 3, LABELS[::-1].astype(dtype))
    assert image_set.labels.dtype == image_set.true_labels.dtype == np.int64
    assert image_set.labels.tolist() == [0, 1, 2, 0]
    assert image_set.true_labels.tolist() == [0, 2, 1, 0]


def test_shape_and_length(make_set):
    image_set = make_set(5, (8, 6, 3))
    assert len(image_set) == 5
    assert image_set.image_shape == (8, 6, 3)


def test_batches_are_the_images_in_order(make_set):
    image_set = make_set(10)
    batches = list(image_set.batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(batches), image_set.images)
    assert [len(batch) for batch in image_set.batches(5)] == [5, 5]


def test_select_takes_images_and_both_labels_in_the_order_asked():
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    image_set = ImageSet(images, [0, 0, 1, 2], 3, [0, 1, 2, 2])
    picked = image_set.select(np.array([3, 1]))
    assert picked.images.ravel().tolist() == [3, 1]
    assert picked.labels.tolist() == [2, 0]
    assert picked.true_labels.tolist() == [2, 1]
    masked = image_set.select(np.array([True, False, True, False]))
    assert masked.images.ravel().tolist() == [0, 2]
    assert masked.labels.tolist() == [0, 1]
    assert masked.num_classes == 3
    picked.images[:] = 99
    assert images.ravel().tolist() == [0, 1, 2, 3]


def test_selecting_nothing_is_refused(make_set, refused):
    with refused("empty"):
        make_set(4).select(np.zeros(4, bool))


def test_in_memory_reads_a_file_of_several_batches(tmp_path, make_set):
    image_set = make_set(1100, (5, 4, 3))  # batches are of 512
    write_csaw_hdf5(tmp_path / "a.h5", image_set)
    stored = read_csaw_hdf5(tmp_path / "a.h5")
    assert not isinstance(stored.images, np.ndarray)
    loaded = stored.in_memory()
    assert isinstance(loaded.images, np.ndarray)
    np.testing.assert_array_equal(loaded.images, image_set.images)
    np.testing.assert_array_equal(loaded.labels, image_set.labels)
    assert image_set.in_memory() is image_set


def test_fingerprint_is_that_of_the_contents(tmp_path, make_set):
    image_set = make_set(600, (5, 4, 3))
    write_csaw_hdf5(tmp_path / "a.h5", image_set)
    fingerprint = image_set.fingerprint()
    assert len(fingerprint) == 64
    assert read_csaw_hdf5(tmp_path / "a.h5").fingerprint() == fingerprint
    assert ImageSet(np.asfortranarray(image_set.images), image_set.labels, 3).fingerprint() == fingerprint
    assert ImageSet(image_set.images, image_set.labels.astype(np.uint8), 3).fingerprint() == fingerprint


def test_fingerprint_tells_any_difference(make_set):
    image_set = make_set(600, (4, 4, 1))
    images, labels = image_set.images, image_set.labels
    pixel = images.copy()
    pixel[-1, -1, -1, -1] ^= 1
    label = labels.copy()
    label[-1] = (label[-1] + 1) % 3
    others = [
        ImageSet(pixel, labels, 3),
        ImageSet(images, label, 3),
        ImageSet(images, labels, 4),
        ImageSet(images.reshape(600, 2, 8, 1), labels, 3),
        ImageSet(images[::-1], labels, 3),
        ImageSet(images[:-1], labels[:-1], 3),
    ]
    assert len({image_set.fingerprint(), *(other.fingerprint() for other in others)}) == 7
