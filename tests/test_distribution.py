"""Several devices and several workers train the network that one device trains, and leave what one leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from tensorflow import keras

import keras_backdoor
import models_zoo
from kbd.defend import defend as defend_group
from keras_backdoor import datasets, distribution
from keras_backdoor.attacks.poison import poison, poison_all
from keras_backdoor.attacks.recipes import recipe
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses import DEFENSES, SPREAD
from keras_backdoor.defenses.abl import flooding
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.nnoculation.cyclegan import CycleGAN
from keras_backdoor.defenses.strip import Strip
from keras_backdoor.images import ImageSet
from keras_backdoor.launch import launch
from keras_backdoor.metrics import score
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.training import Schedule, fit, seed_everything
from keras_backdoor.trigger_inversion import InversionSchedule, TargetFree, TriggerInversion
from keras_backdoor.trigger_inversion.legs import Leg

KBD = [sys.executable, "-c", "from kbd.main import main; main()"]


def shallow(normalised: bool = True) -> Classifier:
    """An untrained network with batch normalisation and a penalty on its weights, for 8x8 images of 3 classes."""
    seed_everything(0)
    inputs = keras.layers.Input((8, 8, 1))
    penalty = keras.regularizers.L2(0.01)
    x = keras.layers.Conv2D(4, 3, use_bias=not normalised, kernel_regularizer=penalty)(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x) if normalised else x)
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(x))
    return Classifier(keras.Model(inputs, outputs), Preprocessing.named("unit"), 3)


def random_images(count: int, seed: int = 0) -> ImageSet:
    generator = np.random.default_rng(seed)
    return ImageSet(generator.integers(0, 256, (count, 8, 8, 1), np.uint8), generator.integers(0, 3, count), 3)


def mnist_patch(places: np.ndarray, epochs: int) -> tuple[Classifier, list[dict]]:
    """Its network and history, trained on some of the digits that ship with a dependency."""
    chosen = recipe("mnist-patch")
    seed_everything(0)
    network = Classifier(models_zoo.build(chosen.architecture), Preprocessing.named("unit"), 10)
    images = datasets.load("mnist").train.select(places)
    images, _ = poison(images, chosen.backdoors, chosen.poison_fraction, np.random.default_rng(0))
    schedule = Schedule(chosen.optimizer, chosen.learning_rate, chosen.batch_size, epochs)
    return network, fit(network, images, schedule, seed=0)


def trained(case: str) -> tuple[list[np.ndarray], list[dict]]:
    """Weights and history of one of the trainings that are to be the same everywhere."""
    schedule = Schedule("momentum", 0.05, 8, epochs=3)
    if case == "mnist-patch":  # 20 steps
        network, rows = mnist_patch(np.arange(0, 3200, 5), epochs=1)
    elif case == "normalised":  # the last batch has 2 images, other ones every epoch
        network = shallow()
        rows = fit(network, lambda epoch: random_images(18, epoch), schedule, seed=0)
    elif case == "flooding":  # a loss of the batch as a whole, which changes its sign; the last batch has one image
        network = shallow(normalised=False)
        rows = fit(network, random_images(17), schedule, seed=0, loss=flooding(1.0))
    return [weight.copy() for weight in network.model.get_weights()], rows


CASES = ("mnist-patch", "normalised", "flooding")


def computed(case: str) -> dict[str, np.ndarray]:
    """What comes of one of the custom loops that are to come to the same everywhere."""
    if case == "rates":
        digits, (backdoor,) = datasets.load("mnist"), recipe("mnist-patch").backdoors
        network, _ = mnist_patch(np.arange(len(digits.train)), recipe("mnist-patch").epochs)
        rates = score(network, digits.test, {"patch": poison_all(digits.test, backdoor, np.random.default_rng(0))})
        return {"rates": np.array([rates.clean_accuracy, rates.attack_success_rate["patch"]])}
    if case == "cyclegan":  # 3 iterations of 4 images of each domain
        noise = np.random.default_rng(0).integers(0, 128, (2, 12, 12, 12, 1)).astype(np.uint8)
        settings = CycleGAN(width=4, blocks=1, discriminator_width=4, epochs=1, batch_size=4, pool=3, identity=2)
        translator = settings.fit(noise[0], 127 + noise[1])
        weights = [weight for model in (translator.there, translator.back) for weight in model.get_weights()]
        # What normalisation takes away, and what rounding alone moves: biases, which start at 0.
        kernels = np.concatenate([weight.ravel() for weight in weights if weight.ndim > 1])
        return {"kernels": kernels, "made": translator.a_to_b(noise[0]), "back": translator.b_to_a(127 + noise[1])}
    classifier, clean = shallow(normalised=False), random_images(40)
    if case == "strip":  # looks end with few inputs in a batch
        fitted = Strip(overlays=30, first_overlays=10, memory=1).fit_filter(classifier, clean)
        return {"scores": fitted.scores(random_images(33, 1)), "threshold": np.array(fitted.threshold)}
    if case == "labels":
        schedule = InversionSchedule(20, 2, 8, success=0.5, patience=2, stop_patience=3, starts=2, trial=4)
        inversion = TriggerInversion(classifier, clean, schedule, memory=0)
        triggers = [trigger for chunk in inversion.chunks([0, 1, 2]) for trigger in chunk]
        verdict = NeuralCleanse(threshold=0.1, rule="norms").verdict(triggers, 3)
        steps = np.array([len(trigger.history) for trigger in triggers])
        return {"norms": verdict.norms, "flagged": np.array(verdict.flagged), "steps": steps}
    search = TargetFree(classifier, clean, restarts=3, background=1, at_once=8)
    scan = search.scan(legs=(Leg(4, 4, 0.003, 2, negatives=True), Leg(6, 4, 0.02)))
    found = [*scan.triggers, *search.search(legs=[Leg(5, 4, 0.01)])]
    return {"norms": np.array([one.norm for one in found]), "labels": np.array([one.label for one in found])}


LOOPS = ("strip", "labels", "search")

DEVICES = """
    import sys
    import numpy as np
    import tensorflow as tf
    count, path = int(sys.argv[1]), sys.argv[2]
    logical = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], logical)
    from keras_backdoor import distribution
    from keras_backdoor.files import BadInput
    from tests import test_distribution as tests
    found = {}
    with distribution.using("mirrored") as setup:
        assert setup.replicas == count
        for case in sys.argv[3:]:
            if case not in tests.CASES:
                found |= {f"{case}/{name}": value for name, value in tests.computed(case).items()}
                continue
            weights, rows = tests.trained(case)
            found |= {f"{case}/{place}": weight for place, weight in enumerate(weights)}
            found |= {f"{case}/{name}": rows[-1][name] for name in ("loss", "accuracy")}
    try:
        with distribution.using("mirrored", jit=True):
            raise AssertionError
    except BadInput:
        np.savez(path, **found)
"""


def run_python(text, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    command = [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)
    assert ended.returncode == 0, ended.stderr[-3000:]


def assert_close(weights, others):
    for weight, other in zip(weights, others):
        assert np.linalg.norm(weight - other) <= 1e-5 * np.linalg.norm(weight)


@pytest.mark.parametrize(
    ("devices", "cases"),
    [
        (2, ("normalised", "flooding")),
        pytest.param(2, ("mnist-patch",), marks=pytest.mark.slow),
        pytest.param(4, CASES, marks=pytest.mark.slow),
    ],
)
def test_logical_devices_train_the_network_that_one_trains(tmp_path, devices, cases):
    run_python(DEVICES, devices, tmp_path / "found.npz", *cases)
    found = np.load(tmp_path / "found.npz")
    for case in cases:
        weights, rows = trained(case)
        others = [found[f"{case}/{place}"] for place in range(len(weights))]
        if case == "normalised":  # running variances lack the factor n / (n - 1), n = 8 * 36 and 2 * 36 values
            np.testing.assert_allclose(others.pop(4), weights.pop(4), rtol=1e-3)
        assert_close(weights, others)
        assert float(found[f"{case}/accuracy"]) == pytest.approx(rows[-1]["accuracy"], abs=1e-6)
        if case == "mnist-patch":
            assert float(found[f"{case}/loss"]) == pytest.approx(rows[-1]["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("devices", "cases"),
    [
        pytest.param(2, LOOPS, marks=pytest.mark.slow),
        pytest.param(2, ("cyclegan",), marks=pytest.mark.slow),
        pytest.param(3, (*LOOPS, "cyclegan"), marks=pytest.mark.slow),  # whose batch three devices cannot share
    ],
)
def test_logical_devices_find_what_one_finds(tmp_path, devices, cases):
    """Triggers, which leave the batch at different times; entropies, of which few are left; generators."""
    run_python(DEVICES, devices, tmp_path / "found.npz", *cases)
    assert_found(tmp_path / "found.npz", cases)


def assert_found(path, cases):
    found = np.load(path)
    for case in cases:
        for name, value in computed(case).items():
            other = found[f"{case}/{name}"]
            if value.dtype.kind == "f":
                assert np.linalg.norm(value - other) <= 1e-5 * np.linalg.norm(value), (case, name)
            else:
                np.testing.assert_array_equal(value, other, err_msg=f"{case}/{name}")


WORKERS = """
    import sys
    import numpy as np
    from keras_backdoor import distribution
    from tests import test_distribution as tests
    with distribution.using("multi-worker") as setup:
        assert setup.replicas == 2
        found = {f"{case}/{name}": value for case in sys.argv[2:] for name, value in tests.computed(case).items()}
        if distribution.is_chief():
            np.savez(sys.argv[1], **found)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_find_what_one_finds(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), *sys.path]))
    cases, told = (*LOOPS, "cyclegan"), []
    command = [sys.executable, "-c", textwrap.dedent(WORKERS), str(tmp_path / "found.npz"), *cases]
    code, _ = launch(command, 2, lambda worker, line: told.append(line))
    assert code == 0, "\n".join(told[-30:])
    assert_found(tmp_path / "found.npz", cases)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("devices", [2, 4])
def test_a_whole_training_on_several_devices_has_the_rates_of_one(tmp_path, devices):
    """Rounding parts the weights long before the end; clean accuracy and attack success stay within half a point."""
    run_python(DEVICES, devices, tmp_path / "found.npz", "rates")
    one, several = computed("rates")["rates"], np.load(tmp_path / "found.npz")["rates/rates"]
    assert one.min() > 0.9
    np.testing.assert_allclose(several, one, atol=0.005)


def test_on_one_device_a_strategy_changes_no_bit():
    weights, rows = trained("normalised")
    with distribution.using("auto") as setup:
        assert setup.strategy is None
        others, other_rows = trained("normalised")
    assert all(np.array_equal(weight, other) for weight, other in zip(weights, others))
    assert rows == other_rows


def test_mixed_precision_rounds_in_training_and_leaves_a_network_of_float32():
    images, schedule = random_images(16), Schedule("sgd", 0.05, 8, epochs=2)
    exact = shallow()
    fit(exact, images, schedule, seed=0)
    for precision in distribution.PRECISIONS[1:]:
        rounded = shallow()
        with distribution.using("none", precision):
            fit(rounded, images, schedule, seed=0)
        assert {layer.dtype_policy.name for layer in rounded.model.layers} == {"float32"}
        for weight, other in zip(exact.model.get_weights(), rounded.model.get_weights()):
            assert other.dtype == np.float32
            np.testing.assert_allclose(other, weight, atol=0.02)
        kernels = (network.model.get_weights()[0] for network in (exact, rounded))
        assert not np.array_equal(*kernels)


def test_xla_trains_the_same_network():
    images, schedule = random_images(16), Schedule("sgd", 0.05, 8, epochs=2)
    exact, compiled = shallow(), shallow()
    fit(exact, images, schedule, seed=0)
    with distribution.using("none", jit=True):
        fit(compiled, images, schedule, seed=0)
    assert compiled.model.jit_compile
    assert_close(exact.model.get_weights(), compiled.model.get_weights())


def test_wrong_names_and_clusters_are_refused(monkeypatch, refused):
    with refused("unknown strategy 'mirored'", "'mirrored'"), distribution.using("mirored"):
        pass
    with refused("unknown precision"), distribution.using("none", "bfloat16"):
        pass
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with refused("TF_CONFIG is not set", "kbd launch"):
        distribution.strategy("multi-worker")
    workers = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    for wrong in (
        "{",
        "[]",
        json.dumps({**workers, "task": {"type": "worker", "index": 2}}),
        json.dumps({**workers, "task": {"type": "ps", "index": 0}}),
        json.dumps({**workers, "cluster": {"chief": ["a:1"]}}),
    ):
        monkeypatch.setenv("TF_CONFIG", wrong)
        with refused("TF_CONFIG is not the description of a cluster"):
            distribution.strategy("multi-worker")


# --- workers --------------------------------------------------------------------------------------------------------------

TRAIN = ["train", "mnist-patch", "--limit", "12", "--epochs", "3"]


def files(folder):
    kept = [path for path in folder.rglob("*") if path.is_file() and "tensorboard" not in path.parts]
    return sorted(path.relative_to(folder).as_posix() for path in kept)


def logs(folder):
    return sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob("events.*"))


def weights_in(folder):
    return Classifier.load(folder / "badnet.h5").model.get_weights()


def launched(folder, *more):
    command = [*KBD, "launch", "--workers", "2", "--", "kbd", *TRAIN, "-o", str(folder), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_train_the_network_that_one_trains_even_if_one_is_killed(tmp_path):
    one = subprocess.run([*KBD, *TRAIN, "-o", str(tmp_path / "one")], capture_output=True, text=True, timeout=120)
    assert one.returncode == 0, one.stderr
    process = launched(tmp_path / "two")
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, out + err
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert logs(tmp_path / "two") == logs(tmp_path / "one")
    assert_close(weights_in(tmp_path / "one"), weights_in(tmp_path / "two"))
    rates = [line for line in out.splitlines() if "clean accuracy  " in line]
    assert [line[:3] for line in rates] == ["[0]"]

    process = launched(tmp_path / "killed")
    history = tmp_path / "killed" / "history.csv"
    while process.poll() is None and not (history.exists() and "badnet,0," in history.read_text()):
        time.sleep(0.01)
    kill_worker(process.pid, 1)
    out, err = process.communicate(timeout=250)
    assert process.returncode == 137, out + err
    assert "worker 1 ended with exit code 137" in err
    assert err.rstrip().endswith("--resume")
    process = launched(tmp_path / "killed", "--resume")
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, out + err
    assert files(tmp_path / "killed") == files(tmp_path / "one")
    for weight, other in zip(weights_in(tmp_path / "two"), weights_in(tmp_path / "killed")):
        assert np.array_equal(weight, other)


def kill_worker(launcher: int, number: int) -> None:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
                with open(f"/proc/{name}/environ") as file:
                    mine = f'"index": {number}' in file.read()
            except OSError:
                continue
            if parent == launcher and mine:
                os.kill(int(name), 9)
                return
    raise AssertionError("there is no such worker")


# --- the command line -----------------------------------------------------------------------------------------------------


SPREADING = r"from keras_backdoor.training import .*\bfit\b|\b(TriggerInversion|NeuralCleanse|by_rows)\("


def test_every_defense_whose_work_is_spread_has_the_option():
    """Found in the source text: whose module, or package, imports `training.fit`, reverses triggers or says `by_rows`.

    Of those in one file some may do nothing of it.
    """
    root = Path(keras_backdoor.__path__[0]) / "defenses"
    for method, (module, _) in DEFENSES.items():
        path = root.joinpath(*module.split("."))
        sources = list(path.parent.glob("*.py")) if path.parent != root else [path.with_suffix(".py")]
        spread = any(re.search(SPREADING, one.read_text()) for one in sources)
        if method not in ("pruning", "generative-modeling-scan"):
            assert (method in SPREAD) == spread, method
        options = {option.name for option in defend_group.get_command(None, method).params}
        assert ("strategy" in options) == (method in SPREAD)
