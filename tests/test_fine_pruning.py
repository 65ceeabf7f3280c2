"""Fine-pruning and its halves: on a network that can be computed on paper, and on a backdoor planted in real digits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tensorflow import keras

import models_zoo
from keras_backdoor.activations import channel_means, convolution, dead_channels, layer_outputs
from keras_backdoor.attacks.recipes import recipe
from keras_backdoor.attacks.train import train
from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import read_images
from keras_backdoor.defenses.fine_pruning import FinePruning, FineTuning, Pruning
from keras_backdoor.goodnet import GoodNet
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import clean_accuracy, score
from keras_backdoor.preprocessing import Preprocessing

RAW, UNIT = Preprocessing.named("raw"), Preprocessing.named("unit")


def weights(classifier) -> list[np.ndarray]:
    return [weight.copy() for weight in classifier.model.get_weights()]


def same(first, second) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second))


def accuracy(classifier, clean) -> float:
    return clean_accuracy(classifier.predict(clean.batches()), clean.labels)


# --- which layer ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "layer"),
    [
        ("deepid", "conv_3"),  # a branch goes round conv_4
        ("mnist-badnets", "conv_2"),
        ("mnist-badnets/relu", "conv_2"),
        ("mnist-clean-label", "conv_2"),
    ],
)
def test_the_layer_that_is_pruned_by_default(architecture, layer):
    assert convolution(models_zoo.build(architecture)).name == layer


def test_a_layer_can_be_named_and_a_wrong_name_gets_the_right_ones(refused):
    model = models_zoo.build("deepid")
    assert convolution(model, "conv_4").name == "conv_4"
    with refused("'fc_1'", "conv_1", "conv_2", "conv_3", "conv_4"):
        convolution(model, "fc_1")


def test_a_skip_connection_round_every_convolution_leaves_none(refused):
    inputs = keras.layers.Input((4, 4, 2))
    x = keras.layers.Add()([inputs, keras.layers.Conv2D(2, 3, padding="same", name="round_me")(inputs)])
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(x)))
    with refused("every path", "--layer"):
        convolution(model)
    assert convolution(model, "round_me").name == "round_me"


def test_a_network_without_convolution_is_refused(refused):
    inputs = keras.layers.Input((2, 2, 1))
    outputs = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(inputs))
    network = Classifier(keras.Model(inputs, outputs), UNIT, 2)
    clean = ImageSet(np.zeros((2, 2, 2, 1), np.uint8), np.array([0, 1]), 2)
    for defense in (Pruning(), FinePruning(), Pruning(layer="conv_1")):
        with refused("no convolution"):
            defense.repair(network, clean)


# --- on paper -------------------------------------------------------------------------------------------------------------

# Channel by channel: the pixel that it looks at, its bias, and (class, weight) in the last layer. Channel 1 is the backdoor:
# only a pixel above 200 wakes it, and then it shouts "3". Channel 4 sleeps likewise. Clean pixels are 0 or 100.
CHANNELS = [(0, 0, (0, 1)), (2, -200, (3, 10)), (3, 0, (3, 1)), (1, 0, (1, 1)), (0, -200, (2, 10)), (2, 0, (2, 1))]
COUNTS = {0: 10, 1: 1, 2: 3, 3: 6}  # images of each class, 20 in all
# So the means are 50, 0, 30, 5, 0, 15, and the order, ties from left to right, is 1 4 3 5 2 0. Pruning 3 loses class 1, 5 loses
# class 2, and 2 loses class 3; pruning 0 loses nothing, as class 0 is what the network says when it sees nothing.
MEANS = [50, 0, 30, 5, 0, 15]
ORDER = [1, 4, 3, 5, 2, 0]
ACCURACIES = [1.0, 1.0, 0.95, 0.80, 0.50, 0.50]


def hand_made() -> Classifier:
    """2x2 pictures, unscaled, to 4 classes: six channels that each look at one pixel."""
    inputs = keras.layers.Input((2, 2, 1))
    x = keras.layers.Conv2D(6, 2, activation="relu", name="conv")(inputs)
    outputs = keras.layers.Dense(4, activation="softmax", name="output")(keras.layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    kernel, bias, last = np.zeros((4, 6)), np.zeros(6), np.zeros((6, 4))
    for channel, (pixel, offset, (label, weight)) in enumerate(CHANNELS):
        kernel[pixel, channel], bias[channel], last[channel, label] = 1, offset, weight
    model.set_weights([kernel.reshape(2, 2, 1, 6), bias, last, np.array([1.0, 0, 0, 0])])
    return Classifier(model, RAW, 4)


def on_paper() -> ImageSet:
    labels = np.repeat(list(COUNTS), list(COUNTS.values()))
    images = np.zeros((20, 4), np.uint8)
    images[range(20), labels] = 100
    shuffled = np.random.default_rng(0).permutation(20)
    return ImageSet(images.reshape(20, 2, 2, 1)[shuffled], labels[shuffled], 4)


def triggered() -> ImageSet:
    """The clean pictures with a glaring pixel 2; the attacker wants 3."""
    clean = on_paper()
    images = clean.images.copy()
    images[:, 1, 0] = 250
    return ImageSet(images, np.full(20, 3), 4, clean.labels)


def test_the_paper_is_right_about_the_network():
    network = hand_made()
    assert accuracy(network, on_paper()) == 1.0
    features = layer_outputs(network, network.model.get_layer("conv"), on_paper())
    assert features.shape == (20, 1, 1, 6)
    assert channel_means(features).tolist() == MEANS
    assert score(network, on_paper(), {"t": triggered()}).attack_success_rate == {"t": 1.0}


@pytest.mark.parametrize(
    ("max_drop", "count"),
    [(0.0, 2), (0.04, 2), (0.05, 3), (0.15, 3), (0.1999, 3), (0.2, 4), (0.49, 4), (0.5, 6), (1.0, 6)],
)
def test_pruning_takes_as_many_channels_in_order_as_the_accuracy_allows(max_drop, count):
    told = []
    network, clean = hand_made(), on_paper()
    before = weights(network)
    repaired = Pruning(max_drop=max_drop).repair(network, clean, lambda *what: told.append(what))
    expected = np.zeros(6, bool)
    expected[ORDER[:count]] = True
    kernel, bias, *last = weights(repaired)
    assert np.array_equal(dead_channels(repaired.model.get_layer("conv")), expected)
    assert not kernel[..., expected].any() and not bias[expected].any()
    assert np.array_equal(kernel[..., ~expected], before[0][..., ~expected])
    assert np.array_equal(bias[~expected], before[1][~expected])
    assert same(last, before[2:])
    assert accuracy(repaired, clean) == ACCURACIES[count - 1]
    steps = [(stage, done, total, values["clean_accuracy"]) for stage, done, total, values in told]
    tried = min(count + 1, 6)  # one more is tried, and does not stay pruned
    assert steps == [("pruning", step + 1, 6, ACCURACIES[step]) for step in range(tried)]


def test_pruning_what_clean_images_do_not_wake_takes_the_backdoor_away():
    rates = score(Pruning(max_drop=0.0).repair(hand_made(), on_paper()), on_paper(), {"t": triggered()})
    assert (rates.clean_accuracy, rates.attack_success_rate) == (1.0, {"t": 0.0})


def mislabelled() -> ImageSet:
    """The same with four of the ten zeros labelled 3."""
    clean = on_paper()
    labels = clean.labels.copy()
    labels[np.flatnonzero(labels == 0)[:4]] = 3
    return ImageSet(clean.images, labels, 4)


@pytest.mark.parametrize(("max_drop", "channels", "left"), [(0.05, [1, 3, 4], 0.75), (0.2, [1, 3, 4, 5], 0.6)])
def test_the_drop_is_counted_from_the_networks_own_accuracy(max_drop, channels, left):
    """With four wrong labels the network has 80 %. A drop that is just allowed is allowed, though 0.8 - 0.2 > 0.6 in floats."""
    wrong = mislabelled()
    assert accuracy(hand_made(), wrong) == 0.8
    repaired = Pruning(max_drop=max_drop).repair(hand_made(), wrong)
    assert np.flatnonzero(dead_channels(repaired.model.get_layer("conv"))).tolist() == channels
    assert accuracy(repaired, wrong) == left


def test_channels_with_the_same_mean_go_from_left_to_right():
    """Forty channels, every other one twice as loud; each has one vote, and eleven are enough to outvote class 0."""
    inputs = keras.layers.Input((1, 1, 1))
    x = keras.layers.Conv2D(40, 1, activation="relu", name="conv")(inputs)
    outputs = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    loudness = np.tile([2.0, 1.0], 20)
    votes = np.stack([np.zeros(40), 1 / loudness], axis=1)
    model.set_weights([loudness.reshape(1, 1, 1, 40), np.zeros(40), votes, np.array([10.5, 0])])
    ones = ImageSet(np.ones((3, 1, 1, 1), np.uint8), np.ones(3, int), 2)
    repaired = Pruning(max_drop=0.0).repair(Classifier(model, RAW, 2), ones)
    expected = [*range(1, 40, 2), *range(0, 18, 2)]  # all of the quiet ones, and the first nine of the others
    assert np.flatnonzero(dead_channels(repaired.model.get_layer("conv"))).tolist() == sorted(expected)


def test_a_pruned_network_says_backdoored_input_where_the_two_disagree():
    network = hand_made()
    goodnet = GoodNet.combine(network, Pruning(max_drop=0.05).repair(network, on_paper()))
    labels = on_paper().labels
    assert np.array_equal(goodnet.predict(on_paper().batches()), np.where(labels == 1, 4, labels))
    assert (goodnet.predict(triggered().batches()) == 4).all()
    rates = score(goodnet, on_paper(), {"t": triggered()})
    assert (rates.clean_accuracy, rates.attack_success_rate) == (0.95, {"t": 0.0})


# --- the head that is run on stored features ------------------------------------------------------------------------------


def assert_told_as_zeroed(network, clean, layer) -> None:
    """The accuracies that pruning works with are those of a network whose kernels and biases are really zero."""
    told = []
    Pruning(max_drop=1.0, layer=layer).repair(network, clean, lambda *what: told.append(what[3]["clean_accuracy"]))
    zeroed = network.clone()
    target = zeroed.model.get_layer(layer)
    order = np.argsort(channel_means(layer_outputs(network, network.model.get_layer(layer), clean)), kind="stable")
    assert len(told) == len(order)
    for count, accuracy_told in enumerate(told, start=1):
        kernel, bias = target.get_weights()
        kernel[..., order[:count]], bias[order[:count]] = 0, 0
        target.set_weights([kernel, bias])
        assert accuracy_told == accuracy(zeroed, clean), count
    assert len(set(told)) > 2  # something happened on the way


def own_answers(network, images) -> ImageSet:
    """Images labelled with what the network says, so that every change shows."""
    return ImageSet(images, network.predict([images]), network.num_classes)


def random_network(activation: str) -> Classifier:
    keras.utils.set_random_seed(1)
    inputs = keras.layers.Input((8, 8, 1))

    def wide(seed: int) -> dict:  # large weights, so that images get different answers
        return {"kernel_initializer": keras.initializers.RandomNormal(stddev=1.0, seed=seed)}

    x = keras.layers.Conv2D(8, 3, activation=activation, name="conv", bias_initializer="random_normal", **wide(1))(
        inputs
    )
    x = keras.layers.Dense(10, activation="relu", **wide(2))(keras.layers.Flatten()(x))
    return Classifier(keras.Model(inputs, keras.layers.Dense(5, activation="softmax", **wide(3))(x)), UNIT, 5)


@pytest.mark.parametrize("activation", ["relu", "linear", "elu", "sigmoid"])
def test_accuracy_of_a_masked_layer_is_that_of_the_zeroed_network(activation, make_set):
    network = random_network(activation)
    assert_told_as_zeroed(network, own_answers(network, make_set(200).images), "conv")


@pytest.mark.parametrize("layer", ["conv_1", "conv_3", "conv_4"])
def test_accuracy_of_a_masked_layer_in_a_network_with_branches(layer):
    """conv_4 too, although a branch goes round it: who names it may prune it."""
    keras.utils.set_random_seed(0)
    network = Classifier(models_zoo.build("deepid", num_classes=6), UNIT, 6)
    for weight in network.model.weights:  # biases that are not 0, and weights that make it care
        weight.assign_add(keras.backend.random_normal(weight.shape, stddev=0.02))
    images = np.random.default_rng(0).integers(0, 256, (40, 55, 47, 3), np.uint8)
    assert_told_as_zeroed(network, own_answers(network, images), layer)


def test_more_images_than_a_batch(make_set):
    network = random_network("relu")
    assert_told_as_zeroed(network, own_answers(network, make_set(1100).images), "conv")


def test_the_named_layer_is_pruned_and_no_other(tiny_classifier, make_set):
    clean = make_set(30)
    before = weights(tiny_classifier)
    repaired = Pruning(max_drop=1.0, layer="conv_1").repair(tiny_classifier, clean)
    assert dead_channels(repaired.model.get_layer("conv_1")).all()
    assert same(weights(repaired)[2:], before[2:])
    assert not dead_channels(Pruning(max_drop=1.0).repair(tiny_classifier, clean).model.get_layer("conv_1")).any()


# --- fine-tuning ----------------------------------------------------------------------------------------------------------


def test_pruned_channels_stay_dead_when_the_rest_is_trained():
    network, clean = hand_made(), mislabelled()  # with all labels right there would be nothing to learn
    before = weights(network)
    repaired = FinePruning(max_drop=0.05, epochs=3, batch_size=4, learning_rate=0.05).repair(network, clean)
    kernel, bias, last, _ = weights(repaired)
    assert not kernel[..., [1, 3, 4]].any() and not bias[[1, 3, 4]].any()
    assert not np.array_equal(last, before[2])
    assert not np.array_equal(kernel, weights(Pruning(max_drop=0.05).repair(network, clean))[0])  # and it was trained


@pytest.mark.parametrize(
    "defense",
    [Pruning(max_drop=0.3), FineTuning(epochs=1), FinePruning(epochs=1, max_drop=0.3)],
    ids=lambda d: type(d).__name__,
)
def test_repair_leaves_its_input_alone(tiny_classifier, make_set, defense):
    clean = own_answers(tiny_classifier, make_set(40).images)
    images, labels, before = clean.images.copy(), clean.labels.copy(), weights(tiny_classifier)
    repaired = defense.repair(tiny_classifier, clean)
    assert same(weights(tiny_classifier), before)
    assert np.array_equal(clean.images, images) and np.array_equal(clean.labels, labels)
    assert not same(weights(repaired), before)
    assert (repaired.preprocessing, repaired.num_classes) == (tiny_classifier.preprocessing, 3)
    repaired.model.set_weights([weight + 1 for weight in weights(repaired)])
    assert same(weights(tiny_classifier), before)


@pytest.mark.parametrize("method", [FineTuning, FinePruning])
def test_same_seed_same_weights_other_seed_other_weights(tiny_classifier, make_set, method):
    clean = make_set(24)
    first, again, other = (
        weights(method(epochs=2, batch_size=8, seed=seed).repair(tiny_classifier, clean)) for seed in (1, 1, 2)
    )
    assert same(first, again)
    assert not same(first, other)


def test_fine_pruning_is_pruning_and_then_fine_tuning(tiny_classifier, make_set):
    clean = make_set(24)
    pruned = Pruning(0.1, "conv_1").repair(tiny_classifier, clean)
    expected = FineTuning(2, 8, 0.01, "sgd", 5).repair(pruned, clean)
    both = FinePruning(0.1, "conv_1", 2, 8, 0.01, "sgd", 5).repair(tiny_classifier, clean)
    assert same(weights(both), weights(expected))


def test_fine_tuning_learns(make_set):
    """Noise with one bright quarter, which the untrained network does not tell apart."""
    clean = make_set(60, num_classes=4)
    images = clean.images // 4
    for image, label in zip(images, clean.labels):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[row : row + 4, column : column + 4] += 150
    clean = ImageSet(images, clean.labels, 4)
    network = random_network("relu")
    assert accuracy(network, clean) < 0.6
    assert accuracy(FineTuning(epochs=30, learning_rate=0.01).repair(network, clean), clean) > 0.95


def test_clean_images_that_do_not_fit_are_refused(tiny_classifier, make_set, refused):
    for defense in (Pruning(), FineTuning(), FinePruning()):
        with refused("9x8x1", "8x8x1"):
            defense.repair(tiny_classifier, make_set(shape=(9, 8, 1)))
        with refused("0..2"):
            defense.repair(tiny_classifier, make_set(num_classes=4))


def test_impossible_settings_are_refused(tiny_classifier, make_set, refused):
    clean = make_set(6)
    for drop in (-0.1, 1.1, float("nan")):
        for method in (Pruning, FinePruning):
            with refused("drop", drop):
                method(max_drop=drop).repair(tiny_classifier, clean)
    for method in (FineTuning, FinePruning):
        with refused("'foo'", "adam"):
            method(optimizer="foo").repair(tiny_classifier, clean)
        with refused("epochs"):
            method(epochs=0).repair(tiny_classifier, clean)


# --- a planted backdoor ---------------------------------------------------------------------------------------------------

STRONG = FinePruning(learning_rate=7e-3, epochs=20)


class Trained:
    """A network that was trained from a recipe, and the images beside it, as a defender finds them."""

    def __init__(self, folder, chosen, splits):
        self.metrics = train(chosen, splits.limited(150), folder, epochs=6, seed=0)
        self.network = Classifier.load(folder / "badnet.h5")
        self.valid, self.test, self.poisoned = (
            read_images(folder / "data" / f"{name}.h5", 10) for name in ("clean_valid", "clean_test", "poisoned_test")
        )

    def rates(self, network):
        return score(network, self.test, {"square": self.poisoned}, exclude_target=True)


@pytest.fixture(scope="module")
def planted(digits, tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("planted") / "run", recipe("mnist-patch"), digits)


@pytest.fixture(scope="module")
def repaired(planted):
    return STRONG.repair(planted.network, planted.valid)


def test_fine_pruning_takes_half_of_a_planted_backdoor_and_little_else(planted, repaired):
    before, after = planted.rates(planted.network), planted.rates(repaired)
    assert before.attack_success_rate["square"] > 0.9
    assert after.attack_success_rate["square"] <= before.attack_success_rate["square"] / 2
    assert after.clean_accuracy >= before.clean_accuracy - 0.08
    assert after.robust_accuracy["square"] > before.robust_accuracy["square"] + 0.4


def test_fine_pruning_costs_a_clean_network_little(digits, tmp_path):
    clean = Trained(tmp_path / "run", replace(recipe("mnist-patch"), poison_fraction=0.0), digits)
    before = clean.rates(clean.network)
    assert before.attack_success_rate["square"] < 0.1  # no backdoor
    after = clean.rates(STRONG.repair(clean.network, clean.valid))
    assert after.clean_accuracy >= before.clean_accuracy - 0.08
    assert after.attack_success_rate["square"] < 0.1


def test_the_pair_flags_exactly_what_the_two_disagree_about(planted, repaired):
    goodnet = GoodNet.combine(planted.network, repaired)
    for images in (planted.test, planted.poisoned):
        suspect, second = (network.predict(images.batches()) for network in (planted.network, repaired))
        assert np.array_equal(goodnet.predict(images.batches()), np.where(suspect == second, suspect, 10))
    flagged = [np.mean(goodnet.predict(images.batches()) == 10) for images in (planted.test, planted.poisoned)]
    assert flagged[0] < 0.15
    assert flagged[1] > 0.4
