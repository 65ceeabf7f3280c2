"""Cells as tasks of a Ray cluster that the test starts on this machine."""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import pytest
from test_bench_runner import NONE, TREATED, alive, calls, cells, fake, outcome, read_records

from keras_backdoor.benchmark.process import ENDED, Limits
from keras_backdoor.benchmark.ray_cluster import cluster
from keras_backdoor.benchmark.results import record_path
from keras_backdoor.benchmark.runner import Runner, owned


@pytest.fixture(scope="module")
def joined():
    """What `cluster` gives for a cluster of two processors."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install keras-backdoor[ray])")
    from ray.cluster_utils import Cluster

    machine = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        with cluster(machine.address) as given:
            yield given
    finally:
        machine.shutdown()
        ray.shutdown()


def test_cells_run_on_the_cluster_with_the_same_records_and_resume(joined, tmp_path):
    start, processors = joined
    assert processors == 2
    behaviour = """
if method == "strip": raise ValueError("no luck")
if method == "nad": raise BadInput("a.h5: is too small")
if method == "mntd": kept = b"x" * (600 << 20); time.sleep(90)
(home / f"{method}-{os.environ['TF_NUM_INTRAOP_THREADS']}-{os.getppid()}").touch()
"""
    folder, told = tmp_path / "bench", []
    with owned(folder) as lock:
        settings = {"workers": 2, "start": start, "limits": Limits(memory=500), "tell": told.append}
        work = Runner(folder, lock, words=fake(behaviour), **settings)
        work.run(cells("strip", "nad", "mntd", "pruning"))
        assert calls(folder)[0] == NONE and len(told) == 5
        assert outcome(folder, "strip") == ("failed", "ValueError: no luck", 2)
        assert outcome(folder, "nad") == ("refused", "a.h5: is too small", 1)
        assert outcome(folder, "mntd")[1].startswith("out of memory: took ")
        assert outcome(folder, "pruning") == ("done", None, 1)
        record = json.loads(record_path(folder, cells("pruning")[1]).read_text())
        assert {name: record[name] for name in TREATED} == TREATED
        # One thread each, and not children of this process.
        (place,) = folder.glob("pruning-*")
        assert place.name.startswith("pruning-1-") and not place.name.endswith(f"-{os.getpid()}")
        before = len(calls(folder))
        work.run(cells("strip", "nad", "mntd", "pruning", "fine-tuning"))
        assert calls(folder)[before:] == ["fine-tuning"]
    assert len(read_records(folder)) == 6


def test_a_stop_takes_the_processes_on_the_cluster_along(joined, tmp_path):
    start, _ = joined
    stop, told = threading.Event(), []
    job = {"folder": str(tmp_path), "cell": {"defense": "nad"}, "record": "", "known": {}, "started": 0}
    log = tmp_path / "log"
    ended = threading.Thread(
        target=lambda: told.append(start(fake("time.sleep(90)"), job, log, Limits(), stop, {}, [])), daemon=True
    )
    ended.start()
    until = time.monotonic() + 60
    while not (tmp_path / "calls.txt").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.2)
    pid = int((tmp_path / "calls.txt").read_text().split()[1])
    assert alive(pid)
    stop.set()
    ended.join(30)
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert told[0].kind == ENDED and not alive(pid)


def test_a_task_whose_worker_dies_is_a_failure_of_its_cell(joined, tmp_path):
    start, _ = joined
    words = fake("os.kill(os.getppid(), signal.SIGKILL); time.sleep(90)")
    job = {"folder": str(tmp_path), "cell": {"defense": "nad"}, "record": "", "known": {}, "started": 0}
    failure = start(words, job, tmp_path / "log", Limits(), threading.Event(), {})
    assert failure.kind == "failed" and failure.reason.startswith("Ray: ")


def test_without_ray_it_is_said_how_to_get_it(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with refused("Ray is not installed", "keras-backdoor[ray]"), cluster("auto"):
        pass


def test_no_cluster_is_told_in_one_line(refused):
    pytest.importorskip("ray", reason="Ray is not installed (pip install keras-backdoor[ray])")
    with refused("127.0.0.1:1", "no Ray cluster"), cluster("127.0.0.1:1"):
        pass
