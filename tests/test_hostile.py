"""No file of the hostile corpus gets through the gate, runs anything, or takes much memory; the clean ones all get through."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import hostile
import numpy as np
import pytest
from conftest import ROOT

from keras_backdoor import gate, model_file
from keras_backdoor.files import BadInput
from keras_backdoor.gate import Report
from keras_backdoor.gate.sandbox import Sandbox

pytestmark = pytest.mark.timeout(60, func_only=True)

KBD = [sys.executable, "-c", "from kbd.main import main; main()"]
MIB = 1 << 20
MOST_MEMORY = 500 * MIB

SCANNER = """
import json, resource, sys
from keras_backdoor.files import BadInput
from keras_backdoor.gate import scan_all

def reports(paths):
    while paths:  # a file that cannot be read ends the others' turn
        try:
            yield from ((report.file, report.safe, [f.as_json() for f in report.findings]) for report in
                        scan_all(iter(lambda: paths.pop(0) if paths else None, None)))
        except BadInput as error:
            yield str(error).split(": ")[0], False, [{"what": str(error)}]

for report in reports(json.load(sys.stdin)):
    print(json.dumps(report), flush=True)
# Its own peak is not taken from getrusage, which counts that of the process that started this one, too.
own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
memory = [own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]
print(json.dumps([memory, "tensorflow" in sys.modules or "keras" in sys.modules]))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> dict[str, Path]:
    """All files, clean ones too, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("corpus")
    paths = {}
    for number, name in enumerate([*hostile.CLEAN, *hostile.CORPUS]):
        (folder / str(number)).mkdir()
        paths[name] = hostile.write(name, folder / str(number))
        hostile.marker(paths[name]).unlink(missing_ok=True)
    return paths


@pytest.fixture(scope="module")
def scans(corpus, tmp_path_factory) -> tuple[dict[str, list], list]:
    """What a fresh process that scans all files says of each, and at its end of itself."""
    output = tmp_path_factory.mktemp("scans") / "output"
    with (
        open(output, "w") as target,
        subprocess.Popen([sys.executable, "-c", SCANNER], stdin=subprocess.PIPE, stdout=target, text=True) as process,
    ):
        json.dump([str(path) for path in corpus.values()], process.stdin)
        process.stdin.close()
        try:
            process.wait(250)
        except subprocess.TimeoutExpired:
            process.kill()
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    return {line[0]: line[1:] for line in lines if len(line) == 3}, lines[-1]


def everything_is_quiet(path: Path) -> bool:
    return not hostile.marker(path).exists()


def test_the_corpus_is_large_and_named_correctly(corpus):
    assert len(hostile.CORPUS) >= 350
    assert (
        sum(path.stat().st_size for path in corpus.values() if path.is_file() and path.name != "sparse.h5") < 150 * MIB
    )
    assert list(hostile.keras_effects()) == list(hostile.CORPUS)
    assert {entry.twin for entry in hostile.CORPUS.values()} <= {*hostile.CLEAN, ""}


@pytest.mark.parametrize("name", hostile.CLEAN)
def test_clean_twins_pass(corpus, scans, name):
    assert scans[0][str(corpus[name])][0], scans[0][str(corpus[name])]
    if ".legacy." in name or ".weights." in name:
        with pytest.raises(BadInput, match="weights only"):
            model_file.load(corpus[name])
    else:
        model, _ = model_file.load(corpus[name])
        assert [tuple(weight.shape) for weight in model.weights] == [(3, 3, 1, 4), (4,), (36, 3), (3,)]
        np.testing.assert_array_equal(model.get_weights()[0], hostile.WEIGHTS["conv_1"]["kernel:0"].astype(np.float32))


@pytest.mark.parametrize("name", hostile.CORPUS, ids=ascii)
def test_a_scan_finds_every_hostile_file(corpus, scans, name):
    path = corpus[name]
    assert str(path) in scans[0], "the scan ended before this file"
    safe, findings = scans[0][str(path)]
    if not hostile.CORPUS[name].misfit:
        assert not safe
        assert findings
    assert all(finding["what"].isprintable() and len(finding["what"]) < 600 for finding in findings)
    assert everything_is_quiet(path)


def test_a_scan_takes_little_memory_and_no_tensorflow(scans):
    (own, children), tensorflow = scans[1]
    assert max(own, children) * 1024 < MOST_MEMORY, (own, children)
    assert not tensorflow


@pytest.mark.parametrize("name", hostile.CORPUS, ids=ascii)
def test_no_hostile_file_is_loaded(corpus, name):
    path = corpus[name]
    with pytest.raises(BadInput) as caught:
        model_file.load(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600
    assert gate.report.printable(str(path)) in message
    assert everything_is_quiet(path)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_a_terminal_is_not_moved_by_anything_printed(corpus):
    paths = [str(corpus[name]) for name in hostile.CORPUS if "terminal" in name or "\x1b" in name]
    paths.remove(str(corpus["terminal-own-name.h5"]))  # harmless to look at
    assert len(paths) > 8
    ours, theirs = os.openpty()
    process = subprocess.Popen([*KBD, "zoo", "scan", *paths], stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    printed = b""
    with contextlib.suppress(OSError):  # Linux says so when the other side is closed
        while block := os.read(ours, 4096):
            printed += block
    os.close(ours)
    assert process.wait() == 3, printed
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed.decode())  # our own colours
    assert all(line.isprintable() for line in text.split("\r\n")), ascii(text)
    assert text.count("UNSAFE") == len(paths)


def test_the_command_line_tells_hostile_from_clean(corpus):
    for names, code in ((["flat.h5", "nested.keras"], 0), (["flat.h5", "lambda-top.h5", "weights-npz.keras"], 3)):
        paths = [str(corpus[name]) for name in names]
        run = subprocess.run([*KBD, "zoo", "scan", "--json", *paths], capture_output=True, text=True, timeout=50)
        assert run.returncode == code, run.stderr
        assert run.stdout.count('"sha256"') == len(names)


# ---- damage ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scan_one(tmp_path_factory):
    """A function that scans bytes."""
    path = tmp_path_factory.mktemp("damaged") / "network"

    def scan(contents: bytes) -> Report:
        path.write_bytes(contents)
        return gate.scan(path)

    return scan


@pytest.mark.parametrize("name", ["flat.h5", "flat.keras", "flat.weights.h5", "nested.h5"])
def test_files_that_are_cut_short_are_refused(corpus, scan_one, name):
    whole = corpus[name].read_bytes()
    assert scan_one(whole).safe
    for contents in hostile.truncated(whole):
        report = scan_one(contents)
        assert not report.safe, len(contents)
        assert all(finding.what.isprintable() for finding in report.findings)


@pytest.mark.parametrize("name", ["flat.h5", "flat.keras", "lambda-top.h5", "op-write-file.keras"])
def test_files_with_turned_bits_give_a_network_or_a_refusal(corpus, tmp_path, name):
    path, refusals = tmp_path / name, 0
    for contents in hostile.flipped(corpus[name].read_bytes(), 60):
        path.write_bytes(contents)
        try:
            model_file.load(path)
        except BadInput as error:
            assert str(error).isprintable()
            refusals += 1
        assert everything_is_quiet(path)
    assert refusals > 30


# ---- a file that changes -----------------------------------------------------------------------------------------------


def test_what_was_vetted_is_what_is_loaded(corpus, monkeypatch, tmp_path):
    path, bad = tmp_path / "network.h5", tmp_path / "bad.h5"
    path.write_bytes(corpus["flat.h5"].read_bytes())
    bad.write_bytes(corpus["op-write-file.h5"].read_bytes())
    look = Sandbox.take_apart

    def look_and_swap(*arguments, **options):
        result = look(*arguments, **options)
        os.replace(bad, path)
        return result

    monkeypatch.setattr(Sandbox, "take_apart", look_and_swap)
    model, _ = model_file.load(path)
    assert not bad.exists()
    assert len(model.weights) == 4
    assert everything_is_quiet(corpus["op-write-file.h5"])


def test_a_file_that_changes_all_the_time_runs_nothing(corpus, tmp_path):
    path, end = tmp_path / "network.h5", threading.Event()
    contents = [corpus[name].read_bytes() for name in ("flat.h5", "op-write-file.h5", "lambda-top.h5")]
    path.write_bytes(contents[0])

    def change() -> None:
        number = 0
        while not end.is_set():
            number += 1
            (tmp_path / "next").write_bytes(contents[number % 3])
            os.replace(tmp_path / "next", path)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(30):
            try:
                assert len(model_file.load(path)[0].weights) == 4
            except BadInput as error:
                assert str(error).isprintable()
    finally:
        end.set()
        thread.join()
    assert all(everything_is_quiet(corpus[name]) for name in ("op-write-file.h5", "lambda-top.h5"))


# ---- the corpus itself -------------------------------------------------------------------------------------------------

LIVE = """
import json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, os.getcwd())
import hostile
from pathlib import Path
for name, path in json.load(sys.stdin):
    try:
        hostile.load_with_keras(name, Path(path))
    except Exception:
        pass
"""


def test_plain_keras_does_run_what_is_said_to_run(tmp_path):
    names = [name for name, effect in hostile.keras_effects().items() if effect in ("runs code", "writes file")]
    assert len(names) >= 40
    paths = []
    for number, name in enumerate(names):
        (tmp_path / str(number)).mkdir()
        paths.append(hostile.write(name, tmp_path / str(number)))
    request = json.dumps([(name, str(path)) for name, path in zip(names, paths)])
    subprocess.run([sys.executable, "-c", LIVE], input=request, text=True, cwd=ROOT / "tests", capture_output=True)
    assert [name for name, path in zip(names, paths) if everything_is_quiet(path)] == []


# ---- no way around the gate --------------------------------------------------------------------------------------------

READERS = re.compile(
    r"load_model\(|model_from_json\(|model_from_config\(|load_weights|saved_model\.load|h5py\.File\((?!.*, \"w\")"
    r"|import pickle|import marshal|allow_pickle=True|yaml\.load"
)
MAY_READ = {"keras_backdoor/model_file.py", "keras_backdoor/files.py", "keras_backdoor/gate/contents.py"}


def test_nothing_else_opens_a_network_file():
    found = set()
    for folder in ("keras_backdoor", "models_zoo", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if READERS.search(line) and not line.lstrip().startswith(("#", '"', "'")):
                    found.add((path.relative_to(ROOT).as_posix(), number, line.strip()))
    assert {place for place in found if place[0] not in MAY_READ} == set()
    loads = [line for file, _, line in found if "load_model(" in line]
    assert len(loads) == 1  # for a file that somebody vouched for
