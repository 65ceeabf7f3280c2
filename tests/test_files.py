from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from keras_backdoor.files import TEMPORARY, add_row, atomic, check_file, lookup, read_json, sha256, write_json


def test_atomic_gives_the_file_its_new_contents_only_at_the_end(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path  # a rename is atomic only within one file system
        assert temporary.name.startswith(TEMPORARY)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["result.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_atomic_leaves_the_old_contents_and_nothing_else_after_an_exception(tmp_path, error):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.txt"]


def test_atomic_makes_no_file_where_there_was_none_after_an_exception(tmp_path):
    with pytest.raises(RuntimeError), atomic(tmp_path / "result.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_two_processes_that_write_the_same_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "result.txt"
    code = (
        "import sys; from keras_backdoor.files import atomic\n"
        "with atomic(sys.argv[1]) as temporary: temporary.write_text('theirs')"
    )
    with atomic(path) as temporary:
        temporary.write_text("ours")
        subprocess.run([sys.executable, "-c", code, path], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert path.read_text() == "theirs"
        assert temporary.read_text() == "ours"
    assert path.read_text() == "ours"
    assert os.listdir(tmp_path) == ["result.txt"]


def test_a_killed_process_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    code = (
        "import os, sys; from keras_backdoor.files import atomic\n"
        "with atomic(sys.argv[1]) as temporary:\n    temporary.write_text('half'); os.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", code, path], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.returncode == -9
    assert path.read_text() == "old"


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"a": [1, 2.5, None, "ä"]})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": [1, 2.5, None, "ä"]}
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize("contents", [b"", b"{", b"{'a': 1}", b"\xff\xfe{}", b"\x89HDF\r\n\x1a\n"])
def test_what_is_no_json_is_refused_by_name(tmp_path, refused, contents):
    path = tmp_path / "run.json"
    path.write_bytes(contents)
    with refused(path, "not a JSON file"):
        read_json(path)


def test_json_nested_too_deeply_is_refused(tmp_path, refused):
    path = tmp_path / "run.json"
    path.write_text("[" * 100_000)
    with refused(path, "not a JSON file"):
        read_json(path)


def test_json_that_is_missing_or_a_folder_is_refused(tmp_path, refused):
    with refused(tmp_path / "run.json", "no such file"):
        read_json(tmp_path / "run.json")
    with refused(tmp_path, "is a directory"):
        read_json(tmp_path)


def test_written_json_is_plain_json(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"b": 1}


def test_a_pipe_is_no_file(tmp_path, refused):
    os.mkfifo(tmp_path / "pipe")
    with refused("pipe", "not a regular file"):
        check_file(tmp_path / "pipe")


def test_a_dangling_link_is_no_file(tmp_path, refused):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with refused("link", "no such file"):
        check_file(tmp_path / "link")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_without_permission_is_refused(tmp_path, refused):
    path = tmp_path / "secret"
    path.touch(0o000)
    with refused(path, "permission denied"):
        check_file(path)


def test_sha256_of_known_strings(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(b"a" * 1_000_000)  # appendix B.3
    assert sha256(path) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    path.write_bytes(b"a" * (2 << 20) + b"b")  # more than one block
    assert sha256(path) == "7603e6773fe035271eca09d39e22d0220145b9eaeba5ab227adca76bb2a6566c"


def test_lookup_names_the_nearest_or_all(refused):
    assert lookup("unit", ["unit", "raw"], "preprocessing") == "unit"
    with refused("unknown preprocessing 'unti'", "did you mean 'unit'?"):
        lookup("unti", ["unit", "raw"], "preprocessing")
    with refused("unknown preprocessing 'zzz'", "choose from unit, raw"):
        lookup("zzz", (name for name in ["unit", "raw"]), "preprocessing")


def test_a_row_takes_the_place_of_what_a_killed_run_wrote_of_its_epoch_and_later_ones(tmp_path):
    path = tmp_path / "history.csv"
    for epoch, loss in ((0, 0.5), (1, 0.4), (2, 0.3), (1, 0.25)):
        add_row(path, {"epoch": epoch, "loss": loss, "share": None})
    assert path.read_text().splitlines() == ["epoch,loss,share", "0,0.5,", "1,0.25,"]
