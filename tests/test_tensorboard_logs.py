"""What TensorBoard is told of finished runs, and the features that runs keep."""

from __future__ import annotations

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray
from tensorflow import keras
from test_report import defend_metrics, scores, train_metrics, write_run
from test_report_figures import curve_rows, folder_of
from test_report_verdict import scan_metrics, triggers_of

from keras_backdoor.classifier import Classifier
from keras_backdoor.features import COUNT, features, save_features
from keras_backdoor.images import ImageSet
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.tensorboard_logs import log_run


def logged(folder, name):
    """Scalars of a log as {tag: {step: value}}, its images' tags, and its hyper-parameters."""
    events = EventAccumulator(str(folder / "tensorboard" / name), size_guidance={"tensors": 0})
    events.Reload()
    told = {"hparams": None, "images": set(), "scalars": {}}
    for tag, about in ((tag, events.SummaryMetadata(tag)) for tag in events.Tags()["tensors"]):
        plugin = about.plugin_data.plugin_name
        if plugin == "images":
            told["images"].add(tag)
        elif plugin == "scalars":
            told["scalars"][tag] = {
                event.step: float(make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)
            }
    if metadata.SESSION_START_INFO_TAG in events.summary_metadata:
        content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        found = metadata.parse_session_start_info_plugin_data(content).hparams
        told["hparams"] = {key: getattr(value, value.WhichOneof("kind")) for key, value in found.items()}
    return told


def test_a_training_appears_with_its_settings_and_final_rates(tmp_path):
    metrics = train_metrics(settings={"name": "x", "optimizer": "adam", "learning_rate": 0.5}, badnet=scores(0.75, 0.5))
    log_run(write_run(tmp_path / "run", "train", metrics))
    told = logged(tmp_path / "run", "result")
    attack = {"attack_success_rate/square": {0: 0.5}, "attack_success_rate": {0: 0.5}}
    assert told["scalars"] == {"clean_accuracy": {0: 0.75}, **attack}
    assert told["hparams"] == {
        "optimizer": "adam",
        "learning_rate": 0.5,
        "recipe": "mnist-patch",
        "seed": 0,
        "epochs": 3,
    }


def test_each_network_of_a_sweep_is_a_trial(tmp_path):
    steps = [
        {"name": None, "after": scores(0.5, 0.25), "goodnet": None, "learning_rate": rate, "channels": count}
        for rate in (0.5, 0.25)
        for count in (1, 2)
    ]
    steps[-1]["name"] = ""
    metrics = defend_metrics(steps=steps, settings={"learning_rate": [0.5, 0.25], "epochs": 1})
    log_run(write_run(tmp_path / "run", "defend", metrics))
    assert sorted(path.name for path in (tmp_path / "run/tensorboard/sweep").iterdir()) == ["000", "001", "002", "003"]
    told = logged(tmp_path / "run", "sweep/001")
    assert told["scalars"]["clean_accuracy"] == {0: 0.5} and told["scalars"]["attack_success_rate"] == {0: 0.25}
    assert (told["hparams"]["learning_rate"], told["hparams"]["channels"], told["hparams"]["epochs"]) == (0.5, 2, 1)
    assert logged(tmp_path / "run", "result")["hparams"]["learning_rate"] == "[0.5, 0.25]"


def test_the_curve_of_pruning_is_by_channels(tmp_path):
    log_run(folder_of(tmp_path / "run", defend_metrics(), curve_rows()))
    told = logged(tmp_path / "run", "curve")["scalars"]
    assert told["attack_success_rate/square"] == pytest.approx({0: 1.0, 1: 1.0, 2: 0.75, 3: 0.03, 4: 0.0})
    goodnet = logged(tmp_path / "run", "curve-goodnet")["scalars"]
    assert goodnet["clean_accuracy"] == pytest.approx({0: 0.98, 1: 0.89, 2: 0.49, 3: 0.1, 4: 0.0})


def test_a_scan_shows_norms_and_how_triggers_were_found(tmp_path):
    log_run(write_run(tmp_path / "run", "defend", scan_metrics(), triggers=triggers_of()))
    norms = logged(tmp_path / "run", "norms")["scalars"]["norm of the label"]
    assert norms == pytest.approx(dict(enumerate(scan_metrics()["verdict"]["norms"])))
    (flagged,) = scan_metrics()["verdict"]["labels"]
    told = logged(tmp_path / "run", f"label-{flagged}")
    history = triggers_of()["history"][flagged]
    history = history[~np.isnan(history[:, 0])]
    assert told["scalars"]["norm"] == pytest.approx(dict(enumerate(history[:, 2].tolist())))
    assert told["images"] == {"mask", "pattern", "mask x pattern"}


def test_logging_again_replaces_and_unfinished_runs_have_no_logs(tmp_path):
    folder = write_run(tmp_path / "run", "train", train_metrics())
    log_run(folder)
    log_run(folder)
    assert len(list((folder / "tensorboard" / "result").iterdir())) == 1
    unfinished = write_run(tmp_path / "other", "train", train_metrics(), finished=False)
    log_run(unfinished)
    assert not (unfinished / "tensorboard").exists()


def network(last):
    """From 2x2x1 images to 2 classes; the last layer sees relu(2 x) of the four pixels, or of their maps."""
    inputs = keras.Input((2, 2, 1))
    maps = keras.layers.Conv2D(1, 1, activation="relu", use_bias=False)(inputs)
    if last == "dense":
        outputs = keras.layers.Softmax()(keras.layers.Dense(2)(keras.layers.Flatten()(maps)))
    else:
        outputs = keras.layers.Softmax()(keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 1)(maps)))
    model = keras.Model(inputs, outputs)
    model.layers[1].set_weights([np.full((1, 1, 1, 1), 2, np.float32)])
    return Classifier(model, Preprocessing.named("unit"), 2)


IMAGES = np.array([0, 51, 102, 255], np.uint8).reshape(1, 2, 2, 1)


def test_features_are_what_the_last_layer_takes_in():
    image_set = ImageSet(IMAGES, np.array([0]), 2)
    np.testing.assert_allclose(features(network("dense"), image_set), [[0, 0.4, 0.8, 2]], rtol=1e-6)
    np.testing.assert_allclose(features(network("convolution"), image_set), [[0.8]], rtol=1e-6)


def test_features_are_kept_of_some_images_without_those_of_the_target(tmp_path):
    count = 2 * COUNT
    images = np.repeat(np.arange(count) % 256, 4).astype(np.uint8).reshape(count, 2, 2, 1)
    labels = np.arange(count) % 2
    clean = ImageSet(images, labels, 2)
    save_features(tmp_path / "features.npz", network("dense"), clean, ImageSet(images, np.zeros(count, int), 2, labels))
    with np.load(tmp_path / "features.npz") as file:
        kept = dict(file)
    assert kept["clean"].shape == kept["triggered"].shape == (COUNT, 4)
    np.testing.assert_allclose(
        kept["triggered"][:2, 0], [2 / 255, 6 / 255], rtol=1e-5
    )  # images 1 and 3: the odd ones are of class 1
    assert set(kept["labels"]) == {0, 1} and set(kept["targets"]) == {0}
