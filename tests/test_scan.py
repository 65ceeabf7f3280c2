"""`kbd zoo scan` and `--trust` as users meet them, and the model cards beside our files."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from tensorflow import keras
from test_cli import answer, assert_refused, brightest, done, pictures, run

from keras_backdoor import datasets
from keras_backdoor.attacks.recipes import recipe
from keras_backdoor.attacks.train import train
from keras_backdoor.datasets import write_csaw_hdf5
from keras_backdoor.gate import admit
from keras_backdoor.images import ImageSet
from keras_backdoor.model_card import card


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """safe.h5; odd.h5, which cannot be used; hostile.h5, a Lambda that would make the file `marker`; clean.h5, images."""
    folder = tmp_path_factory.mktemp("files")
    network = brightest()
    network.save(folder / "safe.h5")
    shutil.copy(folder / "safe.h5", folder / "odd.h5")
    with h5py.File(folder / "odd.h5", "r+") as file:
        file["model_weights/conv_1/conv_1/kernel:0"][...] = np.nan
    marker = str(folder / "marker")
    inputs = keras.layers.Input((2, 2, 1))
    x = keras.layers.Lambda(
        lambda x, path=marker: (open(path, "w").close(), x)[1], output_shape=(2, 2, 1), name="evil"
    )(inputs)
    for layer in network.model.layers[1:]:
        x = layer(x)
    keras.Model(inputs, x, name="net").save(folder / "hostile.h5", save_format="h5")
    (folder / "marker").unlink()  # made while the network was built
    write_csaw_hdf5(folder / "clean.h5", ImageSet(pictures([0, 1, 2, 3] * 3), np.arange(12) % 4, 4))
    return folder


# ---- scan --------------------------------------------------------------------------------------------------------------


def test_scan_says_what_a_file_would_do_and_where(files):
    result = run("zoo", "scan", files / "hostile.h5")
    assert result.code == 3
    assert result.err == ""
    assert f"{files / 'hostile.h5'}: UNSAFE" in result.out
    assert (
        "critical" in result.out and "net/evil" in result.out and "Python code that is stored in the file" in result.out
    )
    assert not (files / "marker").exists()


def test_scan_as_json_has_the_keys_of_the_contract(files):
    report = answer("zoo", "scan", files / "safe.h5")
    digest = hashlib.sha256((files / "safe.h5").read_bytes()).hexdigest()
    assert report == {
        "file": str(files / "safe.h5"), "safe": True, "format": "model.h5", "sha256": digest, "findings": []
    }  # fmt: skip
    hostile = json.loads(run("zoo", "scan", "--json", files / "hostile.h5").out)
    assert hostile["safe"] is False
    assert [{*finding} for finding in hostile["findings"]] == [{"rule", "severity", "where", "what"}]


def test_scan_of_many_files_and_of_a_folder(files, tmp_path):
    folder = tmp_path / "models"
    (folder / "deeper").mkdir(parents=True)
    for name in ("safe", "odd", "hostile"):
        shutil.copy(files / f"{name}.h5", folder / "deeper")
    (folder / "net.pkl").write_bytes(pickle.dumps([1], protocol=4))
    (folder / "notes.txt").write_text("not a network")
    result = run("zoo", "scan", "--json", folder)
    assert result.code == 3
    summary = json.loads(result.out)
    verdicts = {file["file"].split("/")[-1]: file["safe"] for file in summary["files"]}
    assert verdicts == {"safe.h5": True, "odd.h5": True, "hostile.h5": False, "net.pkl": False}
    assert summary["safe"] is False
    (folder / "deeper" / "hostile.h5").unlink()
    (folder / "net.pkl").unlink()
    assert "2 files, 0 unsafe" in done("zoo", "scan", folder)
    assert "harmless, but cannot be used" in done("zoo", "scan", folder)


def test_scan_as_sarif(files):
    result = run("zoo", "scan", "--sarif", files / "hostile.h5", files / "safe.h5")
    assert result.code == 3
    sarif = json.loads(result.out)
    assert sarif["version"] == "2.1.0"
    (one,) = sarif["runs"]
    rules = {rule["id"] for rule in one["tool"]["driver"]["rules"]}
    (found,) = one["results"]
    assert found["ruleId"] == "code" and found["ruleId"] in rules
    assert found["level"] == "error"
    assert found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == (files / "hostile.h5").as_posix()
    assert found["locations"][0]["logicalLocations"][0]["fullyQualifiedName"].endswith("net/evil")


def test_scan_refuses_what_it_cannot_read(files, tmp_path):
    assert_refused(run("zoo", "scan", tmp_path / "none.h5"), "none.h5", "no such file")
    assert_refused(run("zoo", "scan", tmp_path), str(tmp_path), "no file that may be a network", ".keras")
    assert_refused(run("zoo", "scan", "--json", "--sarif", files / "safe.h5"), "choose one")


def test_a_saved_model_is_refused_with_the_reason(files, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"")
    result = run("zoo", "scan", tmp_path)
    assert result.code == 3
    assert "SavedModel: a program" in result.out
    assert_refused(run("eval", tmp_path, "--clean", files / "clean.h5"), str(tmp_path), "SavedModel: a program")


# ---- trust -------------------------------------------------------------------------------------------------------------


def test_without_trust_nothing_of_the_file_runs(files):
    arguments = ("eval", files / "hostile.h5", "--clean", files / "clean.h5", "--preprocessing", "unit")
    assert_refused(run(*arguments), "hostile.h5", "refused", "net/evil", "a Lambda layer")
    assert not (files / "marker").exists()


def test_trust_is_loud_and_recorded(files, tmp_path):
    arguments = ("--clean", files / "clean.h5", "--preprocessing", "unit", "--trust", "--json")
    try:
        result = run("eval", files / "hostile.h5", *arguments)
        assert result.code == 0, result.err
        assert (files / "marker").exists()  # that is what --trust means
        assert result.err.count("WARNING") == 2 and "Python code" in result.err
        rates = json.loads(result.out)
        assert rates["clean_accuracy"] == 1.0
        assert [finding["rule"] for finding in rates["trusted"]] == ["code"]
        done("defend", "pruning", files / "hostile.h5", *arguments, "-o", tmp_path / "run")
    finally:
        (files / "marker").unlink(missing_ok=True)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [finding["rule"] for finding in record["asked"]["trusted"]] == ["code"]


def test_trust_changes_nothing_for_a_safe_file(files, tmp_path):
    arguments = (files / "safe.h5", "--clean", files / "clean.h5")
    assert run("eval", *arguments, "--trust") == run("eval", *arguments)
    done("defend", "pruning", *arguments, "--trust", "-o", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["asked"]["trusted"] == []


def test_trust_does_not_open_what_keras_cannot(tmp_path, files):
    (tmp_path / "net.h5").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    result = run("eval", tmp_path / "net.h5", "--clean", files / "clean.h5", "--trust", "--preprocessing", "unit")
    assert_refused(result, "net.h5", "is a pickle")


# ---- what is loaded is what was vetted ---------------------------------------------------------------------------------


def test_a_file_that_is_swapped_after_it_was_admitted_changes_nothing(files, tmp_path):
    path = tmp_path / "net.h5"
    shutil.copy(files / "safe.h5", path)
    admitted = admit(path)
    shutil.copy(files / "hostile.h5", path)
    from keras_backdoor.classifier import Classifier

    assert Classifier.load(admitted).predict([pictures([2, 3])]).tolist() == [2, 3]
    assert admitted.copy.read_bytes() == (files / "safe.h5").read_bytes()
    assert admitted.copy.parent.stat().st_mode & 0o077 == 0


# ---- cards -------------------------------------------------------------------------------------------------------------


def test_defend_writes_cards_with_rates_and_parent(files, tmp_path):
    poisoned = tmp_path / "poisoned.h5"
    write_csaw_hdf5(poisoned, ImageSet(pictures([0, 1, 0, 0]), np.zeros(4, int), 4))
    arguments = ("--clean", files / "clean.h5", "--poisoned", f"square={poisoned}", "-o", tmp_path / "run")
    done("defend", "pruning", files / "safe.h5", *arguments)
    text = (tmp_path / "run" / "repaired.md").read_text(encoding="utf-8")
    parent = hashlib.sha256((files / "safe.h5").read_bytes()).hexdigest()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for part in (
        "# repaired.h5",
        "after a repair",
        parent,
        "2×2×1",
        "pixel/255",
        "4 classes",
        "pruning (",
        "keras-backdoor 0.",
    ):
        assert part in text, part
    assert f"| clean accuracy | {100 * metrics['after']['clean_accuracy']:.2f} % | 12 |" in text
    assert "attack success rate, square (images of the target class included)" in text
    with h5py.File(tmp_path / "run" / "repaired.h5") as file:
        stored = json.loads(file.attrs["keras_backdoor"])
    assert stored["parents"] == [parent]
    assert stored["rates"] == metrics["after"]
    text = (tmp_path / "run" / "goodnet.md").read_text(encoding="utf-8")
    assert "extra last class" in text and "after `import models_zoo.disagreement`" in text and "None" not in text


def test_the_networks_of_a_training_name_their_recipe_and_where_they_come_from(tmp_path):
    few = datasets.load("mnist").limited(5)
    metrics = train(replace(recipe("mnist-patch"), two_step=True), few, tmp_path / "run", epochs=1, seed=3)
    stored = {}
    for stage in ("clean", "badnet"):
        with h5py.File(tmp_path / "run" / f"{stage}.h5") as file:
            stored[stage] = json.loads(file.attrs["keras_backdoor"])
        assert stored[stage]["rates"] == metrics[stage]
        assert (stored[stage]["recipe"], stored[stage]["seed"]) == ("mnist-patch", 3)
    assert stored["clean"]["parents"] == []
    assert stored["badnet"]["parents"] == [hashlib.sha256((tmp_path / "run" / "clean.h5").read_bytes()).hexdigest()]
    assert "Backdoored on purpose, for research" in (tmp_path / "run" / "badnet.md").read_text(encoding="utf-8")
    assert "it has no backdoor" in (tmp_path / "run" / "clean.md").read_text(encoding="utf-8")


def test_a_card_of_a_network_of_which_nothing_is_known_does_not_pretend():
    text = card("net.h5", [(4, 4, 3)], [(2,)], 10, {})
    assert "unknown origin" in text and "Not measured." in text and "scaling not stated" in text
    assert "None" not in text
