"""`kbd data list`, `fetch` and `import`; downloads from the loopback server of `test_zoo`, misbehaving where it can."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from functools import partial

import numpy as np
import pytest
from PIL import Image
from test_cli import answer, assert_refused, done, run
from test_zoo import Server, cache, redirect, send, serve, server  # noqa: F401

from keras_backdoor import datasets
from keras_backdoor.datasets import lfw, sources
from keras_backdoor.datasets.prepared import read_prepared
from keras_backdoor.images import ImageSet


def archive_of_faces() -> bytes:
    """Two people with ten photographs each, as a .tar.gz."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (250, 250, 3), np.uint8)
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("Ann_A", "Bob_B"):
            for number in range(1, 11):
                picture = io.BytesIO()
                Image.fromarray(np.roll(noise, 10 * number + (name == "Ann_A"), 1)).save(picture, "JPEG")
                info = tarfile.TarInfo(f"lfw/{name}/{name}_{number:04d}.jpg")
                info.size = len(picture.getvalue())
                archive.addfile(info, io.BytesIO(picture.getvalue()))
    return buffer.getvalue()


FACES = archive_of_faces()
HASH = hashlib.sha256(FACES).hexdigest()


@pytest.fixture
def registry(server, monkeypatch):  # noqa: F811
    """The registry of sources; LFW comes from the loopback server, and is the archive above."""

    def change(**changes):
        entry = {**sources.files_of("lfw")[0], "size": len(FACES), "sha256": HASH, "urls": [f"{server.url}/lfw.tgz"]}
        monkeypatch.setattr(sources, "entries", lambda: ({**entry, **changes},))

    change()
    return change


# ---- list ------------------------------------------------------------------------------------------------------------


def test_list_tells_what_load_gives(tmp_path):
    listed = {row["name"]: row for row in answer("data", "list")["data_sets"]}
    assert list(listed) == list(datasets.DATASETS)
    assert listed["cifar10"]["counts"] == {"train": 50000, "valid": 5000, "test": 5000}
    assert listed["gtsrb"]["shape"] == [32, 32, 3] and listed["gtsrb"]["classes"] == 43
    assert [name for name, row in listed.items() if row["fetchable"]] == ["mnist", "cifar10", "gtsrb", "lfw"]
    assert [name for name, row in listed.items() if row["importable"]] == ["cifar10", "gtsrb", "lfw", "image_folder"]
    assert {row["cached"] for row in listed.values()} == {None}
    text = done("data", "list")
    for name, about in datasets.ABOUT.items():
        assert f"\n{name} " in text and about.wanted in text
    assert "50,000" in text and "in the cache" not in text


def test_list_knows_what_is_in_the_cache(cache):  # noqa: F811
    (cache / "data" / "mnist").mkdir(parents=True)
    (cache / "data" / "mnist" / "mnist.npz").write_bytes(b"")
    (cache / "data" / "gtsrb").mkdir()
    (cache / "data" / "gtsrb" / "GTSRB_Final_Test_GT.zip").write_bytes(b"")  # one of three
    listed = {row["name"]: row["cached"] for row in answer("data", "list")["data_sets"]}
    assert [name for name, place in listed.items() if place] == ["mnist"]
    assert f"--data {cache}/data/mnist" in done("data", "list")


def test_list_imports_nothing_heavy():
    code = "import sys; from kbd.main import cli; cli.main(['data', 'list'], standalone_mode=False);"
    code += "print({'tensorflow', 'keras', 'PIL', 'mlxtend', 'matplotlib', 'requests'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.endswith("set()\n"), result.stderr


def test_sources_are_complete():
    for entry in sources.entries():
        assert entry["set"] in datasets.ABOUT and entry["licence"] and os.path.basename(entry["file"]) == entry["file"]
        assert (entry["sha256"] is None) == (entry["size"] is None)
        assert entry["sha256"] is None or len(bytes.fromhex(entry["sha256"])) == 32
        assert all(url.startswith("https://") for url in entry["urls"])
    known = {entry["name"]: entry["sha256"] for entry in sources.entries()}
    assert known["mnist"] == "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
    assert len(known) == len(sources.entries())


# ---- fetch -----------------------------------------------------------------------------------------------------------


def test_fetched_files_are_ready_for_data(server, registry, cache, tmp_path):  # noqa: F811
    server.play(partial(serve, contents=FACES, upto=100_000), serve_faces)  # the connection breaks once
    result = answer("data", "fetch", "lfw")
    path = cache / "data" / "lfw" / "lfw-funneled.tgz"
    assert result == {"name": "lfw", "data": str(path), "files": [{"path": str(path), "sha256": HASH}]}
    assert path.read_bytes() == FACES
    assert done("data", "fetch", "lfw", "--offline") == f"{path}\n"
    asked = len(server.requests)
    for place in (path, path.parent, done("data", "fetch", "lfw", "-o", tmp_path / "copy.tgz").strip()):
        splits = datasets.load("lfw", place)
        assert [len(part) for part in (splits.train, splits.valid, splits.test)] == [14, 2, 4]
    assert len(server.requests) == asked
    assert f"--data {path.parent}" in done("data", "list")


def serve_faces(handler):
    serve(handler, contents=FACES)


def test_what_comes_must_be_what_is_registered(server, registry, cache):  # noqa: F811
    for behaviour, part in (
        (send(FACES[:-1] + b"."), "another file"),
        (send(FACES + b"."), "bytes"),
        (send(b"", 404), "404"),
    ):
        server.play(behaviour)
        assert_refused(run("data", "fetch", "lfw"), "lfw: no mirror gave", part)
        assert not (cache / "data/lfw/lfw-funneled.tgz").exists()
    assert_refused(run("data", "fetch", "lfw", "--offline"), "--offline forbids")


def test_unknown_hash_must_be_accepted(server, registry, cache):  # noqa: F811
    registry(sha256=None, size=None)
    server.play(serve_faces)
    assert_refused(run("data", "fetch", "lfw"), "SHA-256 is not known", "--accept-hash")
    result = run("data", "fetch", "lfw", "--accept-hash")
    assert result.code == 0 and f"accepted SHA-256 {HASH}" in result.err
    path = cache / "data/lfw/lfw-funneled.tgz"
    path.write_bytes(FACES[:-1] + b".")
    server.play(send(FACES[:-1] + b"."))
    assert_refused(run("data", "fetch", "lfw"), "another file")
    assert not path.exists()


def test_sets_of_several_files_are_a_folder(server, registry, cache, monkeypatch):  # noqa: F811
    one = sources.entries()[0]
    two = tuple({**one, "name": f"gtsrb {i}", "set": "gtsrb", "file": f"{i}.zip"} for i in (1, 2))
    monkeypatch.setattr(sources, "entries", lambda: two)
    server.play(serve_faces)
    result = answer("data", "fetch", "gtsrb")
    assert result["data"] == str(cache / "data/gtsrb")
    assert [os.path.basename(file["path"]) for file in result["files"]] == ["1.zip", "2.zip"]


def test_redirects_are_followed_to_registered_hosts_only(server, registry):  # noqa: F811
    registry(redirects=["files.example.org"])
    server.play(redirect("http://files.example.com/x"))
    assert_refused(run("data", "fetch", "lfw"), "redirects to http://'files.example.com', which is not trusted")
    other = Server()
    try:
        threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
        other.play(serve_faces)
        server.play(redirect(f"{other.url}/x"))
        assert_refused(run("data", "fetch", "lfw"), "which is not trusted")
        registry(redirects=[other.url[len("http://") :]])
        assert answer("data", "fetch", "lfw")["files"][0]["sha256"] == HASH
    finally:
        other.shutdown()
        other.server_close()


def test_what_cannot_be_fetched():
    assert_refused(run("data", "fetch", "youtube"), "nobody offers it", "never published")
    assert_refused(run("data", "fetch", "cifar"), "unknown data set 'cifar'", "did you mean 'cifar10'?")
    assert_refused(run("data", "fetch"), "NAME")


# ---- import ----------------------------------------------------------------------------------------------------------


def test_import_makes_the_file_that_data_takes(tmp_path):
    (tmp_path / "lfw.tgz").write_bytes(FACES)
    result = answer("data", "import", "lfw", tmp_path / "lfw.tgz", tmp_path / "lfw_faces.h5")
    counts = {"train": 16, "test": 4}
    assert result == {
        "name": "lfw",
        "output": str(tmp_path / "lfw_faces.h5"),
        "counts": counts,
        "shape": [55, 47, 3],
        "classes": 2,
    }
    assert (
        read_prepared(tmp_path / "lfw_faces.h5").train.fingerprint()
        == lfw.read(tmp_path / "lfw.tgz").train.fingerprint()
    )
    assert_refused(run("data", "import", "lfw", tmp_path / "lfw.tgz", tmp_path / "lfw_faces.h5"), "exists")
    more = answer(
        "data", "import", "lfw", tmp_path / "lfw.tgz", tmp_path / "lfw_faces.h5", "--overwrite", "--least", "9"
    )
    assert more["counts"] == counts


def test_a_prepared_file_of_other_people_is_a_data_set(tmp_path):
    (tmp_path / "lfw.tgz").write_bytes(FACES)
    done("data", "import", "lfw", tmp_path / "lfw.tgz", tmp_path / "lfw_faces.h5")
    assert (
        datasets.load("lfw", tmp_path / "lfw_faces.h5").fingerprints()
        == datasets.load("lfw", tmp_path / "lfw.tgz").fingerprints()
    )


def test_import_of_pictures_resizes_them(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (6 + i, 5), (20 * i, 0, 255 * (name == "dog"))).save(tmp_path / "in" / name / f"{i}.png")
    out = tmp_path / "out.h5"
    result = answer("data", "import", "image_folder", tmp_path / "in", out, "--size", "8x4")
    assert (result["counts"], result["shape"], result["classes"]) == ({"train": 16, "test": 4}, [8, 4, 3], 2)
    splits = datasets.load("image_folder", out)
    assert sorted(splits.test.images[:, 0, 0, 0].tolist()) == [40, 40, 140, 140]
    assert (splits.train.images[splits.train.labels == 1][..., 2] == 255).all()
    assert_refused(run("data", "import", "image_folder", tmp_path / "in", tmp_path / "b.h5"), "png", "--size")
    assert sorted(os.listdir(tmp_path)) == ["in", "out.h5"]  # nothing half-written


def test_part_of_any_set_as_the_courses_file(tmp_path, digits):
    np.savez(tmp_path / "a.npz", images=digits.test.images, labels=digits.test.labels)
    out = tmp_path / "valid.h5"
    assert answer("data", "import", "npz", tmp_path / "a.npz", out, "--part", "valid")["counts"] == {"valid": 60}
    stored = datasets.read_images(out)
    assert stored.fingerprint() == datasets.load("npz", tmp_path / "a.npz").valid.fingerprint()


def test_wrong_imports(tmp_path, make_set):
    (tmp_path / "lfw.tgz").write_bytes(FACES[:-2000])
    out = tmp_path / "out.h5"
    arguments = ("data", "import", "lfw", tmp_path / "lfw.tgz")
    assert_refused(run(*arguments, out), tmp_path / "lfw.tgz", "not a whole")
    assert_refused(run(*arguments, tmp_path / "none" / "out.h5"), tmp_path / "none")
    assert_refused(run("data", "import", "lfw", tmp_path / "none", out), tmp_path / "none", "no such file")
    assert_refused(run(*arguments, out, "--size", "3x3"), "--size", "image_folder")
    assert_refused(run("data", "import", "image_folder", tmp_path, out, "--size", "3"), "--size", "'3'", "32x32")
    assert_refused(run("data", "import", "image_folder", tmp_path, out, "--least", "3"), "--least", "lfw")
    assert_refused(run("data", "import", "mnist", tmp_path, out), "mnist: needs no import", "mnist.npz")
    assert_refused(run("data", "import", "mnst", tmp_path, out), "did you mean 'mnist'?")
    assert not out.exists()


def test_json_is_all_that_is_printed(tmp_path, make_set):
    image_set = make_set(60)
    datasets.write_csaw_hdf5(tmp_path / "a.h5", ImageSet(image_set.images, image_set.labels, 3))
    result = run("data", "import", "hdf5", tmp_path / "a.h5", tmp_path / "b.h5", "--part", "test", "--json")
    assert (result.code, result.err) == (0, "") and json.loads(result.out)["counts"] == {"test": 12}
