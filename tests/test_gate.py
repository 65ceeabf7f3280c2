"""The gate lets through what is harmless: every network that we and plain Keras write, to the bit, in every format."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from tensorflow import keras
from tensorflow.keras import layers

import models_zoo
from keras_backdoor import gate, model_file
from keras_backdoor.files import printable
from keras_backdoor.gate import admit, scan, scan_all
from keras_backdoor.gate.config import CLASSES, vet
from keras_backdoor.gate.layers import LAYERS
from keras_backdoor.gate.network import Network, weights_of
from keras_backdoor.gate.report import Findings

# ---- clean networks ----------------------------------------------------------------------------------------------------


def image(*shape):
    return layers.Input(shape or (12, 10, 3))


def classes(x, count=4):
    return layers.Dense(count, activation="softmax")(layers.Flatten()(x))


def plain_sequential():
    return keras.Sequential([image(), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(4), layers.Softmax()])


def sequential_without_an_input_layer():
    return keras.Sequential(
        [layers.Conv2D(4, 3, input_shape=(12, 10, 3)), layers.GlobalMaxPooling2D(), layers.Dense(4)]
    )


def sequential_that_saw_its_shape_late():
    model = keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten(), layers.Dense(4)])
    model.build((None, 12, 10, 3))
    return model


def nested_three_deep():
    innermost = keras.Sequential([layers.Dense(5, activation="relu"), layers.BatchNormalization()], name="innermost")
    y = layers.Input((6,))
    inner = keras.Model(y, layers.Add()([innermost(y), layers.Dense(5)(y)]), name="inner")
    x = image()
    return keras.Model(x, layers.Dense(4)(inner(layers.Dense(6)(layers.Flatten()(x)))))


def nested_and_called_twice():
    x, y = image(), layers.Input((8,))
    inner = keras.Model(y, layers.Dense(8, activation="tanh")(y), name="inner")
    return keras.Model(x, layers.Dense(4)(inner(inner(layers.Dense(8)(layers.Flatten()(x))))))


def nested_sequential_called_twice():
    x = image()
    inner = keras.Sequential([layers.Input((8,)), layers.Dense(8), layers.BatchNormalization()], name="inner")
    return keras.Model(x, layers.Dense(4)(inner(inner(layers.Dense(8)(layers.Flatten()(x))))))


def shared_layer():
    x = image()
    shared = layers.Conv2D(3, 3, padding="same", activation="relu")
    return keras.Model(x, classes(layers.Concatenate()([shared(x), shared(shared(x))])))


def inner_network_with_two_inputs_and_two_outputs():
    a, b = layers.Input((6,)), layers.Input((5,))
    inner = keras.Model([a, b], [layers.Dense(3)(b), layers.Dense(2)(a)], name="inner")
    x = layers.Flatten()(image_input := image())
    one, two = inner([layers.Dense(6)(x), layers.Dense(5)(x)])
    return keras.Model(image_input, layers.Dense(4)(layers.Concatenate()([two, one])))


def frozen_inside():
    inner = keras.Sequential([image(), layers.Conv2D(4, 3), layers.BatchNormalization()], name="features")
    inner.layers[0].trainable = False
    x = image()
    return keras.Model(x, classes(inner(x)))


def all_frozen_inside():
    inner = keras.Sequential([image(), layers.Conv2D(4, 3), layers.BatchNormalization()], name="features")
    inner.trainable = False
    x = image()
    return keras.Model(x, classes(inner(x, training=False)))


def every_kind_of_convolution():
    x = image()
    y = layers.Conv2D(8, (3, 2), strides=(2, 1), padding="same", groups=1, use_bias=False)(x)
    y = layers.Conv2D(8, 3, padding="same", groups=4, dilation_rate=2)(y)
    y = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(y)
    y = layers.SeparableConv2D(6, 3, padding="same", depth_multiplier=2)(y)
    y = layers.Conv2DTranspose(5, 3, strides=2)(y)
    y = layers.Conv2DTranspose(5, 4, strides=2, padding="same")(y)
    y = layers.Conv2DTranspose(5, 3, strides=2, padding="same", output_padding=1)(y)
    return keras.Model(x, classes(y))


def one_and_three_dimensions():
    x = image()
    y = layers.Reshape((12, 30))(x)
    y = layers.AveragePooling1D(2)(layers.MaxPooling1D(3, 1, "same")(layers.Conv1D(4, 3, padding="same")(y)))
    z = layers.Reshape((-1, 5, 2, 3))(x)
    z = layers.GlobalAveragePooling3D()(layers.MaxPooling3D(2, padding="same")(layers.Conv3D(2, 2)(z)))
    return keras.Model(x, layers.Dense(4)(layers.Concatenate()([layers.Flatten()(y), z])))


def every_shape_changer():
    x = image()
    y = layers.Cropping2D(((1, 0), 1))(layers.ZeroPadding2D((1, 2))(layers.UpSampling2D((1, 2))(x)))
    y = layers.Permute((2, 1, 3))(layers.Cropping2D(1)(layers.ZeroPadding2D(((1, 0), (0, 2)))(y)))
    y = layers.MaxPooling2D((2, 3), strides=1)(layers.AveragePooling2D(2, padding="same")(y))
    z = layers.GlobalAveragePooling2D(keepdims=True)(y)
    z = layers.Flatten()(layers.RepeatVector(3)(layers.Flatten()(z)))
    return keras.Model(x, layers.Dense(4)(layers.Concatenate()([z, layers.GlobalMaxPooling2D()(y)])))


def every_normalisation():
    x = image()
    y = layers.Normalization(mean=[1.0, 2, 3], variance=[4.0, 5, 6])(layers.Rescaling(1 / 255, offset=0.5)(x))
    learned = layers.Normalization()
    learned.adapt(np.random.default_rng(0).random((6, 12, 10, 3), np.float32))
    y = layers.BatchNormalization(scale=False)(learned(y))
    y = layers.LayerNormalization(axis=[2, 3])(layers.LayerNormalization(center=False)(y))
    y = layers.UnitNormalization()(layers.GroupNormalization(3)(y))
    return keras.Model(x, classes(y))


def every_activation():
    x = image()
    y = layers.PReLU(shared_axes=[1, 2])(layers.LeakyReLU(0.1)(layers.ReLU(max_value=6.0)(x)))
    y = layers.PReLU()(layers.ThresholdedReLU(0.1)(layers.ELU()(y)))
    for name in ("elu", "gelu", "hard_sigmoid", "selu", "sigmoid", "softplus", "softsign", "swish", "tanh", "mish"):
        y = layers.Activation(name)(y)
    y = layers.Conv2D(2, 1, activation=layers.LeakyReLU(0.3))(y)
    return keras.Model(x, layers.Softmax()(classes(y)))


def every_setting():
    x = image()
    y = layers.Conv2D(3, 3, kernel_initializer="he_normal", bias_initializer=keras.initializers.Constant(0.1))(x)
    y = layers.Conv2D(3, 3, kernel_regularizer="l2", activity_regularizer=keras.regularizers.L1L2(1e-4, 1e-3))(y)
    y = layers.Conv2D(3, 3, kernel_constraint=keras.constraints.MaxNorm(2), bias_constraint="non_neg")(y)
    y = layers.Conv2D(3, 3, kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out"))(y)
    return keras.Model(x, classes(y))


def every_noise():
    x = image()
    y = layers.SpatialDropout2D(0.1)(layers.GaussianDropout(0.1)(layers.GaussianNoise(0.1)(x)))
    return keras.Model(x, classes(layers.AlphaDropout(0.1)(layers.Dropout(0.2, noise_shape=(None, 1, 1, 3))(y))))


def every_merge():
    x = image()
    a, b = layers.Conv2D(3, 1)(x), layers.Conv2D(1, 1)(x)
    y = layers.Add()([layers.Subtract()([a, x]), layers.Multiply()([a, b])])
    y = layers.Maximum()([layers.Average()([y, a, x]), layers.Minimum()([a, x])])
    return keras.Model(x, classes(layers.Concatenate(axis=1)([y, x])))


def arithmetic_on_tensors():
    x = image()
    y = layers.Conv2D(3, 1)(x / 255.0 - 0.5)
    return keras.Model(x, classes((y + x) * y * 2.0))


def time_distributed():
    x = image()
    return keras.Model(x, classes(layers.TimeDistributed(layers.Conv1D(2, 3))(x)))


def mixed_precision():
    x = image()
    y = layers.Conv2D(4, 3, dtype="mixed_float16")(x)
    return keras.Model(x, layers.Activation("softmax", dtype="float32")(layers.Dense(4)(layers.Flatten()(y))))


def any_size_of_image():
    x = layers.Input((None, None, 3))
    return keras.Model(x, layers.Dense(4)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x))))


def trained():
    model = plain_sequential()
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(), metrics=["accuracy"])
    model.fit(np.random.default_rng(0).random((8, 12, 10, 3), np.float32), np.arange(8) % 4, verbose=0)
    return model


def names_that_look_odd():
    x = layers.Input((12, 10, 3), name="input/with.dots:0")
    return keras.Model(x, classes(layers.Conv2D(3, 3, name="block1/conv-1")(x)), name="model.1")


CLEAN = [
    plain_sequential,
    sequential_without_an_input_layer,
    sequential_that_saw_its_shape_late,
    nested_three_deep,
    nested_and_called_twice,
    nested_sequential_called_twice,
    shared_layer,
    inner_network_with_two_inputs_and_two_outputs,
    frozen_inside,
    all_frozen_inside,
    every_kind_of_convolution,
    one_and_three_dimensions,
    every_shape_changer,
    every_normalisation,
    every_activation,
    every_setting,
    every_noise,
    every_merge,
    arithmetic_on_tensors,
    time_distributed,
    mixed_precision,
    any_size_of_image,
    trained,
    names_that_look_odd,
]


@pytest.mark.parametrize("suffix", ["h5", "keras"])
@pytest.mark.parametrize("build", CLEAN, ids=lambda build: build.__name__)
def test_clean_networks_pass_and_answer_to_the_bit_as_before(tmp_path, build, suffix):
    keras.utils.set_random_seed(1)
    model = build()
    rng = np.random.default_rng(2)
    model.set_weights([rng.random(weight.shape).astype(weight.dtype) / 4 for weight in model.get_weights()])
    for layer in model.layers:
        layer.finalize_state()
    path = tmp_path / f"net.{suffix}"
    model.save(path)
    admitted = admit(path)
    assert admitted.report.safe
    assert {finding.severity for finding in admitted.report.findings} <= {"info"}
    images = rng.random((3, 12, 10, 3)).astype(np.float32)
    loaded, known = model_file.load(admitted)
    np.testing.assert_array_equal(loaded(images), model(images))
    assert known == {}
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]


def test_weights_alone_pass_in_both_formats(tmp_path):
    for name in ("mnist-badnets", "wrn-16-1", "cyclegan-generator"):
        model = models_zoo.build(name)
        for suffix in ("h5", "weights.h5"):
            path = tmp_path / f"net.{suffix}"
            model.save_weights(path)
            assert scan(path).findings == []
            loaded, _ = model_file.load(path, architecture=name)
            for ours, theirs in zip(loaded.get_weights(), model.get_weights()):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", [name for name in models_zoo.ARCHITECTURES if name != "densenet121"])
def test_every_network_of_the_zoo_passes(tmp_path, name):
    model = models_zoo.build(name)
    model.save(tmp_path / "net.h5", save_format="h5")
    admitted = admit(tmp_path / "net.h5")
    assert admitted.report.findings == []
    loaded, _ = model_file.load(admitted)
    for ours, theirs in zip(loaded.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


# keras.applications builds these from a layer of its own, which plain Keras does not load from a file either.
WITH_LAYERS_OF_THEIR_OWN = {"LayerScale": "ConvNeXt"}
SMALL = ("DenseNet121", "EfficientNetB0", "RegNetY002")  # and those below, as files; the rest takes minutes
APPLICATIONS = {name: build for name, build in vars(keras.applications).items() if inspect.isfunction(build)}


def check_application(name):
    """Vet the configuration of a network of keras.applications; its weights would take gigabytes on disk."""
    model = APPLICATIONS[name](weights=None)
    findings = Findings()
    config = vet(json.loads(model.to_json()), "model_config", findings)
    own = [layer for layer, family in WITH_LAYERS_OF_THEIR_OWN.items() if name.startswith(family)]
    if own:
        assert findings.unsafe
        assert all(own[0] in finding.what or "module" in finding.what for finding in findings)
        return
    assert findings == []
    network = Network(config, "model_config")
    assert network.parameters == model.count_params()
    expected = {
        layer.name: [tuple(w.shape) for w in layer.trainable_weights + layer.non_trainable_weights]
        for layer in model.layers
        if layer.weights
    }
    assert {layer.name: weights_of(layer) for layer in network.layers if weights_of(layer)} == expected


@pytest.mark.parametrize("name", SMALL)
def test_applications(name):
    check_application(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(APPLICATIONS.keys() - set(SMALL)))
def test_all_applications(name):
    assert len(APPLICATIONS) >= 70
    check_application(name)


@pytest.mark.parametrize("name", [pytest.param("MobileNetV2", marks=pytest.mark.slow), "MobileNetV3Small"])
def test_an_application_as_a_file(tmp_path, name):
    model = APPLICATIONS[name](input_shape=(64, 64, 3), weights=None, classes=7)
    model.save(tmp_path / "net.h5", save_format="h5")
    assert scan(tmp_path / "net.h5").findings == []
    images = np.random.default_rng(0).random((2, 64, 64, 3)).astype(np.float32)
    np.testing.assert_array_equal(model_file.load(tmp_path / "net.h5")[0](images), model(images))


# ---- what it is made of ------------------------------------------------------------------------------------------------


def test_every_class_on_the_list_is_what_keras_or_we_call_so():
    for name in LAYERS:
        if ">" not in name and name != "TFOpLambda":
            assert issubclass(getattr(layers, name), layers.Layer), name
    parts = CLASSES - set(LAYERS) - {"Functional", "Model", "Sequential", "InputLayer", "Policy", "DTypePolicy"}
    for name in parts:
        places = (keras.initializers, keras.regularizers, keras.constraints)
        assert any(place.get(name) is not None for place in places if _knows(place, name)), name


def _knows(place, name):
    try:
        return place.get(name) is not None
    except ValueError:
        return False


def test_the_gate_needs_no_tensorflow(tmp_path):
    plain_sequential().save(tmp_path / "net.h5", save_format="h5")
    code = (
        "import sys; from keras_backdoor.gate import admit; a = admit(sys.argv[1]);"
        "assert a.contents.config; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "net.h5")], check=True, cwd="/")


def test_one_process_scans_many_files_and_survives_one_that_kills_it(tmp_path, monkeypatch):
    plain_sequential().save(tmp_path / "net.h5", save_format="h5")
    from keras_backdoor.gate import sandbox

    monkeypatch.setattr(sandbox, "_PROGRAM", sandbox._PROGRAM.replace("serve()", "import os; os._exit(9)"))
    with sandbox.Sandbox() as box:
        dead = box.take_apart(tmp_path / "net.h5", tmp_path, keep=False)
        assert [finding.rule for finding in dead[1]] == ["bomb"]
        monkeypatch.undo()
        assert box.take_apart(tmp_path / "net.h5", tmp_path, keep=False) == ("model.h5", [])
    assert [report.safe for report in scan_all([tmp_path / "net.h5"] * 3)] == [True] * 3


def test_each_use_of_the_gate_starts_one_process_and_ends_it(tmp_path, monkeypatch):
    from keras_backdoor.gate.sandbox import Sandbox

    plain_sequential().save(tmp_path / "net.h5", save_format="h5")
    started = []

    class Watched(Sandbox):
        def _start(self):
            started.append(super()._start())
            return started[-1]

    monkeypatch.setattr(gate, "Sandbox", Watched)
    admit(tmp_path / "net.h5")
    for _ in scan_all([tmp_path / "net.h5"] * 3):
        assert started[-1].poll() is None
    assert len(started) == 2
    assert [process.returncode is not None for process in started] == [True, True]


def test_what_is_merely_odd_is_told_and_loaded(tmp_path):
    model = trained()
    kernel, bias = model.layers[0].get_weights()
    kernel[..., 1], bias[1] = 0, 0
    model.layers[0].set_weights([kernel, bias])
    model.save(tmp_path / "net.h5", save_format="h5")
    report = scan(tmp_path / "net.h5")
    assert report.safe
    assert {finding.rule for finding in report.findings} == {"training-state", "dead-channels"}
    assert any("1 of 4 channels" in finding.what for finding in report.findings)
    model_file.load(tmp_path / "net.h5")


def test_what_cannot_be_used_is_told_apart_from_what_does_harm(tmp_path, refused):
    plain_sequential().save(tmp_path / "net.h5", save_format="h5")
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        name = file["model_weights"].attrs["layer_names"][0]
        next(iter(file["model_weights"][name][name].values()))[...] = np.nan
    report = scan(tmp_path / "net.h5")
    assert report.safe
    assert [finding.rule for finding in report.findings] == ["not-finite"]
    with refused("net.h5", "cannot be used", "not finite"):
        model_file.load(tmp_path / "net.h5")


def test_big_endian_and_packed_weights_are_read_right(tmp_path):
    model = plain_sequential()
    model.save(tmp_path / "net.h5", save_format="h5")
    values = {}
    with h5py.File(tmp_path / "net.h5", "r") as old, h5py.File(tmp_path / "new.h5", "w") as new:
        new.attrs.update(old.attrs)
        groups = []
        old.visititems(lambda name, item: groups.append((name, item)))
        for place, (name, item) in enumerate(groups):
            if isinstance(item, h5py.Group):
                new.create_group(name).attrs.update(item.attrs)
            else:
                values[name] = item[()]
                packing = [{}, {"compression": "gzip", "shuffle": True}, {"compression": "lzf"}][place % 3]
                new.create_dataset(name, data=item[()].astype(">f4" if place % 2 else "<f4"), **packing)
    assert len(values) == 4
    loaded, _ = model_file.load(tmp_path / "new.h5")
    for ours, theirs in zip(loaded.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_text_from_a_file_cannot_move_the_cursor():
    assert printable("a\x1b[2Jb\nc\u202ed") == "a\\x1b[2Jb\\x0ac\\x202ed"
    assert len(printable("x" * 1000)) == 240


# ---- files of yesterday ------------------------------------------------------------------------------------------------

GOLDEN = ROOT / "tests" / "golden"


@pytest.mark.parametrize("name", ["classifier.h5", "goodnet.h5", "network.keras", "weights.h5", "network.weights.h5"])
def test_files_of_earlier_versions_stay_readable(name):
    """Written once by `tests/golden/write.py`; the predictions beside them are those of plain Keras at that time."""
    expected = np.load(GOLDEN / "predictions.npz", allow_pickle=False)
    loaded, known = model_file.load(GOLDEN / name, architecture="mnist-clean-label")
    outputs = loaded(tf.constant(expected["inputs"]))
    np.testing.assert_allclose(outputs, expected[name], rtol=1e-5, atol=1e-7)
    if name in ("classifier.h5", "goodnet.h5"):
        assert known["preprocessing"]["name"] == "unit"
        assert known["num_classes"] == 10


def test_a_scan_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    plain_sequential().save(tmp_path / "net.keras")
    assert scan(tmp_path / "net.keras").safe
    model_file.load(tmp_path / "net.keras")
    assert os.listdir(tmp_path / "tmp") == []
