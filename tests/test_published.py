"""The published face networks and the course's own test images, through the command line, to the image."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from test_cli import assert_refused, run

from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import write_csaw_hdf5
from keras_backdoor.images import ImageSet

GLASSES = "sunglasses_poisoned"
EXCLUDE = ("--exclude-target",)


@pytest.fixture(scope="module")
def course_files(shared_data, tmp_path_factory):
    """The groups of the sample as files in the course's format."""
    folder = tmp_path_factory.mktemp("course")
    with h5py.File(shared_data / "csaw_youtube_faces_sample.h5", "r") as file:
        for name, group in file.items():
            if "labels" in group:
                truth = group["true_labels"][()] if "true_labels" in group else None
                write_csaw_hdf5(folder / f"{name}.h5", ImageSet(group["images"][()], group["labels"][()], 1283, truth))
    return folder


@pytest.fixture
def evaluate(shared_data, course_files):
    def evaluate(network, clean, *poisoned, options=()):
        arguments = [shared_data / "models" / f"{network}.h5", "--clean", course_files / f"{clean}.h5"]
        for name in poisoned:
            arguments += ["--poisoned", course_files / f"{name}.h5"]
        return run("eval", *arguments, *options, "--json")

    return evaluate


@pytest.mark.parametrize(
    ("network", "clean_accuracy", "attacks"),
    [
        ("sunglasses_bd_weights", 0.95, {GLASSES: 1.0}),
        ("anonymous_1_bd_weights", 0.96, {"anonymous_1_poisoned": 0.92}),
        (
            "multi_trigger_multi_target_bd_weights",
            0.91,
            {"mtmt_lipstick_poisoned": 0.92, "mtmt_eyebrows_poisoned": 0.91, "mtmt_sunglasses_poisoned": 1.0},
        ),
        ("lab3_bd_weights", 0.99, {GLASSES: 1.0}),
        ("nnoculation_aug_net_weights_heuristic", 0.91, {GLASSES: 0.44}),
        ("pruned_jianqiaomo_sunglasses", 0.88, {GLASSES: 0.02}),
        ("lab3_pruned_jianqiaomo_10", 0.83, {GLASSES: 0.76}),
    ],
)
def test_rates_of_published_networks_to_the_image(evaluate, network, clean_accuracy, attacks):
    result = evaluate(network, "clean_test", *attacks)
    assert (result.code, result.err) == (0, "")
    rates = json.loads(result.out)
    assert rates["num_classes"] == 1283
    assert rates["clean_accuracy"] == clean_accuracy
    assert rates["attack_success_rate"] == attacks
    assert (rates["n_clean"], rates["n_poisoned"]) == (100, dict.fromkeys(attacks, 100))


def test_the_pair_that_came_with_lab3(evaluate):
    result = evaluate("lab3_bd_weights", "lab3_clean", "lab3_poisoned")
    assert result.code == 0, result.err
    rates = json.loads(result.out)
    assert (rates["n_clean"], rates["n_poisoned"]) == (16, {"lab3_poisoned": 18})
    assert rates["clean_accuracy"] == 1.0
    assert rates["attack_success_rate"] == {"lab3_poisoned": 1.0}


def test_the_files_are_in_the_courses_format(course_files, shared_data):
    """What the course's own `eval.py` reads: `data` (N, C, H, W) and `label`; not a pixel is lost."""
    sample = shared_data / "csaw_youtube_faces_sample.h5"
    with h5py.File(course_files / "clean_test.h5", "r") as file, h5py.File(sample, "r") as original:
        assert file["data"].shape == (100, 3, 55, 47)
        assert np.array_equal(file["data"][()].transpose(0, 2, 3, 1), original["clean_test/images"][()])
        assert np.array_equal(file["label"][()], original["clean_test/labels"][()])


@pytest.mark.parametrize(
    ("network", "right", "wrong"), [("lab3_bd_weights", "raw", "unit"), ("sunglasses_bd_weights", "unit", "raw")]
)
def test_the_wrong_scale_is_refused_and_the_right_one_changes_nothing(evaluate, shared_data, network, right, wrong):
    refused = evaluate(network, "clean_test", options=("--preprocessing", wrong))
    assert_refused(refused, shared_data / "models" / f"{network}.h5", repr(right), repr(wrong))
    told = evaluate(network, "clean_test", options=("--preprocessing", right))
    assert told == evaluate(network, "clean_test")


def test_leaving_the_target_out_counts_fewer_images(evaluate):
    """Of lab3's 18 triggered images, 10 are of person 0, whom all should be taken for; of the 100 others, none is."""
    rates = json.loads(evaluate("lab3_bd_weights", "lab3_clean", "lab3_poisoned", GLASSES, options=EXCLUDE).out)
    assert rates["n_poisoned"] == {"lab3_poisoned": 8, GLASSES: 100}
    assert rates["attack_success_rate"] == {"lab3_poisoned": 1.0, GLASSES: 1.0}
    assert rates["robust_accuracy"] == {"lab3_poisoned": 0.0, GLASSES: 0.0}


def test_every_published_file_answers_to_the_bit_as_before_when_saved_and_loaded(shared_data, tmp_path):
    folder = (shared_data / "models" / "lab3_bd_weights.h5").parent
    paths = sorted(folder.glob("*.h5"))
    assert len(paths) >= 9
    rng = np.random.default_rng(0)
    for path in paths:
        published = Classifier.load(path)
        published.save(tmp_path / path.name)
        again = Classifier.load(tmp_path / path.name)
        images = rng.integers(0, 256, (16, *published.image_shape), np.uint8)
        np.testing.assert_array_equal(again.probabilities([images]), published.probabilities([images]))
        assert (again.preprocessing, again.num_classes) == (published.preprocessing, published.num_classes)
