"""What `kbd env` tells, and what it does not."""

from __future__ import annotations

import platform

import pytest
import tensorflow as tf
from test_cli import answer, run

from keras_backdoor import environment


def test_it_tells_versions_devices_and_memory(monkeypatch):
    told = answer("env", TF_VAR_password="secret", CUDA_VISIBLE_DEVICES="", KBD_SERVE_TOKEN="secret")
    assert told["python"] == platform.python_version()
    assert told["packages"]["tensorflow"] == tf.__version__
    assert [device["type"] for device in told["devices"]].count("CPU") == 1
    assert told["cores"] >= 1
    assert told["variables"]["CUDA_VISIBLE_DEVICES"] == ""
    assert "secret" not in str(told)
    if told["memory"] is not None:
        assert told["memory"] >= told["memory_available"] > 2**26
    page = run("env")
    assert page.code == 0
    assert f"{'tensorflow':<26}{tf.__version__}" in page.out


def test_what_a_file_of_the_system_says(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: A: B\nmodel name\t: C\n")
    assert environment._first(str(file), "model name") == "A: B"
    assert environment._first(str(file), "flags") is None
    assert environment._first(str(tmp_path / "none"), "model name") is None


def test_a_part_that_fails_is_named_and_decides_the_exit_code(monkeypatch):
    def broken(self):
        raise ImportError("no such\nlibrary")

    for name in ("_train", "_save", "_hdf5", "_addons"):
        monkeypatch.setattr(environment._Trial, name, lambda self: None)
    monkeypatch.setattr(environment._Trial, "_imgaug", broken)
    ended = run("env", "--check")
    assert ended.code == 1
    lines = ended.out.splitlines()[-6:]
    assert [line.split("  ")[0] for line in lines if "FAILED: ImportError: no such (" in line] == ["imgaug"]
    assert sum(" works (" in line for line in lines) == 5


@pytest.mark.slow
def test_all_parts_work():
    told = answer("env", "--check")
    assert [part["failure"] for part in told["checks"]] == [None] * 6
