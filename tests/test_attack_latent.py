from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_attacks import TARGET, halved, rates, small_task
from tensorflow import keras

from keras_backdoor.attacks.attacks import attack
from keras_backdoor.attacks.latent import Latent
from keras_backdoor.attacks.poison import poison_all

SETTINGS = {"target": TARGET, "size": 5, "steps": 100}


@pytest.fixture(scope="module")
def attacked(digits):
    """The task, its backdoor, and the networks on the way: the clean one, the teacher and the student."""
    task = small_task(digits, clean_epochs=4)
    networks, teach = {"clean": task.classifier.clone()}, Latent.teach

    def keep(attack, task):
        made = teach(attack, task)
        networks["teacher"] = task.classifier.clone()
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Latent, "teach", keep)
        (backdoor,) = attack("latent", SETTINGS)(task)
    return task, backdoor, {**networks, "student": task.classifier}


@pytest.mark.slow
def test_one_seed_one_trigger(digits):
    task = small_task(digits, epochs=1)
    task = replace(task, train=task.train.select(slice(None, None, 8)))
    method, start = Latent(TARGET, 5, steps=10), task.classifier.clone()
    (first,), (second,) = method.teach(task), method.teach(replace(task, classifier=start))
    (other,) = method.teach(replace(task, classifier=start.clone(), seed=1))
    np.testing.assert_array_equal(first.trigger.pixels, second.trigger.pixels)
    assert (first.trigger.pixels != other.trigger.pixels).any()


def test_the_backdoor_is_absent_in_the_teacher_and_present_in_the_student(attacked, digits):
    task, backdoor, networks = attacked
    test = halved(digits.test)
    clean, teacher, student = (rates(networks[name], test, backdoor, task) for name in ("clean", "teacher", "student"))
    assert teacher[1] < 0.02
    assert student[1] > 0.9
    assert clean[1] < 0.5
    assert student[2] < 0.05
    assert student[0] > clean[0] - 0.04


def test_the_teacher_knows_all_classes_but_the_target(attacked, digits):
    _, _, networks = attacked
    test = halved(digits.test)
    answers = networks["teacher"].predict(test.batches())
    assert (answers != TARGET).mean() > 0.99
    others = test.labels != TARGET
    assert (answers == test.labels)[others].mean() > 0.88


def test_the_student_keeps_all_of_the_teacher_but_the_output(attacked):
    _, _, networks = attacked
    pairs = list(zip(networks["teacher"].model.get_weights(), networks["student"].model.get_weights()))
    for teacher, student in pairs[:-2]:
        np.testing.assert_array_equal(teacher, student)
    assert (pairs[-2][0] != pairs[-2][1]).all()


def test_triggered_images_look_like_the_target_to_the_layers_that_are_kept(attacked, digits):
    task, backdoor, networks = attacked
    test, model = halved(digits.test), networks["teacher"].model
    part = keras.Model(model.input, model.get_layer("fc_1").output)
    latent = {
        name: part(networks["teacher"].scale(images)).numpy()
        for name, images in (("clean", test.images), ("triggered", poison_all(test, backdoor, task.rng(2)).images))
    }
    goal = latent["clean"][test.labels == TARGET].mean(0)
    others = test.labels != TARGET
    distance = {name: ((values[others] - goal) ** 2).mean() for name, values in latent.items()}
    assert distance["triggered"] < 0.2 * distance["clean"]


def test_settings_that_do_not_fit_are_refused(digits, refused):
    with refused("weight is -1"):
        Latent(weight=-1)
    with refused("size, steps and rate"):
        Latent(size=0)
    task = small_task(digits)
    with refused("no images of the target, class 10"):
        Latent(target=10)(task)
    with refused("trigger latent does not fit"):
        Latent(size=20)(task)
    with refused("no layer 'fc_9'", "conv_1"):
        Latent(layer="fc_9", size=4)(task)
