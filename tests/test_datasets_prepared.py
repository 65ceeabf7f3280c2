"""Prepared files, and those that only look like them."""

from __future__ import annotations

import io
import os

import h5py
import numpy as np
import pytest
from PIL import Image

from keras_backdoor import datasets
from keras_backdoor.datasets.prepared import Parts, read_prepared, write_prepared
from keras_backdoor.files import BadInput

RNG = np.random.default_rng(0)
SHAPE = (16, 12, 3)
PIXELS = RNG.integers(0, 256, (7, *SHAPE), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2, 2])


def encoded(pixels=PIXELS, kind="webp", **options):
    """The group that holds `pixels` as pictures."""
    pictures = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, kind, **options)
        pictures.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, pictures)])
    return {kind: np.frombuffer(b"".join(pictures), np.uint8), "offsets": offsets, "labels": LABELS[: len(pixels)]}


def write(path, **groups):
    with h5py.File(path, "w") as file:
        for group, contents in groups.items():
            for name, value in contents.items():
                file[f"{group}/{name}"] = value
    return path


PLAIN = {"images": PIXELS, "labels": LABELS}


def test_what_is_written_is_read_again(tmp_path, make_set):
    parts = Parts(
        make_set(70, SHAPE), make_set(5, SHAPE, seed=1), {"track": np.arange(70, dtype=np.int32)}, ("a", "é", "c")
    )
    write_prepared(tmp_path / "a.h5", parts)
    again = read_prepared(tmp_path / "a.h5")
    assert again.train.fingerprint() == parts.train.fingerprint()
    assert again.test.fingerprint() == parts.test.fingerprint()
    assert list(again.more) == ["track"] and again.more["track"].tolist() == list(range(70))
    with h5py.File(tmp_path / "a.h5") as file:
        assert [name.decode() for name in file["names"][()]] == ["a", "é", "c"]
    assert os.listdir(tmp_path) == ["a.h5"]


def test_images_that_stay_in_a_file_are_written_slice_by_slice(tmp_path, make_set):
    datasets.write_csaw_hdf5(tmp_path / "a.h5", make_set(7300, SHAPE))
    lazy = datasets.read_images(tmp_path / "a.h5", 3)
    asked = []

    class Watched:
        shape, dtype = lazy.images.shape, lazy.images.dtype

        def __getitem__(self, part):
            asked.append(part.stop - part.start)
            return lazy.images[part]

    watched = type(lazy)(Watched(), lazy.labels, 3)
    write_prepared(tmp_path / "b.h5", Parts(watched, watched))
    assert max(asked) * np.prod(SHAPE) <= 4 << 20 and len(asked) == 4
    assert read_prepared(tmp_path / "b.h5").test.fingerprint() == lazy.fingerprint()


def test_pictures_without_loss_are_the_pixels(tmp_path):
    for kind, options in (("webp", {"lossless": True, "exact": True}), ("png", {})):
        path = write(
            tmp_path / f"{kind}.h5", train=encoded(kind=kind, **options), test=encoded(PIXELS[:2], kind, **options)
        )
        parts = read_prepared(path, 3, SHAPE)
        np.testing.assert_array_equal(parts.train.images, PIXELS)
        np.testing.assert_array_equal(parts.test.images, PIXELS[:2])
        assert parts.train.labels.tolist() == LABELS.tolist()
        assert parts.train.num_classes == read_prepared(path).train.num_classes == 3


def swapped(offsets):
    return np.concatenate([offsets[:2], offsets[3:1:-1], offsets[4:]])


GOOD = encoded()
NO_PICTURE = {**GOOD, "webp": np.where(np.arange(len(GOOD["webp"])) < 60, 7, GOOD["webp"])}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("train", "parts"),
    [
        ({}, ["not a prepared data set"]),
        ({"labels": LABELS}, ["/train holds neither images nor pictures (webp, png, jpeg)"]),
        ({"images": PIXELS}, ["no data set 'labels'"]),
        ({**PLAIN, "images": PIXELS.astype(float)}, ["/train/images is float64", "expected uint8 (N, 16, 12, 3)"]),
        ({**PLAIN, "images": PIXELS[0]}, ["(16, 12, 3)", "expected uint8"]),
        ({**PLAIN, "images": PIXELS[:, :15]}, ["(7, 15, 12, 3)", "(N, 16, 12, 3)"]),
        ({**PLAIN, "images": h5py.Empty("u1")}, ["images"]),
        ({**PLAIN, "images/inner": PIXELS, "images": None}, ["'images' is not a data set"]),
        ({**PLAIN, "labels": LABELS[:6]}, ["(6,)", "(7,)"]),
        ({**PLAIN, "labels": LABELS + 1}, ["0..2", "found 3"]),
        ({**PLAIN, "labels": LABELS - 0.5}, ["whole numbers"]),
        ({**PLAIN, "track": LABELS[:6]}, ["train/track", "(6,)", "7 rows"]),
        ({**PLAIN, "track/inner": LABELS}, ["'track' is not a data set"]),
        ({**PLAIN, "images": h5py.ExternalLink("other.h5", "/images")}, ["'images' is a link to elsewhere"]),
        ({**PLAIN, "labels": h5py.SoftLink("/test/labels")}, ["'labels' is a link to elsewhere"]),
        ({**GOOD, "offsets": GOOD["offsets"][:-1]}, ["labels"]),
        ({**GOOD, "offsets": GOOD["offsets"] - 1}, ["/train/offsets must rise"]),
        ({**GOOD, "offsets": GOOD["offsets"] + 1}, ["/train/offsets must rise"]),
        ({**GOOD, "offsets": swapped(GOOD["offsets"])}, ["/train/offsets must rise"]),
        ({**GOOD, "offsets": np.zeros(8, int)}, ["/train/offsets must rise"]),
        ({**GOOD, "offsets": GOOD["offsets"] + 0.0}, ["no bytes of pictures, or no offsets"]),
        ({**GOOD, "offsets": GOOD["offsets"][:, None]}, ["no bytes of pictures, or no offsets"]),
        ({**GOOD, "offsets": 3}, ["no bytes of pictures, or no offsets"]),
        ({**GOOD, "offsets": (GOOD["offsets"] + 2**63).astype(np.uint64)}, ["/train/offsets must rise"]),
        ({**GOOD, "webp": GOOD["webp"].astype(int)}, ["no bytes of pictures"]),
        ({**GOOD, "webp": GOOD["webp"][:-1]}, ["/train/offsets must rise"]),
        ({key: GOOD[key] for key in ("webp", "labels")}, ["no data set 'offsets'"]),
        (NO_PICTURE, ["picture 0 of /train", "not a whole WEBP picture"]),
        ({**encoded(kind="png"), "webp": encoded(kind="png")["png"]}, ["picture 0 of /train", "none of WEBP"]),
        (encoded(PIXELS[:, :15]), ["picture 0 of /train", "12x15", "expected 12x16"]),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path, refused, train, parts):
    train = {name: value for name, value in train.items() if value is not None}
    with refused(write(tmp_path / "bad.h5", train=train, test=PLAIN), *parts):
        read_prepared(tmp_path / "bad.h5", 3, SHAPE)


def test_both_parts_must_be_there_and_of_one_size(tmp_path, refused):
    with refused("not a prepared data set"):
        read_prepared(write(tmp_path / "a.h5", train=PLAIN))
    with refused("train has images of (16, 12, 3), test of (15, 12, 3)"):
        read_prepared(write(tmp_path / "b.h5", train=PLAIN, test={**PLAIN, "images": PIXELS[:, :15]}))
    write(tmp_path / "c.h5", test=PLAIN)
    with h5py.File(tmp_path / "c.h5", "a") as file:
        file["train"] = h5py.ExternalLink("a.h5", "/train")
    with refused("not a prepared data set"):
        read_prepared(tmp_path / "c.h5")
    datasets.write_csaw_hdf5(tmp_path / "d.h5", read_prepared(write(tmp_path / "e.h5", train=PLAIN, test=PLAIN)).train)
    with refused("d.h5", "not a prepared data set"):
        datasets.load("gtsrb", tmp_path / "d.h5")


@pytest.mark.parametrize("name", ["images", "labels", "track", "webp", "offsets"])
def test_sizes_that_the_file_does_not_hold_are_not_allocated(tmp_path, refused, name):
    """A few bytes that claim 40 GB."""
    group = {**(GOOD if name in ("webp", "offsets") else {**PLAIN, "track": LABELS})}
    del group[name]
    path = write(tmp_path / "bad.h5", train=group, test=PLAIN)
    shape = (69_444_444, *SHAPE) if name == "images" else (40_000_000_000,)
    with h5py.File(path, "a") as file:
        file.create_dataset(f"train/{name}", shape, np.uint8, chunks=True, compression="gzip")
    assert path.stat().st_size < 100_000
    with refused(path, f"/train/{name}", "of which the file holds next to none"):
        read_prepared(path, 3, SHAPE)


def test_labels_that_the_courses_file_does_not_hold_are_not_allocated(tmp_path, refused):
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file.create_dataset("label", (40_000_000_000,), np.int64, chunks=True)
        file.create_dataset("data", (40_000_000_000, 3, 8, 8), np.uint8, chunks=True)
    with refused("bad.h5", "/label claims"):
        datasets.read_images(tmp_path / "bad.h5")


def test_all_black_images_compress_as_far_as_is_allowed(tmp_path, make_set):
    black = make_set(3000, (32, 32, 3))
    black = type(black)(np.zeros_like(black.images), np.zeros(3000, int), 1)
    write_prepared(tmp_path / "a.h5", Parts(black, black, {"track": np.zeros(3000, int)}))
    assert read_prepared(tmp_path / "a.h5").train.fingerprint() == black.fingerprint()
    assert (tmp_path / "a.h5").stat().st_size < black.images.nbytes / 50


@pytest.mark.parametrize("group", [GOOD, PLAIN], ids=["pictures", "images"])
def test_truncated_and_damaged_files_are_refused_or_harmless(tmp_path, group):
    whole = write(tmp_path / "a.h5", train=group, test=group).read_bytes()
    bad, rng, outcomes = tmp_path / "bad.h5", np.random.default_rng(0), []
    damages = [whole[: len(whole) * i // 20] for i in range(20)]
    for _ in range(150):
        changed = bytearray(whole)
        for place in rng.integers(8, len(whole), 4):
            changed[place] ^= int(rng.integers(1, 256))
        damages.append(bytes(changed))
    for contents in damages:
        bad.write_bytes(contents)
        try:
            outcomes.append(read_prepared(bad, 3, SHAPE).train.image_shape)
        except BadInput as error:
            assert "\n" not in str(error) and str(bad) in str(error)
            outcomes.append(None)
    assert outcomes[:20] == [None] * 20
    assert set(outcomes) == {None, SHAPE}
