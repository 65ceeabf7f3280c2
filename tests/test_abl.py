"""Anti-backdoor learning: the losses, the isolation, and an innocent network from a poisoned set."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from small_attacks import small_task
from tensorflow import keras

from keras_backdoor.attacks.recipes import recipe
from keras_backdoor.attacks.train import train
from keras_backdoor.augmentation import moved
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.abl import (
    FINE_TUNING,
    ISOLATION,
    UNLEARNING,
    AntiBackdoorLearning,
    flooding,
    isolate,
    local,
    losses,
    unlearning,
)
from keras_backdoor.images import ImageSet
from keras_backdoor.report import build_report
from keras_backdoor.training import Schedule, fit
from keras_backdoor.triggers import Square

LABELS = np.array([0, 1, 2])
PROBABILITIES = np.array([[0.5, 0.25, 0.25], [0.05, 0.9, 0.05], [0.6, 0.2, 0.2]], np.float32)
EACH = -np.log([0.5, 0.9, 0.2])  # 0.69, 0.11, 1.61; on average 0.80


def weights(classifier):
    return np.concatenate([weight.ravel() for weight in classifier.model.get_weights()])


@pytest.mark.parametrize(("level", "wanted"), [(0.5, EACH.mean()), (1.0, 2.0 - EACH.mean())])
def test_flooding_by_hand(level, wanted):
    """Above the level it is the mean loss of the batch, below it that is turned over."""
    assert float(flooding(level)(LABELS, PROBABILITIES)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("level", "signs"), [(0.5, (1, -1, 1)), (1.0, (-1, -1, 1)), (0.05, (1, 1, 1))])
def test_local_gradient_ascent_by_hand(level, signs):
    np.testing.assert_allclose(local(level)(LABELS, PROBABILITIES), signs * EACH, rtol=1e-5)


def test_unlearning_climbs():
    np.testing.assert_allclose(unlearning(LABELS, PROBABILITIES), -EACH, rtol=1e-5)


@pytest.mark.parametrize("level", [0.5, 1.0])
def test_flooding_and_the_codes_local_gradient_ascent_of_a_mean_have_one_gradient(level):
    """So the second is not offered."""
    logits = tf.Variable(np.log(PROBABILITIES))
    gradients = []
    for of_mean in (lambda mean: tf.abs(mean - level) + level, lambda mean: tf.sign(mean - level) * mean):
        with tf.GradientTape() as tape:
            mean = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(LABELS, tf.nn.softmax(logits)))
            loss = of_mean(mean)
        gradients.append(tape.gradient(loss, logits).numpy())
    np.testing.assert_array_equal(*gradients)


class Fixed:
    """A classifier that gives these probabilities."""

    def __init__(self, probabilities):
        self.answers = np.asarray(probabilities, np.float32)

    def probabilities(self, batches):
        assert sum(map(len, batches)) == len(self.answers)
        return self.answers


def image_set(labels, num_classes=3):
    return ImageSet(np.zeros((len(labels), 8, 8, 1), np.uint8), np.asarray(labels), num_classes)


def test_losses_by_hand():
    np.testing.assert_allclose(losses(Fixed(PROBABILITIES), image_set(LABELS)), EACH, rtol=1e-6)


def test_losses_tell_images_apart_that_the_network_is_sure_of():
    """In float32 the right class has probability 1 for all three, and a wrong one may have 1."""
    sure = [[1.0, 1e-9, 0.0], [1.0, 1e-12, 0.0], [1.0, 1e-10, 1e-10]]
    found = losses(Fixed([*sure, [0.0, 1.0, 0.0]]), image_set([0, 0, 0, 0]))
    np.testing.assert_allclose(found[:3], [1e-9, 1e-12, 2e-10], rtol=1e-5)
    assert np.isfinite(found[3]) and found[3] > 80


def test_isolation_takes_the_lowest_losses():
    found = isolate(np.array([0.4, 0.1, 0.7, 0.05, 0.1]), 2)
    assert found.flags.tolist() == [False, True, False, True, False]
    np.testing.assert_array_equal(found.scores, [-0.4, -0.1, -0.7, -0.05, -0.1])


def test_a_flooded_network_keeps_its_loss_up(digits):
    """The same training, but for the loss: one goes on to nothing, the other stays near the level."""
    task = small_task(digits.limited(20))
    start = task.classifier.model.get_weights()
    reached = {}
    for name, loss in (("plain", {}), ("flooded", {"loss": flooding(0.8)}), ("local", {"loss": local(0.8)})):
        task.classifier.model.set_weights(start)
        fit(task.classifier, task.train, Schedule("adam", 3e-3, 32, 15), seed=0, **loss)
        reached[name] = losses(task.classifier, task.train)
    assert reached["plain"].mean() < 0.3
    assert 0.6 < reached["flooded"].mean() < 1.2
    assert np.mean(np.abs(reached["local"] - 0.8)) < np.mean(np.abs(reached["plain"] - 0.8))


def test_stages_see_what_they_should(digits, monkeypatch):
    """All images with the flooded loss; then the others, as the schedule says; then the isolated ones, upwards."""
    from keras_backdoor.defenses import abl

    task, seen = small_task(digits.limited(10)), []

    def record(classifier, images, schedule, *, stage, loss, seed, **rest):
        seen.append((stage, images, schedule, loss, seed))

    monkeypatch.setattr(abl, "fit", record)
    asked = Schedule("adam", 1e-3, 16, 7, ((3, 1e-4),))
    still = {"shift": 0, "mirror": False, "hole": 0}
    defense = AntiBackdoorLearning(isolation_epochs=2, isolation_rate=0.05, unlearning_rate=1e-2, **still)
    found = defense.train(task.classifier, task.train, asked, seed=5)
    values = losses(task.classifier, task.train)
    assert found.flags.sum() == 5
    assert values[found.flags].max() <= values[~found.flags].min()
    (one, every, first, flooded, _), (two, others, second, plain, _), (three, few, third, up, _) = seen
    assert (one, two, three) == (ISOLATION, FINE_TUNING, UNLEARNING)
    assert [call[4] for call in seen] == [5, 5, 5]
    assert every is task.train
    np.testing.assert_array_equal(others.images, task.train.images[~found.flags])
    np.testing.assert_array_equal(few.labels, task.train.labels[found.flags])
    assert first == Schedule("adam", 1e-3, 16, 2)
    assert second == asked
    assert third == Schedule("nesterov", 1e-2, 16, 4)  # as in the released code, whatever the rest is trained with
    assert float(flooded(LABELS, PROBABILITIES)) == pytest.approx(EACH.mean(), rel=1e-5)
    assert plain == "sparse_categorical_crossentropy"
    assert up is unlearning
    seen.clear()
    replace(defense, shift=2).train(task.classifier, task.train, asked, seed=5)
    (_, drawn, *_) = seen[1]
    expected = moved(others.images, np.random.default_rng([5, 3]), 2, False, 0)
    np.testing.assert_array_equal(drawn(3).images, expected)
    np.testing.assert_array_equal(drawn(3).labels, others.labels)


def test_the_stages_of_the_released_code():
    """Ten epochs at 0.1; 60 at 0.1 and 0.01 on moved, mirrored and cut out images; four of ascent, in the same batches."""
    made, defense = recipe("cifar10-grid/abl"), AntiBackdoorLearning()
    assert (made.optimizer, made.learning_rate, made.batch_size, made.epochs) == ("nesterov", 0.1, 128, 60)
    assert made.learning_rate_steps == ((40, 0.01),)
    assert defense._unlearning(made.batch_size) == Schedule("nesterov", 5e-4, 128, 4)
    assert (defense.isolation_epochs, defense.level, defense.isolation_rate) == (10, 0.5, 0.01)
    assert (defense.shift, defense.mirror, defense.hole) == (4, True, 2)


@pytest.mark.slow
def test_interrupted_in_any_stage_it_ends_with_the_same_weights(digits, tmp_path):
    defense = AntiBackdoorLearning(isolation_epochs=2, isolation_rate=0.1, unlearning_epochs=2)

    def run(folder=None, stop=None):
        def watch(stage, done, total, values):
            if (stage, done) == stop:
                raise KeyboardInterrupt

        task = small_task(digits.limited(10), Square(3, margin=1), epochs=2)
        found = defense.train(task.classifier, task.poisoned(), task.schedule, folder=folder, progress=watch)
        return weights(task.classifier), found.flags

    whole, flags = run()
    for stop in ((ISOLATION, 2), (FINE_TUNING, 2), (UNLEARNING, 2)):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, stop)
    resumed, same = run(tmp_path)
    np.testing.assert_array_equal(resumed, whole)
    np.testing.assert_array_equal(same, flags)


@pytest.mark.parametrize(
    "bad",
    [
        {"ascent": "lga"},
        {"level": 0.0},
        {"isolation_rate": 0.0},
        {"isolation_rate": 1.0},
        {"isolation_epochs": 0},
        {"shift": -1},
        {"hole": -1},
        {"unlearning_optimizer": "adamm"},
        {"unlearning_epochs": 0},
        {"unlearning_rate": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(bad, refused):
    with refused():
        AntiBackdoorLearning(**bad)


def test_sets_that_do_not_fit_are_refused(tiny_classifier, make_set, refused):
    schedule = Schedule("adam", 1e-3, 16, 1)
    with refused("training images", "9x8x1", "8x8x1"):
        AntiBackdoorLearning().train(tiny_classifier, make_set(shape=(9, 8, 1)), schedule)
    with refused("isolation_rate 0.01 of 99 images is less than one"):
        AntiBackdoorLearning().train(tiny_classifier, make_set(99), schedule)


# --- in the place of the attacker -----------------------------------------------------------------------------------------

BRIEF = AntiBackdoorLearning(isolation_epochs=1, isolation_rate=0.05, mirror=False, unlearning_epochs=1)


def digits_recipe(**changes):
    settings = {"architecture": "mntd-mnist", "epochs": 1, **changes}
    return replace(recipe("mnist-patch"), expect=(0.9, 1.0), **settings)


def test_a_recipe_is_trained_by_the_defense_and_goes_on_after_a_kill(digits, tmp_path, refused):
    few, made = digits.limited(20), digits_recipe()

    def stop(stage, *_):
        if stage == UNLEARNING:
            raise KeyboardInterrupt

    whole = train(made, few, tmp_path / "whole", defense=BRIEF)
    with pytest.raises(KeyboardInterrupt):
        train(made, few, tmp_path / "killed", defense=BRIEF, progress=stop)
    for other in (None, replace(BRIEF, level=0.6)):
        with refused("other settings", "defense"):
            train(made, few, tmp_path / "killed", defense=other, resume=True)
    assert train(made, few, tmp_path / "killed", defense=BRIEF, resume=True) == whole
    first, second = (Classifier.load(tmp_path / name / "badnet.h5") for name in ("whole", "killed"))
    np.testing.assert_array_equal(weights(first), weights(second))
    found = whole["isolation"]
    # 10 of 200 are isolated, 20 are poisoned: as many are found of the ones as of the others, in numbers
    assert found["precision"] * 10 == pytest.approx(found["recall"] * 20)
    assert found["false_flags"] * 180 == pytest.approx(10 - found["precision"] * 10)
    assert whole["defense"] == "AntiBackdoorLearning"
    assert whole["expect"] is None  # of a network without a defense
    with open(tmp_path / "whole" / "history.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == [ISOLATION, FINE_TUNING, UNLEARNING]
    assert all(0 <= float(row["attack_success_rate/square"]) <= 1 for row in rows)
    assert not (tmp_path / "whole" / "checkpoints").exists()
    assert "isolation_rate 0.05" in (tmp_path / "whole" / "badnet.md").read_text()
    assert "not the attacker who trained" in build_report(tmp_path / "whole").read_text()


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({}, {"clean_only": True}, "--clean"),
        ({}, {"start": "clean.h5"}, "--start"),
        ({"two_step": True}, {}, "clean images first"),
        ({"attack_options": {"redraw": True}}, {}, "in every epoch"),
        ({"attack": "noise-aware"}, {}, "noise-aware"),
    ],
)
def test_recipes_that_leave_no_room_for_it_are_refused(changes, options, said, digits, tmp_path, refused):
    with refused("mnist-patch cannot be trained with a defense", said):
        train(digits_recipe(**changes), digits.limited(1), tmp_path / "run", defense=BRIEF, **options)
    assert not (tmp_path / "run").exists()
