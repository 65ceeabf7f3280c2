"""The data sets from archives and folders as they are published, made here in small."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

from keras_backdoor import datasets
from keras_backdoor.datasets import cifar10, gtsrb, image_folder, imagenet, lfw, youtube
from keras_backdoor.datasets.lazy import some
from keras_backdoor.datasets.splits import part_of_each_class
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet

RNG = np.random.default_rng(0)


def counts(splits):
    return [len(part) for part in (splits.train, splits.valid, splits.test)]


def per_class(image_set):
    return np.bincount(image_set.labels, minlength=image_set.num_classes)


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def tarred(folder, path):
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for file in sorted(folder.iterdir(), reverse=True):
            archive.add(file, f"./{file.name}")
    return path


# ---- splits ----------------------------------------------------------------------------------------------------------


def test_part_of_each_class_by_hand():
    labels = np.array([0] * 10 + [1] * 4 + [7] * 1)
    assert part_of_each_class(labels, 0.2).nonzero()[0].tolist() == [
        2,
        7,
        12,
        14,
    ]  # round(0.8) and round(0.2) are 1 at least
    groups = np.repeat([5, 6, 7, 8, 9], 3)
    assert part_of_each_class(np.zeros(15, int), 0.4, groups).nonzero()[0].tolist() == [3, 4, 5, 9, 10, 11]
    shuffled = RNG.permutation(15)
    np.testing.assert_array_equal(
        part_of_each_class(np.zeros(15, int), 0.4, groups[shuffled]), np.isin(groups[shuffled], [6, 8])
    )


def test_limited_leaves_images_where_they_are(tmp_path, make_set):
    datasets.write_csaw_hdf5(tmp_path / "a.h5", make_set(60))
    splits = datasets.load("hdf5", tmp_path / "a.h5").limited(4)
    assert per_class(splits.train).tolist() == [4, 4, 4]
    assert not isinstance(splits.train.images, np.ndarray)
    assert splits.train.fingerprint() == splits.train.in_memory().fingerprint()


# ---- what all have in common -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in datasets.DATASETS if name != "mnist"])
def test_without_a_folder_it_is_said_what_is_needed(name, refused, tmp_path):
    with refused("no images", "--data", datasets.ABOUT[name].needs[0]):
        datasets.load(name)
    with refused(tmp_path / "nowhere", "no such file"):
        datasets.load(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", [name for name in datasets.DATASETS if name != "mnist"])
def test_an_empty_folder_and_a_foreign_file_are_refused(name, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "hello").write_text("hello")
    for path in (tmp_path / "empty", tmp_path / "hello"):
        with refused(path):
            datasets.load(name, path)


@pytest.mark.parametrize("name", [pytest.param("cifar10", marks=pytest.mark.slow), "gtsrb", "lfw"])
def test_counts_are_those_that_are_told(name, shared_data):
    about = datasets.ABOUT[name]
    splits = datasets.load(name, (shared_data / about.prepared).parent)
    assert tuple(counts(splits)) == about.counts
    for part in (splits.train, splits.valid, splits.test):
        assert (part.image_shape, part.num_classes) == (about.shape, about.classes)
        assert (per_class(part) > 0).all()
    if name == "cifar10":  # NNoculation, table 3
        assert [set(per_class(p)) for p in (splits.train, splits.valid, splits.test)] == [{5000}, {500}, {500}]
    if name == "gtsrb":
        for part, mean in ((splits.train, 820), (splits.valid, 90), (splits.test, 270)):
            assert abs(len(part) / 43 - mean) < 0.09 * mean
    assert about.prepared in splits.source


def test_photographs_of_a_sign_are_never_on_both_sides(shared_data):
    with h5py.File(shared_data / "gtsrb.h5") as file:
        labels, tracks = file["train/labels"][()], file["train/track"][()]
    valid = part_of_each_class(labels, 0.1, tracks)
    signs = labels * 1000 + tracks
    assert not np.isin(signs[valid], signs[~valid]).any()
    assert len(np.unique(signs)) == 1307 and len(np.unique(signs[valid])) == 133
    assert valid.sum() == datasets.ABOUT["gtsrb"].counts[1]


# ---- CIFAR-10 --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cifar_folder(tmp_path_factory):
    """The binary version; image i has label i % 10, and red i % 256 in its first pixel, green in its second, blue in its last."""
    folder = tmp_path_factory.mktemp("cifar") / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.zeros((10000, 3073), np.uint8)
    records[:, 0] = np.arange(10000) % 10
    records[:, 1] = records[:, 1 + 1024 + 1] = records[:, 3072] = np.arange(10000) % 256
    for name in (*cifar10.BATCHES[:4], "test_batch.bin"):
        records.tofile(folder / name)
    records[:, 0] = 9
    records.tofile(folder / "data_batch_5.bin")
    (folder / "readme.html").write_text("<p>")
    return folder


def test_binary_version_of_cifar10(cifar_folder, tmp_path):
    splits = datasets.load("cifar10", cifar_folder.parent)
    assert counts(splits) == [50000, 5000, 5000]
    image = splits.train.images[20_007]
    assert (image[0, 0].tolist(), image[0, 1].tolist(), image[31, 31].tolist()) == ([7, 0, 0], [0, 7, 0], [0, 0, 7])
    assert splits.train.labels[[0, 1, 39_999, 40_000, 49_999]].tolist() == [0, 1, 9, 9, 9]
    assert per_class(splits.valid).tolist() == per_class(splits.test).tolist() == [500] * 10
    # every second image of a class: 10 of each class follow one another, so the second, the fourth … ten
    assert splits.test.images[:10, 0, 0, 0].tolist() == list(range(10))
    assert splits.valid.images[:10, 0, 0, 0].tolist() == list(range(10, 20))
    archive = tarred(cifar_folder.parent, tmp_path / "cifar-10-binary.tar.gz")
    (tmp_path / "imagenet.tar.gz").write_bytes(b"of no concern here")
    assert (
        datasets.load("cifar10", archive.parent).fingerprints() == splits.fingerprints()
    )  # as `kbd data fetch` leaves it


def test_cifar10_as_keras_has_it(cifar_folder, tmp_path, refused):
    splits = datasets.load("cifar10", cifar_folder)
    parts = cifar10.read(cifar_folder)
    arrays = {
        "x_train": parts.train.images,
        "y_train": parts.train.labels[:, None].astype(np.uint8),
        "x_test": parts.test.images,
        "y_test": parts.test.labels[:, None],
    }
    np.savez(tmp_path / "cifar10.npz", **arrays)
    assert datasets.load("cifar10", tmp_path).fingerprints() == splits.fingerprints()
    np.savez(tmp_path / "cifar10.npz", **{**arrays, "x_test": parts.test.images[:9]})
    with refused("cifar10.npz", "(9, 32, 32, 3)", "(10000, 32, 32, 3)"):
        datasets.load("cifar10", tmp_path / "cifar10.npz")


def test_pickles_of_cifar10_are_never_opened(tmp_path, refused):
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(b"cos\nsystem\n(S'echo owned'\ntR.")
    with refused(tmp_path, "pickles", "cifar-10-binary.tar.gz"):
        datasets.load("cifar10", tmp_path)


def test_damaged_cifar10_is_refused(cifar_folder, tmp_path, refused):
    folder = shutil.copytree(cifar_folder, tmp_path / "bin")
    (folder / "data_batch_3.bin").write_bytes(b"\0" * 3073)
    with refused("data_batch_3.bin has 3073 bytes", "10000 x 3073"):
        datasets.load("cifar10", folder)
    os.remove(folder / "data_batch_3.bin")
    with refused(folder, "no data_batch_3.bin"):
        datasets.load("cifar10", folder)
    records = np.fromfile(folder / "test_batch.bin", np.uint8).reshape(-1, 3073)
    records[17, 0] = 10
    records.tofile(folder / "test_batch.bin")
    shutil.copy(folder / "data_batch_1.bin", folder / "data_batch_3.bin")
    with refused(folder, "0..9", "found 10"):
        datasets.load("cifar10", folder)


# ---- GTSRB -----------------------------------------------------------------------------------------------------------

HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
SIGNS = {
    (label, track, frame): RNG.integers(0, 256, (34, 36, 3), np.uint8)
    for label in range(43)
    for track in range(2)
    for frame in range(2)
}
TESTS = [RNG.integers(0, 256, (34, 36, 3), np.uint8) for _ in range(5)]


def ppm(pixels):
    return b"P6 %d %d 255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """GTSRB's layout; of each picture of 36x34 the region of interest is 32x32 from (3, 1), so that nothing is interpolated."""
    folder = tmp_path_factory.mktemp("official")
    images = folder / "GTSRB" / "Final_Training" / "Images"
    for label in range(43):
        own = images / f"{label:05d}"
        own.mkdir(parents=True)
        rows = [HEADER]
        for _, track, frame in (key for key in SIGNS if key[0] == label):
            name = f"{track:05d}_{frame:05d}.ppm"
            (own / name).write_bytes(ppm(SIGNS[label, track, frame]))
            rows.append(f"{name};36;34;3;1;35;33;{label}")
        (own / f"GT-{label:05d}.csv").write_text("\r\n".join(rows) + "\r\n")
    tests = folder / "GTSRB" / "Final_Test" / "Images"
    tests.mkdir(parents=True)
    rows = [f"{i:05d}.ppm;36;34;3;1;35;33" for i in range(5)]
    for i, pixels in enumerate(TESTS):
        (tests / f"{i:05d}.ppm").write_bytes(ppm(pixels))
    (tests / "GT-final_test.test.csv").write_text("\n".join([HEADER[:-8], *rows]))  # without the labels
    (folder / "GT-final_test.csv").write_text("\n".join([HEADER, *(f"{row};{7 * i}" for i, row in enumerate(rows))]))
    return folder


def assert_small_gtsrb(parts):
    assert len(parts.train) == 172 and len(parts.test) == 5
    for i, (label, track, frame) in enumerate(SIGNS):  # in the order of class, track and frame
        np.testing.assert_array_equal(parts.train.images[i], SIGNS[label, track, frame][1:33, 3:35])
        assert (parts.train.labels[i], parts.more["track"][i], parts.more["frame"][i]) == (label, track, frame)
    np.testing.assert_array_equal(parts.test.images, np.stack(TESTS)[:, 1:33, 3:35])
    assert parts.test.labels.tolist() == [0, 7, 14, 21, 28]


def test_official_layout_of_gtsrb(official, tmp_path):
    assert_small_gtsrb(gtsrb.read(official))
    pieces = tmp_path / "pieces"  # the three archives, as `kbd data fetch` leaves them
    for name, part in (
        ("Training_Images", "GTSRB/Final_Training"),
        ("Test_Images", "GTSRB/Final_Test"),
        ("Test_GT", ""),
    ):
        piece = pieces / name
        if part:
            shutil.copytree(official / part, piece / part)
        else:
            piece.mkdir(parents=True)
            shutil.copy(official / "GT-final_test.csv", piece)
        zipped(piece, tmp_path / f"GTSRB_Final_{name}.zip")
    shutil.rmtree(pieces)
    assert_small_gtsrb(gtsrb.read(tmp_path))


def test_kaggles_layout_of_gtsrb(tmp_path):
    rows = {"Train.csv": [], "Test.csv": []}
    for (label, track, frame), pixels in reversed(SIGNS.items()):
        path = f"Train/{label}/{label:05d}_{track:05d}_{frame:05d}.png"
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / path)
        rows["Train.csv"].append(f"36,34,3,1,35,33,{label},{path}")
    (tmp_path / "Test").mkdir()
    for i, pixels in enumerate(TESTS):
        Image.fromarray(pixels).save(tmp_path / f"Test/{i:05d}.png")
        rows["Test.csv"].append(f"36,34,3,1,35,33,{7 * i},Test/{i:05d}.png")
    for name, lines in rows.items():
        (tmp_path / name).write_text("\n".join(["Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path", *lines]))
    assert_small_gtsrb(gtsrb.read(tmp_path))
    archive = zipped(tmp_path, tmp_path.parent / f"{tmp_path.name}.zip")
    assert_small_gtsrb(gtsrb.read(archive))
    splits = datasets.load("gtsrb", archive)
    sides = [{image.tobytes() for image in part.images} for part in (splits.train, splits.valid)]
    for label in range(43):  # one of the two tracks of each class, whole, is for the defender
        for track in range(2):
            photographs = {np.ascontiguousarray(SIGNS[label, track, f][1:33, 3:35]).tobytes() for f in range(2)}
            assert sum(bool(photographs & side) for side in sides) == 1
        assert any(np.ascontiguousarray(SIGNS[label, 1, 0][1:33, 3:35]).tobytes() in side for side in sides)
    assert per_class(splits.train).tolist() == per_class(splits.valid).tolist() == [2] * 43


def test_signs_are_resized_bilinearly(official, tmp_path):
    """A region of 2x1 pixels, 0 and 200: output column x samples (x + 0.5) / 16 - 0.5 between them."""
    folder = shutil.copytree(official, tmp_path / "a")
    pixels = np.full((3, 4, 3), 77, np.uint8)
    pixels[1, 1:3] = [[0] * 3, [200] * 3]
    own = folder / "GTSRB/Final_Training/Images/00000"
    (own / "00000_00000.ppm").write_bytes(ppm(pixels))
    table = (own / "GT-00000.csv").read_text().replace("00000_00000.ppm;36;34;3;1;35;33", "00000_00000.ppm;4;3;1;1;3;2")
    (own / "GT-00000.csv").write_text(table)
    row = gtsrb.read(folder).train.images[0, 9, :, 1].tolist()
    assert row == [round(200 * min(max((x + 0.5) / 16 - 0.5, 0), 1)) for x in range(32)]
    assert row[:8] == [0] * 8 and row[15:17] == [94, 106] and row[24:] == [200] * 8


@pytest.mark.parametrize(
    ("file", "old", "new", "parts"),
    [
        (
            "00007/GT-00007.csv",
            ";36;34;3;1;35;33;7",
            ";36;34;3;1;37;33;7",
            ["00007/00000_00000.ppm", "(3, 1, 37, 33)", "36x34"],
        ),
        ("00007/GT-00007.csv", ";3;1;35;33;7", ";3;1;3;33;7", ["(3, 1, 3, 33)", "does not lie"]),
        ("00007/GT-00007.csv", ";3;1;35;33;7", ";-1;1;35;33;7", ["(-1, 1, 35, 33)"]),
        ("00007/GT-00007.csv", ";3;1;35;33;7", ";3;one;35;33;7", ["GT-00007.csv", "is no row of"]),
        ("00007/GT-00007.csv", ";3;1;35;33;7", ";3;1;35", ["GT-00007.csv", "is no row of"]),
        ("00007/GT-00007.csv", ";35;33;7", ";35;33;43", ["no training photographs of class 7"]),
        (
            "00007/GT-00007.csv",
            "00000_00000.ppm",
            "../../../../../../etc/00000_00001",
            ["holds no file", "etc/00000_00001"],
        ),
        ("00007/GT-00007.csv", "00000_00000.ppm", "00009_00000.ppm", ["holds no file", "00007/00009_00000.ppm"]),
        ("00042/GT-00042.csv", HEADER, "hello", ["GT-00042.csv", "is no row of"]),
        ("00042/00001_00000.ppm", "P6 36 34", "P6 36 35", ["00042/00001_00000.ppm", "not a whole"]),
        ("00042/00001_00000.ppm", "P6", "%!", ["00042/00001_00000.ppm", "not a whole"]),
        ("../../../GT-final_test.csv", ";28", ";43", ["0..42", "found 43"]),
        ("../../../GT-final_test.csv", "\n", ";", ["no labelled test photographs"]),
    ],
)
def test_wrong_archives_of_gtsrb_are_refused(official, tmp_path, refused, file, old, new, parts):
    folder = shutil.copytree(official, tmp_path / "bad")
    path = folder / "GTSRB/Final_Training/Images" / file
    assert old.encode() in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
    with refused(folder, *parts):
        datasets.load("gtsrb", folder)


# ---- archives that are damaged -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [zipped, tarred])
def test_truncated_and_damaged_archives_are_refused_or_harmless(official, tmp_path, make):
    whole = make(official, tmp_path / "whole").read_bytes()
    bad, rng, outcomes = tmp_path / "bad", np.random.default_rng(0), set()
    damages = [whole[:size] for size in (0, 3, 300, len(whole) // 3, len(whole) - 30_000, len(whole) - 9)]
    for _ in range(25):
        changed = bytearray(whole)
        for place in [*rng.integers(0, len(whole), 2), *(len(whole) - rng.integers(1, 2000, 2))]:
            changed[place] ^= int(rng.integers(1, 256))
        damages.append(bytes(changed))
    for contents in damages:
        bad.write_bytes(contents)
        try:
            gtsrb.read(bad)
            outcomes.add("read")
        except BadInput as error:
            assert "\n" not in str(error) and str(bad) in str(error)
            outcomes.add("refused")
    assert "refused" in outcomes


def test_a_bomb_is_not_unpacked(official, tmp_path, refused):
    folder = shutil.copytree(official, tmp_path / "a")
    shutil.rmtree(folder / "GTSRB/Final_Training/Images/00000")
    with zipfile.ZipFile(zipped(folder, tmp_path / "bomb.zip"), "a", zipfile.ZIP_DEFLATED) as archive:
        place = "GTSRB/Final_Training/Images/00000"
        archive.writestr(f"{place}/GT-00000.csv", f"{HEADER}\n00000_00000.ppm;36;34;3;1;35;33;0\n")
        archive.writestr(f"{place}/00000_00000.ppm", bytes(70 << 20))
    with refused("bomb.zip", "00000/00000_00000.ppm", "more than 67108864 bytes"):
        gtsrb.read(tmp_path / "bomb.zip")


# ---- LFW -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Ann has 10 photographs, Bob 12, Cid 9; number n of a person is black but for its centre half, which is n times 20."""
    folder = tmp_path_factory.mktemp("lfw") / "lfw-deepfunneled"
    for name, count in (("Ann_A", 10), ("Bob_B", 12), ("Cid_C", 9)):
        (folder / name).mkdir(parents=True)
        for number in range(1, count + 1):
            pixels = np.zeros((250, 250, 3), np.uint8)
            pixels[62:187, 62:187] = 20 * number
            Image.fromarray(pixels).save(folder / name / f"{name}_{number:04d}.jpg", quality=100, subsampling=0)
    return folder


def test_faces_are_cropped_and_split_by_person(faces, tmp_path):
    parts = lfw.read(faces)
    assert parts.names == ["Bob_B", "Ann_A"]  # the most photographed first; Cid has too few
    assert parts.train.num_classes == 2 and parts.train.image_shape == (55, 47, 3)
    # evenly spaced: places 2 and 7 of Ann's ten (0-based), 3 and 9 of Bob's twelve
    middle = parts.test.images[:, 27, 23, 0].astype(int)
    assert np.abs(middle - 20 * np.array([4, 10, 3, 8])).max() <= 2
    assert parts.test.labels.tolist() == [0, 0, 1, 1]
    corner = parts.test.images[:, 1, 1, 0].astype(int)  # the crop has no black border
    assert np.abs(corner - middle).max() <= 6
    splits = datasets.load("lfw", faces.parent)
    assert counts(splits) == [16, 2, 4]
    assert datasets.load("lfw", tarred(faces.parent, tmp_path / "lfw.tgz")).fingerprints() == splits.fingerprints()
    assert lfw.read(faces, least=9).train.num_classes == 3


def test_nobody_with_enough_photographs(faces, refused):
    with refused(faces, "nobody has 13 photographs"):
        lfw.read(faces, least=13)


# ---- YouTube ---------------------------------------------------------------------------------------------------------


def youtube_file(path, count=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    image_set = ImageSet(RNG.integers(0, 256, (count, 55, 47, 3), np.uint8), 400 * np.arange(count) % 1283, 1283)
    datasets.write_csaw_hdf5(path, image_set)
    return image_set.fingerprint()


def test_splits_of_nnoculation_and_names_of_the_course(tmp_path, refused):
    prints = {name: youtube_file(tmp_path / f"a/data/cl/{name}.h5") for name in youtube.FILES}
    assert {name: image_set.fingerprint() for name, image_set in youtube.parts(tmp_path / "a").items()} == prints
    splits = datasets.load("youtube", tmp_path / "a")
    assert splits.fingerprints() == {"train": prints["train"], "valid": prints["treat"], "test": prints["test"]}
    assert not isinstance(splits.train.images, np.ndarray)
    valid, test = (youtube_file(tmp_path / f"b/clean_{name}_data.h5") for name in ("validation", "test"))
    with refused(tmp_path / "b", "no train.h5", "never published", "kbd data fetch lfw"):
        datasets.load("youtube", tmp_path / "b")
    youtube_file(tmp_path / "b/train.h5")
    splits = datasets.load("youtube", tmp_path / "b")
    assert (splits.valid.fingerprint(), splits.test.fingerprint()) == (valid, test)
    os.remove(tmp_path / "b/clean_test_data.h5")
    with refused(tmp_path / "b", "no test images", "clean_test_data.h5"):
        datasets.load("youtube", tmp_path / "b")


def test_other_faces_are_refused(tmp_path, refused, make_set):
    datasets.write_csaw_hdf5(tmp_path / "train.h5", make_set(5, (55, 48, 3)))
    with refused(tmp_path / "train.h5", "(55, 48, 3)", "(55, 47, 3)"):
        datasets.load("youtube", tmp_path)


# ---- folders of pictures -----------------------------------------------------------------------------------------------


def picture_folder(folder, classes=("10", "9", "100"), count=10, size=(6, 5), mode="RGB"):
    """Picture i of class k is of colour (10 * k + i, k, 200), `size` wide and high."""
    for k, name in enumerate(sorted(classes, key=int) if all(map(str.isdecimal, classes)) else sorted(classes)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size, (10 * k + i, k, 200)).convert(mode).save(folder / name / f"{i:02d}.PNG")
        (folder / name / "Thumbs.db").write_bytes(b"no picture")
    return folder


def reds(image_set):
    return image_set.in_memory().images[:, 0, 0, 0].tolist()


def test_folder_of_classes_is_split(tmp_path):
    splits = datasets.load("image_folder", picture_folder(tmp_path / "a"))
    assert splits.train.image_shape == (5, 6, 3)
    # of each ten, places 2 and 7 are for testing, then the fifth of the other eight for the defender
    assert reds(splits.test) == [2, 7, 12, 17, 22, 27]
    assert reds(splits.valid) == [5, 15, 25]
    assert reds(splits.train) == [0, 1, 3, 4, 6, 8, 9, 10, 11, 13, 14, 16, 18, 19, 20, 21, 23, 24, 26, 28, 29]
    assert splits.train.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7  # 9, 10, 100: the order of numbers
    assert splits.train.images[0:1][0, 0, 0].tolist() == [0, 0, 200]


def test_folders_train_val_and_test(tmp_path):
    for name, count in (("train", 10), ("val", 2)):
        picture_folder(tmp_path / name, ("a", "b"), count)
    assert counts(datasets.load("image_folder", tmp_path)) == [18, 2, 4]  # val is for testing where there is no test
    picture_folder(tmp_path / "test", ("b",), 3)
    splits = datasets.load("image_folder", tmp_path)
    assert counts(splits) == [20, 4, 3]
    assert splits.test.labels.tolist() == [1] * 3  # b is 1 there as well
    picture_folder(tmp_path / "test", ("c",), 3)
    with pytest.raises(BadInput, match="class 'c' is none of the 2"):
        datasets.load("image_folder", tmp_path)


def test_pictures_are_decoded_when_they_are_asked_for(tmp_path, monkeypatch):
    folder = picture_folder(tmp_path / "a", count=40, size=(128, 128))
    seen = []
    opened = image_folder.opened
    monkeypatch.setattr(image_folder, "opened", lambda *arguments: seen.append(arguments[0]) or opened(*arguments))
    splits = datasets.load("image_folder", folder)
    assert len(seen) == 1  # to know the size
    train = splits.train
    assert train.images[4:6].shape == (2, 128, 128, 3) and len(seen) == 3
    assert train.images.take(np.array([9, 2]))[:, 0, 0, 0].tolist() == [reds(train)[9], reds(train)[2]]
    chosen = some(train, train.labels == 2)
    assert reds(chosen) == [red for red in reds(train) if red >= 20][-len(chosen) :]
    tracemalloc.start()
    for batch in train.batches(4):
        assert batch.shape[1:] == (128, 128, 3)
    digest = ImageSet(train.images[0:8], train.labels[:8], 3).fingerprint()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 128 * 128 * 3 * 2 < len(train) * 128 * 128 * 3 / 2
    assert some(train, np.arange(8)).fingerprint() == digest


def test_sizes_must_agree_or_be_told(tmp_path, refused):
    folder = picture_folder(tmp_path / "a")
    Image.new("RGB", (12, 10), (99, 0, 0)).save(folder / "9" / "00.PNG")
    Image.new("RGB", (5, 6), (98, 0, 0)).save(folder / "10" / "03.PNG")
    with refused(folder / "9" / "01.PNG", "6x5", "12x10", "--size"):
        datasets.load("image_folder", folder).train.in_memory()
    splits = image_folder.load(folder, (4, 3))
    assert splits.train.image_shape == (4, 3, 3)
    assert {99, 98} <= set(reds(splits.train))


def test_grey_pictures_have_one_channel(tmp_path, refused):
    folder = picture_folder(tmp_path / "a", mode="L")
    splits = datasets.load("image_folder", folder)
    assert splits.train.image_shape == (5, 6, 1)
    assert splits.train.images[0:1].dtype == np.uint8
    Image.new("RGB", (6, 5)).save(folder / "100" / "00.PNG")
    with refused(folder / "100" / "00.PNG", "colour"):
        datasets.load("image_folder", folder).train.in_memory()


def test_damaged_pictures_are_named(tmp_path, refused):
    folder = picture_folder(tmp_path / "a")
    path = folder / "10" / "00.PNG"
    whole = path.read_bytes()
    # Ghostscript would be run for the last, if Pillow were let
    for contents in (
        b"",
        b"hello",
        whole[: len(whole) // 2],
        whole[:30],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\n",
    ):
        path.write_bytes(contents)
        with refused(path, "not a whole PNG or JPEG picture"):
            datasets.load("image_folder", folder).train.in_memory()
    (tmp_path / "b" / "x").mkdir(parents=True)
    with refused(tmp_path / "b" / "x", "holds no pictures"):
        datasets.load("image_folder", tmp_path / "b")
    picture_folder(tmp_path / "c", ("x",), 1)
    with refused("class 0 has too few images"):
        datasets.load("image_folder", tmp_path / "c")


def test_imagenet_is_cropped_and_streamed(tmp_path, refused):
    picture_folder(tmp_path / "train", ("n02", "n01"), 3, (300, 280))
    picture_folder(tmp_path / "val", ("n02", "n01"), 4, (224, 500))
    wide = np.zeros((256, 512, 3), np.uint8)
    wide[:, :, 0] = np.arange(512) // 2
    wide[:, :, 1] = np.arange(256)[:, None]
    Image.fromarray(wide).save(tmp_path / "train" / "n01" / "00.PNG")
    splits = datasets.load("imagenet", tmp_path)
    assert counts(splits) == [6, 4, 4]
    assert splits.test.labels.tolist() == [0, 0, 1, 1]
    assert (splits.train.image_shape, splits.train.num_classes) == ((224, 224, 3), 2)
    # the shorter side is 256 already: the centre is cut out, and nothing else
    np.testing.assert_array_equal(splits.train.images[0:1][0], wide[16:240, 144:368])
    assert reds(splits.valid) == [1, 3, 11, 13] and reds(splits.test) == [0, 2, 10, 12]
    with refused(tmp_path / "val", "class 'n03' is none of the 2"):
        picture_folder(tmp_path / "val", ("n03",), 4)
        datasets.load("imagenet", tmp_path)
    shutil.rmtree(tmp_path / "val")
    with refused(tmp_path, "holds no folder val"):
        datasets.load("imagenet", tmp_path)


def test_imagenets_own_pictures(shared_data, tmp_path):
    with h5py.File(shared_data / "imagenet_samples.h5") as file:
        data, offsets = file["jpeg_bytes"][()], file["offsets"][()]
    for i in range(3):
        (tmp_path / f"{i}.JPEG").write_bytes(data[offsets[i] : offsets[i + 1]].tobytes())
        with Image.open(io.BytesIO((tmp_path / f"{i}.JPEG").read_bytes())) as picture:
            expected = np.asarray(picture.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR))[16:240, 16:240]
        np.testing.assert_array_equal(imagenet.decode(tmp_path / f"{i}.JPEG"), expected)


# ---- single files ------------------------------------------------------------------------------------------------------


def test_the_courses_file_as_a_data_set(tmp_path, make_set):
    image_set = make_set(60)  # labels 0, 1, 2, 0, …: 20 of each
    datasets.write_csaw_hdf5(tmp_path / "a.h5", image_set)
    splits = datasets.load("hdf5", tmp_path / "a.h5")
    assert [per_class(part).tolist() for part in (splits.train, splits.valid, splits.test)] == [
        [14] * 3,
        [2] * 3,
        [4] * 3,
    ]
    every = [image.tobytes() for part in (splits.train, splits.valid, splits.test) for image in part.in_memory().images]
    assert sorted(every) == sorted(image.tobytes() for image in image_set.images)
    np.testing.assert_array_equal(
        splits.train.images.take(np.array([5, 5, 1])), splits.train.in_memory().images[[5, 5, 1]]
    )


def test_npz_as_a_data_set(tmp_path, make_set, refused):
    image_set, test = make_set(30), make_set(6, seed=1)
    np.savez(tmp_path / "a.npz", images=image_set.images, labels=image_set.labels)
    assert counts(datasets.load("npz", tmp_path / "a.npz")) == [21, 3, 6]
    arrays = {"x_train": image_set.images[..., 0], "y_train": image_set.labels[:, None]}
    np.savez(tmp_path / "b.npz", **arrays, x_test=test.images[..., 0], y_test=test.labels)
    splits = datasets.load("npz", tmp_path / "b.npz")
    assert counts(splits) == [27, 3, 6]
    assert splits.test.fingerprint() == test.fingerprint()
    np.savez(tmp_path / "c.npz", **arrays)
    with refused("c.npz", "no array 'x_test'"):
        datasets.load("npz", tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", images=image_set.images[:2], labels=[0, 1])
    with refused("d.npz", "class 0 has too few images"):
        datasets.load("npz", tmp_path / "d.npz")
