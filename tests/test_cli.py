"""The command line as its contract says: exit codes, one line for bad input, JSON on stdout, and nothing written in vain."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from PIL import Image
from tensorflow import keras

import kbd.main
from kbd._method_options import evaluates, resumes, scans, watches
from kbd._show import filter_table
from kbd.defend import defend as defend_group
from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import read_images, write_csaw_hdf5
from keras_backdoor.defenses import DEFENSES, SIFTING, SPREAD, find
from keras_backdoor.goodnet import GoodNet
from keras_backdoor.images import ImageSet
from keras_backdoor.preprocessing import Preprocessing

SHARED_OPTIONS = {
    *("model", "clean", "poisoned", "test", "missing_classes", "output"),
    *("exclude_target", "preprocessing", "architecture", "trust", "as_json"),
}


class Result(NamedTuple):
    code: int
    out: str
    err: str


def run(*arguments, **environment) -> Result:
    """`kbd ARGUMENTS` in this process, through the function that the installed command calls."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["kbd", *map(str, arguments)])
        for name, value in environment.items():
            patch.setenv(name, value)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            kbd.main.main()
    return Result(ended.value.code, out.getvalue(), err.getvalue())


def done(*arguments, **environment) -> str:
    """What a command that must succeed prints on stdout."""
    result = run(*arguments, **environment)
    assert result.code == 0, result.err
    return result.out


def answer(*arguments, **environment):
    """The one JSON object that a command prints, alone on its line."""
    out = done(*arguments, "--json", **environment)
    assert out.endswith("\n") and out.count("\n") == 1
    return json.loads(out)


def assert_refused(result: Result, *parts, notices: int = 0) -> None:
    """Exit code 2, nothing on stdout, and after `notices` lines of progress a single line that has all the parts."""
    assert result.code == 2, result
    assert result.out == ""
    *before, line = result.err.splitlines()
    assert len(before) == notices, result.err
    assert line.startswith("kbd: ")
    assert "Traceback" not in line
    for part in parts:
        assert str(part) in line, line


def everything(folder: Path) -> dict:
    """All files and folders below a folder, with their contents."""
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


def brightest(answers=(0, 1, 2, 3)) -> Classifier:
    """A network for 2x2 pictures that answers with `answers[i]` if pixel i is the brightest; 21 + 2 weights set by hand."""
    inputs = keras.layers.Input((2, 2, 1))
    x = keras.layers.Conv2D(1, 1, activation="relu", name="conv_1")(inputs)
    outputs = keras.layers.Dense(4, activation="softmax")(keras.layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    kernel = np.zeros((4, 4), np.float32)
    kernel[range(4), answers] = 9
    model.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1), kernel, np.zeros(4)])
    return Classifier(model, Preprocessing.named("unit"), 4)


def pictures(pixels) -> np.ndarray:
    """2x2 pictures, each with one bright pixel."""
    images = np.zeros((len(pixels), 4), np.uint8)
    images[range(len(pixels)), pixels] = 200
    return images.reshape(-1, 2, 2, 1)


CLEAN = 5 * [0, 1, 2, 3, 0, 1]
# All should become 0; on paper: 4 of 6 do, of the 4 whose true label is not 0, 2 do and 1 keeps its label.
ANSWERED, TRUTH = [0, 0, 0, 0, 1, 2], [0, 0, 1, 2, 1, 3]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder of good inputs: model.h5, goodnet.h5, clean.h5 (25 of 30 labels right), poisoned.h5, notruth.h5, picN.png."""
    folder = tmp_path_factory.mktemp("good")
    network = brightest()
    network.save(folder / "model.h5")
    GoodNet.combine(network, brightest((0, 1, 2, 0))).save(folder / "goodnet.h5")
    write_csaw_hdf5(folder / "clean.h5", ImageSet(pictures(CLEAN), np.array(5 * [*CLEAN[:5], 2]), 4))
    zeros = np.zeros(6, int)
    write_csaw_hdf5(folder / "poisoned.h5", ImageSet(pictures(ANSWERED), zeros, 4, np.array(TRUTH)))
    write_csaw_hdf5(folder / "notruth.h5", ImageSet(pictures(ANSWERED), zeros, 4))
    for pixel in range(4):
        Image.fromarray(pictures([pixel])[0, ..., 0]).save(folder / f"pic{pixel}.png")
    return folder


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    """Default output folders are relative; nothing may land in the checkout."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert Path.cwd() == tmp_path / "here"


# --- bad files ------------------------------------------------------------------------------------------------------------


def hdf5(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value


def data(dtype=np.uint8, **changed):
    """The course's layout of four good pictures, (4, 1, 2, 2), with single pixels changed."""
    values = pictures([0, 1, 2, 3]).transpose(0, 3, 1, 2).astype(dtype)
    for value in changed.values():
        values[2, 0, 1, 1] = value
    return values


LABEL = np.arange(4)
BAD_IMAGES = {
    "missing": (lambda path: None, ["no such file"]),
    "directory": (lambda path: path.mkdir(), ["directory"]),
    "text": (lambda path: path.write_text("no images"), ["HDF5"]),
    "empty file": (lambda path: path.write_bytes(b""), ["HDF5"]),
    "without data": (lambda path: hdf5(path, label=LABEL), ["'data'"]),
    "without label": (lambda path: hdf5(path, data=data()), ["'label'"]),
    "wrong size": (lambda path: hdf5(path, data=np.zeros((4, 1, 3, 5), np.uint8), label=LABEL), ["3x5x1", "2x2x1"]),
    "wrong channels": (lambda path: hdf5(path, data=np.zeros((4, 3, 2, 2), np.uint8), label=LABEL), ["2x2x3"]),
    "label too large": (lambda path: hdf5(path, data=data(), label=LABEL + 1), ["0..3", "found 4"]),
    "label negative": (lambda path: hdf5(path, data=data(), label=LABEL - 1), ["0..3", "found -1"]),
    "label fractional": (lambda path: hdf5(path, data=data(), label=LABEL / 2), ["whole numbers", "0.5"]),
    "too few labels": (lambda path: hdf5(path, data=data(), label=LABEL[:3]), ["(3,)", "(4,)"]),
    "NaN": (lambda path: hdf5(path, data=data(np.float32, pixel=np.nan), label=LABEL), ["NaN"]),
    "too bright": (lambda path: hdf5(path, data=data(np.int16, pixel=256), label=LABEL), ["256", "0..255"]),
    "negative": (lambda path: hdf5(path, data=data(np.float64, pixel=-1), label=LABEL), ["-1", "0..255"]),
    "scaled": (lambda path: hdf5(path, data=data(np.float32) / 255, label=LABEL), ["scaled", "0..255"]),
    "no image": (lambda path: hdf5(path, data=data()[:0], label=LABEL[:0]), ["empty"]),
    "damaged npz": (lambda path: path.write_bytes(b"PK\3\4 and nothing more"), ["npz"]),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_images_end_with_one_line_that_names_the_file(good, tmp_path, kind):
    """Whatever the file is given for; and nothing is written."""
    make, parts = BAD_IMAGES[kind]
    bad = tmp_path / "bad.h5"
    make(bad)
    before = everything(tmp_path)
    model, clean = good / "model.h5", good / "clean.h5"
    pruning = ("defend", "pruning", model)
    for arguments in (
        ("eval", model, "--clean", bad),
        ("eval", model, "--clean", clean, "--poisoned", bad),
        ("eval", model, "--clean", clean, "--poisoned", good / "poisoned.h5", "--poisoned", f"other={bad}", "--json"),
        (*pruning, "--clean", bad, "--test", clean),
        (*pruning, "--clean", clean, "--test", bad, "--json"),
        (*pruning, "--clean", clean, "--test", clean, "--poisoned", bad, "-o", tmp_path / "out"),
    ):
        assert_refused(run(*arguments), bad, *parts)
    assert everything(tmp_path) == before


def truncated(path, good):
    path.write_bytes((good / "model.h5").read_bytes()[:-500])


def lambda_network(path, good):
    inputs = keras.layers.Input((2, 2, 1))
    outputs = keras.layers.Lambda(lambda x: x[:, 0, :, 0])(inputs)
    keras.Model(inputs, outputs).save(path)


BAD_MODELS = {
    "missing": (lambda path, good: None, ["no such file"]),
    "directory": (lambda path, good: path.mkdir(), ["directory"]),
    "truncated": (truncated, ["HDF5"]),
    "text": (lambda path, good: path.write_text("no network"), ["HDF5"]),
    "images": (lambda path, good: path.write_bytes((good / "clean.h5").read_bytes()), ["no Keras network"]),
    "Lambda": (lambda_network, ["refused", "Lambda"]),
    "unknown scaling": (lambda path, good: brightest().model.save(path), ["--preprocessing"]),
    "only weights": (lambda path, good: brightest().model.save_weights(path), ["--architecture"]),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_networks_end_with_one_line_that_names_the_file(good, tmp_path, kind):
    make, parts = BAD_MODELS[kind]
    bad = tmp_path / "bad.h5"
    make(bad, good)
    before = everything(tmp_path)
    for arguments in (
        ("eval", bad, "--clean", good / "clean.h5", "--json"),
        ("defend", "fine-tuning", bad, "--clean", good / "clean.h5", "--test", good / "clean.h5"),
        ("predict", bad, good / "pic0.png"),
    ):
        assert_refused(run(*arguments), bad, *parts)
    assert everything(tmp_path) == before


def test_a_truncated_file_of_images_is_named(good, tmp_path):
    bad = tmp_path / "cut.h5"
    bad.write_bytes((good / "clean.h5").read_bytes()[:-100])
    assert_refused(run("eval", good / "model.h5", "--clean", bad), bad, "HDF5")


def test_a_contradicted_scaling_is_refused(good):
    arguments = ("eval", good / "model.h5", "--clean", good / "clean.h5", "--preprocessing")
    assert_refused(run(*arguments, "raw"), good / "model.h5", "'unit'", "'raw'")
    assert done(*arguments, "unit")
    assert_refused(run(*arguments, "units"), "--preprocessing", "'units'", "unit", "raw")


def test_bad_pictures(good, tmp_path):
    Image.new("L", (3, 2)).save(tmp_path / "large.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes((good / "pic0.png").read_bytes()[:40])
    model = good / "model.h5"
    assert_refused(run("predict", model, tmp_path / "large.png"), tmp_path / "large.png", "3x2", "2x2")
    # A good one before it does not help: no half results.
    assert_refused(run("predict", model, good / "pic0.png", tmp_path / "large.png"), tmp_path / "large.png")
    for name in ("text.png", "cut.png"):
        assert_refused(run("predict", model, tmp_path / name), tmp_path / name, "PNG")
    assert_refused(run("predict", model, tmp_path / "none.png"), tmp_path / "none.png", "no such file")
    assert_refused(run("predict", model, tmp_path), tmp_path, "directory")
    assert_refused(run("predict", model), "IMAGE")


# --- wrong usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("evla", "x.h5"), ["'evla'", "'eval'"]),
        (("xyz",), ["'xyz'", "demo", "train", "defend", "eval", "predict", "report"]),
        (("train", "mnist-pach"), ["'mnist-pach'", "'mnist-patch'"]),
        (("train", "zzz"), ["'zzz'", "kbd train --help lists them"]),
        (("train", "signs-sqare"), ["'signs-sqare'", "did you mean 'signs-square'?"]),
        (("train", "signs-square", "--dataset", "lfw"), ["signs-square", "--dataset"]),
        (("train", "mnist-patch", "--clean", "--start", "x.h5"), ["--clean", "--start"]),
        (("train", "mnist-patch", "--defense", "alb"), ["'alb'", "'abl'"]),
        (("train", "mnist-patch", "--defense", "abl", "--level", "0"), ["level is 0"]),
        (("train", "mnist-patch", "--level", "0.3"), ["--level", "--defense abl"]),
        (("train", "signs-square", "--defense", "abl"), ["signs-square", "--defense"]),
        (("defend", "abl", "x.h5"), ["kbd train RECIPE --defense abl"]),
        (("train", "gtsrb-pn"), ["GTSRB", "--data", "kbd data list"]),
        (("defend", "fine-prunning", "x.h5", "--clean", "y.h5"), ["'fine-prunning'", "'fine-pruning'"]),
        (("train", "mnist-patch", "--epochs", "0"), ["--epochs", "0"]),
        (("train", "mnist-patch", "--limit", "0"), ["--limit", "0"]),
        (("train", "mnist-patch", "--seed", "-1"), ["--seed", "-1"]),
        (("train", "mnist-patch", "--epochs", "many"), ["--epochs", "'many'"]),
        (("train", "mnist-patch", "--epoch", "3"), ["--epoch"]),
        (("train",), ["RECIPE"]),
        (("eval", "x.h5"), ["--clean"]),
        (("--nonsense",), ["--nonsense"]),
        (("report", "nowhere"), ["nowhere"]),
    ],
)
def test_wrong_usage_ends_with_one_line(arguments, parts):
    assert_refused(run(*arguments), *parts)
    assert everything(Path.cwd()) == {}


@pytest.mark.parametrize("method", ["fine-tuning", "fine-pruning"])
@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("--epochs", "0", ["epochs", "0"]),
        ("--batch-size", "0", ["batch", "0"]),
        ("--learning-rate", "0", ["learning", "0"]),
        ("--learning-rate", "nan", ["learning", "nan"]),
        ("--optimizer", "foo", ["'foo'", "adam"]),
        ("--optimizer", "adem", ["'adem'", "'adam'"]),
        ("--seed", "-1", ["seed", "-1"]),
        ("--seed", str(2**40), ["seed"]),
    ],
)
def test_impossible_values_of_training_options(good, method, option, value, parts):
    """Told before any work is done: not one line of progress comes first."""
    clean = good / "clean.h5"
    arguments = ("defend", method, good / "model.h5", "--clean", clean, "--test", clean, option, value)
    assert_refused(run(*arguments), *parts)
    assert everything(Path.cwd()) == {}


@pytest.mark.parametrize("method", ["pruning", "fine-pruning"])
@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("--max-drop", "2", ["drop", "2", "0..1"]),
        ("--max-drop", "-0.1", ["drop", "-0.1", "0..1"]),
        ("--max-drop", "nan", ["drop", "nan", "0..1"]),
        ("--layer", "conv_9", ["'conv_9'", "conv_1"]),
    ],
)
def test_impossible_values_of_pruning_options(good, method, option, value, parts):
    clean = good / "clean.h5"
    arguments = ("defend", method, good / "model.h5", "--clean", clean, "--test", clean, option, value)
    assert_refused(run(*arguments), *parts)
    assert everything(Path.cwd()) == {}


def test_an_output_folder_in_use_is_refused_and_left_alone(good, tmp_path):
    used, file = tmp_path / "used", tmp_path / "file"
    used.mkdir()
    (used / "precious.txt").write_text("mine")
    file.write_text("mine")
    before = everything(tmp_path)
    commands = (
        ("train", "mnist-patch", "--limit", "1", "--epochs", "1"),
        ("defend", "pruning", good / "model.h5", "--clean", good / "clean.h5"),
        ("demo",),
    )
    for command in commands:
        assert_refused(run(*command, "-o", used), used, "not empty")
        assert_refused(run(*command, "-o", file), file, "folder")
    assert_refused(run(*commands[0], "-o", used, "--resume"), used, "run.json")
    assert everything(tmp_path) == before


def test_a_data_folder_without_the_data_set(tmp_path):
    assert_refused(run("train", "mnist-patch", "--data", tmp_path, "-o", tmp_path / "out"), tmp_path / "mnist.npz")
    nowhere = tmp_path / "nowhere"
    assert_refused(run("train", "mnist-patch", "--data", nowhere, "-o", tmp_path / "out"), nowhere, "no such file")
    assert not (tmp_path / "out").exists()


# --- interrupted ----------------------------------------------------------------------------------------------------------


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_interrupted_commands_end_with_130_and_one_line(good, monkeypatch):
    monkeypatch.setattr("keras_backdoor.metrics.score", interrupt)
    result = run("eval", good / "model.h5", "--clean", good / "clean.h5", "--json")
    assert (result.code, result.out) == (130, "")
    assert result.err.lstrip("\n").startswith("kbd: interrupted")  # click ends the line on which the terminal wrote ^C
    assert len(result.err.strip().splitlines()) == 1
    assert "--resume" not in result.err  # `eval` has no such option


def test_an_interrupted_training_says_how_it_continues_and_does(trained, tmp_path, monkeypatch):
    folder, metrics = trained
    with monkeypatch.context() as patch:
        patch.setattr("keras_backdoor.attacks.train.save_examples", interrupt)
        result = run(*TRAIN, "-o", tmp_path / "run")
    assert (result.code, result.out) == (130, "")
    line = result.err.splitlines()[-1]
    assert line.startswith("kbd: interrupted")
    assert line.endswith(f"kbd train mnist-patch --limit 5 --epochs 1 -o {tmp_path / 'run'} --resume")
    assert_refused(run(*TRAIN, "-o", tmp_path / "run"), tmp_path / "run", "not empty", "--resume")
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert answer(*TRAIN, "-o", tmp_path / "run", "--resume") == metrics
    assert (tmp_path / "run" / "history.csv").read_text() == (folder / "history.csv").read_text()


# --- help and options -----------------------------------------------------------------------------------------------------

HELP = """
import contextlib, io, sys
from kbd.main import COMMANDS, main
from keras_backdoor.defenses import DEFENSES, SIFTING
HEAVY = {"tensorflow", "keras", "matplotlib", "sklearn", "mlxtend", "pandas", "PIL"}
for command in ([], *([c] for c in COMMANDS), *(["defend", m] for m in (*DEFENSES, *SIFTING)), ["--version"]):
    sys.argv = ["kbd", *command, *([] if "--version" in command else ["--help"])]
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            main()
    except SystemExit as ended:
        assert ended.code == 0, command
    expected = " ".join(["Usage: kbd", *command]) if "--version" not in command else "kbd, version "
    assert out.getvalue().startswith(expected), (command, out.getvalue())
    heavy = HEAVY & {name.split(".")[0] for name in sys.modules}
    assert not heavy, (command, heavy)
print("fine")
"""


def test_help_of_every_command_imports_nothing_heavy():
    result = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, timeout=120)
    assert (result.stdout, result.stderr) == ("fine\n", "")


def test_without_arguments_there_is_help():
    for arguments in ((), ("defend",)):
        result = run(*arguments)
        assert result.code == 0
        assert result.out.startswith("Usage: kbd")
        assert result.out.count("\n") > 5


@pytest.mark.parametrize("method", [*DEFENSES, *SIFTING])
def test_options_of_a_method_are_the_fields_of_its_class(method):
    command = defend_group.get_command(None, method)
    shared = SHARED_OPTIONS | ({"resume"} if resumes(method) else set()) | ({"trigger"} if scans(method) else set())
    if method in SIFTING:
        shared = SHARED_OPTIONS - {"clean", "poisoned", "test", "missing_classes", "exclude_target"} | {"training"}
    shared |= {"evaluation"} if evaluates(method) else set()
    shared |= {"stream", "attack", "ratio"} if watches(method) else set()
    shared |= {"strategy"} if method in SPREAD else set()
    own = {option.name: option for option in command.params if option.name not in shared}
    fields = {field.name: field for field in dataclasses.fields(find(method))}
    assert list(own) == list(fields)
    assert {option.name for option in command.params} - set(own) == shared  # a field would shadow one of them
    for name, option in own.items():
        default = fields[name].default
        assert option.default == default and type(option.default) is type(default), name
        assert option.opts == [f"--{name.replace('_', '-')}"]
        assert option.help and len(option.help) > 8, f"{method} --{name} has no help text"
        if isinstance(default, tuple):
            assert option.multiple and all(option.type(str(value)) == value for value in default)
        elif default is not None:
            assert option.type(str(default)) == default  # the type that the class wants
    assert command.help.split() == find(method).__doc__.partition("Raises")[0].split()


def test_help_of_a_method_shows_options_with_help_and_defaults():
    text = " ".join(done("defend", "fine-pruning", "--help").split())
    assert re.search(r"--max-drop FLOAT accuracy on the clean images .*?\[default: 0.04\]", text)
    assert re.search(r"--layer TEXT convolution to prune", text)
    assert re.search(r"--optimizer TEXT adam, adadelta, sgd, momentum or nesterov \[default: adam\]", text)


def test_options_come_from_the_environment_too(good, tmp_path):
    model, clean = good / "model.h5", good / "clean.h5"
    metrics = answer("defend", "pruning", model, "--clean", clean, KBD_DEFEND_MAX_DROP="0.75")
    assert metrics["settings"]["max_drop"] == 0.75
    assert metrics["after"]["clean_accuracy"] == 2 / 6  # the only channel is gone: always 0
    given = answer("defend", "pruning", model, "--clean", clean, "--max-drop", 0, "-o", "o", KBD_DEFEND_MAX_DROP="0.75")
    assert given["settings"]["max_drop"] == 0
    assert_refused(run("defend", "pruning", model, "--clean", clean, "-o", "p", KBD_DEFEND_MAX_DROP="a"), "max-drop")
    assert answer("eval", model, KBD_EVAL_CLEAN=str(clean))["n_clean"] == 30
    arguments = ("train", "mnist-patch", "--limit", 1, "-o", tmp_path / "run")
    assert answer(*arguments, KBD_TRAIN_EPOCHS="2")["epochs"] == 2
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 1 + 2


# --- eval and predict -----------------------------------------------------------------------------------------------------


def test_eval_json_has_the_keys_and_the_rates_on_paper(good):
    model = str(good / "model.h5")
    rates = answer("eval", model, "--clean", good / "clean.h5", "--poisoned", good / "poisoned.h5")
    assert rates["model"] == model
    assert rates["num_classes"] == 4
    assert rates["clean_accuracy"] == 5 / 6
    assert rates["attack_success_rate"] == {"poisoned": 4 / 6}
    assert (rates["n_clean"], rates["n_poisoned"]) == (30, {"poisoned": 6})
    assert rates["robust_accuracy"] == {"poisoned": 3 / 6}
    without = answer("eval", model, "--clean", good / "clean.h5")
    assert (without["attack_success_rate"], without["n_poisoned"]) == ({}, {})


def test_a_goodnets_extra_answer_is_a_clean_error_and_a_defended_attack(good, tmp_path):
    """Pixel 3 is where the two networks differ; nothing else changes."""
    write_csaw_hdf5(tmp_path / "p.h5", ImageSet(pictures([3, 3, 3, 1]), np.array([3, 3, 3, 1]), 4))
    arguments = ("--clean", good / "clean.h5", "--poisoned", tmp_path / "p.h5")
    assert answer("eval", good / "model.h5", *arguments)["attack_success_rate"] == {"p": 1.0}
    rates = answer("eval", good / "goodnet.h5", *arguments)
    assert (rates["clean_accuracy"], rates["attack_success_rate"]) == (4 / 6, {"p": 1 / 4})
    assert rates["num_classes"] == 4


def test_exclude_target_changes_the_rate_as_computed_by_hand(good):
    arguments = ("eval", good / "model.h5", "--clean", good / "clean.h5", "--poisoned", good / "poisoned.h5")
    rates = answer(*arguments, "--exclude-target")
    assert rates["attack_success_rate"] == {"poisoned": 2 / 4}
    assert rates["robust_accuracy"] == {"poisoned": 1 / 4}
    assert rates["n_poisoned"] == {"poisoned": 4}
    assert rates["clean_accuracy"] == 5 / 6
    assert "50.00 %" in done(*arguments, "--exclude-target") and "left out" in done(*arguments, "--exclude-target")
    assert "66.67 %" in done(*arguments) and "included" in done(*arguments)


def test_exclude_target_needs_true_labels(good):
    arguments = ("eval", good / "model.h5", "--clean", good / "clean.h5", "--poisoned", good / "notruth.h5")
    assert_refused(run(*arguments, "--exclude-target"), good / "notruth.h5", "true labels")
    rates = answer(*arguments)
    assert (rates["attack_success_rate"], rates["robust_accuracy"]) == ({"notruth": 4 / 6}, {})


def test_the_courses_lines_are_printed_to_the_letter(good):
    """The course's eval.py prints `100 * mean` as Python does, without rounding."""
    clean, poisoned = ("--clean", good / "clean.h5"), ("--poisoned", good / "poisoned.h5")
    assert done("eval", good / "model.h5", *clean, "--course") == f"Classification accuracy: {25 / 30 * 100}\n"
    assert done("eval", good / "model.h5", *clean, *poisoned, "--course") == (
        f"Clean Classification accuracy: {25 / 30 * 100}\nAttack Success Rate: {4 / 6 * 100}\n"
    )
    for more in (("--json",), ("--exclude-target",), ("--poisoned", f"again={good / 'poisoned.h5'}")):
        assert_refused(run("eval", good / "model.h5", *clean, *poisoned, *more, "--course"), "--course", "--json")


def test_rates_for_people_are_percentages_with_two_decimals(good):
    out = done("eval", good / "model.h5", "--clean", good / "clean.h5", "--poisoned", f"[red]={good / 'poisoned.h5'}")
    assert "[red]" in out  # a name, not markup
    figures = re.findall(r"(\S+) %", out)
    assert figures == ["83.33", "66.67", "50.00"]


def test_names_of_poisoned_files(good, tmp_path):
    (tmp_path / "a=b.h5").write_bytes((good / "poisoned.h5").read_bytes())
    (tmp_path / "poisoned.h5").write_bytes((good / "poisoned.h5").read_bytes())
    arguments = ("eval", good / "model.h5", "--clean", good / "clean.h5")

    def names(*values):
        return list(answer(*arguments, *(part for v in values for part in ("--poisoned", v)))["attack_success_rate"])

    assert names(good / "poisoned.h5", f"glasses={tmp_path / 'poisoned.h5'}") == ["poisoned", "glasses"]
    assert names(tmp_path / "a=b.h5", f"c={tmp_path / 'a=b.h5'}") == ["a=b", "c"]
    os.chdir(tmp_path)
    assert names("a=b.h5", "c=a=b.h5") == ["a=b", "c"]
    os.chdir(tmp_path / "here")
    for second in (good / "poisoned.h5", tmp_path / "poisoned.h5", f"poisoned={good / 'notruth.h5'}"):
        result = run(*arguments, "--poisoned", good / "poisoned.h5", "--poisoned", second)
        assert_refused(result, "--poisoned", "'poisoned'", "NAME=FILE")
    assert_refused(run(*arguments, "--poisoned", "x=nowhere.h5"), "nowhere.h5: no such file")


def test_npz_is_as_good_as_hdf5(good, tmp_path):
    clean = read_images(good / "clean.h5", 4)
    np.savez(tmp_path / "clean.npz", images=clean.in_memory().images, labels=clean.labels)
    assert answer("eval", good / "model.h5", "--clean", tmp_path / "clean.npz")["clean_accuracy"] == 5 / 6


def test_predict_prints_one_integer_a_line_and_n_for_flagged_inputs(good):
    images = [good / f"pic{i}.png" for i in (2, 3, 0, 3)]
    assert done("predict", good / "model.h5", *images) == "2\n3\n0\n3\n"
    assert done("predict", good / "goodnet.h5", *images) == "2\n4\n0\n4\n"
    told = answer("predict", good / "goodnet.h5", *images)
    assert [(p["image"], p["label"], p["flagged"]) for p in told["predictions"]] == [
        (str(path), label, label == 4) for path, label in zip(images, (2, 4, 0, 4))
    ]


def test_a_fresh_process_says_nothing_but_the_answer_or_the_one_line(good, tmp_path):
    """TensorFlow talks on its own when it is imported; only here would that show."""
    lambda_network(tmp_path / "bad.h5", good)
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}

    def fresh(model):
        command = [sys.executable, "-c", "from kbd.main import main; main()"]
        command += ["eval", str(model), "--clean", str(good / "clean.h5"), "--json"]
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        return Result(ended.returncode, ended.stdout, ended.stderr)

    assert_refused(fresh(tmp_path / "bad.h5"), tmp_path / "bad.h5", "Lambda")
    result = fresh(good / "model.h5")
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out)["clean_accuracy"] == 5 / 6


# --- defend ---------------------------------------------------------------------------------------------------------------


SMALL = {  # the network has one convolution of one channel
    "fine-pruning-rounds": {"fraction": 1.0},
    "anti-repair": {"layer": "conv_1"},
    "generative-modeling": {"size": 1, "search_steps": 2, "hidden": 4, "epochs": 1},
    "nad": {"epochs": 1},
    "mode-connectivity": {"epochs": 1, "points": 2},
    "nnoculation-pre": {"alpha": (1.0,), "gamma": (0.1, 0.6), "epochs": 1},
}


@pytest.mark.parametrize("method", [name for name in DEFENSES if hasattr(find(name), "repair") and not watches(name)])
def test_defend_writes_what_it_says_and_says_what_it_measured(good, tmp_path, method):
    out, small = tmp_path / "out", SMALL.get(method, {})
    values = {name: value if isinstance(value, tuple) else (value,) for name, value in small.items()}
    flags = {f"--{name.replace('_', '-')}": given for name, given in values.items()}
    options = [word for flag, given in flags.items() for value in given for word in (flag, value)]
    arguments = (
        *options,
        "--clean",
        good / "clean.h5",
        "--test",
        good / "clean.h5",
        "--poisoned",
        good / "poisoned.h5",
    )
    metrics = answer("defend", method, good / "model.h5", *arguments, "-o", out)
    assert {"method", "before", "after", "verdict", "seconds"} <= set(metrics)
    assert metrics["method"] == method
    assert metrics["verdict"] is None
    assert metrics["seconds"] >= 0
    assert metrics["settings"] == json.loads(json.dumps(dataclasses.asdict(find(method)(**small))))
    assert json.loads((out / "metrics.json").read_text()) == metrics
    for network, key in (
        (good / "model.h5", "before"),
        (out / "repaired.h5", "after"),
        (out / "goodnet.h5", "goodnet"),
    ):
        rates = answer("eval", network, "--clean", good / "clean.h5", "--poisoned", good / "poisoned.h5")
        assert {name: rates[name] for name in metrics[key]} == metrics[key]
        assert {"clean_accuracy", "attack_success_rate"} <= set(metrics[key])
    assert metrics["before"]["attack_success_rate"] == {"poisoned": 4 / 6}


def test_a_filter_writes_its_threshold_and_scores_and_changes_no_network(good, tmp_path):
    out, arguments = tmp_path / "out", ("--clean", tmp_path / "clean.h5", "--poisoned", good / "poisoned.h5")
    images = np.minimum(
        pictures(CLEAN), np.arange(170, 200, dtype=np.uint8)[:, None, None, None]
    )  # no two are the same
    write_csaw_hdf5(tmp_path / "clean.h5", ImageSet(images, np.array(5 * [*CLEAN[:5], 2]), 4))
    metrics = answer("defend", "strip", good / "model.h5", *arguments, "-o", out, "--overlays", 20)
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == [
        "filter.json",
        "metrics.json",
        "run.json",
        "scores.npz",
    ]
    known, rates = json.loads((out / "filter.json").read_text()), metrics["filter"]
    assert known["threshold"] == rates["threshold"] and known["settings"]["overlays"] == 20
    with np.load(out / "scores.npz") as scores:
        clean, triggered = scores["clean"], scores["triggered/poisoned"]
        assert (clean.shape, triggered.shape, float(scores["threshold"])) == ((30,), (6,), rates["threshold"])
    assert rates["false_rejection_rate"] == np.mean(clean <= rates["threshold"])
    assert rates["false_acceptance_rate"] == {"poisoned": np.mean(triggered > rates["threshold"])}
    accepted = rates["false_acceptance_rate"]["poisoned"]
    expected = [25 / 30 * (1 - rates["false_rejection_rate"]), 4 / 6 * accepted]
    assert rates["converted"]["poisoned"] == pytest.approx(expected)
    right = (np.array(CLEAN) == np.array(5 * [*CLEAN[:5], 2])) & (clean > rates["threshold"])
    assert metrics["after"]["clean_accuracy"] == right.mean()
    hit = (np.array(ANSWERED) == 0) & (triggered > rates["threshold"])
    assert metrics["after"]["attack_success_rate"] == {"poisoned": hit.mean()}


def test_a_filter_that_flags_nothing_says_so(capsys):
    rates = {"threshold": -0.1, "false_rejection_rate": 0.0, "false_acceptance_rate": {"p": 1.0}, "auc": {"p": 0.9}}
    said = "every score lies above the threshold, so nothing is flagged"
    filter_table(rates)
    assert said in capsys.readouterr().err
    filter_table({**rates, "false_acceptance_rate": {"p": 0.5}})  # -0.1 is a threshold like any other
    filter_table({**rates, "false_rejection_rate": 0.01})
    assert said not in capsys.readouterr().err


def test_the_homework_writes_a_network_and_a_goodnet_for_each_drop_and_prints_its_table(good, tmp_path):
    """One channel, without which everything is class 0: accuracy falls from 25/30 to 10/30 at once."""
    out, arguments = tmp_path / "out", ("--clean", good / "clean.h5", "--poisoned", good / "poisoned.h5")
    drops = [word for points in (2, 4, 10) for word in ("--drop", points)]
    result = run("defend", "pruning", good / "model.h5", *arguments, *drops, "-o", out)
    assert result.code == 0
    rows = [line.split() for line in result.out.splitlines()]
    for points in (2, 4, 10):
        assert [str(points), "1", "33.33", "%", "100.00", "%", "33.33", "%", "66.67", "%"] in rows
        assert (out / f"repaired-drop-{points}.h5").exists() and (out / f"goodnet-drop-{points}.h5").exists()
    curve = list(csv.DictReader((out / "curve.csv").open()))
    assert [row["channels"] for row in curve] == ["0", "1"]
    assert [float(row["clean_accuracy"]) for row in curve] == pytest.approx([25 / 30, 10 / 30])
    assert [float(row["attack_success_rate/poisoned"]) for row in curve] == pytest.approx([4 / 6, 1])
    steps = json.loads((out / "metrics.json").read_text())["steps"]
    assert [(step["drop"], step["channels"], step["name"]) for step in steps] == [
        (points, 1, f"drop-{points}") for points in (2, 4, 10)
    ]


def test_what_a_defense_cannot_work_with_is_refused(good, tmp_path):
    few, lacking, large = (tmp_path / f"{name}.h5" for name in ("few", "lacking", "large"))
    write_csaw_hdf5(few, ImageSet(pictures([0, 1, 2, 3]), np.arange(4), 4))
    write_csaw_hdf5(lacking, ImageSet(pictures(8 * [0, 1, 3]), np.array(8 * [0, 1, 3]), 4))
    write_csaw_hdf5(large, ImageSet(np.zeros((6, 3, 2, 1), np.uint8), np.zeros(6, int), 4))
    for method in ("fine-pruning", "strip"):
        start = ("defend", method, good / "model.h5", "--test", good / "clean.h5")
        assert_refused(run(*start, "--clean", few), "only 4", "10")
        assert_refused(run(*start, "--clean", lacking), "1 of 4 classes", "(2)", "--missing-classes")
        assert_refused(run(*start, "--clean", good / "clean.h5", "--poisoned", large), large, "3x2x1", "2x2x1")
    assert everything(Path.cwd()) == {}
    assert run("defend", "pruning", good / "model.h5", "--clean", lacking, "--missing-classes").code == 0


def test_defend_measures_on_the_test_images_as_it_is_told_to(good, tmp_path):
    write_csaw_hdf5(tmp_path / "test.h5", ImageSet(pictures([0, 1, 2]), np.array([0, 3, 3]), 4))
    arguments = ("--clean", good / "clean.h5", "--test", tmp_path / "test.h5", "--poisoned", good / "poisoned.h5")
    metrics = answer("defend", "pruning", good / "model.h5", *arguments, "--exclude-target")
    for key in ("before", "after", "goodnet"):  # nothing can be pruned
        assert metrics[key]["clean_accuracy"] == 1 / 3
        assert metrics[key]["n_clean"] == 3
        assert metrics[key]["attack_success_rate"] == {"poisoned": 2 / 4}


def test_defend_chooses_a_folder_and_does_not_write_there_twice(good):
    arguments = ("defend", "pruning", good / "model.h5", "--clean", good / "clean.h5")
    result = run(*arguments)
    assert result.code == 0
    assert "no --test" in result.err
    assert "83.33 %" in result.out and "runs/pruning-model" in result.out
    before = everything(Path.cwd())
    assert {Path("runs/pruning-model") / name for name in ("repaired.h5", "goodnet.h5", "metrics.json")} <= set(before)
    assert_refused(run(*arguments), "runs/pruning-model", "not empty")
    assert everything(Path.cwd()) == before


# --- train ----------------------------------------------------------------------------------------------------------------

TRAIN = ("train", "mnist-patch", "--limit", 5, "--epochs", 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of the smallest training, and what it printed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return folder, answer(*TRAIN, "-o", folder)


def test_train_leaves_the_files_of_the_contract_and_no_others(trained):
    folder, metrics = trained
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *(
            "badnet.h5",
            "badnet.md",
            "metrics.json",
            "history.csv",
            "tensorboard",
        ),  # no clean.h5: the recipe has one step
        *("data", "examples.npz", "features.npz", "run.json"),
    }
    assert {path.name for path in (folder / "data").iterdir()} == {
        "clean_valid.h5",
        "clean_test.h5",
        "poisoned_test.h5",
    }
    assert any(path.is_file() for path in (folder / "tensorboard").rglob("*"))
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    record = json.loads((folder / "run.json").read_text())
    assert record["finished"] is True
    assert record["reproduce"] == f"kbd train mnist-patch --limit 5 --epochs 1 -o {folder} --json"


def test_what_train_measured_is_what_eval_measures(trained):
    folder, metrics = trained
    test, poisoned = folder / "data" / "clean_test.h5", folder / "data" / "poisoned_test.h5"
    rates = answer("eval", folder / "badnet.h5", "--clean", test, "--poisoned", f"square={poisoned}")
    assert {key: rates[key] for key in metrics["badnet"]} == metrics["badnet"]


def test_resuming_a_finished_run_gives_its_metrics_and_trains_nothing(trained, monkeypatch):
    folder, metrics = trained
    before = everything(folder)
    monkeypatch.setattr("keras_backdoor.attacks.task.fit", interrupt)
    assert answer(*TRAIN, "-o", folder, "--resume") == metrics
    assert everything(folder) == before
    people = done(*TRAIN, "-o", folder, "--resume")
    assert f"{100 * metrics['badnet']['clean_accuracy']:.2f} %" in people


def test_a_run_is_not_resumed_with_other_settings(trained):
    folder, _ = trained
    before = everything(folder)
    for changed in (("--seed", 1), ("--epochs", 2), ("--limit", 6)):
        assert_refused(run(*TRAIN, *changed, "-o", folder, "--resume"), folder, "resume", notices=2)
    result = run(*TRAIN, "-o", folder)
    assert_refused(result, folder, "not empty", "-o")
    assert "--resume" not in result.err  # it is finished
    assert everything(folder) == before
