"""The last stage of NNoculation: what the treatment set holds, how a network is trained on it, and that it unlearns a trigger."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_attacks import TARGET, halved, small_task

from keras_backdoor.attacks.poison import Backdoor, poison_all
from keras_backdoor.attacks.targets import AllToOne
from keras_backdoor.defenses.nnoculation import post_deployment
from keras_backdoor.defenses.nnoculation.post_deployment import PostDeployment
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import score
from keras_backdoor.triggers import Square

SQUARE = Square(2, margin=1)


class Stamp:
    """A generator that has learned its lesson: what it makes has the true trigger."""

    def a_to_b(self, images):
        return SQUARE(images, np.random.default_rng(0))


class Negative:
    def a_to_b(self, images):
        return 255 - images


def weights(classifier):
    return [array.tobytes() for array in classifier.model.get_weights()]


def test_treatment_is_what_is_clean_and_then_what_is_made_of_it_under_the_same_labels(make_set):
    clean = make_set(5)
    treatment = PostDeployment().treatment(clean, Negative())
    np.testing.assert_array_equal(treatment.images[:5], clean.images)
    np.testing.assert_array_equal(treatment.images[5:], 255 - clean.images)
    assert treatment.images.dtype == np.uint8  # all are scaled alike, later
    assert treatment.labels.tolist() == [0, 1, 2, 0, 1] * 2 and treatment.num_classes == 3


def test_trains_as_it_is_told(monkeypatch, tiny_classifier, make_set, tmp_path):
    calls = []
    monkeypatch.setattr(post_deployment, "fit", lambda *given, **more: calls.append((*given, more)))
    post = PostDeployment((0.5,), 7, 16, "adadelta", 3)
    copy = post.treat(tiny_classifier, make_set(), make_set(4), 1.0, "again", tmp_path)
    ((network, images, schedule, more),) = calls
    assert network is copy and network.model is not tiny_classifier.model
    np.testing.assert_array_equal(images.images, make_set().images)
    assert (schedule.learning_rate, schedule.epochs, schedule.batch_size) == (0.5, 7, 16)
    assert (schedule.optimizer, more["seed"], more["stage"], more["folder"]) == ("adadelta", 3, "again-0.5", tmp_path)


class Accurate:
    """A network that is right on as many of ten images as the last training said; before it, on nine."""

    def __init__(self, right=9):
        self.right = right

    def clone(self):
        return Accurate()

    def predict(self, batches):
        return np.concatenate([*batches])[:, 0, 0, 0] >= self.right


@pytest.fixture
def trained(monkeypatch):
    """What a training at each rate does to `Accurate`, to be filled in; and `tried`, the rates in their order."""
    right, tried = {}, []

    def fit(network, treatment, schedule, **more):
        tried.append(schedule.learning_rate)
        network.right = right[schedule.learning_rate]

    monkeypatch.setattr(post_deployment, "fit", fit)
    return right, tried


@pytest.mark.parametrize(
    ("right", "least", "tried", "taken"),
    [
        ((8, 9, 9), 0.8, 1, 0),  # enough, and no more is asked
        ((7, 8, 9), 0.8, 2, 1),  # the highest that is enough, not the most accurate
        ((6, 7, 8), 0.8, 3, 2),
        ((5, 7, 6), 0.8, 3, 1),  # none is enough: the most accurate
        ((7, 7, 6), 0.8, 3, 0),  # of two, that of the higher rate
        ((7, 8, 9), 0.7 + 1e-12, 1, 0),  # not less by rounding alone
        ((0, 0, 0), 0.5, 3, 0),
    ],
)
def test_takes_the_highest_rate_that_leaves_enough_accuracy(trained, tmp_path, right, least, tried, taken):
    rates = (0.4, 0.2, 0.1)
    trained[0].update(zip(rates, right))
    numbers = np.arange(10, dtype=np.uint8).reshape(-1, 1, 1, 1)
    exam = ImageSet(np.tile(numbers, (1, 2, 2, 1)), np.zeros(10), 2)
    post = PostDeployment((0.1, 0.4, 0.2, 0.4), epochs=1)  # in any order, and twice
    result = post.treat(Accurate(), exam, exam, least, "suspect", tmp_path)
    assert trained[1] == list(rates[:tried])
    assert result.right == right[taken]
    told = json.loads((tmp_path / "suspect.json").read_text())
    assert told == {
        "learning_rate": rates[taken],
        "accuracy": {str(rate): number / 10 for rate, number in list(zip(rates, right))[:tried]},
    }
    again = PostDeployment((rates[taken],)).treat(Accurate(), exam, exam, 1.0)
    assert again.right == result.right


def test_a_treatment_that_was_stopped_goes_on_to_the_same_network(monkeypatch, tiny_classifier, make_set, tmp_path):
    """At a lower rate: what was done at the higher one is not done again, and is judged as before."""
    monkeypatch.setattr(
        post_deployment, "accuracy_on", lambda network, _: float(np.mean(network.model.get_weights()[0]))
    )
    post = PostDeployment((1e-3, 1e-4), epochs=3, batch_size=4)
    images, before = make_set(), weights(tiny_classifier)
    whole = post.treat(tiny_classifier, images, images, 1.0, "suspect", tmp_path / "whole")
    assert weights(whole) != before == weights(tiny_classifier)

    reports = []

    def stop(*report):
        reports.append(report[:2])
        if len(reports) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        post.treat(tiny_classifier, images, images, 1.0, "suspect", tmp_path / "stopped", stop)
    resumed = post.treat(tiny_classifier, images, images, 1.0, "suspect", tmp_path / "stopped", stop)
    # The epoch in which it was stopped had not been written as done.
    done = {"suspect-0.001": (1, 2, 3), "suspect-0.0001": (1, 2, 2, 3)}
    assert reports == [(stage, epoch) for stage, epochs in done.items() for epoch in epochs]
    assert weights(resumed) == weights(whole)
    assert (tmp_path / "stopped" / "suspect.json").read_text() == (tmp_path / "whole" / "suspect.json").read_text()
    post.forget(tmp_path / "stopped", "suspect")
    assert not (tmp_path / "stopped" / "checkpoints").exists()


def test_a_network_that_sees_its_trigger_under_true_labels_forgets_it(digits):
    task = small_task(digits, SQUARE)
    task.fit(task.poisoned())
    badnet, clean, test = task.classifier, halved(digits.valid), halved(digits.test)
    triggered = poison_all(test, Backdoor(SQUARE, AllToOne(TARGET)), np.random.default_rng(2))
    post = PostDeployment((3e-3,), epochs=4)

    def rates(network):
        one = score(network, test, {"square": triggered}, exclude_target=True)
        return one.clean_accuracy, one.attack_success_rate["square"]

    accuracy, success = rates(badnet)
    assert success > 0.9
    treated = rates(post.treat(badnet, post.treatment(clean, Stamp()), clean, 0.0))
    assert treated[1] < 0.04 and treated[0] > accuracy - 0.03
    control = ImageSet(np.tile(clean.images, (2, 1, 1, 1)), np.tile(clean.labels, 2), 10)
    assert rates(post.treat(badnet, control, clean, 0.0))[1] > 0.5  # it is the trigger, not the training


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"learning_rates": (1e-3, 0.0)}, "learning rate"),
        ({"learning_rates": ()}, "no learning rate"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch size"),
        ({"optimizer": "sdg"}, "'sgd'"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_out_of_range_are_refused(refused, wrong, said):
    with refused(said):
        PostDeployment(**wrong)
