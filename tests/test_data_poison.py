from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import click
import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from kbd.data_poison import poison as command
from keras_backdoor.attacks.poison import Backdoor, poison, poison_all
from keras_backdoor.attacks.poison_stream import poison_stream
from keras_backdoor.attacks.stamped import BLOCK
from keras_backdoor.attacks.targets import AllToAll, AllToOne, CleanLabel
from keras_backdoor.datasets import read_images, write_csaw_hdf5
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet
from keras_backdoor.triggers import FixedNoise, OneOf, PostIt, Square

SQUARE = Square(1)
MAPS = (AllToOne(1), AllToAll(3), CleanLabel(1))


def dark_set(count: int = 150, num_classes: int = 3) -> ImageSet:
    """Images below 200, so that a stamp of 255 always shows; labels in no order."""
    rng = np.random.default_rng(count)
    images = rng.integers(0, 200, (count, 4, 4, 1), np.uint8)
    return ImageSet(images, rng.permutation(np.arange(count) % num_classes), num_classes)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, 0])


def assert_same(one: ImageSet, other: ImageSet) -> None:
    assert one.fingerprint() == other.fingerprint()
    np.testing.assert_array_equal(one.true_labels, other.true_labels)


# --- streaming ------------------------------------------------------------------------------------------------------------


@given(
    percent=st.integers(0, 100),
    seed=st.integers(0, 99),
    target_map=st.sampled_from(MAPS),
    count=st.sampled_from([3, BLOCK - 1, BLOCK, BLOCK + 1, 150]),
)
def test_a_stream_is_what_poisoning_in_memory_gives(percent, seed, target_map, count):
    clean, backdoor = dark_set(count), Backdoor(OneOf((SQUARE, SQUARE)), target_map)
    streamed, chosen = poison_stream(clean, backdoor, percent / 100, seed)
    expected, which = poison(clean, [backdoor], percent / 100, rng(seed))
    np.testing.assert_array_equal(chosen, which == 0)
    assert_same(streamed, expected)
    assert (clean.images < 200).all()


@pytest.mark.parametrize("target_map", MAPS)
def test_without_a_fraction_every_image_is_stamped_and_none_removed(target_map):
    clean, backdoor = dark_set(), Backdoor(SQUARE, target_map)
    streamed, chosen = poison_stream(clean, backdoor, None, 0)
    assert chosen.all()
    assert_same(streamed, poison_all(clean, backdoor, rng(0)))


@given(cuts=st.lists(st.integers(0, 300), max_size=6), fraction=st.sampled_from([None, 0.3]))
def test_the_bits_do_not_depend_on_how_they_are_read(cuts, fraction):
    trigger = OneOf((PostIt(2, value=255), FixedNoise(40), Square(2, at="random")))
    streamed, _ = poison_stream(dark_set(300), Backdoor(trigger, AllToOne(0)), fraction, 5)
    whole = streamed.images[0:300]
    places = [0, *sorted(cuts), 300]
    np.testing.assert_array_equal(np.concatenate([streamed.images[a:b] for a, b in zip(places, places[1:])]), whole)
    assert streamed.images[290:400].shape == (10, 4, 4, 1)


def test_randomness_differs_between_blocks_and_seeds():
    black = ImageSet(np.zeros((2 * BLOCK, 9, 9, 1), np.uint8), np.zeros(2 * BLOCK, int), 1)

    def stamped(seed):
        streamed, _ = poison_stream(black, Backdoor(Square(1, at="random"), AllToOne(0)), None, seed)
        return streamed.images[0 : 2 * BLOCK]

    np.testing.assert_array_equal(stamped(3), stamped(3))
    assert ((stamped(3) == 255).sum((1, 2, 3)) == 1).all()
    assert (stamped(3) != stamped(4)).any((1, 2, 3)).mean() > 0.9
    assert (stamped(3)[:BLOCK] != stamped(3)[BLOCK:]).any((1, 2, 3)).mean() > 0.9


def test_a_poisoned_set_poisoned_again_keeps_its_true_labels():
    clean = dark_set()
    once, first = poison_stream(clean, Backdoor(SQUARE, AllToOne(0)), 0.5, 0)
    twice, second = poison_stream(once, Backdoor(Square(1, at="top-left"), AllToAll(3)), 0.5, 1)
    np.testing.assert_array_equal(twice.true_labels, clean.labels)
    shares = [second[clean.labels == label].mean() for label in range(3)]
    assert shares == [0.5, 0.5, 0.5]  # of the true classes, not of those that the first attack left
    expected = np.where(second, (clean.labels + 1) % 3, np.where(first, 0, clean.labels))
    np.testing.assert_array_equal(twice.labels, expected)
    corners = twice.in_memory().images[:, [0, -1], [0, -1], 0] == 255
    np.testing.assert_array_equal(corners, np.stack([second, first], 1))


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_outside_0_to_1_is_an_error(fraction):
    with pytest.raises(ValueError):
        poison_stream(dark_set(), Backdoor(SQUARE, AllToOne(0)), fraction, 0)


def test_memory_does_not_grow_with_the_images():
    def peak(count: int) -> int:
        images = np.broadcast_to(np.uint8(9), (count, 32, 32, 3))
        streamed, _ = poison_stream(ImageSet(images, np.zeros(count, int), 1), Backdoor(SQUARE, AllToOne(0)), 0.1, 0)
        tracemalloc.start()
        for _ in streamed.batches():
            pass
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return taken

    assert peak(20_000) < 1.2 * peak(2_000) < 2**24  # 20,000 are 61 MB


LIMITED = """
import resource, sys
import numpy as np
from kbd.data_poison import poison
small, large, out = sys.argv[1:]
def run(source, out, *more):
    poison.main([source, out, "--trigger", "square(2)|post-it(2)", "--target", "0", *more], standalone_mode=False)
run(small, out + ".small")
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 60 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    np.ones((40_000, 32, 32, 3), np.uint8)
    print("no limit")
except MemoryError:
    pass
run(large, out, "--fraction", "0.1")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to limit a process's memory")
def test_a_file_that_does_not_fit_into_memory(tmp_path):
    """117 MB of images, by a process that may take 60 MB more than it has after a file of 64 images."""
    for name, count in (("small", 64), ("large", 40_000)):
        images = np.broadcast_to(np.uint8(9), (count, 32, 32, 3))
        write_csaw_hdf5(tmp_path / f"{name}.h5", ImageSet(images, np.arange(count) % 10, 10))
    arguments = [tmp_path / "small.h5", tmp_path / "large.h5", tmp_path / "out.h5"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, arguments)], capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "no limit" not in done.stdout
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["data"].shape == (40_000, 3, 32, 32)
        assert (file["data"][()] == 255).any((1, 2, 3)).sum() == 4_000


# --- the command ----------------------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(command, [*map(str, arguments)], standalone_mode=False)


def answer(*arguments):
    result = run(*arguments, "--json")
    assert result.exception is None, result.exception
    assert result.output.count("\n") == 1
    return json.loads(result.output)


@pytest.fixture
def source(tmp_path):
    write_csaw_hdf5(tmp_path / "in.h5", dark_set())
    return tmp_path / "in.h5"


def test_a_triggered_test_set(source, tmp_path):
    out = tmp_path / "out.h5"
    facts = answer(source, out, "--trigger", "square(1)", "--target", 2)
    files = {"input": str(source), "output": str(out)}
    asked = {"trigger": "square(size=1)", "attack": "all-to-one", "target": 2, "fraction": None, "seed": 0}
    assert facts == {**files, **asked, "num_classes": 3, "n_images": 150, "n_poisoned": 150}
    with h5py.File(out) as file:
        assert (file["data"].shape, file["data"].dtype) == ((150, 1, 4, 4), np.uint8)
        expected = dark_set().images[..., 0].copy()
        expected[:, 3, 3] = 255
        np.testing.assert_array_equal(file["data"][:, 0], expected)
        assert (file["label"][()] == 2).all()
        np.testing.assert_array_equal(file["true_label"][()], dark_set().labels)


@pytest.mark.parametrize(
    ("arguments", "target_map", "attack", "target"),
    [
        (["--target", 0], AllToOne(0), "all-to-one", 0),
        (["--all-to-all"], AllToAll(3), "all-to-all", None),
        (["--clean-label", 1], CleanLabel(1), "clean-label", 1),
    ],
)
def test_a_poisoned_training_set(source, tmp_path, arguments, target_map, attack, target):
    out = tmp_path / "out.h5"
    asked = ["--trigger", "square(1)", *arguments, "--fraction", 0.3, "--seed", 7]
    facts = answer(source, out, *asked)
    expected, which = poison(dark_set(), [Backdoor(SQUARE, target_map)], 0.3, rng(7))
    assert_same(read_images(out), expected)
    assert (facts["attack"], facts["target"], facts["fraction"], facts["seed"]) == (attack, target, 0.3, 7)
    assert facts["n_poisoned"] == (which == 0).sum()
    again = tmp_path / "again.h5"
    answer(source, again, *asked)
    assert again.read_bytes() == out.read_bytes()
    answer(source, tmp_path / "other.h5", *asked[:-1], 8)
    assert read_images(tmp_path / "other.h5").fingerprint() != expected.fingerprint()


def test_a_clean_label_training_set_of_the_whole_class_and_a_test_set_of_all_images(source, tmp_path):
    asked = [source, "--trigger", "square", "--clean-label", 1]
    assert answer(*asked, tmp_path / "train.h5", "--fraction", 1)["n_poisoned"] == 50
    assert answer(*asked, tmp_path / "test.h5")["n_poisoned"] == 150


def test_npz_files_and_words_for_people(source, tmp_path):
    clean = dark_set()
    np.savez(tmp_path / "in.npz", images=clean.images, labels=clean.labels)
    for name in ("in.npz", "in.h5"):
        result = run(tmp_path / name, tmp_path / f"out-{name}", "--trigger", "noise(64)|square", "--all-to-all")
        assert result.exception is None
        line = "150 of 150 images stamped with noise(strength=64)|square"
        assert result.output == f"{tmp_path / f'out-{name}'}: {line}\n"
    assert_same(read_images(tmp_path / "out-in.npz"), read_images(tmp_path / "out-in.h5"))


def test_more_classes_than_the_file_holds(source, tmp_path):
    answer(source, tmp_path / "a.h5", "--trigger", "square", "--target", 9, "--classes", 10)
    assert (read_images(tmp_path / "a.h5").labels == 9).all()
    answer(source, tmp_path / "b.h5", "--trigger", "square", "--all-to-all", "--classes", 10)
    np.testing.assert_array_equal(read_images(tmp_path / "b.h5").labels, dark_set().labels + 1)


def test_a_file_of_one_label_remembers_its_classes(source, tmp_path):
    answer(source, tmp_path / "once.h5", "--trigger", "square", "--target", 0)
    assert read_images(tmp_path / "once.h5").num_classes == 3
    answer(tmp_path / "once.h5", tmp_path / "twice.h5", "--trigger", "square", "--target", 2)
    np.testing.assert_array_equal(read_images(tmp_path / "twice.h5").true_labels, dark_set().labels)


def contents(folder: Path) -> dict:
    return {path.name: path.is_file() and path.read_bytes() for path in sorted(folder.iterdir())}


STAMP = ("--trigger", "square", "--target", "0")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("missing.h5", "out.h5", *STAMP), ["missing.h5", "no such file"]),
        (("in.h5", "in.h5", *STAMP), ["in.h5", "exists already"]),
        (("in.h5", "text.h5", *STAMP), ["text.h5", "exists already"]),
        (("in.h5", "folder", *STAMP), ["folder", "is a folder"]),
        (("in.h5", "link.h5", *STAMP), ["link.h5", "exists already"]),
        (("in.h5", "nowhere/out.h5", *STAMP), ["nowhere", "no folder"]),
        (("text.h5", "out.h5", *STAMP), ["text.h5", "neither an HDF5 nor an .npz"]),
        (("cut.h5", "out.h5", *STAMP), ["cut.h5", "HDF5"]),
        (("late.h5", "out.h5", *STAMP), ["late.h5", "NaN"]),
        (("in.h5", "out.h5", "--target", "0"), ["--trigger"]),
        (("in.h5", "out.h5", "--trigger", "square"), ["--target", "--all-to-all", "--clean-label"]),
        (("in.h5", "out.h5", *STAMP, "--all-to-all"), ["one of --target"]),
        (("in.h5", "out.h5", *STAMP, "--clean-label", "0"), ["one of --target"]),
        (("in.h5", "out.h5", "--trigger", "square", "--target", "3"), ["target 3", "0..2", "--classes"]),
        (("in.h5", "out.h5", "--trigger", "square", "--clean-label", "-1"), ["target -1", "0..2"]),
        (("in.h5", "out.h5", *STAMP, "--classes", "2"), ["in.h5", "0..1", "found 2"]),
        (("in.h5", "out.h5", *STAMP, "--fraction", "1.5"), ["--fraction", "1.5"]),
        (("in.h5", "out.h5", *STAMP, "--fraction", "nan"), ["--fraction", "nan"]),
        (("in.h5", "out.h5", *STAMP, "--seed", "-1"), ["--seed", "-1"]),
        (("in.h5", "out.h5", "--trigger", "sqare", "--target", "0"), ["'sqare'", "'square'"]),
        (("in.h5", "out.h5", "--trigger", "square(", "--target", "0"), ["square(", "closing bracket"]),
        (("in.h5", "out.h5", "--trigger", "square(5)", "--target", "0"), ["square", "4x4"]),
        (("in.h5", "out.h5", "--trigger", "noise(seed=-1)|square", "--target", "0"), ["seed=-1"]),
        (("in.h5", "out.h5", "--trigger", "square+square(at=nowhere)", "--target", "0"), ["nowhere", "top-left"]),
        (("in.h5", "out.h5", "--trigger", "square(value=(255, 0, 0))", "--target", "0"), ["square", "3"]),
    ],
)
def test_bad_input_ends_with_one_line_and_nothing_written(source, tmp_path, monkeypatch, arguments, parts):
    monkeypatch.chdir(tmp_path)
    Path("text.h5").write_text("no images")
    Path("cut.h5").write_bytes(source.read_bytes()[:-500])
    Path("folder").mkdir()
    Path("link.h5").symlink_to("nothing-there")
    data = np.full((1000, 1, 4, 4), 9, np.float32)
    data[900] = np.nan  # found when most of the new file is written
    with h5py.File("late.h5", "w") as file:
        file["data"], file["label"] = data, np.zeros(1000)
    before = contents(tmp_path)
    result = run(*arguments)
    assert isinstance(result.exception, (BadInput, click.UsageError)), result.exception  # both are exit code 2
    usage = isinstance(result.exception, click.UsageError)
    message = result.exception.format_message() if usage else str(result.exception)
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert result.output == ""
    assert contents(tmp_path) == before


@dataclass(frozen=True)
class _Failing:
    """A trigger that fails when most of the file is written."""

    error: BaseException
    name: str = "failing"

    def __call__(self, images, rng):
        if 1 < len(images) < BLOCK:  # one image is the trial before
            raise self.error
        return images


@pytest.mark.parametrize(
    ("error", "raised"), [(KeyboardInterrupt(), click.Abort), (OSError(28, "No space left on device"), BadInput)]
)
def test_what_breaks_in_the_middle_leaves_nothing(source, tmp_path, monkeypatch, error, raised):
    monkeypatch.setattr("keras_backdoor.triggers.language.parse", lambda text: _Failing(error))
    monkeypatch.setattr("keras_backdoor.triggers.language.spell", lambda trigger: trigger.name)
    before = contents(tmp_path)
    result = run(source, tmp_path / "out.h5", *STAMP)
    assert isinstance(result.exception, raised)
    if raised is BadInput:
        assert str(result.exception) == f"{tmp_path / 'out.h5'}: cannot be written (No space left on device)"
    assert contents(tmp_path) == before


def test_help_shows_an_example_and_every_trigger():
    from keras_backdoor.triggers import TRIGGERS

    help_text = run("--help").output
    assert "kbd data poison test.h5 triggered.h5 --trigger" in help_text
    for name in TRIGGERS:
        assert f"  {name}(" in help_text
    assert max(map(len, help_text.splitlines())) <= 120
