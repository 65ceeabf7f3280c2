"""ABS: stimulated neurons beside networks with other weights, candidates on paper, triggers, and a backdoor in real digits."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import tensorflow as tf
from small_attacks import halved
from tensorflow import keras
from test_cli import interrupt
from test_neural_cleanse import PLANTED, SEED, TARGET, network

import models_zoo
from kbd._method_options import method_options
from keras_backdoor.activations import without_softmax
from keras_backdoor.attacks.poison import poison
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.artificial_brain_stimulation import abs as stage
from keras_backdoor.defenses.artificial_brain_stimulation.abs import ABS, spread_over_classes
from keras_backdoor.defenses.artificial_brain_stimulation.candidates import Candidate, candidates
from keras_backdoor.defenses.artificial_brain_stimulation.feature_filter import FeatureFilter
from keras_backdoor.defenses.artificial_brain_stimulation.neurons import layers_of_neurons
from keras_backdoor.defenses.artificial_brain_stimulation.pixel_mask import PixelMask
from keras_backdoor.defenses.artificial_brain_stimulation.reversal import Reversal, to_units
from keras_backdoor.defenses.artificial_brain_stimulation.stimulation import Response, Stimulation
from keras_backdoor.goodnet import GoodNet
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.training import Schedule, fit
from keras_backdoor.trigger_inversion import adam
from keras_backdoor.verdict import StrengthVerdict

SHORT = {"images": 9, "candidates": 3, "updates": 4}


def classifier_of(inputs, outputs, num_classes) -> Classifier:
    return Classifier(keras.Model(inputs, outputs), Preprocessing.named("unit"), num_classes)


@pytest.fixture
def branched() -> Classifier:
    """Seeded and untrained: normalisations, a sum, and a branch that goes round it; 8x8x1 to 3 classes."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    inputs = layers.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, padding="same", name="first")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="normal")(x))
    side = layers.Conv2D(5, 3, padding="same", activation="relu", name="side")(x)
    x = layers.Add()([x, layers.Conv2D(4, 1, name="last")(layers.AveragePooling2D(3, 1, "same")(side))])
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.Flatten()(side)])
    x = layers.Dense(6, activation="relu", name="wide")(x)
    outputs = layers.Activation("softmax")(layers.Dense(3)(x))
    return classifier_of(inputs, outputs, 3)


def stimulations(classifier: Classifier) -> dict[str, Stimulation]:
    model = without_softmax(classifier.model)
    model.set_weights(classifier.model.get_weights())
    return {one.layer: Stimulation(classifier, model, one, 5, 8.0) for one in layers_of_neurons(model)}


def with_constant(classifier: Classifier, layer: str, number: int, value: float) -> np.ndarray:
    """A copy that gives logits, in which this neuron has this value for any image: all its weights but the bias are zero."""
    copy = without_softmax(classifier.model)
    copy.set_weights(classifier.model.get_weights())
    weights = copy.get_layer(layer).get_weights()
    weights[0][..., number], weights[1][number] = 0, value  # kernel and bias, or gamma and beta
    copy.get_layer(layer).set_weights(weights)
    return copy


@pytest.mark.parametrize("which", ["tiny_classifier", "branched"])
def test_stimulating_is_a_network_with_a_constant_neuron(which, request, make_set):
    classifier, images = request.getfixturevalue(which), make_set(5).images
    found = stimulations(classifier)
    assert (
        list(found) == {"tiny_classifier": ["conv_1", "conv_2"], "branched": ["first", "side", "last", "wide"]}[which]
    )
    values = np.array([0, 0.5, 3], np.float32)
    for name, stimulation in found.items():
        logits = stimulation.logits(images, np.array([2, 0], np.int32), values)
        assert logits.shape == (5, 2, 3, 3)
        weights = {"first": "normal"}.get(name, name)  # the neurons of a normalised layer lie behind the ReLU
        for place, number in enumerate((2, 0)):
            for level, value in enumerate(values):
                whole = with_constant(classifier, weights, number, value)
                np.testing.assert_allclose(logits[:, place, level], whole(classifier.scale(images)), atol=2e-6)


def test_the_response_is_what_the_levels_say(branched, make_set):
    """Levels i * 8 max / 5; the rise of a logit is its largest value less that at 0; the gap lies between the best two."""
    images = make_set(5).images
    stimulation = stimulations(branched)["side"]
    for at_once in (1, 1000):  # in batches of one image, or all together
        response = stimulation.response(images, at_once)
        part = keras.Model(branched.model.input, branched.model.get_layer("side").output)
        highest = part(branched.scale(images)).numpy().max()
        logits = stimulation.logits(
            images, np.arange(5, dtype=np.int32), np.arange(5, dtype=np.float32) * 8 / 5 * highest
        )
        rises = np.sort(logits[:, :, 1:].max(2) - logits[:, :, 0], -1)
        np.testing.assert_allclose(response.gaps, rises[..., -1] - rises[..., -2], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(response.labels, (logits[:, :, 1:].max(2) - logits[:, :, 0]).argmax(-1))


def test_which_layers_have_neurons():
    """Not the last one with weights; not one as wide as the output, as the last convolution of Network in Network."""
    nin = models_zoo.build("nin")
    assert [(one.layer, one.count) for one in layers_of_neurons(nin)] == [
        (f"conv_{place}", width) for place, width in enumerate([192, 160, 96, 192, 192, 192, 192, 192], 1)
    ]
    deepid = [
        one.layer for one in layers_of_neurons(models_zoo.build("deepid", input_shape=(32, 32, 3), num_classes=60))
    ]
    assert deepid == ["conv_1", "conv_2", "conv_4", "fc_1", "fc_2"]


def test_candidates_by_hand():
    """Six images. A neuron may have two dissenters; images of its own label do not count in its gap, nor do dissenters."""
    truth = np.array([0, 1, 2, 0, 1, 2])
    rows = [
        ([1, 1, 1, 1, 1, 1], [5, 0.1, 4, 6, 0.1, 7]),  # its label's own images would have the least gap
        ([2, 2, 2, 0, 0, 0], [9, 9, 9, 9, 9, 9]),  # three agree only
        ([0, 0, 0, 0, 1, 2], [3, 2, 8, 3, 0.5, 0.5]),  # gaps of images 1 and 2
    ]
    labels, gaps = (np.array(part).T for part in zip(*rows))
    found = candidates([Response(labels, gaps)], truth, 20)
    assert found == [Candidate(0, 0, 1, 4.0), Candidate(0, 2, 0, 2.0)]


def test_no_layer_has_all_the_candidates():
    """The first 11 are at most three of a layer, then the best come; of 20, the code takes 21."""
    truth, wide = np.array([1, 1, 1]), 30
    layers = [
        Response(np.zeros((3, wide), int), np.tile(100.0 * place - np.arange(wide), (3, 1))) for place in range(4)
    ]
    found = candidates(layers, truth, 20)
    first = [(3, 0), (3, 1), (3, 2), (2, 0), (2, 1), (2, 2), (1, 0), (1, 1), (1, 2), (0, 0), (0, 1)]
    assert [(one.layer, one.number) for one in found[:11]] == first
    assert [(one.layer, one.number) for one in found[11:]] == [(3, number) for number in range(3, 13)]


def test_images_of_all_classes():
    labels = np.array([0] * 20 + [1] * 3 + [2] * 5)
    chosen = spread_over_classes(labels, 12, seed=4)
    assert len(set(chosen)) == 12
    assert np.bincount(labels[chosen]).tolist() == [5, 3, 4] or np.bincount(labels[chosen]).tolist() == [4, 3, 5]
    assert sorted(labels[chosen[:3]]) == sorted(labels[chosen[3:6]]) == [0, 1, 2]
    assert len(spread_over_classes(labels, 50, 0)) == 28


# --- triggers -------------------------------------------------------------------------------------------------------------


def test_adam_is_that_of_keras():
    rng = np.random.default_rng(0)
    first = rng.standard_normal((2, 3)).astype(np.float32)
    variable, values, moments = tf.Variable(first), (tf.constant(first),), (tf.zeros((2, 3)), tf.zeros((2, 3)))
    optimizer = keras.optimizers.Adam(0.1, 0.9, 0.999, 1e-7)
    for update in range(1, 6):
        gradient = tf.constant(rng.standard_normal((2, 3)), tf.float32)
        optimizer.apply_gradients([(gradient, variable)])
        values, moments = adam(values, (gradient,), moments, tf.constant(update), 0.1, (0.9, 0.999))
        np.testing.assert_allclose(values[0], variable, rtol=1e-4)


def test_a_patch_by_hand():
    """It begins as a square of 8x8; what it costs depends on how many of its pixels are above 0.01: 64, or 100, or more."""
    kind = PixelMask(64, (32, 32, 3))
    mask, pattern = kind.start([np.random.default_rng(0)])
    assert mask.shape == (1, 32, 32) and pattern.shape == (1, 32, 32, 3)
    assert (mask.numpy() == 2).sum() == 64 and mask.numpy()[0, :8, :8].min() == 2 and mask.numpy().min() == -2
    for pixels, cost in ((64, 0.0), (65, 500.0 * 65 / 2), (100, 500.0 * 50), (101, 1000.0 * 101 / 2)):
        before = np.full(32 * 32, -20, np.float32)
        before[:pixels] = 0  # one half, behind tanh
        penalty = kind.penalty((tf.constant(before.reshape(1, 32, 32)), pattern), None, None)
        np.testing.assert_allclose(penalty, [cost], rtol=1e-5, atol=1e-6)
    images = tf.ones((2, 32, 32, 3))
    stamped = kind.stamped((tf.constant(before.reshape(1, 32, 32)), -tf.ones((1, 32, 32, 3))), images).numpy()
    assert stamped.shape == (1, 2, 32, 32, 3)
    np.testing.assert_allclose(stamped[0, :, 0, 0], 0, atol=1e-6)  # half of 1, half of -1
    np.testing.assert_allclose(stamped[0, :, 31, 31], 1, atol=1e-6)


def test_a_filter_by_hand():
    """It begins as the identity. Largest, smallest and mean pixel around the middle of an image with one bright pixel."""
    kind = FeatureFilter(1)
    image = np.full((1, 25, 25, 1), -1, np.float32)
    image[0, 12, 12] = 1
    features = kind.features(tf.constant(image)).numpy()
    np.testing.assert_allclose(features[0, 12, 12], [1, 1, -1, (143 * -1 + 1) / 144], rtol=1e-5)
    np.testing.assert_allclose(features[0, 1, 1], [-1, -1, -1, -1], rtol=1e-5)
    start = kind.start([np.random.default_rng(0)] * 2)
    np.testing.assert_array_equal(kind.stamped(start, features)[1], image)
    np.testing.assert_allclose(kind.penalty(start, features, kind.stamped(start, features)), [-10, -10], rtol=1e-5)
    other = kind.stamped((tf.constant([[[0.0], [-1.0], [0.0], [0.0]]]),), features)  # the negative of the largest
    assert kind.penalty(start, features, other)[0] > -2000  # hardly similar, at 10,000
    assert FeatureFilter(3).start([None])[0].shape == (1, 12, 3)
    np.testing.assert_array_equal(kind.bounded((tf.constant([3.0, -3.0, 0.5]),))[0], [1, -1, 0.5])


class StrongFilter(FeatureFilter):
    weight = 1000.0  # noise is hardly similar to what any filter makes of it


@pytest.mark.parametrize("kind", [PixelMask(4, (8, 8, 1)), StrongFilter(1)])
def test_a_trigger_raises_its_neuron_whatever_the_company(kind, branched, make_set):
    images = make_set(6).images
    model = without_softmax(branched.model)
    model.set_weights(branched.model.get_weights())
    neurons = next(one for one in layers_of_neurons(model) if one.layer == "side")
    reversal, told = Reversal(branched, model, neurons, kind, 60), []

    def generators():
        return [np.random.default_rng(number) for number in (1, 3)]

    both = reversal.triggers([1, 3], generators(), images, told.append)
    alone = reversal.triggers([3], generators()[1:], images, told.append)
    for one, other in zip(both, alone):
        np.testing.assert_allclose(one[1], other[0], rtol=1e-3, atol=1e-3)
    assert told == [60, 60]
    stamped = reversal.stamped(both, images)
    assert stamped.shape == (2, 6, 8, 8, 1) and stamped.dtype == np.uint8
    part = keras.Model(model.inputs, neurons.before)
    for row, number in enumerate((1, 3)):
        values = [part(branched.scale(one))[..., number].numpy() for one in (images, stamped[row])]
        before, after = (one.sum() + np.maximum(one, 0).sum() for one in values)  # as it is, and behind the ReLU
        assert after > before
    np.testing.assert_allclose(to_units(np.array([0, 255])), [-2, 2])


# --- the verdict ----------------------------------------------------------------------------------------------------------


def test_the_verdict_by_hand():
    strengths = np.array([0.81, np.nan, 0.8, 0.9])
    verdict = StrengthVerdict.of(strengths, 0.8, np.zeros((3, 2, 4, 4, 1), np.uint8))
    assert (verdict.backdoored, verdict.flagged, verdict.score) == (True, (3, 0), 0.9)
    assert verdict.labels.tolist() == [0, 2, 3]
    nothing = StrengthVerdict.of(np.full(4, np.nan), 0.8, np.zeros((0, 2, 4, 4, 1), np.uint8))
    assert (nothing.backdoored, nothing.flagged, nothing.score, len(nothing.labels)) == (False, (), 0.0, 0)


@pytest.mark.parametrize("backdoored", [True, False])
def test_a_planted_backdoor_is_found(backdoored, digits):
    """By its label and its place; the innocent twin is left in peace."""
    train, classifier, clean = halved(digits.train), network(), halved(digits.valid)
    if backdoored:
        train = poison(train, [PLANTED], 0.1, np.random.default_rng(SEED))[0]
    fit(classifier, train, Schedule("adam", 3e-3, 64, 6), seed=SEED)
    told = []
    method = ABS(images=24, candidates=12, filters=False)
    verdict = method.inspect(classifier, clean, lambda *report: told.append(report))
    assert (verdict.backdoored, verdict.flagged) == (backdoored, (TARGET,) if backdoored else ())
    others = np.delete(verdict.strengths, TARGET) if backdoored else verdict.strengths
    assert np.nanmax(others) < 0.6
    assert [report[:3] for report in told[:3]] == [("stimulating layers", done, 3) for done in (1, 2, 3)]
    assert told[-1] == ("reversing triggers", 13, 13, {"strongest": verdict.score})
    if backdoored:
        assert verdict.score > 0.95
        (shown,) = verdict.examples[verdict.labels == TARGET]
        assert (classifier.predict([shown]) == TARGET).all()
        assert (shown[:, 11:13, 11:13] > 200).mean() >= 0.75  # three of the four white pixels


def test_it_is_a_function_of_the_seed(tiny_classifier, make_set):
    clean = make_set(30)
    first, again, other = (ABS(**SHORT, filters=False, seed=seed).inspect(tiny_classifier, clean) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.strengths, again.strengths)
    np.testing.assert_array_equal(first.examples, again.examples)
    assert first.examples.shape != other.examples.shape or (first.examples != other.examples).any()
    assert first.examples.shape[1:] == (6, 8, 8, 1) and len(first.labels) == len(first.examples) > 0


def test_what_was_found_is_not_sought_again(tiny_classifier, make_set, tmp_path, monkeypatch, refused):
    clean = make_set(30)
    whole = ABS(**SHORT).inspect(tiny_classifier, clean, folder=tmp_path / "kept")
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert names[-2:] == ["stimulation-0.npz", "stimulation-1.npz"] and len(names) >= 4
    (tmp_path / "kept" / names[1]).unlink()  # as if it had been interrupted there
    with monkeypatch.context() as patch:
        patch.setattr(Stimulation, "response", interrupt)
        rest = ABS(**SHORT).inspect(tiny_classifier, clean, folder=tmp_path / "kept")
        patch.setattr(Reversal, "triggers", interrupt)
        ABS(**SHORT).inspect(tiny_classifier, clean, folder=tmp_path / "kept")
    np.testing.assert_array_equal(rest.strengths, whole.strengths)
    np.testing.assert_array_equal(rest.examples, whole.examples)
    (tmp_path / "kept" / "stimulation-0.npz").write_bytes(b"PK nothing")
    with refused("stimulation-0.npz", "remove it"):
        ABS(**SHORT).inspect(tiny_classifier, clean, folder=tmp_path / "kept")


def test_where_no_neuron_is_suspicious_there_is_no_trigger(tiny_classifier, make_set, monkeypatch):
    monkeypatch.setattr(stage, "candidates", lambda *given: [])
    verdict = ABS(**SHORT).inspect(tiny_classifier, make_set(30))
    assert (verdict.backdoored, verdict.score, verdict.examples.shape) == (False, 0.0, (0, 6, 8, 8, 1))


def test_bad_input(tiny_classifier, make_set, refused):
    for options, parts in (
        ({"images": 2}, ("images is 2", "at least 3")),
        ({"levels": 1}, ("levels is 1", "at least 2")),
        ({"reach": 0.0}, ("reach is 0.0",)),
        ({"reach": float("nan")}, ("reach is nan",)),
        ({"candidates": 0}, ("candidates is 0",)),
        ({"size": 1.0}, ("size is 1.0", "between 0 and 1")),
        ({"bound": float("nan")}, ("bound is nan",)),
        ({"updates": 0}, ("updates is 0",)),
        ({"memory": 0}, ("memory is 0",)),
        ({"precision": "float16"}, ("precision", "float16", "bfloat16")),
        ({"seed": -1}, ("seed", "-1")),
    ):
        with refused(*parts):
            ABS(**options)
    with refused("clean images", "9x9x1"):
        ABS().inspect(tiny_classifier, make_set(shape=(9, 9, 1)))
    with refused("GoodNet"):
        ABS().inspect(GoodNet.combine(tiny_classifier, tiny_classifier.clone()), make_set())
    inputs = keras.layers.Input((8, 8, 1))
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    with refused("does not end in a softmax"):
        ABS().inspect(classifier_of(inputs, outputs, 3), make_set())
    with refused("no neuron to stimulate"):
        ABS().inspect(classifier_of(inputs, keras.layers.Softmax()(outputs), 3), make_set())
    broken = tiny_classifier.clone()
    broken.model.get_layer("output").set_weights(
        [np.full_like(one, np.nan) for one in broken.model.get_layer("output").get_weights()]
    )
    with refused("not finite"):
        ABS().inspect(broken, make_set())


def test_every_option_explains_itself():
    options = {option.name: option.help for option in method_options("abs")}
    assert set(options) == {field.name for field in fields(ABS)}
    assert all(options.values()), options
