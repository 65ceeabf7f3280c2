"""Neural Cleanse's repairs and filter: on a network that can be computed on paper, and on a backdoor planted in real digits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_attacks import TARGET, halved, small_task
from tensorflow import keras

import models_zoo
from keras_backdoor.activations import dead_channels, layer_outputs
from keras_backdoor.attacks.poison import Backdoor, poison, poison_all
from keras_backdoor.attacks.targets import AllToOne
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses import neural_cleanse_repair
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.neural_cleanse_filter import NeuralCleanseFilter
from keras_backdoor.defenses.neural_cleanse_pruning import NeuronPruning
from keras_backdoor.defenses.neural_cleanse_repair import Unlearning, reverse
from keras_backdoor.defenses.units import units
from keras_backdoor.detection import auc, false_acceptance_rate, false_rejection_rate
from keras_backdoor.goodnet import GoodNet
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import score
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.trigger_inversion import ReversedTrigger
from keras_backdoor.triggers import Square

DEFENSES = (Unlearning(), NeuronPruning(), NeuralCleanseFilter())

# --- on paper -------------------------------------------------------------------------------------------------------------

# Pictures of 1x5 pixels, unscaled: three vote for a class each, pixel 3 is the trigger, 4 a serial number that nobody looks at.
# Six neurons: the three votes; 3 and 4 hear the trigger (4 only above 150); 5 is active where there is none, and nobody listens.
# Neuron 3 says "2" with weight 1 and neuron 4 with weight 3: a trigger of 200 has 200 and 150 votes.
PIXEL, SERIAL = 3, 4
COUNTS = {0: 6, 1: 2, 2: 4}
VOTES = {0: 100, 1: 160, 2: 100}
GAPS = [0, 0, 0, 200, 50, -100]
ORDER = [3, 4, 0, 1, 2, 5]
# Without neuron 3, the 150 votes of neuron 4 are more than the 100 of class 0, and less than the 160 of class 1.
SUCCESS = [1.0, 0.75, 0.0, 0.0, 0.0, 0.0, 0.0]


def voting() -> Classifier:
    inputs = keras.layers.Input((1, 5, 1))
    heard = keras.layers.Dense(6, activation="relu", name="heard")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="output")(heard))
    ears, offsets, voice = np.zeros((5, 6)), np.array([0.0, 0, 0, 0, -150, 100]), np.zeros((6, 3))
    ears[[0, 1, 2, PIXEL, PIXEL, PIXEL], range(6)] = [1, 1, 1, 1, 1, -1]
    voice[range(3), range(3)], voice[3, 2], voice[4, 2] = 1, 1, 3
    model.set_weights([ears, offsets, voice, np.zeros(3)])
    return Classifier(model, Preprocessing.named("raw"), 3)


def pictures(counts=COUNTS) -> ImageSet:
    labels = np.repeat(list(counts), list(counts.values()))
    images = np.zeros((len(labels), 1, 5, 1), np.uint8)
    images[range(len(labels)), 0, labels, 0] = [VOTES[label] for label in labels]
    images[:, 0, SERIAL, 0] = np.arange(len(labels))
    return ImageSet(images, labels, 3)


def pixel(value: float, label: int = 2, place: int = PIXEL) -> ReversedTrigger:
    mask, pattern = np.zeros((1, 5), np.float32), np.zeros((1, 5, 1), np.float32)
    mask[0, place], pattern[0, place] = 1, value
    return ReversedTrigger(label, mask, pattern, 1.0, True, np.empty((0, 3), np.float32))


def weights(classifier: Classifier) -> list[np.ndarray]:
    return classifier.model.get_weights()


def same(first: Classifier, second: Classifier) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(weights(first), weights(second)))


def test_the_paper_is_right_about_the_network():
    network, clean = voting(), pictures()
    assert network.predict(clean.batches()).tolist() == clean.labels.tolist()
    stamped = pixel(200)(clean.images, np.random.default_rng(0))
    assert (network.predict([stamped]) == 2).all()
    layer = units(network)
    gaps = layer.activations(ImageSet(stamped, clean.labels, 3)) - layer.activations(clean)
    assert gaps.tolist() == [GAPS] * len(clean)


# --- neuron pruning -------------------------------------------------------------------------------------------------------


def test_neurons_are_pruned_in_the_order_of_what_the_trigger_does_to_them():
    network, clean = voting(), pictures()
    stamped = poison_all(clean.select(clean.labels != 2), Backdoor(pixel(200), AllToOne(2)), np.random.default_rng(0))
    curve = NeuronPruning().curve(network, clean, {"clean": clean, "t": stamped}, triggers=[pixel(200)])
    assert curve.layer == "heard"
    assert curve.order.tolist() == ORDER
    np.testing.assert_allclose(curve.means, [600 / 12, 320 / 12, 400 / 12, 0, 0, 100])
    assert curve.rates("t", stamped.labels).tolist() == SUCCESS
    # class 0 is what the network says when it hears nothing
    np.testing.assert_allclose(curve.rates("clean", clean.labels) * 12, [12, 12, 12, 12, 10, 6, 6])


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 2),
        ({"success": 0.0}, 2),
        ({"success": 0.74}, 2),
        ({"success": 0.75}, 1),
        ({"success": 1.0}, 0),
        ({"fraction": 0.0}, 0),
        ({"fraction": 0.33}, 1),
        ({"fraction": 0.34}, 2),
        ({"fraction": 0.5}, 3),
        ({"fraction": 1.0}, 6),
    ],
)
def test_as_many_as_it_takes_for_the_trigger_to_fail_or_a_fixed_share(settings, count):
    """Images of the trigger's own class, a third here, keep their class: if they counted, its success would not fall so low."""
    network = voting()
    before = voting()
    (step,) = NeuronPruning(**settings).steps(network, pictures(), triggers=[pixel(200)])
    assert (step.done, step.name) == ({"flagged": 1, "neurons": count}, "")
    ears, offsets, voice, bias = weights(before)
    voice[ORDER[:count]] = 0
    for found, expected in zip(weights(step.classifier), (ears, offsets, voice, bias)):
        np.testing.assert_array_equal(found, expected)
    assert same(network, before)


def test_of_several_triggers_all_have_to_fail():
    """The second one makes class 0 of everything, by pixel 0; its neuron comes after the loudest of the first one."""
    network, clean = voting(), pictures()
    first, second = pixel(200), pixel(190, label=0, place=0)
    for triggers, count in (([first], 2), ([second], 1), ([first, second], 3), ([second, first], 3)):
        (step,) = NeuronPruning(success=0.0).steps(network, clean, triggers=triggers)
        assert step.done == {"flagged": len(triggers), "neurons": count}
    curve = NeuronPruning().curve(network, clean, {}, triggers=[first, second])
    assert curve.order[:3].tolist() == [3, 0, 4]  # 200, 190, 50


def deep(hidden="relu", last_activation="softmax", after=None, use_bias=True) -> Classifier:
    """A seeded, untrained network whose second to last layer is a sum of two, behind an activation and dropout."""
    inputs = keras.layers.Input((8, 8, 1))
    maps = keras.layers.Conv2D(3, 5, activation="relu", name="conv_1", bias_initializer="random_normal")(inputs)
    flat = keras.layers.Flatten()(keras.layers.MaxPooling2D(2)(maps))
    halves = [keras.layers.Dense(7, kernel_initializer="he_normal")(flat) for _ in range(2)]
    hidden = keras.layers.Activation(hidden, name="hidden")(keras.layers.Add()(halves))
    last = keras.layers.Dense(
        5, last_activation, use_bias, "he_normal", bias_initializer="random_normal", name="output"
    )
    x = last(keras.layers.Dropout(0.5, name="dropout")(hidden))
    model, generator = keras.Model(inputs, after(x) if after else x), np.random.default_rng(3)
    model.set_weights([generator.normal(0, 0.5, weight.shape) for weight in model.get_weights()])
    return Classifier(model, Preprocessing.named("unit"), 5)


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        ({}, "conv_1"),
        ({}, None),
        ({"hidden": "sigmoid"}, None),  # where a neuron whose own weights are zero gives a half
        ({"use_bias": False}, None),
        ({"last_activation": "linear", "after": keras.layers.Softmax()}, None),
        (
            {"last_activation": "relu", "after": keras.layers.Lambda(lambda x: 1 - x)},
            None,
        ),  # not the largest, but the least
    ],
)
def test_the_curve_has_the_answers_of_networks_pruned_one_by_one(network, layer, make_set):
    network, images = deep(**network), make_set(60, num_classes=5)
    layer = units(network, layer)
    values = layer.activations(images)
    order = np.random.default_rng(1).permutation(values.shape[1])
    expected, pruned = [], network.clone()
    for count in range(len(order) + 1):
        pruned.model.set_weights(weights(layer.prune(order[:count])))
        expected.append(pruned.predict(images.batches()))
    assert (np.diff(expected, axis=0) != 0).any(1).sum() > 1
    np.testing.assert_array_equal(layer.answers(order, images), expected)
    if layer.name == "dropout":  # the rest of the network takes a pruned neuron for zero
        values[:, order[:4]] = 0
        kernel, *bias = network.model.get_layer("output").get_weights()
        sums = values @ kernel + sum(bias)
        above = network.model.layers[-1]
        answers = 1 - np.maximum(sums, 0) if isinstance(above, keras.layers.Lambda) else sums
        np.testing.assert_array_equal(expected[4], answers.argmax(1))


@pytest.mark.parametrize(
    ("architecture", "layer", "count"),
    [("deepid", "activation_1", 160), ("mnist-badnets", "fc_1", 512), ("nin", "conv_8", 192)],
)
def test_the_second_to_last_layer(architecture, layer, count):
    """DeepID's has two halves that are added; Network in Network ends in a convolution, whose input are channels."""
    model = models_zoo.build(architecture)
    network = Classifier(model, Preprocessing.named("unit"), model.output_shape[-1])
    images = ImageSet(np.zeros((1, *network.image_shape), np.uint8), np.zeros(1), 1)
    found = units(network)
    assert (found.name, found.activations(images).shape) == (layer, (1, count))


def test_where_pruning_does_not_help(refused):
    """A network that says "2" when it hears nothing: pruned to the end, it says that to all."""
    network = voting()
    *rest, _ = weights(network)
    network.model.set_weights([*rest, np.array([0.0, 0, 101])])
    with refused("success 0.05", "heard", "0.75"):
        NeuronPruning().repair(network, pictures(), triggers=[pixel(200)])
    with refused("all are of class 2", "other classes"):
        NeuronPruning().repair(voting(), pictures({2: 12}), triggers=[pixel(200)])
    with refused("no convolution 'heard'"):
        NeuronPruning(layer="heard").repair(voting(), pictures(), triggers=[pixel(200)])


# --- unlearning: what is trained on ---------------------------------------------------------------------------------------


def numbered(count: int) -> ImageSet:
    """As `pictures`, of all classes in turn, 250 at most."""
    images = np.zeros((count, 1, 5, 1), np.uint8)
    images[:, 0, SERIAL, 0] = np.arange(count)
    return ImageSet(images, np.arange(count) * 7 % 3, 3)


@pytest.mark.parametrize(
    ("count", "settings", "used", "stamped"),
    [
        (250, {"share": 0.1}, 25, 5),  # the paper: 10 %, and 20 % of these
        (250, {}, 250, 50),
        (100, {"share": 0.29, "stamped": 1.0}, 29, 29),  # 0.29 * 100 is 28.999…
        (59, {"share": 0.1}, 5, 1),
        (49, {"share": 0.1}, 4, 0),
        (250, {"share": 0.1, "stamped": 0.0}, 25, 0),
    ],
)
def test_stamped_images_are_of_all_classes_and_keep_their_true_labels(count, settings, used, stamped):
    """An implementation that stamps images of the flagged class, under that label, trains the backdoor in."""
    clean = numbered(count)
    lesson, number = Unlearning(**settings).lesson(clean, [pixel(200)])
    assert (len(lesson), number) == (used, stamped)
    serials = lesson.images[:, 0, SERIAL, 0].astype(int)
    assert len(set(serials)) == used
    np.testing.assert_array_equal(lesson.labels, clean.labels[serials])
    np.testing.assert_array_equal(lesson.images[:, 0, PIXEL, 0], np.where(np.arange(used) < stamped, 200, 0))
    if stamped > 20:
        assert (np.bincount(lesson.labels[:stamped], minlength=3) > stamped // 6).all()
    assert not clean.images[:, 0, PIXEL].any()


def test_of_several_triggers_each_stamped_image_gets_one():
    images = Unlearning(stamped=0.4).lesson(numbered(200), [pixel(200), pixel(90, 0, 0)])[0].images
    first, second = images[:80, 0, PIXEL, 0] == 200, images[:80, 0, 0, 0] == 90
    assert (first ^ second).all()
    assert 20 < first.sum() < 60
    assert not images[80:, 0, :4].any()


def test_the_seed_decides_which_images_are_used():
    drawn = [
        Unlearning(share=0.1, seed=seed).lesson(numbered(200), [])[0].images[:, 0, SERIAL, 0].tolist()
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.fixture
def trained(monkeypatch):
    """What `fit` was called with, instead of training."""
    calls = []

    def fit(classifier, images, schedule, **more):
        calls.append((images, schedule, more))

    monkeypatch.setattr(neural_cleanse_repair, "fit", fit)
    return calls


def test_one_epoch_on_those_images(trained):
    defense, clean = Unlearning(share=0.1, seed=4), numbered(200)
    (step,) = defense.steps(voting(), clean, triggers=[pixel(200)])
    ((images, schedule, more),) = trained
    assert (step.done, step.name) == ({"flagged": 1, "images": 20, "stamped": 4}, "")
    np.testing.assert_array_equal(images.images, defense.lesson(clean, [pixel(200)])[0].images)
    assert (schedule.epochs, schedule.batch_size, schedule.optimizer, schedule.learning_rate) == (1, 32, "adam", 1e-3)
    assert (more["seed"], more["stage"]) == (4, "unlearning")


@pytest.mark.parametrize(("stamp", "white"), [("none", 0), ("pixels([(0, 3)])", 4), ("square(1, margin=0)", 4)])
def test_clean_images_only_and_the_original_trigger_need_no_scan(stamp, white, trained, monkeypatch):
    monkeypatch.setattr(NeuralCleanse, "chunks", None)
    (step,) = Unlearning(share=0.1, stamp=stamp).steps(voting(), numbered(200))
    ((images, *_),) = trained
    assert step.done == {"images": 20, "stamped": white}
    assert (images.images == 255).any((1, 2, 3)).sum() == white


# --- what is flagged ------------------------------------------------------------------------------------------------------


def scanned(norms: list[float]):
    """`NeuralCleanse.chunks` that finds triggers of these norms at once, if it is asked for them."""

    def chunks(self, classifier, clean, done=(), progress=None):
        asked.append(self)
        triggers = [pixel(200, label) for label in range(3) if self.target in (None, label)]
        for trigger in triggers:
            trigger.mask[0, :] = norms[trigger.label] / 5
        yield triggers[:1]
        yield triggers[1:]

    asked = []
    return chunks, asked


@pytest.mark.parametrize(
    ("norms", "settings", "flagged"),
    [
        ([4, 4.5, 1], {}, [2]),
        ([1, 4.5, 4], {}, [0]),
        ([4, 4.5, 3.9], {}, []),
        ([4, 4.5, 1], {"threshold": 9.0}, []),
        ([4, 4.5, 1], {"target": 1}, [1]),
    ],
)
def test_triggers_of_flagged_labels_are_used_and_no_others(norms, settings, flagged, monkeypatch, trained):
    chunks, asked = scanned(norms)
    monkeypatch.setattr(NeuralCleanse, "chunks", chunks)
    found = reverse(NeuralCleanse(**settings), voting(), pictures())
    assert [trigger.label for trigger in found] == flagged
    (step,) = NeuronPruning(fraction=0.5, **settings, schedule="original", seed=5).steps(voting(), pictures())
    assert step.done["flagged"] == len(flagged)
    assert asked[-1] == NeuralCleanse(**settings, schedule="original", seed=5)
    (step,) = Unlearning(**settings, starts=1, seed=6).steps(voting(), pictures())
    assert step.done["flagged"] == len(flagged)
    assert len(trained) == bool(flagged)
    assert asked[-1] == NeuralCleanse(**settings, seed=6)
    assert len(NeuralCleanseFilter(**settings, seed=7).fit_filter(voting(), pictures()).watched) == len(flagged)
    assert asked[-1] == NeuralCleanse(**settings, seed=7)


def test_if_nothing_is_flagged_the_network_stays_as_it_is(trained):
    network, clean = voting(), pictures()
    for defense in DEFENSES[:2]:
        (step,) = defense.steps(network, clean, triggers=[])
        assert (step.done, step.name) == ({"flagged": 0}, "")
        assert same(step.classifier, network)
        assert step.classifier.model is not network.model
    assert not trained
    fitted = DEFENSES[2].fit_filter(network, clean, triggers=[])
    assert not fitted.flags(ImageSet(pixel(200)(clean.images, np.random.default_rng(0)), clean.labels, 3)).any()
    assert np.isfinite(fitted.threshold)


# --- the filter -----------------------------------------------------------------------------------------------------------


def glow(values, label: int = 0) -> ImageSet:
    """Pictures whose pixel 3 has these values."""
    images = np.zeros((len(values), 1, 5, 1), np.uint8)
    images[:, 0, PIXEL, 0] = values
    return ImageSet(images, np.full(len(values), label), 3)


@pytest.mark.parametrize(("rate", "count"), [(0.05, 5), (0.0499, 4), (0.29, 29), (0.009, 0)])
def test_the_filter_flags_the_preset_share_of_clean_images_and_what_is_beyond(rate, count):
    """One neuron in six is watched, number 3, which gives the pixel's value: 49.5 on clean images, 200 under the trigger."""
    clean = glow(np.arange(100))
    fitted = NeuralCleanseFilter(false_rejection_rate=rate).fit_filter(voting(), clean, triggers=[pixel(200)])
    assert fitted.watched[0].neurons.tolist() == [3]
    np.testing.assert_allclose(fitted.scores(clean), (49.5 - np.arange(100)) / 150.5)
    assert fitted.scores(glow([200])).tolist() == [-1]
    assert np.flatnonzero(fitted.flags(clean)).tolist() == list(range(100 - count, 100))
    assert fitted.flags(glow([99 - count, 100 - count, 200])).tolist() == [False, True, True]


def test_more_neurons_are_averaged_and_the_share_is_rounded_up():
    """Neurons 3 and 4 give 200 and 50 under the trigger, 100 and 0 on clean images."""
    clean, inputs = glow([100] * 20), glow([100, 200, 240])
    for share in (0.2, 0.33):
        fitted = NeuralCleanseFilter(neurons=share).fit_filter(voting(), clean, triggers=[pixel(200)])
        assert fitted.watched[0].neurons.tolist() == [3, 4]
        np.testing.assert_allclose(fitted.scores(inputs), [0, -1, -(165 - 50) / 75])
    assert (
        len(NeuralCleanseFilter(neurons=0.34).fit_filter(voting(), clean, triggers=[pixel(200)]).watched[0].neurons)
        == 3
    )


def test_neurons_that_sleep_on_all_clean_images_leave_a_threshold():
    fitted = NeuralCleanseFilter().fit_filter(voting(), pictures(), triggers=[pixel(200)])
    assert fitted.flags(glow([0, 1, 200])).tolist() == [False, True, True]
    assert not fitted.flags(pictures()).any()


def test_of_several_triggers_the_nearest_counts_and_labels_play_no_part():
    triggers = [pixel(200), pixel(240, label=0, place=0)]
    fitted = NeuralCleanseFilter().fit_filter(voting(), glow([0] * 20), triggers=triggers)
    assert [(one.label, one.neurons.tolist(), one.gap) for one in fitted.watched] == [(2, [3], 200), (0, [0], 240)]
    inputs = glow([0, 50, 0])
    inputs.images[2, 0, 0] = 120
    np.testing.assert_allclose(fitted.scores(inputs), [0, -0.25, -0.5])
    relabelled = NeuralCleanseFilter().fit_filter(voting(), glow([0] * 20, label=2), triggers=triggers)
    np.testing.assert_array_equal(relabelled.scores(inputs), fitted.scores(inputs))


def test_channels_of_a_convolution_instead(make_set):
    """A white square wakes a channel of conv_1 on average over its positions; that one is watched, or pruned."""
    network, clean = deep(), make_set(40, num_classes=5)
    mask = np.zeros((8, 8), np.float32)
    mask[:4, :4] = 1
    trigger = ReversedTrigger(1, mask, np.full((8, 8, 1), 255, np.float32), 1.0, True, np.empty((0, 3), np.float32))
    stamped = ImageSet(trigger(clean.images, np.random.default_rng(0)), clean.labels, 5)
    maps = [layer_outputs(network, network.model.get_layer("conv_1"), images) for images in (clean, stamped)]
    bare, excited = (one.mean((1, 2), dtype=np.float64) for one in maps)
    gaps = (excited - bare).mean(0)
    loudest = gaps.argmax()
    fitted = NeuralCleanseFilter(layer="conv_1").fit_filter(network, clean, triggers=[trigger])
    expected = (bare.mean(0)[loudest] - excited[:, loudest]) / gaps[loudest]
    np.testing.assert_allclose(fitted.scores(stamped), expected, rtol=1e-4)
    (step,) = NeuronPruning(layer="conv_1", fraction=0.34).steps(network, clean, triggers=[trigger])
    others = clean.labels != 1
    loudest = (excited - bare)[others].mean(0).argmax()
    assert dead_channels(step.classifier.model.get_layer("conv_1")).nonzero()[0].tolist() == [loudest]


def test_a_trigger_that_excites_nothing_is_refused(refused):
    with refused("label 2", "excites no neuron of heard"):
        NeuralCleanseFilter().fit_filter(voting(), pictures(), triggers=[pixel(0)])


# --- real digits ----------------------------------------------------------------------------------------------------------

SQUARE = Square(2, margin=2)
WELL = Unlearning(learning_rate=2e-3)  # 3,800 digits are few already


@pytest.fixture(scope="module")
def planted(digits):
    """A network on digits of 14x14 with a white square of 2x2 pixels; clean images; and what measures a network."""
    task, backdoor = small_task(digits, epochs=5, seed=1), Backdoor(SQUARE, AllToOne(TARGET))
    task.fit(poison(task.train, [backdoor], 0.2, np.random.default_rng(1))[0], stage="badnet")
    test = halved(digits.test)
    triggered = poison_all(test, backdoor, np.random.default_rng(1))

    def measure(network: Classifier) -> tuple[float, float]:
        rates = score(network, test, {"t": triggered}, exclude_target=True)
        return rates.clean_accuracy, rates.attack_success_rate["t"]

    return task.classifier, task.train, measure, test, triggered


@pytest.fixture(scope="module")
def found(planted):
    network, clean, *_ = planted
    return reverse(NeuralCleanse(target=TARGET), network, clean)


def test_the_backdoor_is_planted_and_found(planted, found):
    network, _, measure, *_ = planted
    accuracy, success = measure(network)
    assert accuracy > 0.87 and success > 0.9
    (trigger,) = found
    assert (trigger.label, trigger.works) == (TARGET, True)
    assert trigger.norm < 10


def test_a_flagged_label_is_reversed_from_several_starts(planted, found):
    network, clean, *_ = planted
    triggers = reverse(NeuralCleanse(target=TARGET), network, clean, starts=3)
    assert [trigger.label for trigger in triggers] == 3 * [TARGET]
    assert all(trigger.works for trigger in triggers)
    np.testing.assert_allclose(triggers[0].mask, found[0].mask, atol=1e-3)
    patterns = [np.round(trigger.pattern, 1).tobytes() for trigger in triggers]
    assert len(set(patterns)) == 3


def test_unlearning_takes_the_backdoor_out_and_leaves_the_rest(planted, found):
    network, clean, measure, *_ = planted
    before = weights(network)
    accuracy, success = measure(WELL.repair(network, clean, triggers=found))
    assert success <= 0.1
    assert accuracy >= measure(network)[0] - 0.02
    assert all(np.array_equal(a, b) for a, b in zip(before, weights(network)))


def test_clean_images_alone_do_not_and_the_original_trigger_does(planted):
    """The other columns of the table in Neural Cleanse's section VI.C."""
    network, clean, measure, *_ = planted
    assert measure(replace(WELL, stamp="none").repair(network, clean))[1] > 0.5
    accuracy, success = measure(replace(WELL, stamp="square(2, margin=2)").repair(network, clean))
    assert success <= 0.1
    assert accuracy >= measure(network)[0] - 0.02


def test_pruning_takes_the_backdoor_out(planted, found):
    """It costs accuracy, as there are few neurons: with 64 the backdoor shares all of them."""
    network, clean, measure, *_ = planted
    (step,) = NeuronPruning().steps(network, clean, triggers=found)
    accuracy, success = measure(step.classifier)
    assert success <= 0.2
    assert accuracy > 0.5
    assert 0 < step.done["neurons"] < 32


def test_the_filter_tells_triggered_images(planted, found):
    network, clean, _, test, triggered = planted
    fitted = NeuralCleanseFilter(neurons=0.05).fit_filter(network, clean, triggers=found)
    bare, stamped = fitted.scores(test), fitted.scores(triggered.select(triggered.true_labels != TARGET))
    assert auc(bare, stamped) > 0.9
    assert false_rejection_rate(bare, fitted.threshold) == pytest.approx(0.05, abs=0.03)
    assert false_acceptance_rate(stamped, fitted.threshold) < 0.5
    assert false_rejection_rate(fitted.scores(clean), fitted.threshold) == pytest.approx(0.05, abs=1 / len(clean))


@pytest.mark.slow
def test_a_scan_of_all_labels_and_unlearning(planted):
    network, clean, measure, *_ = planted
    told = []
    (step,) = WELL.steps(network, clean, lambda *what: told.append(what))
    accuracy, success = measure(step.classifier)
    assert step.done["flagged"] >= 1
    assert success <= 0.15
    assert accuracy >= measure(network)[0] - 0.03
    assert {"reversing triggers", "unlearning"} == {stage for stage, *_ in told}


# --- bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("defense", "settings", "parts"),
    [
        (Unlearning, {"share": 1.1}, ["share is 1.1", "0..1"]),
        (Unlearning, {"stamped": -0.1}, ["stamped is -0.1", "0..1"]),
        (Unlearning, {"stamp": "squares(3)"}, ["trigger 'squares'", "square"]),
        (Unlearning, {"epochs": 0}, ["epochs"]),
        (Unlearning, {"optimizer": "adams"}, ["optimizer 'adams'"]),
        (Unlearning, {"seed": -1}, ["seed"]),
        (Unlearning, {"starts": 0}, ["starts is 0", "at least 1"]),
        (NeuronPruning, {"success": float("nan")}, ["success is nan", "0..1"]),
        (NeuronPruning, {"fraction": 2.0}, ["fraction is 2.0", "0..1"]),
        (NeuralCleanseFilter, {"neurons": 0.0}, ["neurons is 0.0", "above 0"]),
        (NeuralCleanseFilter, {"false_rejection_rate": 1.0}, ["false_rejection_rate is 1.0", "between 0 and 1"]),
        *((one, {"schedule": "slow"}, ["schedule 'slow'"]) for one in (Unlearning, NeuronPruning, NeuralCleanseFilter)),
        *((one, {"threshold": 0.0}, ["threshold is 0.0"]) for one in (Unlearning, NeuronPruning, NeuralCleanseFilter)),
    ],
)
def test_hyper_parameters_out_of_range(refused, defense, settings, parts):
    with refused(*parts):
        defense(**settings)


def use(defense, network, clean, **more):
    return (defense.fit_filter if hasattr(defense, "fit_filter") else defense.repair)(network, clean, **more)


@pytest.mark.parametrize("defense", DEFENSES, ids=lambda defense: type(defense).__name__)
def test_images_and_networks_that_do_not_do(defense, make_set, refused):
    with refused("clean images: images are 8x8x1", "1x5x1"):
        use(defense, voting(), make_set(20), triggers=[pixel(200)])
    with refused("Neural Cleanse", "GoodNet"):
        use(defense, GoodNet.combine(voting(), voting()), pictures())
    with refused("label 3", "0..2"):
        use(replace(defense, target=3), voting(), pictures())


def test_a_share_of_less_than_an_image(refused):
    with refused("share 0.1 of 8 clean images", "less than one"):
        Unlearning(share=0.1).repair(voting(), pictures({0: 8}), triggers=[pixel(200)])


def test_an_image_that_the_filter_cannot_take(make_set, refused):
    fitted = NeuralCleanseFilter().fit_filter(voting(), pictures(), triggers=[pixel(200)])
    with refused("images: images are 8x8x1", "1x5x1"):
        fitted.scores(make_set(3))
