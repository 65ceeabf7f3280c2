import csv
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

import models_zoo
from keras_backdoor.attacks.recipes import RECIPES, recipe
from keras_backdoor.attacks.train import train
from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import read_images
from keras_backdoor.files import BadInput
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.training import OPTIMIZERS, Monitor, Schedule, fit, seed_everything

SCHEDULE = Schedule("adadelta", 1.0, 32, epochs=4, steps=((2, 0.5),))


def new_network(seed=0, architecture="mnist-clean-label"):
    """A network with dropout, so that its random state has to be kept, too."""
    seed_everything(seed)
    return Classifier(models_zoo.build(architecture), Preprocessing.named("unit"), 10)


def some(image_set, per_class=20):
    keep = np.concatenate([np.flatnonzero(image_set.labels == label)[:per_class] for label in range(10)])
    return image_set.select(keep)


def weights(classifier):
    return np.concatenate([weight.ravel() for weight in classifier.model.get_weights()])


class StopAt(keras.callbacks.Callback):
    """Breaks off in the middle of an epoch, as an interrupt would."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch:
            raise KeyboardInterrupt


def test_same_seed_same_bits_other_seed_other_bits(digits):
    results = []
    for seed in (1, 1, 2):
        network = new_network(seed)
        fit(network, some(digits.train), replace(SCHEDULE, epochs=2), seed=seed)
        results.append(weights(network))
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


@pytest.fixture(scope="module")
def uninterrupted(digits):
    """A network after a training that nothing disturbed, and its history."""
    network = new_network()
    return network, fit(network, some(digits.train), SCHEDULE, seed=0)


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_an_interrupted_training_ends_with_the_same_weights(uninterrupted, digits, tmp_path, epoch):
    images, (whole, history) = some(digits.train), uninterrupted
    broken = new_network()
    with pytest.raises(KeyboardInterrupt):
        fit(broken, images, SCHEDULE, seed=0, folder=tmp_path, callbacks=[StopAt(epoch)])
    resumed = new_network(seed=99)  # other initial weights, other random state: all must come from the checkpoint
    if epoch == 0:  # nothing to take up yet: starts anew
        resumed = new_network()
    rows = fit(resumed, images, SCHEDULE, seed=0, folder=tmp_path)
    assert np.array_equal(weights(whole), weights(resumed))
    with open(tmp_path / "history.csv", newline="") as file:
        stored = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in stored] == [0, 1, 2, 3]
    assert [float(row["loss"]) for row in stored] == [row["loss"] for row in history]
    assert rows == [{**row, "stage": "training"} for row in history]


def test_learning_rate_follows_the_schedule(digits):
    rows = fit(new_network(), some(digits.train, 4), SCHEDULE, seed=0)
    assert [row["learning_rate"] for row in rows] == [1.0, 1.0, 0.5, 0.5]
    assert [Schedule("sgd", 0.01, 1, 200, ((81, 0.005), (141, 0.001))).rate(e) for e in (0, 80, 81, 140, 141, 199)] == [
        0.01,
        0.01,
        0.005,
        0.005,
        0.001,
        0.001,
    ]


def test_every_epoch_sees_every_image_once_and_in_another_order(digits):
    from keras_backdoor.training import _pipeline

    images = some(digits.train, 5)
    marked = replace(images, labels=np.arange(50), num_classes=50)
    epoch = tf.Variable(0, dtype=tf.int64)
    batches = _pipeline(new_network(), tf.constant(marked.images), tf.constant(marked.labels), 16, 7, epoch)
    orders = []
    for number in (0, 1, 0):
        epoch.assign(number)
        seen = [labels.numpy() for _, labels in batches]
        assert [len(batch) for batch in seen] == [16, 16, 16, 2]
        orders.append(np.concatenate(seen))
        assert sorted(orders[-1]) == list(range(50))
    assert np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], orders[1])


def test_images_that_stay_in_files_train_the_same_network(digits, monkeypatch):
    """Read when they are needed, in the order of the epoch: the same bits as from memory."""
    from tests.test_poison import Lazy

    images = some(digits.train, 6)
    whole, read = new_network(), new_network()
    fit(whole, images, replace(SCHEDULE, epochs=2), seed=0)
    monkeypatch.setattr("keras_backdoor.images.IN_MEMORY", 1000)
    source = Lazy(images.images)
    fit(read, replace(images, images=source), replace(SCHEDULE, epochs=2), seed=0)
    assert 0 < source.most <= 32
    assert np.array_equal(weights(whole), weights(read))


def test_images_may_differ_from_epoch_to_epoch(digits):
    """A network that sees other images in the second epoch is not the one that sees the same again."""
    first, second = some(digits.train, 6), some(digits.valid, 6)
    constant, drawn, changing = new_network(), new_network(), new_network()
    fit(constant, first, replace(SCHEDULE, epochs=2), seed=0)
    fit(drawn, lambda epoch: first, replace(SCHEDULE, epochs=2), seed=0)
    fit(changing, lambda epoch: (first, second)[epoch], replace(SCHEDULE, epochs=2), seed=0)
    assert np.array_equal(weights(constant), weights(drawn))
    assert not np.array_equal(weights(constant), weights(changing))


def test_images_are_scaled_once(digits):
    from keras_backdoor.training import _pipeline

    images = some(digits.train, 2)
    pixels, wanted = tf.constant(images.images), tf.constant(images.labels)
    batch, labels = next(iter(_pipeline(new_network(), pixels, wanted, 20, 0, tf.Variable(0, dtype=tf.int64))))
    assert batch.dtype == tf.float32
    assert float(tf.reduce_max(batch)) == pytest.approx(images.images.max() / 255)
    by_label = {label: images.images[images.labels == label].astype(np.float32) / 255 for label in range(10)}
    for picture, label in zip(batch.numpy(), labels.numpy()):
        assert any(np.array_equal(picture, known) for known in by_label[label])


def test_optimizer_defaults_are_pinned():
    adadelta, adam, sgd = (OPTIMIZERS[name](1.0).get_config() for name in ("adadelta", "adam", "sgd"))
    assert (adadelta["rho"], adadelta["epsilon"]) == (0.95, 1e-7)
    assert (adam["beta_1"], adam["beta_2"], adam["epsilon"], adam["amsgrad"]) == (0.9, 0.999, 1e-7, False)
    assert (sgd["momentum"], sgd["nesterov"]) == (0.0, False)
    for config in (adadelta, adam, sgd):
        assert config["learning_rate"] == 1.0
        assert not config["weight_decay"]


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"optimizer": "adm"}])
def test_impossible_schedules_are_refused(bad):
    with pytest.raises(BadInput):
        replace(SCHEDULE, **bad)


def test_the_monitor_measures_and_can_stop_the_training(digits):
    clean = some(digits.valid, 3)
    poisoned = replace(clean, labels=np.full(30, 4), true_labels=clean.labels)
    network = new_network()
    stop = keras.callbacks.EarlyStopping("attack_success_rate/t", mode="max", patience=0, min_delta=2.0)
    rows = fit(
        network,
        some(digits.train),
        SCHEDULE,
        seed=0,
        monitor=Monitor(clean, {"t": poisoned}),
        callbacks=[stop],
    )
    assert len(rows) == 2  # no rate improves by 2: stopped as soon as Keras compares two
    answers = network.predict(clean.batches())
    assert rows[1]["clean_accuracy"] == np.mean(answers == clean.labels)
    assert rows[1]["attack_success_rate/t"] == np.mean(answers == 4)
    assert rows[1]["robust_accuracy/t"] == rows[1]["clean_accuracy"]  # the "triggered" images are the clean ones


def test_tensorboard_logs_hold_the_rates(digits, tmp_path):
    clean = some(digits.valid, 2)
    monitor = Monitor(clean, {"t": replace(clean, true_labels=clean.labels)})
    rows = fit(new_network(), some(digits.train), replace(SCHEDULE, epochs=2), seed=0, monitor=monitor, folder=tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard" / "training" / "train"))
    events.Reload()
    logged = [tf.make_ndarray(e.tensor_proto).item() for e in events.Tensors("epoch_clean_accuracy")]
    assert logged == pytest.approx([row["clean_accuracy"] for row in rows])


def test_progress_is_told_every_epoch(digits):
    told = []
    fit(new_network(), some(digits.train, 4), SCHEDULE, seed=0, stage="s", progress=lambda *what: told.append(what[:3]))
    assert told == [("s", epoch, 4) for epoch in (1, 2, 3, 4)]


def small_recipe():
    """Two steps, dropout and a poisoned set, in a few seconds."""
    return replace(recipe("mnist-cla"), two_step=True, epochs=3, miniature={})


def test_two_steps_start_the_second_from_the_first(digits, tmp_path):
    """With a learning rate of (almost) nothing, the BadNet stays the clean network."""
    frozen = replace(small_recipe(), two_step=True, optimizer="sgd", learning_rate=1e-30)
    metrics = train(frozen, digits.limited(10), tmp_path / "run", epochs=1)
    clean, badnet = (Classifier.load(tmp_path / "run" / f"{name}.h5") for name in ("clean", "badnet"))
    assert np.allclose(weights(clean), weights(badnet), rtol=0, atol=1e-20)
    assert metrics["clean"] == metrics["badnet"]


def test_a_trained_badnet_is_what_the_recipe_says(digits, tmp_path):
    """A short training of the plain BadNet: the backdoor is in, the data files are what the rates were measured on."""
    metrics = train(recipe("mnist-patch"), digits.limited(150), tmp_path / "run", epochs=8, seed=3)
    rates = metrics["badnet"]
    assert rates["clean_accuracy"] > 0.9
    assert rates["attack_success_rate"]["square"] > 0.9
    assert rates["n_clean"] == rates["n_poisoned"]["square"] == 800
    badnet = Classifier.load(tmp_path / "run" / "badnet.h5")
    clean, poisoned = (read_images(tmp_path / "run" / "data" / f"{n}_test.h5", 10) for n in ("clean", "poisoned"))
    assert np.mean(badnet.predict(clean.batches()) == clean.labels) == rates["clean_accuracy"]
    assert np.mean(badnet.predict(poisoned.batches()) == 0) == rates["attack_success_rate"]["square"]
    assert (poisoned.in_memory().images[:, 24:27, 24:27] == 255).all()
    assert np.array_equal(poisoned.true_labels, clean.labels)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_all_recipes_name_things_that_exist():
    for each in RECIPES.values():
        for made in (each, each.for_miniature()):
            assert made.architecture in models_zoo.ARCHITECTURES
            assert made.optimizer in OPTIMIZERS
            Preprocessing.named(made.preprocessing, np.zeros((1, 28, 28, 1), np.uint8))


DRIVER = """
    import os, signal, sys
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    folder, kill_at = sys.argv[1:]
    rename = os.replace
    def deadly(source, target):
        if os.path.basename(target) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)  # all is in the temporary file, nothing under its name
        rename(source, target)
    os.replace = deadly
    from keras_backdoor import datasets
    from keras_backdoor.attacks.train import train
    from tests.test_training import small_recipe
    train(small_recipe(), datasets.load("mnist").limited(20), folder, resume=True)
"""


def run_driver(folder, kill_at="-"):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    command = [sys.executable, "-c", textwrap.dedent(DRIVER), str(folder), kill_at]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def never_killed(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("never-killed") / "run"
    train(small_recipe(), digits.limited(20), folder)
    return folder


def assert_same_run(folder, reference):
    for name in ("clean.h5", "badnet.h5"):
        assert np.array_equal(weights(Classifier.load(folder / name)), weights(Classifier.load(reference / name))), name
    for name in ("history.csv", "metrics.json"):
        assert (folder / name).read_text() == (reference / name).read_text()
    leftovers = list(folder.rglob(".*"))
    assert leftovers == []


FILES = ("run.json", "clean_test.h5", "history.csv", "clean.h5", "metrics.json", "badnet.h5")


def test_ended_while_writing_each_file_then_resumed(never_killed, digits, tmp_path, monkeypatch):
    """One run, ended again and again, each time just before a file gets its name; it must end like one never ended."""
    rename = os.replace
    for name in FILES:

        def deadly(source, target, name=name):
            if os.path.basename(target) == name:
                raise SystemExit
            rename(source, target)

        monkeypatch.setattr(os, "replace", deadly)
        with pytest.raises(SystemExit):
            train(small_recipe(), digits.limited(20), tmp_path / "run", resume=True)
        assert not (tmp_path / "run" / name).exists()  # never half-written
    monkeypatch.undo()
    train(small_recipe(), digits.limited(20), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", never_killed)


@pytest.mark.slow
def test_killed_while_writing_each_file_then_resumed(never_killed, tmp_path):
    """The same with processes that have no time to tidy up."""
    for name in FILES:
        process = run_driver(tmp_path / "run", kill_at=name)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, errors.decode()
        assert not (tmp_path / "run" / name).exists()
    process = run_driver(tmp_path / "run")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    assert_same_run(tmp_path / "run", never_killed)


def test_killed_in_the_middle_of_training_then_resumed(never_killed, digits, tmp_path):
    process = run_driver(tmp_path / "run")
    history = tmp_path / "run" / "history.csv"
    while process.poll() is None and not (history.exists() and "badnet,1," in history.read_text()):
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL  # else it was over before the signal came
    train(small_recipe(), digits.limited(20), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", never_killed)


@pytest.mark.slow
def test_killed_at_random_moments_then_resumed(never_killed, tmp_path):
    """Also in the middle of a checkpoint, which TensorFlow writes on its own."""
    rng = np.random.default_rng(0)
    killed = 0
    for _ in range(12):
        process = run_driver(tmp_path / "run")
        time.sleep(rng.uniform(3, 7))
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    process = run_driver(tmp_path / "run")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    assert killed > 3
    assert_same_run(tmp_path / "run", never_killed)


def test_a_run_is_only_resumed_as_it_was_started(digits, tmp_path, refused):
    with pytest.raises(KeyboardInterrupt):
        train(small_recipe(), digits.limited(5), tmp_path / "run", progress=interrupt)
    for changed in (
        lambda: train(small_recipe(), digits.limited(5), tmp_path / "run", resume=True, seed=1),
        lambda: train(small_recipe(), digits.limited(6), tmp_path / "run", resume=True),
        lambda: train(recipe("mnist-patch"), digits.limited(5), tmp_path / "run", resume=True),
        lambda: train(small_recipe(), digits.limited(5), tmp_path / "run", resume=True, clean_only=True),
    ):
        with refused(tmp_path / "run", "resumed"):
            changed()
    with refused(tmp_path / "run", "not empty"):
        train(small_recipe(), digits.limited(5), tmp_path / "run")


def interrupt(*_):
    raise KeyboardInterrupt
