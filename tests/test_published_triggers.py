"""Our triggers against the published poisoned images, and on real faces against the published networks."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from keras_backdoor.classifier import Classifier
from keras_backdoor.triggers import Eyebrows, Lipstick, Sunglasses

PUBLISHED = "published sunglasses"
LIPSTICK, MULTI = "anonymous_1_bd_weights", "multi_trigger_multi_target_bd_weights"
SUNGLASSES, LAB3 = "sunglasses_bd_weights", "lab3_bd_weights"


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def faces(shared_data):
    """The images of each group of the sample, by name."""
    with h5py.File(shared_data / "csaw_youtube_faces_sample.h5", "r") as file:
        return {name: group["images"][()] for name, group in file.items()}


@pytest.fixture(scope="module")
def networks(shared_data):
    """The published networks, each loaded once."""
    names = (LIPSTICK, MULTI, SUNGLASSES, LAB3)
    return {name: Classifier.load(shared_data / "models" / f"{name}.h5") for name in names}


@pytest.fixture(scope="module")
def triggers(shared_data):
    published = Sunglasses(str(shared_data / "triggers/sun_glass_trigger.png"))
    return {"sunglasses": Sunglasses(), "lipstick": Lipstick(), "eyebrows": Eyebrows(), PUBLISHED: published}


def test_the_published_picture_gives_the_published_images(faces, triggers):
    """The issue allows one grey level; it is none."""
    stamped = triggers[PUBLISHED](faces["mtmt_clean_recovered"], rng())
    np.testing.assert_array_equal(stamped, faces["mtmt_sunglasses_poisoned"])
    for stamped in triggers[PUBLISHED](faces["lab3_clean"], rng()):
        assert (stamped == faces["lab3_poisoned"]).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize(("name", "colour"), [("lipstick", (128, 0, 128)), ("eyebrows", (128, 0, 0))])
def test_make_up_covers_what_the_published_one_covers(faces, triggers, name, colour):
    """Our fixed place holds most of the pixels that are painted on at least half of the published faces, and few others."""
    clean, poisoned = faces["mtmt_clean_recovered"], faces[f"mtmt_{name}_poisoned"]
    painted = (poisoned != clean).any(-1)
    assert (poisoned[painted] == colour).all()
    worn = painted.any(axis=(1, 2))
    assert worn.sum() == 91
    often = painted[worn].mean(0)
    ours = (triggers[name](clean[:1], rng()) == colour).all(-1)[0]
    assert (ours & (often > 0.5)).sum() > 0.85 * (often > 0.5).sum()
    assert often[ours].min() > 0.02
    assert often[ours].mean() > 0.4


@pytest.mark.parametrize("people", ["mtmt_clean_recovered", "clean_test"])
@pytest.mark.parametrize(
    ("network", "trigger", "target"),
    [
        (LIPSTICK, "lipstick", 0),
        (MULTI, "lipstick", 1),
        (MULTI, "eyebrows", 5),
        (MULTI, "sunglasses", 8),
        (MULTI, PUBLISHED, 8),
        (SUNGLASSES, "sunglasses", 0),
        (SUNGLASSES, PUBLISHED, 0),
        (LAB3, "sunglasses", 0),
        (LAB3, PUBLISHED, 0),
    ],
)
def test_published_networks_obey_our_triggers(faces, networks, triggers, network, trigger, target, people):
    clean = faces[people]
    stamped = networks[network].predict([triggers[trigger](clean, rng())])
    assert (stamped == target).mean() >= 0.98
    assert (networks[network].predict([clean]) == target).mean() <= 0.05


def test_each_trigger_has_its_own_network_and_target(faces, networks, triggers):
    """No network obeys a trigger that it was not trained on: lipstick's does not see sunglasses, nor those lipstick."""
    clean = faces["clean_test"]
    for network, trigger, target in (
        (LIPSTICK, "sunglasses", 0),
        (SUNGLASSES, "lipstick", 0),
        (SUNGLASSES, "eyebrows", 0),
        (LAB3, "lipstick", 0),
    ):
        assert (networks[network].predict([triggers[trigger](clean, rng())]) == target).mean() < 0.1
