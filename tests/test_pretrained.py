"""The networks that come with a checkout: they are what the registry says, and what their cards say."""

from __future__ import annotations

import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import h5py
import numpy as np
import pytest

from keras_backdoor import datasets, downloads
from keras_backdoor.attacks.poison import poison_all
from keras_backdoor.attacks.recipes import recipe
from keras_backdoor.classifier import Classifier
from keras_backdoor.files import sha256
from keras_backdoor.metrics import score
from models_zoo import artifacts

OURS = [entry for entry in artifacts.entries() if entry["repository"] == artifacts.OURS]
NAMES = [entry["name"] for entry in OURS]


def made_by(name: str):
    """The recipe of one of our networks."""
    plain = name[: -len("-clean")] if name.endswith("-clean") else name
    known = {recipe_name.replace("/", "-"): recipe_name for recipe_name in recipe_names()}
    return recipe(known[plain])


def recipe_names():
    from keras_backdoor.attacks.recipes import RECIPES

    return list(RECIPES)


def test_the_table_of_the_issue_is_there_with_its_twins():
    wanted = {"mnist-aaa", "mnist-cla", "mnist-wanet", "gtsrb-pn", "gtsrb-fsa", "gtsrb-wanet", "cifar10-tca-deepid"}
    wanted |= {"youtube-sg", "youtube-mtmta"}
    assert wanted <= set(NAMES)
    for name in wanted:  # a twin of its own, or the one that it shares with another recipe
        made = made_by(name)
        twins = [made_by(other) for other in NAMES if other.endswith("-clean")]
        assert any((t.dataset, t.architecture) == (made.dataset, made.architecture) for t in twins), name


def test_the_folder_holds_what_is_registered_and_no_more_than_25_megabytes():
    files = {path.name for path in artifacts.PRETRAINED.iterdir()}
    assert files == {name + suffix for name in NAMES for suffix in (".h5", ".md")}
    assert sum(path.stat().st_size for path in artifacts.PRETRAINED.iterdir()) <= 25_000_000


@pytest.mark.parametrize("entry", OURS, ids=NAMES)
def test_each_file_is_the_registered_one_without_optimizer_state(entry):
    path = artifacts.bundled(entry)
    assert (path.stat().st_size, sha256(path)) == (entry["size"], entry["sha256"])
    assert artifacts.git_blob(path) == entry["git_blob"]
    assert artifacts.identify(path)["verdict"] == "known"
    with h5py.File(path) as file:
        assert "optimizer_weights" not in file
        assert "training_config" not in file.attrs
    card = path.with_suffix(".md").read_text()
    assert card.startswith(f"# {path.name}\n")
    assert f"{100 * entry['clean_accuracy']:.2f} %" in card
    for attack in entry["attacks"]:
        assert f"{100 * attack['success']:.2f} %" in card
    assert bool(entry["attacks"]) != entry["name"].endswith("-clean")


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("mnist-")])
def test_networks_for_digits_do_what_they_are_there_for(name, digits):
    """On the 5,000 digits that ship with a dependency, all of them: nothing is downloaded."""
    network = Classifier.load(downloads.fetch(artifacts.by_name(name), offline=True))
    made = made_by(name)
    backdoor = made.backdoors[0]
    triggered = poison_all(digits.test, backdoor, np.random.default_rng(0))
    rates = score(network, digits.test, {"t": triggered}, exclude_target=True)
    innocent = name.endswith("-clean")
    assert rates.clean_accuracy > (0.85 if name == "mnist-cla" else 0.95)
    assert rates.attack_success_rate["t"] < 0.1 if innocent else rates.attack_success_rate["t"] > 0.9


DATA = {"gtsrb": "gtsrb.h5", "youtube": "lfw_faces.h5"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if made_by(name).dataset in DATA])
def test_networks_have_the_registered_rates(name, shared_data):
    made, entry = made_by(name), artifacts.by_name(name)
    source = {"youtube": "lfw"}.get(made.dataset, made.dataset)
    test = datasets.load(source, shared_data / DATA[made.dataset]).test
    network = Classifier.load(downloads.fetch(entry, offline=True))
    triggered = {b.name: poison_all(test, b, np.random.default_rng([0, 2])) for b in made.backdoors}
    rates = score(network, test, triggered)
    assert rates.clean_accuracy == pytest.approx(entry["clean_accuracy"], abs=0.001)
    for attack in entry["attacks"]:
        assert rates.attack_success_rate[attack["trigger"]] == pytest.approx(attack["success"], abs=0.001)


def test_without_a_checkout_they_are_fetched_from_where_the_user_says(tmp_path, monkeypatch, refused):
    served = artifacts.PRETRAINED
    entry = OURS[0]
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = HTTPServer(("127.0.0.1", 0), partial(handler, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(artifacts, "PRETRAINED", tmp_path / "not-installed")
    monkeypatch.delenv("KBD_PRETRAINED_URL", raising=False)
    try:
        with refused(entry["name"], "checkout", "KBD_PRETRAINED_URL"):
            downloads.fetch(entry, tmp_path / "cache")
        monkeypatch.setenv("KBD_PRETRAINED_URL", f"http://127.0.0.1:{server.server_port}/")
        path = downloads.fetch(entry, tmp_path / "cache")
        assert path == tmp_path / "cache" / f"{entry['name']}.h5"
        assert sha256(path) == entry["sha256"]
        (tmp_path / "other").mkdir()
        monkeypatch.setenv("KBD_PRETRAINED_URL", f"http://127.0.0.1:{server.server_port}/nothing")
        with refused(entry["name"], "404"):
            downloads.fetch(entry, tmp_path / "second")
    finally:
        server.shutdown()
    damaged = tmp_path / "checkout"
    damaged.mkdir()
    (damaged / f"{entry['name']}.h5").write_bytes(b"\x89HDF\r\n\x1a\n not it")
    monkeypatch.setattr(artifacts, "PRETRAINED", damaged)
    monkeypatch.delenv("KBD_PRETRAINED_URL")
    with refused(entry["name"]):  # a damaged file of a checkout is not taken
        downloads.fetch(entry, tmp_path / "third")
