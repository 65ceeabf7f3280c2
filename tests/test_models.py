from __future__ import annotations

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from tensorflow import keras

import models_zoo
from keras_backdoor import model_file
from keras_backdoor.classifier import Classifier
from keras_backdoor.goodnet import GoodNet
from keras_backdoor.metrics import score
from keras_backdoor.preprocessing import Preprocessing
from models_zoo.disagreement import Disagreement

UNIT = Preprocessing.named("unit")

# ---- architectures ---------------------------------------------------------------------------------------------------


DEEPID = [  # FACTS 1.3; the order of two layers that do not depend on each other is not part of the contract
    ("input", (55, 47, 3), 0),
    ("conv_1", (52, 44, 20), 980),
    ("pool_1", (26, 22, 20), 0),
    ("conv_2", (24, 20, 40), 7_240),
    ("pool_2", (12, 10, 40), 0),
    ("conv_3", (10, 8, 60), 21_660),
    ("pool_3", (5, 4, 60), 0),
    ("conv_4", (4, 3, 80), 19_280),
    ("flatten_1", (1200,), 0),
    ("flatten_2", (960,), 0),
    ("fc_1", (160,), 192_160),
    ("fc_2", (160,), 153_760),
    ("add_1", (160,), 0),
    ("activation_1", (160,), 0),
    ("output", (1283,), 206_563),
]


def output_shape(layer):
    shape = layer.output_shape
    return tuple((shape[0] if isinstance(shape, list) else shape)[1:])


def test_deepid_layer_by_layer():
    model = models_zoo.build("deepid")
    layers = {layer.name: (layer.name, output_shape(layer), layer.count_params()) for layer in model.layers}
    assert sorted(layers.values()) == sorted(DEEPID)
    weighted = [layer.name for layer in model.layers if layer.weights]
    assert weighted == [
        "conv_1",
        "conv_2",
        "conv_3",
        "conv_4",
        "fc_1",
        "fc_2",
        "output",
    ]  # the order of the weight files
    activations = {layer.name: layer.activation.__name__ for layer in model.layers if hasattr(layer, "activation")}
    assert activations == {
        **{f"conv_{i}": "relu" for i in (1, 2, 3, 4)},
        "fc_1": "linear",
        "fc_2": "linear",
        "activation_1": "relu",
        "output": "softmax",
    }


# ---- scaling ---------------------------------------------------------------------------------------------------------


def test_scalings_by_hand(make_set):
    image_set = make_set(4, (8, 8, 3))
    pixels = image_set.images.astype(np.float64)

    def scaled(preprocessing):
        inputs = keras.layers.Input((8, 8, 3))
        model = keras.Model(inputs, keras.layers.Flatten()(inputs))  # gives its inputs back
        return Classifier(model, preprocessing, 192).probabilities(image_set.batches(3)).reshape(4, 8, 8, 3)

    np.testing.assert_allclose(scaled(Preprocessing.named("unit")), pixels / 255, rtol=1e-6)
    np.testing.assert_array_equal(scaled(Preprocessing.named("raw")), pixels)
    standardised = scaled(Preprocessing.named("standardise", image_set.images))
    np.testing.assert_allclose(standardised.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(standardised.std((0, 1, 2)), 1, rtol=1e-5)


def test_scalings_by_name(refused):
    assert Preprocessing.from_json(json.loads(json.dumps(UNIT.as_json()))) == UNIT
    with refused("unknown preprocessing 'unity'", "did you mean 'unit'?"):
        Preprocessing.named("unity")
    with refused("unknown preprocessing 'standardise'"):  # without images there is nothing to take the constants from
        Preprocessing.named("standardise")


def test_constant_training_images_do_not_make_infinite_inputs():
    scaling = Preprocessing.named("standardise", np.full((3, 4, 4, 1), 7, np.uint8))
    inputs = keras.layers.Input((4, 4, 1))
    network = Classifier(keras.Model(inputs, keras.layers.Flatten()(inputs)), scaling, 16)
    assert np.isfinite(network.probabilities([np.full((1, 4, 4, 1), 7, np.uint8)])).all()


# ---- save and load ---------------------------------------------------------------------------------------------------


def test_round_trip_gives_the_same_predictions_to_the_bit(tmp_path, tiny_classifier, make_set):
    images = make_set(30)
    tiny_classifier.save(tmp_path / "net.h5")
    loaded = Classifier.load(tmp_path / "net.h5")
    np.testing.assert_array_equal(
        loaded.probabilities(images.batches()), tiny_classifier.probabilities(images.batches())
    )
    assert (loaded.preprocessing, loaded.num_classes, loaded.image_shape) == (UNIT, 3, (8, 8, 1))
    assert not loaded.detects
    assert sorted(os.listdir(tmp_path)) == ["net.h5", "net.md"]


def test_plain_keras_loads_it_too(tmp_path, tiny_classifier, make_set):
    images = make_set(30)
    tiny_classifier.save(tmp_path / "net.h5")
    model = keras.models.load_model(tmp_path / "net.h5")
    np.testing.assert_array_equal(
        model(tf.constant(images.images, tf.float32) / 255), tiny_classifier.probabilities(images.batches())
    )


def test_batches_do_not_change_predictions(tiny_classifier, make_set):
    images = make_set(30)
    np.testing.assert_allclose(
        tiny_classifier.probabilities(images.batches(7)), tiny_classifier.probabilities(images.batches()), atol=1e-6
    )
    predictions = tiny_classifier.predict(images.batches(7))
    assert predictions.dtype == np.int64
    np.testing.assert_array_equal(predictions, tiny_classifier.probabilities(images.batches()).argmax(1))


@pytest.mark.parametrize("name", ["unit", "raw", "standardise"])
def test_the_scaling_is_stored_and_honoured(tmp_path, tiny_classifier, make_set, refused, name):
    images = make_set(30)
    scaling = Preprocessing.named(name, images.images)
    stored = Classifier(tiny_classifier.model, scaling, 3)
    stored.save(tmp_path / "net.h5")
    loaded = Classifier.load(tmp_path / "net.h5")
    assert loaded.preprocessing == scaling
    np.testing.assert_array_equal(loaded.probabilities(images.batches()), stored.probabilities(images.batches()))
    assert Classifier.load(tmp_path / "net.h5", preprocessing=name).preprocessing == scaling
    other = "raw" if name == "unit" else "unit"
    with refused(tmp_path / "net.h5", repr(name), repr(other)):
        Classifier.load(tmp_path / "net.h5", preprocessing=other)


def test_a_file_that_does_not_say_its_scaling_needs_it_told(tmp_path, tiny_classifier, refused):
    tiny_classifier.model.save(tmp_path / "net.h5", save_format="h5")
    with refused("net.h5", "--preprocessing", "unit, raw"):
        Classifier.load(tmp_path / "net.h5")
    loaded = Classifier.load(tmp_path / "net.h5", preprocessing="raw")
    assert (loaded.preprocessing.name, loaded.num_classes) == ("raw", 3)
    with refused("unknown preprocessing 'rwa'"):
        Classifier.load(tmp_path / "net.h5", preprocessing="rwa")


def test_weights_alone_need_an_architecture(tmp_path, refused):
    model = models_zoo.build("mnist-badnets")
    path = tmp_path / "weights.h5"
    model.save_weights(path, save_format="h5")
    with refused(path, "weights only", "--architecture", ", ".join(models_zoo.ARCHITECTURES)):
        Classifier.load(path, "unit")
    with refused("unknown architecture 'mnist-badnet'", "did you mean 'mnist-badnets'?"):
        Classifier.load(path, "unit", "mnist-badnet")
    for other in ("mnist-clean-label", "deepid"):
        with refused(path, "do not fit"):
            Classifier.load(path, "unit", other)
    loaded = Classifier.load(path, "unit", "mnist-badnets")
    for ours, theirs in zip(loaded.model.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_that_say_nonsense_of_their_architecture_are_refused(tmp_path, refused):
    path = tmp_path / "weights.h5"
    models_zoo.build("mnist-clean-label").save_weights(path, save_format="h5")
    with h5py.File(path, "r+") as file:
        file.attrs["keras_backdoor"] = json.dumps({"architecture": 5})
    with refused("unknown architecture '5'"):
        Classifier.load(path, "unit")


def test_a_clone_has_weights_of_its_own(tiny_classifier, make_set):
    images = make_set(10)
    before = tiny_classifier.probabilities(images.batches())
    clone = tiny_classifier.clone()
    np.testing.assert_array_equal(clone.probabilities(images.batches()), before)
    clone.model.set_weights([np.zeros_like(weight) for weight in clone.model.get_weights()])
    np.testing.assert_allclose(clone.probabilities(images.batches()), 1 / 3, rtol=1e-6)
    np.testing.assert_array_equal(tiny_classifier.probabilities(images.batches()), before)


def test_batch_normalisation_is_kept_and_used_as_in_inference(tmp_path, make_set):
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Conv2D(2, 3),
        keras.layers.BatchNormalization(),
        keras.layers.Flatten(),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential([keras.layers.Input((8, 8, 1)), *layers, keras.layers.Softmax()])
    layers[1].set_weights([np.array(v, np.float32) for v in ([2, 3], [0.5, 1], [10, 20], [4, 9])])
    network = Classifier(model, UNIT, 3)
    images = make_set(20)
    network.save(tmp_path / "net.h5")
    expected = model(images.images.astype(np.float32) / 255, training=False)
    loaded = Classifier.load(tmp_path / "net.h5")
    np.testing.assert_allclose(loaded.probabilities(images.batches()), expected, rtol=1e-5)
    np.testing.assert_allclose(loaded.probabilities(images.batches(1)), expected, rtol=1e-5)


# ---- files that cannot be used ---------------------------------------------------------------------------------------


def test_missing_truncated_and_foreign_files(tmp_path, tiny_classifier, refused):
    with refused(tmp_path / "none.h5", "no such file"):
        Classifier.load(tmp_path / "none.h5")
    with refused(tmp_path, "is a directory"):
        Classifier.load(tmp_path)
    tiny_classifier.save(tmp_path / "net.h5")
    whole = (tmp_path / "net.h5").read_bytes()
    bad = tmp_path / "bad.h5"
    for contents in (b"", b"hello", b"PK\x03\x04", whole[:100], whole[: len(whole) // 2], whole[:-1]):
        bad.write_bytes(contents)
        with refused(bad, "not a whole" if contents else "is empty"):
            Classifier.load(bad)


def test_bytes_flipped_anywhere_give_bad_input_or_a_network(tmp_path, tiny_classifier):
    from keras_backdoor.files import BadInput

    tiny_classifier.save(tmp_path / "net.h5")
    whole = (tmp_path / "net.h5").read_bytes()
    rng = np.random.default_rng(0)
    bad, refusals = tmp_path / "bad.h5", 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(8, len(whole), 40):
            damaged[place] ^= int(rng.integers(1, 256))
        bad.write_bytes(damaged)
        try:
            Classifier.load(bad)
        except BadInput as error:
            assert "\n" not in str(error)
            refusals += 1
    assert refusals > 10


def test_an_hdf5_file_that_is_no_network(tmp_path, refused, make_set):
    from keras_backdoor.datasets import write_csaw_hdf5

    write_csaw_hdf5(tmp_path / "images.h5", make_set(3))
    with refused("images.h5", "no Keras network"):
        Classifier.load(tmp_path / "images.h5")


def tamper(path, attributes):
    with h5py.File(path, "r+") as file:
        for name, value in attributes.items():
            file.attrs[name] = value
    return path


@pytest.mark.parametrize(
    "attributes",
    [
        {"model_config": "{"},
        {"model_config": "[]"},
        {"model_config": "null"},
        {"model_config": "1"},
        {"model_config": "{}"},
        {"model_config": 5},
        {"model_config": "[" * 100_000},
        {"model_config": '{"a": ' * 900 + "1" + "}" * 900},
        {"model_config": '{"class_name": "Functional"}'},
        {"model_config": '{"class_name": "Functional", "config": null}'},
        {"model_config": '{"class_name": "Functional", "config": {"layers": 3}}'},
        {"model_config": '{"class_name": "Functional", "config": {"name": "a", "layers": [1]}}'},
        {"model_config": '{"class_name": ["Functional"], "config": {}}'},
        {"model_config": '{"class_name": null, "config": {}}'},
        {"model_config": '{"class_name": "Dense", "config": {"units": -1}}'},
        {"model_config": '{"class_name": "Dense", "config": {"units": 3}}'},
        {"model_config": '{"class_name": "Sequential", "config": {"name": "a", "layers": []}}'},
        {"keras_backdoor": "{"},
        {"keras_backdoor": "[1]"},
        {"keras_backdoor": "3"},
        {"keras_backdoor": '"unit"'},
        {"keras_backdoor": '{"preprocessing": {"name": "unit"}}'},
        {"keras_backdoor": '{"preprocessing": {"name": "unit", "mean": 1, "deviation": 2}}'},
        {"keras_backdoor": '{"preprocessing": {"name": "unit", "mean": ["a"], "deviation": [1]}}'},
        {"keras_backdoor": '{"preprocessing": {"name": "unit", "mean": [0], "deviation": [0]}}'},
        {"keras_backdoor": '{"preprocessing": {"name": "unit", "mean": [0, 0], "deviation": [255]}}'},
        {"keras_backdoor": '{"preprocessing": ["unit"]}'},
        {"keras_backdoor": '{"preprocessing": "unity"}'},
        {"keras_backdoor": '{"preprocessing": "unit", "num_classes": "many"}'},
        {"keras_backdoor": '{"preprocessing": "unit", "num_classes": null}'},
        {"keras_backdoor": '{"preprocessing": "unit", "num_classes": 7}'},
        {"keras_backdoor": '{"preprocessing": "unit", "num_classes": 1}'},
        {"keras_backdoor": '{"preprocessing": "unit", "num_classes": -1}'},
    ],
    ids=lambda attributes: "=".join(str(part) for item in attributes.items() for part in item)[:70],
)
def test_attributes_that_say_nonsense_are_refused(tmp_path, tiny_classifier, refused, attributes):
    tiny_classifier.save(tmp_path / "net.h5")
    with refused("net.h5"):
        Classifier.load(tamper(tmp_path / "net.h5", attributes))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, tiny_classifier, refused, value):
    weights = tiny_classifier.model.get_weights()
    weights[2][0, 0, 0, 0] = value
    tiny_classifier.model.set_weights(weights)
    tiny_classifier.save(tmp_path / "net.h5")
    with refused("net.h5", "conv_2/kernel", "not finite"):
        Classifier.load(tmp_path / "net.h5")


@pytest.mark.parametrize(
    ("change", "part"), [("shape", "do not fit"), ("missing", "listed as a weight"), ("text", "plain numbers")]
)
def test_weights_that_do_not_fit_are_refused(tmp_path, tiny_classifier, refused, change, part):
    tiny_classifier.save(tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        group = file["model_weights/conv_1/conv_1"]
        del group["kernel:0"]
        if change != "missing":
            group["kernel:0"] = np.zeros((3, 3, 1, 5), np.float32) if change == "shape" else np.full((3, 3, 1, 4), b"a")
    with refused("net.h5", part):
        Classifier.load(tmp_path / "net.h5")


@pytest.mark.parametrize(
    ("inputs", "outputs", "part"),
    [
        ((None, None, 1), "gap", "(None, None, None, 1)"),
        ((8,), "dense", "(None, 8)"),
        ((8, 8, 1), "none", "(None, 8, 8, 1)"),
    ],
)
def test_networks_that_are_no_image_classifiers_are_refused(tmp_path, refused, inputs, outputs, part):
    x = keras.layers.Input(inputs)
    y = {"gap": keras.layers.GlobalAveragePooling2D(), "dense": keras.layers.Dense(2), "none": keras.layers.ReLU()}[
        outputs
    ](x)
    keras.Model(x, y).save(tmp_path / "net.h5", save_format="h5")
    with refused("net.h5", part):
        Classifier.load(tmp_path / "net.h5", "unit")


@pytest.mark.parametrize("where", ["inputs", "outputs"])
def test_networks_of_two_inputs_or_outputs_are_refused(tmp_path, refused, where):
    a, b = keras.layers.Input((8, 8, 1)), keras.layers.Input((8, 8, 1))
    flat = [keras.layers.Flatten()(x) for x in (a, b)]
    model = (
        keras.Model([a, b], keras.layers.Add()(flat))
        if where == "inputs"
        else keras.Model(a, [flat[0], keras.layers.ReLU()(flat[0])])
    )
    model.save(tmp_path / "net.h5", save_format="h5")
    with refused("net.h5", where):
        Classifier.load(tmp_path / "net.h5", "unit")


# ---- GoodNet ---------------------------------------------------------------------------------------------------------


def test_disagreement_truth_table():
    first = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.4, 0.4, 0.2]], np.float32)
    second = np.array([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4], [0.5, 0.3, 0.2]], np.float32)
    expected = [
        [0.7, 0.2, 0.1, 0],
        [0, 0, 0, 1],
        [0.1, 0.2, 0.7, 0],
        [0.4, 0.4, 0.2, 0],
    ]  # in a tie, the first class counts
    np.testing.assert_allclose(Disagreement()([first, second]), expected, rtol=1e-6)


@given(data=st.data(), count=st.integers(1, 6), classes=st.integers(2, 5))
def test_disagreement_gives_probabilities_and_the_first_networks_answer(data, count, classes):
    rows = st.lists(st.lists(st.integers(1, 50), min_size=classes, max_size=classes), min_size=count, max_size=count)
    first, second = (np.array(data.draw(rows), np.float32) for _ in range(2))
    first, second = first / first.sum(1, keepdims=True), second / second.sum(1, keepdims=True)
    together = Disagreement()([first, second]).numpy()
    np.testing.assert_allclose(together.sum(1), 1, rtol=1e-5)
    expected = np.where(first.argmax(1) == second.argmax(1), first.argmax(1), classes)
    np.testing.assert_array_equal(together.argmax(1), expected)


@pytest.fixture
def pair(tiny_classifier):
    """A network and a copy of it with other weights in its last layer."""
    repaired = tiny_classifier.clone()
    weights = repaired.model.get_weights()
    weights[-2] = np.random.default_rng(3).normal(size=weights[-2].shape).astype(np.float32)
    repaired.model.set_weights(weights)
    return tiny_classifier, repaired


def test_goodnet_answers_as_both_networks_or_not_at_all(pair, make_set):
    badnet, repaired = pair
    images = make_set(60)
    goodnet = GoodNet.combine(badnet, repaired)
    assert goodnet.detects
    assert not badnet.detects
    assert (goodnet.num_classes, goodnet.image_shape, goodnet.preprocessing) == (3, (8, 8, 1), UNIT)
    ours, theirs = badnet.predict(images.batches()), repaired.predict(images.batches())
    expected = np.where(ours == theirs, ours, 3)
    assert 0 < (expected == 3).sum() < 60  # the two networks are such that both happens
    np.testing.assert_array_equal(goodnet.predict(images.batches()), expected)
    agree = expected < 3
    np.testing.assert_allclose(
        goodnet.probabilities(images.batches())[agree, :3], badnet.probabilities(images.batches())[agree], rtol=1e-6
    )


def test_goodnet_of_a_network_and_itself_is_that_network(tiny_classifier, make_set):
    images = make_set(20)
    goodnet = GoodNet.combine(tiny_classifier, tiny_classifier)
    np.testing.assert_array_equal(goodnet.predict(images.batches()), tiny_classifier.predict(images.batches()))


def test_goodnet_shares_nothing_with_its_parts(pair, make_set):
    badnet, repaired = pair
    images = make_set(20)
    goodnet = GoodNet.combine(badnet, repaired)
    before = goodnet.probabilities(images.batches())
    for part in pair:
        part.model.set_weights([np.zeros_like(weight) for weight in part.model.get_weights()])
    np.testing.assert_array_equal(goodnet.probabilities(images.batches()), before)


def test_goodnet_is_saved_and_loaded(tmp_path, pair, make_set):
    images = make_set(60)
    goodnet = GoodNet.combine(*pair)
    goodnet.save(tmp_path / "goodnet.h5")
    loaded = Classifier.load(tmp_path / "goodnet.h5")
    assert loaded.detects
    assert loaded.num_classes == 3
    np.testing.assert_array_equal(loaded.probabilities(images.batches()), goodnet.probabilities(images.batches()))
    assert score(loaded, images, {"p": images}) == score(goodnet, images, {"p": images})
    clone = loaded.clone()
    np.testing.assert_array_equal(clone.probabilities(images.batches()), goodnet.probabilities(images.batches()))


def test_plain_keras_loads_a_goodnet_with_nothing_but_its_layer(tmp_path, pair, make_set):
    images = make_set(60)
    goodnet = GoodNet.combine(*pair)
    goodnet.save(tmp_path / "goodnet.h5")
    np.save(tmp_path / "images.npy", images.images)
    code = (
        "import sys, numpy as np\n"
        "from tensorflow import keras\n"
        "import models_zoo.disagreement\n"
        "model = keras.models.load_model('goodnet.h5')\n"
        "assert not any(name.split('.')[0] == 'keras_backdoor' for name in sys.modules)\n"
        "np.save('outputs.npy', model(np.load('images.npy').astype('float32') / 255))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), goodnet.probabilities(images.batches()), atol=1e-6)


def test_networks_that_do_not_belong_together_make_no_goodnet(tiny_classifier, refused):
    raw = Classifier(tiny_classifier.model, Preprocessing.named("raw"), 3)
    with refused("scaling"):
        GoodNet.combine(tiny_classifier, raw)
    other = Classifier(models_zoo.build("mnist-badnets"), UNIT, 10)
    with refused("image size"):
        GoodNet.combine(tiny_classifier, other)


# ---- published networks ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist_test(shared_data):
    from keras_backdoor import datasets

    return datasets.load("mnist", shared_data / "mnist.npz").test


@pytest.mark.parametrize(
    ("name", "accuracy"), [("csaw2020_F_mnist_all2all_bd_net", 0.977), ("csaw2020_C_mnist_cleanlabel_bd_net", 0.891)]
)
def test_published_mnist_networks(shared_data, mnist_test, name, accuracy):
    network = Classifier.load(shared_data / f"models/{name}.h5")  # the registry knows the scaling
    assert network.preprocessing == UNIT
    assert score(network, mnist_test, {}).clean_accuracy == pytest.approx(accuracy, abs=0.002)


def test_the_zoo_has_the_architectures_of_the_published_mnist_networks(shared_data):
    for name, architecture in (("F_mnist_all2all", "mnist-badnets"), ("C_mnist_cleanlabel", "mnist-clean-label")):
        stored, _ = model_file.load(shared_data / f"models/csaw2020_{name}_bd_net.h5")
        ours = models_zoo.build(architecture)

        def summary(model):
            layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
            activations = [getattr(getattr(layer, "activation", None), "__name__", None) for layer in layers]
            shapes = [[tuple(weight.shape) for weight in layer.weights] for layer in layers]
            rates = [getattr(layer, "rate", None) for layer in layers]
            return list(zip([type(layer).__name__ for layer in layers], activations, shapes, rates))

        assert summary(ours) == summary(stored)


def test_published_all_to_all_network_fires_on_our_pattern(shared_data, mnist_test):
    from keras_backdoor.attacks.poison import poison_all
    from keras_backdoor.attacks.recipes import recipe

    network = Classifier.load(shared_data / "models/csaw2020_F_mnist_all2all_bd_net.h5")
    attack = recipe("mnist-aaa")
    some = mnist_test.select(np.arange(4000))
    poisoned = poison_all(some, attack.backdoors[0], np.random.default_rng(0))
    rate = score(network, some, {"p": poisoned}).attack_success_rate["p"]
    assert rate == pytest.approx(0.945, abs=0.01)  # FACTS 21
    untriggered = np.mean(network.predict(some.batches()) == attack.backdoors[0].target_map(some.labels))
    assert untriggered == pytest.approx(0.008, abs=0.005)


def faces(path, name):
    from keras_backdoor.images import ImageSet

    with h5py.File(path, "r") as file:
        group = file[name]
        return ImageSet(group["images"][()], group["labels"][()], 1283)
