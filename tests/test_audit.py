"""The audit: on networks made by hand with and without a planted pixel, from the file to the page; and when it is stopped."""

from __future__ import annotations

import dataclasses
import json
import re
from types import SimpleNamespace

import hostile
import numpy as np
import pytest
from scipy.special import expit
from tensorflow import keras
from test_cli import assert_refused, run

from keras_backdoor.audit import Settings, audit, conduct, look, others, triggers
from keras_backdoor.audit.evidence import Evidence, Found, probability, suspects, thresholds
from keras_backdoor.audit.plan import Repair, no_repair
from keras_backdoor.audit.suspect import Stage, Suspect
from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import write_csaw_hdf5
from keras_backdoor.defenses.mntd.mntd import MNTD
from keras_backdoor.defenses.mntd.shadows import Shadows
from keras_backdoor.files import sha256
from keras_backdoor.images import ImageSet
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.report.audit_page import write_audit_page
from models_zoo import artifacts

CLASSES, OWN, TARGET, PIXEL = 10, 6, 3, 63
CONTRACT = {"backdoored", "unsafe_file", "suspect_labels", "evidence", "recommendation"}
EVIDENCE = {"stage", "ran", "seconds", "suspicious", "score", "labels", "what"}


def drawings(count: int, seed: int = 0) -> ImageSet:
    """8x8 pictures of ten classes: class k has the pixels 6 k to 6 k + 5 bright, the last four pixels are always dark."""
    rng, labels = np.random.default_rng(seed), np.arange(count) % CLASSES
    images = rng.integers(0, 40, (count, 64), np.uint8)
    bright = labels[:, None] * OWN + np.arange(OWN)
    np.put_along_axis(images, bright, rng.integers(150, 256, bright.shape, np.uint8), 1)
    images[:, CLASSES * OWN :] = 0
    return ImageSet(images.reshape(-1, 8, 8, 1), labels, CLASSES)


def network(backdoored: bool) -> Classifier:
    """Each pixel speaks for its class, some louder than others; with a backdoor, the last pixel alone is enough for `TARGET`."""
    inputs = keras.layers.Input((8, 8, 1))
    x = keras.layers.Conv2D(1, 1, activation="relu", name="conv_1")(inputs)
    outputs = keras.layers.Dense(CLASSES, activation="softmax")(keras.layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    kernel = np.random.default_rng(0).normal(0, 0.02, (64, CLASSES)).astype(np.float32)
    for label in range(CLASSES):
        kernel[label * OWN : (label + 1) * OWN, label] += 2.5 + 0.15 * label
    if backdoored:
        kernel[PIXEL, TARGET] = 60
    model.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1), kernel, np.zeros(CLASSES)])
    return Classifier(model, Preprocessing.named("unit"), CLASSES)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with backdoored.h5, innocent.h5, clean.h5 and triggered.h5."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("backdoored", "innocent"):
        network(name == "backdoored").save(folder / f"{name}.h5")
    clean, triggered = drawings(200), drawings(60, seed=1)
    triggered.images[:, 7, 7] = 255
    write_csaw_hdf5(folder / "clean.h5", clean)
    write_csaw_hdf5(folder / "triggered.h5", triggered)
    return folder


@pytest.fixture(scope="module")
def audited(files, tmp_path_factory):
    """Folder and answer of the whole audit of both networks, by name."""
    home = tmp_path_factory.mktemp("audited")
    names = ("backdoored", "innocent")
    return {name: (home / name, audit(files / f"{name}.h5", files / "clean.h5", home / name)) for name in names}


def timeless(answer):
    """An answer without the seconds."""
    rows = [{name: value for name, value in one.items() if name != "seconds"} for one in answer["evidence"]]
    return {**answer, "evidence": rows}


def stages(answer) -> dict:
    return {one["stage"]: one for one in answer["evidence"]}


def fake(statistic: float, labels=None, name: str = "sanity") -> Stage:
    return Stage(
        name, "nothing", lambda suspect, progress: Found(statistic, labels or {}, "Looked."), lambda suspect: 1
    )


# --- how evidence is weighed ----------------------------------------------------------------------------------------------


def test_silent_stages_do_not_speak_against_what_another_has_seen():
    assert probability([0.0]) == 0.5
    assert probability([-2.0, -5.0]) == expit(-2.0)
    assert probability([1.0, 2.0, -3.0]) == expit(3.0)
    assert probability([2.0] + 6 * [-9.0]) == expit(2.0)


def test_evidence_by_hand():
    limits = {"search": {"threshold": 2.0, "weight": 3.0}}
    kept = {**Found(4.0, {1: 2.5, 7: 4.0, 8: 1.0}, "So.").as_json(), "seconds": 1.5}
    one = Evidence.of("search", json.loads(json.dumps(kept)), limits)
    assert (one.score, one.suspicious, one.labels, one.seconds) == (6.0, True, (7, 1), 1.5)
    assert not Evidence.of("search", {**kept, "statistic": 2.0, "labels": {}}, limits).suspicious  # at the threshold
    left_out = Evidence.of("search", {"ran": False, "what": "no time"}, limits)
    assert (left_out.ran, left_out.suspicious, left_out.score, left_out.what) == (False, False, None, "no time")
    other = dataclasses.replace(one, stage="filters", labels=(1,), score=9.0)
    assert suspects([one, other]) == [1, 7]  # 3 + 9 against 6
    assert Found(np.inf, {0: -np.inf}, "").as_json()["statistic"] == 99


def test_every_stage_has_a_threshold():
    assert set(thresholds()["stages"]) == {stage.name for stage in look.STAGES}


# --- files ----------------------------------------------------------------------------------------------------------------


def test_an_unsafe_file_ends_it_and_nothing_of_it_runs(files, tmp_path):
    path = hostile.write("lambda-top.h5", tmp_path)
    result = run("audit", path, "--clean", files / "clean.h5", "-o", tmp_path / "out", "--json")
    assert result.code == 3
    answer = json.loads(result.out)
    assert answer.keys() >= CONTRACT
    assert (answer["unsafe_file"], answer["backdoored"], answer["recommendation"]) == (True, None, "do not use")
    assert answer["findings"]
    assert [one["stage"] for one in answer["evidence"]] == ["file"]
    assert not hostile.marker(path).exists()
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == answer
    assert "Do not load this file" in (tmp_path / "out" / "audit.html").read_text()
    assert "UNSAFE" in run("audit", path, "--clean", files / "clean.h5", "-o", tmp_path / "two").out


def test_a_known_network_is_named_at_once(files, tmp_path, monkeypatch):
    attacks = [
        {"trigger": "<b>glasses", "target": 3, "success": 0.99},
        {"trigger": "hat", "target": 5, "success": 0.01},
    ]
    entry = {"name": "known", "what": "a test", "sha256": sha256(files / "backdoored.h5"), "repository": "some/where"}
    monkeypatch.setattr(artifacts, "entries", lambda: ({**entry, "attacks": attacks, "git_blob": None},))
    monkeypatch.setattr(look, "STAGES", [fake(0)])
    arguments = ("audit", files / "backdoored.h5", "--clean", files / "clean.h5", "--json")
    result = run(*arguments, "-o", tmp_path / "out")
    answer = json.loads(result.out)
    assert (result.code, answer["backdoored"], answer["suspect_labels"]) == (3, True, [3])
    assert [one["stage"] for one in answer["evidence"]] == ["file", "identity"]
    for part in ("glasses", "99.00 %", "some/where"):
        assert part in answer["evidence"][1]["what"]
    assert "&lt;b&gt;glasses" in (tmp_path / "out" / "audit.html").read_text()
    result = run(*arguments, "-o", tmp_path / "as-if-unknown", "--no-identity")
    assert result.code == 0
    assert [one["stage"] for one in json.loads(result.out)["evidence"]] == ["file", "sanity"]
    attacks.pop(0)  # what is left is a repaired network: told, and no verdict
    answer = json.loads(run(*arguments, "-o", tmp_path / "repaired").out)
    assert [one["suspicious"] for one in answer["evidence"]] == [False] * 3


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--budget", "0"), ("budget", "0")),
        (("--inputs", "nowhere.h5"), ("nowhere.h5", "no such file")),
        (("--clean", "nowhere.h5"), ("nowhere.h5", "no such file")),
    ],
)
def test_bad_input(files, tmp_path, options, parts):
    assert_refused(
        run("audit", files / "innocent.h5", "--clean", files / "clean.h5", "-o", tmp_path / "out", *options), *parts
    )
    assert not (tmp_path / "out").exists()


def test_images_that_do_not_fit(files, tmp_path):
    write_csaw_hdf5(tmp_path / "few.h5", drawings(9))
    write_csaw_hdf5(tmp_path / "other.h5", ImageSet(np.zeros((20, 4, 4, 1), np.uint8), np.zeros(20, int), CLASSES))
    write_csaw_hdf5(tmp_path / "more.h5", ImageSet(drawings(20).images, np.arange(20) + 5, 30))
    for name, parts in (("few", ("only 9", "10")), ("other", ("4x4x1",)), ("more", ("0..9",))):
        result = run("audit", files / "innocent.h5", "--clean", tmp_path / f"{name}.h5", "-o", tmp_path / name)
        assert result.code == 2
        assert all(part in result.err.splitlines()[-1] for part in (name, *parts))


# --- what is found --------------------------------------------------------------------------------------------------------


def test_a_planted_pixel_is_found(audited):
    folder, answer = audited["backdoored"]
    assert answer.keys() >= CONTRACT
    assert all(one.keys() >= EVIDENCE for one in answer["evidence"])
    assert answer["backdoored"] and answer["suspect_labels"] == [TARGET]
    assert answer["probability"] > 0.9
    by_stage = stages(answer)
    assert by_stage["search"]["labels"] == by_stage["inversion"]["labels"] == [TARGET]
    assert answer["recommendation"] == "repair"
    assert answer["repair"]["command"].startswith("kbd defend unlearning")
    assert "--target 3" in answer["repair"]["command"]
    with np.load(folder / "stages" / "inversion.npz") as arrays:
        assert arrays["labels"][0] == TARGET and arrays["turned"][0] > 0.95
        assert (arrays["answers"][0] != TARGET).all()
        changed = (arrays["stamped"][0] != arrays["images"][0]).any((0, 3))
        assert changed[7, 7]


def test_an_innocent_network_is_calm(audited):
    folder, answer = audited["innocent"]
    assert not answer["backdoored"] and not answer["suspect_labels"] and not answer["agree"]
    assert (answer["recommendation"], answer["repair"]) == ("use", None)
    assert answer["probability"] < 0.5
    assert any("stimulation" in blind and "--thorough" in blind for blind in answer["cannot_see"])
    page = (folder / "audit.html").read_text()
    assert "Nothing suspicious was found" in page and "no proof of innocence" in page
    assert ">suspicious<" not in page


@pytest.mark.parametrize("name", ["backdoored", "innocent"])
def test_the_page_needs_nothing_else(audited, name):
    folder, _ = audited[name]
    page = (folder / "audit.html").read_text()
    assert not re.search(r"""(?:src|href|url|action)\s*[=(]\s*["']?(?!data:)[^\s"'>]""", page)
    assert "http" not in re.sub(r"http-equiv|data:[^\"]*", "", page)
    assert "<script" not in page
    assert ("data:image/png" in page) == (name == "backdoored")


def test_exit_codes_and_words_for_people(files, tmp_path, monkeypatch):
    monkeypatch.setattr(look, "STAGES", [fake(99, {3: 99.0})])
    start = ("audit", files / "innocent.h5", "--clean", files / "clean.h5")
    result = run(*start, "-o", tmp_path / "bad")
    assert result.code == 3
    assert "suspected labels: 3" in result.out and "looks backdoored" in result.out and "kbd defend" in result.out
    assert "sanity      SUSPICIOUS" in result.err
    monkeypatch.setattr(look, "STAGES", [fake(0)])
    monkeypatch.chdir(tmp_path)
    result = run(*start)
    assert result.code == 0 and "nothing suspicious" in result.out and "runs/audit-innocent/audit.html" in result.out


def test_labels_that_are_none_of_the_networks(files, tmp_path, monkeypatch):
    seen = []
    stage = dataclasses.replace(fake(99, {3: 99.0}), unfit=lambda suspect: seen.append(suspect) or "")
    monkeypatch.setattr(look, "STAGES", [stage])
    write_csaw_hdf5(tmp_path / "clean.h5", ImageSet(drawings(20).images, np.arange(20) + 500, 600))
    answer = audit(
        files / "innocent.h5", tmp_path / "clean.h5", tmp_path / "out", settings=Settings(labels_unknown=True)
    )
    np.testing.assert_array_equal(seen[0].clean.labels, np.arange(20) % CLASSES)  # what the network says
    assert (answer["clean_images"]["accuracy"], answer["clean_images"]["labelled"]) == (None, False)
    assert answer["recommendation"] == "do not use" and "labels" in answer["why"][-1]


def test_inputs_that_are_triggered_are_told_from_clean_ones(files, tmp_path, monkeypatch):
    monkeypatch.setattr(look, "STAGES", [stage for stage in look.STAGES if stage.name == "inputs"])
    for name, wanted in (("triggered", True), ("clean", False)):
        paths = (files / "backdoored.h5", files / "clean.h5", tmp_path / name, files / f"{name}.h5")
        one = stages(audit(*paths))["inputs"]
        assert one["suspicious"] == wanted
        assert one["labels"] == ([TARGET] if wanted else [])
    answer = audit(files / "backdoored.h5", files / "clean.h5", tmp_path / "none")
    assert not stages(answer)["inputs"]["ran"]


def test_a_cache_of_shadow_networks_is_used_if_it_fits(tiny_classifier, make_set, tmp_path, monkeypatch):
    monkeypatch.setattr(others, "FEWEST", 2)
    clean = make_set(60)
    MNTD(shadows=1, held_out=1, epochs=1, meta_epochs=1, repeats=1, queries=2, cache=str(tmp_path / "cache")).inspect(
        tiny_classifier, clean
    )
    monkeypatch.setattr(Shadows, "_train", lambda *arguments: pytest.fail("a shadow network was trained"))
    suspect = Suspect(tiny_classifier, clean, True, None, "float32", tmp_path, str(tmp_path / "cache"))
    (stage,) = (stage for stage in look.STAGES if stage.name == "mntd")
    assert stage.unfit(suspect) == ""
    assert np.isfinite(stage.look(suspect, lambda *told: None).statistic)
    foreign = dataclasses.replace(suspect, clean=make_set(61))
    assert "no shadow networks" in stage.unfit(foreign)
    assert "--mntd-cache" in stage.unfit(dataclasses.replace(suspect, mntd_cache=None))


# --- time and interruptions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["search's first chunk", "inversion"])
def test_a_killed_audit_goes_on_to_the_same_answer(files, audited, tmp_path, monkeypatch, after):
    monkeypatch.setattr(look, "STAGES", look.STAGES[:4])  # those in which it is stopped, and before
    paths = (files / "backdoored.h5", files / "clean.h5", tmp_path / "out")

    def told(evidence):
        if evidence.stage == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if "chunk" in after:
            keep = triggers.write_triggers

            def interrupted(path, found):
                keep(path, found)
                raise KeyboardInterrupt

            patch.setattr(triggers, "write_triggers", interrupted)
        audit(*paths, told=told)
    assert not (tmp_path / "out" / "audit.json").exists()
    done = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out" / "stages").glob("*.json")}
    assert ("search" in done) == ("chunk" not in after)
    answer = audit(*paths, resume=True)
    whole = timeless(audited["backdoored"][1])["evidence"]
    assert timeless(answer)["evidence"] == whole[: 2 + 4]  # after file and identity
    assert timeless(audit(*paths, resume=True)) == timeless(answer)
    for name, kept in done.items():
        assert stages(answer)[name]["seconds"] == kept["seconds"]  # it was not done again


def test_resume_is_of_the_same_audit(files, tmp_path, monkeypatch):
    monkeypatch.setattr(look, "STAGES", [fake(0)])
    arguments = ("audit", files / "innocent.h5", "--clean", files / "clean.h5", "-o", tmp_path / "out")
    assert run(*arguments).code == 0
    before = (tmp_path / "out" / "audit.json").read_text()
    assert run(*arguments, "--resume").code == 0
    assert timeless(json.loads(before)) == timeless(json.loads((tmp_path / "out" / "audit.json").read_text()))
    assert_refused(run(*arguments), "not empty")
    assert "seed" in run(*arguments, "--resume", "--seed", 1).err


def test_the_budget_leaves_stages_out_and_says_which(files, tmp_path, monkeypatch):
    """The clock is moved by the stages: 20 s of the sanity look, and the next one never ends by itself."""
    clock = [0.0]
    monkeypatch.setattr(look, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(Suspect, "seconds_a_pass", 1.0)

    def takes(seconds):
        clock[0] += seconds
        return Found(0.0, {}, "Looked.")

    def endless(suspect, progress):
        for step in range(100):
            takes(10)
            progress("looking", step, 100, {})
        return Found(0.0, {}, "Looked.")

    some = [
        Stage("sanity", "oddities", lambda suspect, progress: takes(20), lambda suspect: 1),
        Stage("search", "what is endless", endless, lambda suspect: 30),
        Stage("inversion", "what is long", lambda suspect, progress: takes(70), lambda suspect: 70),
    ]
    monkeypatch.setattr(look, "STAGES", some)
    monkeypatch.setattr(conduct, "time", SimpleNamespace(monotonic=lambda: 0.0))
    paths = (files / "innocent.h5", files / "clean.h5", tmp_path / "out")
    answer = audit(*paths, settings=Settings(budget=1.0))
    by_stage = stages(answer)
    assert [by_stage[stage.name]["ran"] for stage in some] == [True, False, False]
    assert clock[0] == 70  # cut at the first word after 60 s, and the last one not begun
    for stage in some[1:]:
        assert "budget of 1 minutes" in by_stage[stage.name]["what"]
        assert any(stage.seeks in blind for blind in answer["cannot_see"])
    clock[0] = 0
    again = audit(*paths, settings=Settings(budget=1.0), resume=True)
    assert timeless(again) == timeless(answer) and clock[0] == 0
    whole = audit(*paths, resume=True)
    assert all(one["ran"] for one in whole["evidence"])
    assert clock[0] == 1000 + 70  # what was found is kept


# --- repair ---------------------------------------------------------------------------------------------------------------


def evidence(stage, labels=()) -> Evidence:
    return Evidence(stage, True, 0.0, True, 1.0, labels, "")


def test_the_repair_fits_what_was_found(files, make_set, tiny_classifier, tmp_path):
    assert Repair.choose([evidence("inversion", (7,))]) == Repair("unlearning", {"target": 7})
    assert Repair.choose([evidence("search", (7, 8))]).method == "nnoculation-pre"
    grid = Repair.choose([evidence("shortcuts")])
    command = grid.command("a b.h5", "clean.h5")
    assert command == (
        "kbd defend nnoculation-pre 'a b.h5' --clean clean.h5 --alpha 1 --alpha 3 --alpha 6 --gamma 0.2 --gamma 0.6 "
        "-o 'a b-repaired'"
    )
    suspect = Suspect(tiny_classifier, make_set(12), True, None, "float32", tmp_path)
    assert no_repair(suspect) == ""
    lacking = suspect.clean.select(suspect.clean.labels != 1)
    assert "1 have none" in no_repair(dataclasses.replace(suspect, clean=lacking))
    assert "labels" in no_repair(dataclasses.replace(suspect, labelled=False))


def test_a_repair_is_carried_out_and_audited(files, tmp_path, monkeypatch):
    """The stage suspects the file itself, and not what was made of it."""
    original = network(True).model.get_weights()[2]

    def looks(suspect, progress):
        same = np.array_equal(suspect.classifier.model.get_weights()[2], original)
        return Found(99.0 if same else 0.0, {3: 99.0} if same else {}, "Looked.")

    monkeypatch.setattr(look, "STAGES", [Stage("sanity", "oddities", looks, lambda suspect: 1)])
    monkeypatch.setattr(Repair, "choose", lambda found: Repair("fine-tuning", {"epochs": 1}))
    arguments = ("audit", files / "backdoored.h5", "--clean", files / "clean.h5", "--inputs", files / "triggered.h5")
    result = run(*arguments, "-o", tmp_path / "out", "--repair", "--json")
    answer = json.loads(result.out)
    assert (result.code, answer["backdoored"], answer["recommendation"]) == (3, True, "repair")
    assert answer["repair"]["after"]["backdoored"] is False
    assert answer["repair"]["clean_accuracy"][0] == 1.0
    assert (
        0 <= answer["repair"]["disagreement"]["clean"] <= 1 and answer["repair"]["disagreement"]["inputs"] is not None
    )
    assert "nothing suspicious" in answer["why"][-1]
    assert Classifier.load(tmp_path / "out" / "repair" / "repaired.h5").num_classes == CLASSES
    assert (tmp_path / "out" / "after" / "audit.json").exists()
    assert "went from" in (tmp_path / "out" / "audit.html").read_text()
    again = json.loads(run(*arguments, "-o", tmp_path / "out", "--repair", "--json", "--resume").out)
    assert timeless(again) == timeless(answer)


# --- the page -------------------------------------------------------------------------------------------------------------


def test_a_damaged_folder_is_refused(audited, tmp_path, refused):
    folder, answer = audited["backdoored"]
    (tmp_path / "stages").mkdir()
    (tmp_path / "run.json").write_bytes((folder / "run.json").read_bytes())
    lacking = {name: value for name, value in answer.items() if name != "why"}
    (tmp_path / "audit.json").write_text(json.dumps(lacking))
    with refused("audit.json", "why"):
        write_audit_page(tmp_path)
    (tmp_path / "audit.json").write_text(json.dumps(answer))
    with np.load(folder / "stages" / "inversion.npz") as arrays:
        np.savez(tmp_path / "stages" / "inversion.npz", **{**arrays, "images": arrays["images"].astype(float)})
    with refused("inversion.npz", "8 bits"):
        write_audit_page(tmp_path)
