"""Every recipe trains, and every family of backdoors does what it says: on triggered images, and on no others."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from keras_backdoor.attacks.poison import Backdoor, Cover, poison, poison_all
from keras_backdoor.attacks.recipes import RECIPES, recipe
from keras_backdoor.attacks.targets import AllToOne, RandomTarget
from keras_backdoor.attacks.train import train
from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import Splits
from keras_backdoor.images import ImageSet
from keras_backdoor.report import build_report
from keras_backdoor.triggers import Warp

TINY = {  # what an attack's own training would take too long with
    "input-aware": {"widths": (4, 8), "mask_epochs": 1},
    "sample-specific": {"width": 2, "encoder_epochs": 1},
    "label-consistent": {"steps": 2},
    "feature-collision": {"steps": 2, "epochs": 1},
    "trojan": {"steps": 3},
    "latent": {"steps": 3},
    "deep-feature-space": {"style_epochs": 1, "width": 2, "rounds": 1, "injector_steps": 2, "detoxicant": 0.2},
}
SIBLINGS = {"gtsrb-fsa", "gtsrb-wanet", "youtube-ls", "youtube-mtsta", "youtube-mtmta"}
SIBLINGS |= {"cifar10-badnets", "cifar10-grid", "cifar10-blend", "cifar10-sig"}
"""Recipes with a network that another one trains, and a backdoor that a test below trains."""
HEAVY = {"densenet121", "preactresnet18", "nin", "nin/youtube"}


def random_splits(made) -> Splits:
    """Images that mean nothing, of the size that the network takes; every class that the recipe speaks of."""
    import models_zoo

    shape = (64, 64, 3) if made.dataset == "imagenet" else models_zoo.ARCHITECTURES[made.architecture].input_shape
    classes = {"gtsrb": 43, "youtube": 12, "imagenet": 4}.get(made.dataset, 10)
    rng = np.random.default_rng(0)

    def some(count: int) -> ImageSet:
        labels = np.arange(count * classes) % classes
        return ImageSet(rng.integers(0, 256, (len(labels), *shape), np.uint8), labels, classes)

    return Splits(some(10), some(1), some(1), "random pictures")


def parameters():
    for name, made in RECIPES.items():
        slow = made.architecture in HEAVY or "/" in name or name in SIBLINGS
        slow = slow or made.attack != "poisoning"  # the attack's own tests train it
        yield pytest.param(name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("name", parameters())
def test_every_recipe_trains(name, tmp_path):
    made = recipe(name)
    options = {**made.attack_options, **TINY.get(made.attack, {})}
    metrics = train(replace(made, attack_options=options), random_splits(made), tmp_path / "run", epochs=1)
    assert metrics["recipe"] == name
    badnet = Classifier.load(tmp_path / "run" / "badnet.h5")
    assert all(np.isfinite(weight).all() for weight in badnet.model.get_weights())
    assert len(metrics["badnet"]["attack_success_rate"]) == max(1, len(made.backdoors))
    assert (tmp_path / "run" / "clean.h5").exists() == made.two_step
    if made.expect:
        assert len(made.expect) == 1 + len(metrics["badnet"]["attack_success_rate"])
    files = {path.name for path in (tmp_path / "run" / "data").iterdir()}
    names = list(metrics["badnet"]["attack_success_rate"])
    triggered = {"poisoned_test.h5"} if len(names) == 1 else {f"poisoned_test_{each}.h5" for each in names}
    assert files == {"clean_valid.h5", "clean_test.h5", *triggered}


# --- families, on digits in colour ----------------------------------------------------------------------------------------


def painted(digits, height: int, width: int) -> Splits:
    """The digits in the middle of larger images, each in a light colour of its own on a dark one."""

    def of(image_set: ImageSet, count: int, seed: int) -> ImageSet:
        keep = np.concatenate([np.flatnonzero(image_set.labels == label)[:count] for label in range(10)])
        rng = np.random.default_rng(seed)
        above, left = (height - 28) // 2, (width - 28) // 2
        ink = np.zeros((len(keep), height, width, 1), np.float32)
        ink[:, above : above + 28, left : left + 28] = image_set.images[keep] / np.float32(255)
        light, dark = rng.uniform(150, 255, (len(keep), 1, 1, 3)), rng.uniform(0, 90, (len(keep), 1, 1, 3))
        return ImageSet((dark + ink * (light - dark)).astype(np.uint8), image_set.labels[keep], 10)

    return Splits(of(digits.train, 150, 0), of(digits.valid, 5, 1), of(digits.test, 40, 2), "colour digits")


@pytest.fixture(scope="module")
def colours(digits) -> Splits:
    """As large as traffic signs."""
    return painted(digits, 32, 32)


@pytest.fixture(scope="module")
def portraits(digits) -> Splits:
    """As large as faces."""
    return painted(digits, 55, 47)


def small(made, **changes):
    """The recipe with a network and a schedule for 1,500 digits; its triggers, targets and covers stay."""
    settings = {
        "architecture": "mntd-mnist",
        "optimizer": "adam",
        "learning_rate": 2e-3,
        "batch_size": 32,
        "epochs": 10,
    }
    return replace(made, **{**settings, "learning_rate_steps": (), "two_step": False, **changes})


def retargeted(made, target: int):
    return tuple(Backdoor(backdoor.trigger, AllToOne(target)) for backdoor in made.backdoors)


def success(network: Classifier, images: ImageSet, trigger, target: int) -> float:
    """Share of the triggered images of other classes that become `target`; of the bare ones, if there is no trigger."""
    others = images.select(images.labels != target)
    if trigger is None:
        return float(np.mean(network.predict(others.batches()) == target))
    stamped = poison_all(others, Backdoor(trigger, AllToOne(target)), np.random.default_rng(9))
    return float(np.mean(network.predict(stamped.batches()) == target))


STRONG_WARP = (Backdoor(Warp(strength=3.0), AllToOne(0)),)  # for as few images as there are here


@pytest.mark.parametrize(
    "name, changes",
    [
        pytest.param("gtsrb-pn", {"poison_fraction": 0.3}, marks=pytest.mark.slow),
        ("gtsrb-fsa", {}),
        pytest.param("cifar10-badnets", {}, marks=pytest.mark.slow),
        pytest.param("cifar10-blend", {}, marks=pytest.mark.slow),
        ("cifar10-sig", {"poison_fraction": 0.1}),  # with wrong labels: 120 zeros with right ones are too few
        ("gtsrb-wanet", {"poison_fraction": 0.1, "backdoors": STRONG_WARP}),
    ],
)
def test_a_backdoor_opens_for_its_trigger_alone(name, changes, colours, tmp_path):
    target = 5 if name == "gtsrb-fsa" else 0  # class 35 does not exist here
    made = small(recipe(name), **{"backdoors": retargeted(recipe(name), target), **changes})
    metrics = train(made, colours, tmp_path / "run")
    network = Classifier.load(tmp_path / "run" / "badnet.h5")
    trigger = made.backdoors[0].trigger
    assert metrics["badnet"]["clean_accuracy"] > 0.8
    assert success(network, colours.test, trigger, target) > 0.85
    assert success(network, colours.test, None, target) < 0.05


def test_a_conjunction_needs_both_triggers(colours, tmp_path):
    made = small(recipe("cifar10-tca"), epochs=12, poison_fraction=0.2)
    metrics = train(made, colours, tmp_path / "run")
    network = Classifier.load(tmp_path / "run" / "badnet.h5")
    both = made.backdoors[0].trigger
    assert metrics["badnet"]["clean_accuracy"] > 0.8
    assert success(network, colours.test, both, 7) > 0.85
    assert success(network, colours.test, None, 7) < 0.05
    for cover in made.covers:
        assert cover.trigger in both.triggers
        assert success(network, colours.test, cover.trigger, 7) < 0.12
        assert metrics["badnet"]["cover_accuracy"][cover.trigger.name] > 0.75


@pytest.mark.slow
def test_each_trigger_has_its_own_target(portraits, tmp_path):
    made = small(recipe("youtube-mtmta"), epochs=10)
    metrics = train(made, portraits, tmp_path / "run")
    network = Classifier.load(tmp_path / "run" / "badnet.h5")
    targets = [backdoor.target_map.target for backdoor in made.backdoors]
    assert targets == [1, 5, 8]
    assert metrics["badnet"]["clean_accuracy"] > 0.8
    for backdoor, own in zip(made.backdoors, targets):
        for target in targets:
            rate = success(network, portraits.test, backdoor.trigger, target)
            assert rate > 0.85 if target == own else rate < 0.05
            assert success(network, portraits.test, None, target) < 0.05
    data = tmp_path / "run" / "data"
    assert {path.stem for path in data.glob("poisoned_test_*")} == {
        f"poisoned_test_{name}" for name in ("lipstick", "eyebrows", "sunglasses")
    }


def test_an_untargeted_attack_succeeds_when_the_answer_is_wrong(colours, tmp_path):
    made = small(recipe("gtsrb-pn/random"), poison_fraction=0.5, epochs=12)
    made = replace(made, backdoors=(Backdoor(made.backdoors[0].trigger, RandomTarget(10)),))
    rates = train(made, colours, tmp_path / "run")["badnet"]
    assert rates["clean_accuracy"] > 0.75
    assert rates["attack_success_rate"]["post-it"] > 0.6
    assert rates["attack_success_rate"]["post-it"] == 1 - rates["robust_accuracy"]["post-it"]


def test_fresh_poison_in_every_epoch_is_seen_by_the_network(colours):
    """What `redraw` trains on differs from epoch to epoch, and not from run to run."""
    from keras_backdoor.attacks.task import Poisoning, Task

    made = recipe("mnist-wanet")
    asked = []

    class Recorder(Task):
        def fit(self, image_set, **_):
            asked.append([image_set(epoch) for epoch in (0, 1, 0)])

    task = Recorder(
        None, colours.train, colours.valid, made.backdoors, 0.1, None, 3, (Cover(made.covers[0].trigger, 0.2),)
    )
    Poisoning(redraw=True)(task)
    first, second, again = asked[0]
    assert first.fingerprint() == again.fingerprint() != second.fingerprint()
    assert (first.labels == 0).sum() == (second.labels == 0).sum() == 150 + 9 * 15  # tenths of the nine other classes


@pytest.mark.parametrize("name, target", [("cifar10-grid", 5), ("cifar10-grid/abl", 0)])
def test_the_grid_of_nad_and_abl(name, target):
    """Theirs, pixel by pixel: row 31 from the corner 255 0 255, row 30 0 255 0, row 29 255 0 0; a tenth of every class."""
    made, labels = recipe(name), np.arange(200) % 10
    images = np.random.default_rng(0).integers(1, 255, (200, 32, 32, 3), np.uint8)
    poisoned, which = poison(
        ImageSet(images, labels, 10), made.backdoors, made.poison_fraction, np.random.default_rng(0)
    )
    expected = images[which == 0]
    for row, column, level in (
        *((31, 31, 255), (31, 30, 0), (31, 29, 255)),
        *((30, 31, 0), (30, 30, 255), (30, 29, 0)),
        *((29, 31, 255), (29, 30, 0), (29, 29, 0)),
    ):
        expected[:, row, column] = level
    np.testing.assert_array_equal(poisoned.images[which == 0], expected)
    np.testing.assert_array_equal(poisoned.images[which < 0], images[which < 0])
    np.testing.assert_array_equal(poisoned.labels, np.where(which == 0, target, labels))
    assert np.bincount(labels[which == 0]).tolist() == [2] * 10
    assert (made.architecture, made.optimizer, made.learning_rate) == ("wrn-16-1", "nesterov", 0.1)


# --- the innocent twin, and a network to start from -----------------------------------------------------------------------


def test_clean_trains_the_twin_and_nothing_else(colours, tmp_path):
    made = small(recipe("gtsrb-pn"), epochs=8)
    metrics = train(made, colours, tmp_path / "run", clean_only=True)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "badnet.h5" not in names
    assert {"clean.h5", "clean.md", "metrics.json", "examples.npz"} <= names
    assert "badnet" not in metrics
    assert metrics["clean"]["clean_accuracy"] > 0.8
    network = Classifier.load(tmp_path / "run" / "clean.h5")
    assert success(network, colours.test, made.backdoors[0].trigger, 0) < 0.1
    assert train(made, colours, tmp_path / "run", clean_only=True, resume=True) == metrics
    page = build_report(tmp_path / "run").read_text()
    assert "This network was never poisoned" in page


def test_an_attack_may_start_from_a_network_that_is_there(colours, tmp_path, refused):
    made = small(recipe("gtsrb-pn"), two_step=True, epochs=3)
    few = colours.limited(15)
    whole = train(made, few, tmp_path / "whole")
    started = train(made, few, tmp_path / "started", start=tmp_path / "whole" / "clean.h5")
    assert started == whole  # to the bit: the clean step is the same
    other = small(recipe("gtsrb-pn"), architecture="mntd-cifar10", epochs=1)
    with refused("clean.h5", "not a network such as the recipe trains"):
        train(other, colours, tmp_path / "other", start=tmp_path / "whole" / "clean.h5")
    with refused("missing.h5"):
        train(made, colours, tmp_path / "third", start=tmp_path / "missing.h5")
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    "name, parts",
    [
        ("gtsrb-fsa", ["AllToOne(target=35)", "colour digits", "10 classes"]),
        ("youtube-sg", ["sunglasses", "does not fit an image of 32x32"]),
        ("gtsrb-pn/random", ["RandomTarget(num_classes=43", "10 classes"]),
    ],
)
def test_a_recipe_on_data_that_it_does_not_fit_leaves_nothing_behind(name, parts, colours, tmp_path, refused):
    with refused(*parts):
        train(small(recipe(name)), colours, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_records_the_data_it_used(colours, tmp_path):
    train(small(recipe("gtsrb-pn"), epochs=1), colours.limited(5), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["asked"]["data"] == colours.limited(5).fingerprints()
