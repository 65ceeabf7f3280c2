"""Cells and their runner, with processes that do what a test tells them instead of training networks."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from keras_backdoor import datasets
from keras_backdoor.benchmark.cells import NONE, Cell, Plan, Training
from keras_backdoor.benchmark.process import Limits
from keras_backdoor.benchmark.results import read_records, record_path
from keras_backdoor.benchmark.runner import Runner, owned
from keras_backdoor.datasets import Splits
from keras_backdoor.files import TEMPORARY

PRINTS = {part: 64 * letter for part, letter in (("train", "a"), ("valid", "b"), ("test", "c"))}
MNIST = Training("mnist-patch", "mnist", None, PRINTS, miniature=True)
SCORES = {"clean_accuracy": 0.9, "attack_success_rate": {"square": 0.8}, "robust_accuracy": {"square": 0.1}}
TRAINED = {"networks": {"badnet": SCORES}}
TREATED = {"before": SCORES, "after": SCORES, "seconds": 1.0}

FAKE = f"""
import sys
sys.path[:] = {sys.path!r}
import errno, os, pathlib, signal, time
from keras_backdoor.benchmark.child import serve
from keras_backdoor.files import BadInput

def work(job):
    home, method = pathlib.Path(job["folder"]), job["cell"]["defense"]
    with open(home / "calls.txt", "a") as file:
        file.write(f"{{method}} {{os.getpid()}}\\n")
    print("chatter on stdout")
    do(method, home)
    if method == "none":
        (home / job["known"]["run"]).mkdir(exist_ok=True)
        return {TRAINED!r}
    return {TREATED!r}

def do(method, home):
    BEHAVIOUR

serve(work)
"""


def cells(*methods: str, training: Training = MNIST) -> list[Cell]:
    return [Cell(training), *(Cell(training, defense=method) for method in methods)]


def fake(behaviour: str = "pass") -> list[str]:
    """The command of a process that does `behaviour`, the body of a function of method and home."""
    return [sys.executable, "-c", FAKE.replace("BEHAVIOUR", behaviour.replace("\n", "\n    "))]


@pytest.fixture
def lock(tmp_path):
    with owned(tmp_path / "bench") as lock:
        yield lock


@pytest.fixture
def runner(tmp_path, lock):
    """A function that makes a runner of `fake` processes."""

    return lambda behaviour="pass", **settings: Runner(tmp_path / "bench", lock, words=fake(behaviour), **settings)


def calls(folder: Path) -> list[str]:
    """The methods that processes were started for, in order."""
    return [line.split()[0] for line in (folder / "calls.txt").read_text().splitlines()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def outcome(folder: Path, method: str) -> tuple[str, str, int]:
    (record,) = (record for record in read_records(folder) if record["defense"] == method)
    return record["status"], record["reason"], record["attempts"]


# --- what a cell is -------------------------------------------------------------------------------------------------------


def test_a_cell_is_another_one_if_anything_is_different_that_its_figures_depend_on(monkeypatch):
    cell = Cell(MNIST, defense="strip", settings={"seed": 0})
    others = [
        replace(cell, defense="nad"),
        replace(cell, innocent=True),
        replace(cell, settings={"seed": 0, "overlays": 99}),
        *(
            replace(cell, training=replace(MNIST, **change))
            for change in (
                {"seed": 1},
                {"epochs": 9},
                {"recipe": "mnist-cla"},
                {"miniature": False, "recipe": "mnist-aaa"},
                {"fingerprints": {**PRINTS, "test": 64 * "d"}},
                {"clean_only": True},
            )
        ),
    ]
    keys = {one.key for one in (cell, *others)}
    with monkeypatch.context() as patch:
        patch.setattr("keras_backdoor.__version__", "99")
        keys.add(replace(cell).key)
    assert len(keys) == len(others) + 2
    # These are other ways to say the same.
    same = [
        Cell(replace(MNIST, data="elsewhere"), defense="strip", settings={"seed": 0}),
        replace(cell, settings={"seed": 0, "overlays": 100}, origins={"overlays": "command line"}),
        replace(cell, training=replace(MNIST, epochs=MNIST.settings.epochs)),
        Cell.from_json(json.loads(json.dumps(cell.as_json()))),
    ]
    assert {one.key for one in same} == {cell.key}
    assert cell.network.key == Cell(MNIST).key != cell.key


@pytest.fixture
def few(make_set, monkeypatch):
    """Every data set is a few random images of its own."""
    shapes = {"mnist": ((28, 28, 1), 10), "gtsrb": ((32, 32, 3), 43)}

    def load(name, folder):
        shape, classes = shapes[name]
        parts = [make_set(classes, shape, classes, seed) for seed in range(3)]
        return Splits(*parts, source="random", miniature=folder is None)

    monkeypatch.setattr(datasets, "load", load)


def said(planned: list[Cell]) -> list[tuple]:
    return [
        (cell.training.recipe, cell.training.seed, cell.training.clean_only, cell.innocent, cell.defense)
        for cell in planned
    ]


def test_detectors_meet_the_innocent_network_of_each_recipe(few):
    planned = Plan(["mnist-patch", "gtsrb-pn"], ["strip", "nad", "abl"], [0, 1]).cells()
    wanted = []
    for seed in (0, 1):
        patch, pn = ("mnist-patch", seed), ("gtsrb-pn", seed)
        wanted += [(*patch, False, False, method) for method in (NONE, "strip", "nad", "abl")]
        wanted += [(*patch, True, True, method) for method in (NONE, "strip")]
        # Two steps: the innocent network is made on the way to the BadNet.
        wanted += [(*pn, False, innocent, method) for innocent, method in ((False, NONE), (False, "strip"))]
        wanted += [(*pn, False, False, "nad"), (*pn, False, False, "abl"), (*pn, False, True, "strip")]
    assert said(planned) == wanted
    assert all(cell.settings["seed"] == cell.training.seed for cell in planned if cell.defense in ("strip", "nad"))


def test_every_defense_meets_innocent_networks_that_are_asked_for(few):
    planned = Plan(["mnist-patch", "mnist-cla"], ["strip", "nad", "abl"], innocent=["mnist-cla"]).cells()
    met = [(recipe, method) for recipe, *_, innocent, method in said(planned) if innocent]
    assert met == [("mnist-cla", NONE), ("mnist-cla", "strip"), ("mnist-cla", "nad")]
    assert not [cell for cell in said(Plan(["mnist-patch"], ["strip"], innocent=[]).cells()) if cell[3]]


def test_hyper_parameters_come_with_their_origin(few, refused):
    settings = {"nnoculation-pre": {"epochs": (3, "preset quick")}, "strip": {"overlays": (100, "command line")}}
    planned = Plan(["mnist-cla"], ["nnoculation-pre", "strip"], [7], innocent=[], settings=settings).cells()
    _, pre, strip = planned
    # Optimizer and rate are those of the network's training, which differ from the method's defaults; the batch does not.
    assert pre.settings == {"optimizer": "adadelta", "learning_rate": 1.0, "epochs": 3, "seed": 7}
    assert pre.origins == {"optimizer": "recipe", "learning_rate": "recipe", "epochs": "preset quick", "seed": "cell"}
    assert strip.settings == {"seed": 7}  # what is given is the default
    with refused("overlay", "overlays", "strip"):
        Plan(["mnist-cla"], ["strip"], settings={"strip": {"overlay": (1, "")}}).cells()
    with refused("gtsrb-pn", "innocent"):
        Plan(["mnist-cla"], ["strip"], innocent=["gtsrb-pn"]).cells()
    with refused("mnist-club", "mnist-cla"):
        Plan(["mnist-club"], ["strip"]).cells()


# --- how cells are run ----------------------------------------------------------------------------------------------------


def test_networks_come_first_and_what_is_there_is_not_run_again(runner):
    told = []
    work = runner(workers=2, tell=lambda record: told.append(record["defense"]))
    work.run(cells("strip", "nad"))
    assert calls(work.folder)[0] == NONE and sorted(calls(work.folder)) == sorted(told) == ["nad", NONE, "strip"]
    record = json.loads(record_path(work.folder, cells()[0]).read_text())
    assert record["networks"] == {"badnet": SCORES} and record["status"] == "done" and record["attempts"] == 1
    assert record["peak_memory_mib"] > 10 and record["cpu_seconds"] > 0 and 0 < record["process_seconds"] < 120
    work.run(cells("strip", "nad"))
    assert len(calls(work.folder)) == 3
    work.run(cells("strip", "nad", "mntd"))
    assert calls(work.folder)[3:] == ["mntd"]
    (log,) = (work.folder / "logs").glob("*strip*")
    assert log.read_text() == "chatter on stdout\n"


def test_failures_are_recorded_with_their_reason_and_stop_nothing(runner):
    behaviour = """
if method == "strip": raise ValueError("no luck\\nat all")
if method == "nad": raise BadInput("a.h5: is too small")
if method == "mntd" and not os.path.exists(home / "once"):
    (home / "once").touch()
    os.kill(os.getpid(), signal.SIGKILL)
if method == "pruning": os.kill(os.getpid(), signal.SIGKILL)
if method == "fine-tuning": os._exit(9)
"""
    work = runner(behaviour, workers=2)
    work.run(cells("strip", "nad", "mntd", "pruning", "fine-tuning", "anti-repair"))
    assert outcome(work.folder, "strip") == ("failed", "ValueError: no luck", 2)
    assert outcome(work.folder, "nad") == ("refused", "a.h5: is too small", 1)  # which another try would not change
    assert outcome(work.folder, "mntd") == ("done", None, 2)
    assert outcome(work.folder, "pruning") == ("failed", "killed by signal 9", 2)
    assert outcome(work.folder, "fine-tuning") == ("failed", "ended with exit code 9", 2)
    assert outcome(work.folder, "anti-repair") == ("done", None, 1)
    before = len(calls(work.folder))
    work.run(cells("strip"))
    assert len(calls(work.folder)) == before
    replace(runner(), again=True).run(cells("strip", "nad"))
    assert outcome(work.folder, "strip") == outcome(work.folder, "nad") == ("done", None, 1)


def test_what_is_done_to_a_network_that_failed_is_not_tried(runner):
    work = runner('if method == "none": raise ValueError("burnt")')
    work.run(cells("strip"))
    assert calls(work.folder) == [NONE, NONE]
    assert outcome(work.folder, "strip") == ("failed", "its network is not there (ValueError: burnt)", 0)


def test_a_cell_that_takes_too_much_memory_or_time_is_ended(runner):
    work = runner('kept = b"x" * (600 << 20 if method == "strip" else 1); time.sleep(0 if method == "none" else 90)')
    limited = replace(work, limits=Limits(seconds=None, memory=500))
    limited.run(cells("strip"))
    status, reason, attempts = outcome(work.folder, "strip")
    assert (status, attempts) == ("failed", 2) and reason.startswith("out of memory: took ") and "of 500 " in reason
    replace(work, limits=Limits(seconds=1.5)).run(cells("nad"))
    assert outcome(work.folder, "nad") == ("failed", "took longer than 0.025 min", 2)
    assert not [line for line in (work.folder / "calls.txt").read_text().splitlines() if alive(int(line.split()[1]))]


def test_memory_of_children_counts_and_what_they_share_counts_once(runner):
    behaviour = """
if method == "strip":
    import subprocess
    subprocess.run([sys.executable, "-c", "import time; kept = b'x' * (600 << 20); time.sleep(90)"])
if method == "nad":
    kept = b"x" * (300 << 20)
    if not os.fork():
        time.sleep(90)
    time.sleep(2)
"""
    work = runner(behaviour, workers=2, limits=Limits(memory=500))
    work.run(cells("strip", "nad"))
    status, reason, _ = outcome(work.folder, "strip")
    assert status == "failed" and reason.startswith("out of memory: took ")
    assert outcome(work.folder, "nad")[0] == "done"  # though both processes have the 300 MiB


def test_a_full_disk_ends_the_bench_and_is_no_cells_failure(runner):
    work = runner('if method == "strip": raise OSError(errno.ENOSPC, "No space left on device")')
    with pytest.raises(OSError, match="No space left"):
        work.run(cells("strip", "nad"))
    assert "strip" not in {record["defense"] for record in read_records(work.folder)}
    runner().run(cells("strip", "nad"))
    assert outcome(work.folder, "strip") == ("done", None, 1)


def test_a_folder_has_one_owner_at_a_time(tmp_path, refused, monkeypatch):
    monkeypatch.setattr("keras_backdoor.benchmark.runner.PATIENCE", 0.2)
    with owned(tmp_path), refused(tmp_path, "another kbd bench"), owned(tmp_path):
        pass
    with refused(tmp_path, "disk is full", "--resume"), owned(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="else"), owned(tmp_path):
        raise OSError(errno.EIO, "something else")
    with owned(tmp_path):
        assert not list(tmp_path.iterdir())


RUNNER = f"""
import sys
sys.path[:] = {sys.path!r}
import json, pathlib
from keras_backdoor.benchmark.cells import Cell
from keras_backdoor.benchmark.runner import Runner, owned
folder, words, cells = json.loads(sys.argv[1])
with owned(pathlib.Path(folder)) as lock:
    Runner(pathlib.Path(folder), lock, workers=2, words=words).run([Cell.from_json(cell) for cell in cells])
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_runner_that_is_killed_takes_its_processes_along_and_can_go_on(tmp_path, how):
    folder = tmp_path / "bench"
    words = fake('(home / f"{method}.here").touch(); time.sleep(0 if method == "none" else 90)')
    started = [folder / f"{method}.here" for method in ("strip", "nad")]
    given = json.dumps([str(folder), words, [cell.as_json() for cell in cells("strip", "nad")]])
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell's background processes ignore
    process = subprocess.Popen([sys.executable, "-c", RUNNER, given], stderr=subprocess.DEVNULL, preexec_fn=heeded)
    until = time.monotonic() + 60
    while not all(path.exists() for path in started) and time.monotonic() < until:
        time.sleep(0.05)
    pids = [int(line.split()[1]) for line in (folder / "calls.txt").read_text().splitlines()]
    process.send_signal(how)
    process.wait(60)
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, pids))
    (cell,) = read_records(folder)
    assert cell["defense"] == NONE
    half = record_path(folder) / f"{TEMPORARY}1-strip.json"  # as a kill in the middle of writing leaves it
    half.write_text('{"key"')
    with owned(folder) as lock:  # which those processes had
        Runner(folder, lock, words=fake()).run(cells("strip", "nad"))
    assert [record["status"] for record in read_records(folder)] == ["done", "done", "done"]
    assert calls(folder).count(NONE) == 1
