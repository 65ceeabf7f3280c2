"""Workers that are started together, told of each other, and ended together; and how commands end on SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import pytest
from test_cli import run

from keras_backdoor.launch import launch


def started(text, workers=2):
    told = []
    code, number = launch([sys.executable, "-c", text], workers, lambda worker, line: told.append((worker, line)))
    return code, number, told


def test_every_worker_knows_all_and_itself():
    text = "import os; print(os.environ['TF_CONFIG'], flush=True); print(os.environ['KBD_TRAIN_STRATEGY'])"
    code, _, told = started(text, 3)
    assert code == 0
    configs = {worker: json.loads(line) for worker, line in told if line.startswith("{")}
    assert sorted(configs) == [0, 1, 2]
    clusters = [config["cluster"]["worker"] for config in configs.values()]
    assert clusters[0] == clusters[1] == clusters[2]
    assert len(set(clusters[0])) == 3
    assert {worker: config["task"]["index"] for worker, config in configs.items()} == {0: 0, 1: 1, 2: 2}
    assert {line for _, line in told if not line.startswith("{")} == {"multi-worker"}


WAIT = """
import json, os, sys, time
number = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
print(os.getpid(), flush=True)
if number == 1:
    time.sleep(0.5)
    {end}
time.sleep(60)
"""


@pytest.mark.parametrize(("end", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_one_that_fails_ends_all(end, code):
    begun = time.monotonic()
    *result, told = started(WAIT.format(end=end))
    assert result == [code, 1]
    assert time.monotonic() - begun < 50
    for _, process in told:
        with pytest.raises(ProcessLookupError):
            os.kill(int(process), 0)


def test_workers_that_do_not_end_when_asked_are_killed(monkeypatch):
    monkeypatch.setattr("keras_backdoor.launch.GRACE", 0.2)
    deaf = WAIT.format(end="sys.exit(1)").replace(
        "import json", "import signal; signal.signal(15, lambda *_: None)\nimport json"
    )
    *result, told = started(deaf)
    assert result == [1, 1]
    with pytest.raises(ProcessLookupError):
        os.kill(next(int(process) for worker, process in told if worker == 0), 0)


def test_the_command_names_the_worker_that_failed_and_how_to_go_on():
    ended = run("launch", "--workers", "2", "--", "kbd", "train", "mnist-patsh", "--epochs", "1")
    assert ended.code == 2
    assert "] kbd: unknown recipe 'mnist-patsh': did you mean 'mnist-patch'?" in ended.out
    assert "ended with exit code 2" in ended.err
    assert ended.err.rstrip().endswith("kbd launch --workers 2 -- kbd train mnist-patsh --epochs 1 --resume")
    ended = run("launch", "--workers", "2", "--", "no-such-command")
    assert (ended.code, ended.out) == (2, "")
    assert "no-such-command: cannot be started" in ended.err


def test_sigterm_ends_with_143_and_says_how_to_go_on(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError  # never reached: the signal comes first

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("keras_backdoor.attacks.train.train", interrupted)
    ended = run("train", "mnist-patch", "-o", tmp_path / "run", "--limit", "2")
    assert ended.code == 143
    assert ended.err.rstrip().splitlines()[-1] == (
        "kbd: terminated; what was done is kept; continue with: "
        f"kbd train mnist-patch -o {tmp_path / 'run'} --limit 2 --resume"
    )
    assert signal.getsignal(signal.SIGTERM) == before
