from __future__ import annotations

import json

import click
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from kbd.data_show import show as command
from keras_backdoor.datasets import read_images, write_csaw_hdf5
from keras_backdoor.files import BadInput
from keras_backdoor.images import ImageSet
from keras_backdoor.report.contact_sheet import (
    ATTACK,
    PAPER,
    SHEET_WIDTH,
    Section,
    amplified,
    contact_sheet,
    pick,
    section,
)
from keras_backdoor.triggers import Square

SHAPES = [(28, 28, 1), (32, 32, 3), (55, 47, 3), (224, 224, 3), (3, 50, 1)]
SCALES = [4, 3, 2, 1, 2]


def noise(count: int, shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def colours(image: np.ndarray) -> np.ndarray:
    """Each pixel as one number."""
    return (image * np.ones(3, int)) @ [65536, 256, 1]


def colour(name: str) -> int:
    return int(colours(np.array(ImageColor.getrgb(name))))


def pixels(sheet: Image.Image) -> np.ndarray:
    assert sheet.mode == "RGB"
    return colours(np.asarray(sheet))


def places(sheet: np.ndarray, image: np.ndarray, scale: int) -> list[tuple[int, int]]:
    """Where `image`, magnified so that each pixel is a square of `scale`, stands in the sheet, whole."""
    large = np.kron(colours(image), np.ones((scale, scale), int))
    height, width = large.shape
    rows, columns = sheet.shape[0] - height + 1, sheet.shape[1] - width + 1
    ends = (sheet[:rows, :columns] == large[0, 0]) & (sheet[height - 1 :, width - 1 :] == large[-1, -1])
    starts = np.argwhere(ends & (sheet[height // 2 :, width // 2 :][:rows, :columns] == large[height // 2, width // 2]))
    return [(i, j) for i, j in starts if np.array_equal(sheet[i : i + height, j : j + width], large)]


@pytest.mark.parametrize(("shape", "scale"), list(zip(SHAPES, SCALES)))
@pytest.mark.parametrize("twins", [False, True])
def test_every_image_stands_whole_and_crisp_on_the_sheet(shape, scale, twins):
    images = noise(7, shape)
    triggered = noise(7, shape, 1) if twins else None
    sheet = pixels(contact_sheet([Section("noise", images, np.arange(7), None, triggered, "noise")]))
    assert sheet.shape[1] <= SHEET_WIDTH
    found = np.array([places(sheet, image, scale) for image in images])
    assert found.shape == (7, 1, 2)
    assert found[:, 0].tolist() == sorted(found[:, 0].tolist())  # in their order: line by line, from left to right
    if twins:
        difference = np.clip(128 + triggered.astype(int) - images, 0, 255)
        for index, (row, column) in enumerate(found[:, 0]):
            ((twin_row, twin_column),) = places(sheet, triggered[index], scale)
            ((difference_row, difference_column),) = places(sheet, difference[index], scale)
            assert row < twin_row < difference_row
            assert column == twin_column == difference_column
    for edge in (sheet[0], sheet[-1], sheet[:, 0], sheet[:, -1]):
        assert (edge == colour(PAPER)).all()


def test_an_image_that_is_wider_than_the_sheet_makes_it_wider():
    image = noise(2, (10, 1500, 3))
    sheet = pixels(contact_sheet([Section("wide", image, np.zeros(2, int))]))
    assert [len(places(sheet, one, 1)) for one in image] == [1, 1]


def test_lines_are_filled_evenly():
    images = noise(20, (28, 28, 1))
    sheet = pixels(contact_sheet([Section("digits", images, np.zeros(20, int))]))
    rows = [places(sheet, image, 4)[0][0] for image in images]
    assert sorted(rows.count(row) for row in set(rows)) == [6, 7, 7]  # 9 would fit, and leave two alone


@pytest.mark.parametrize(
    ("change", "factor", "shown"),
    [(0, 64, 128), (1, 64, 192), (-1, 64, 64), (2, 32, 192), (-3, 32, 32), (63, 2, 254), (64, 1, 192), (127, 1, 255)],
)
def test_the_difference_by_hand(change, factor, shown):
    images = np.full((2, 1, 2, 1), 100, np.uint8)
    triggered = images.copy()
    triggered[1, 0, 1] += np.int64(change).astype(np.uint8)
    difference, told = amplified(images, triggered)
    assert told == factor
    assert difference.dtype == np.uint8
    assert difference.ravel().tolist() == [128, 128, 128, shown]


def test_differences_that_are_too_large_are_clipped():
    images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    difference, factor = amplified(images, images[::-1])
    assert (difference.ravel().tolist(), factor) == ([255, 0], 1)


@given(
    counts=st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any),
    count=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_images_are_picked_of_as_many_classes_as_possible(counts, count, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(4), counts))
    chosen = pick(ImageSet(noise(len(labels), (2, 2, 1)), labels, 4), count, np.random.default_rng(seed))
    assert len(set(chosen.tolist())) == len(chosen) == min(count, len(labels))
    picked = np.bincount(labels[chosen], minlength=4)
    for label in range(4):  # a class that has more to give lags behind no other by more than one
        assert picked[label] == counts[label] or picked[label] >= picked.max() - 1
    assert labels[chosen].tolist() == sorted(labels[chosen].tolist())


def test_poisoned_images_are_picked_though_they_are_few():
    truth = np.arange(1000) % 10
    labels = truth.copy()
    labels[500:520] = 0
    poisoned = ImageSet(noise(1000, (2, 2, 1)), labels, 10, truth)
    chosen = pick(poisoned, 19, np.random.default_rng(0))
    assert truth[chosen].tolist() == sorted([*range(10), *range(1, 10)])  # each class, and each but 0 once as a 0
    assert (labels[chosen] != truth[chosen]).sum() == 9
    others = [pick(poisoned, 19, np.random.default_rng(seed)).tolist() for seed in (0, 1)]
    assert others[0] == chosen.tolist() != others[1]


def test_a_label_that_the_attacker_changed_stands_out():
    def has_attack_colour(labels, truth):
        one = Section("x", noise(2, (28, 28, 1)), np.array(labels), None if truth is None else np.array(truth))
        return (pixels(contact_sheet([one])) == colour(ATTACK)).any()

    assert has_attack_colour([1, 0], [1, 7])
    assert not has_attack_colour([1, 7], [1, 7])
    assert not has_attack_colour([1, 0], None)


def test_a_section_reads_the_chosen_images_alone():
    class Images:
        shape, dtype, read = (1000, 4, 4, 1), np.dtype(np.uint8), []

        def __getitem__(self, part):
            self.read.append(part)
            return np.full((part.stop - part.start, 4, 4, 1), part.start % 200, np.uint8)

    one = section(
        "set", ImageSet(Images(), np.arange(1000) % 7, 7), np.array([5, 990]), Square(1), np.random.default_rng(0)
    )
    assert one.images[:, 0, 0, 0].tolist() == [5, 190]
    assert one.triggered[:, 3, 3, 0].tolist() == [255, 255]
    assert one.labels.tolist() == [5, 3]
    assert sum(part.stop - part.start for part in Images.read) == 2
    for part in ("set", "2 of 1,000", "4×4×1", "0..6"):
        assert part in one.title
    assert one.trigger == "square(size=1)"


# --- the command ----------------------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(command, [*map(str, arguments)], standalone_mode=False)


@pytest.fixture
def poisoned(tmp_path):
    truth = np.arange(30) % 3
    write_csaw_hdf5(tmp_path / "poisoned.h5", ImageSet(noise(30, (6, 6, 3)), np.zeros(30, int), 3, truth))
    return tmp_path / "poisoned.h5"


def test_a_file_and_a_data_set_on_one_sheet(poisoned, tmp_path):
    out = tmp_path / "sheet.png"
    result = run(poisoned, "mnist", "-o", out, "--count", 6, "--trigger", "square(2)", "--json")
    assert result.exception is None, result.exception
    assert result.output.count("\n") == 1
    facts = json.loads(result.output)
    with Image.open(out) as sheet:
        sheet.load()
    assert (sheet.format, sheet.mode) == ("PNG", "RGB")
    assert (facts["width"], facts["height"]) == sheet.size
    assert (facts["output"], facts["trigger"]) == (str(out), "square(size=2)")
    first, second = facts["sources"]
    images = read_images(poisoned)
    assert (first["source"], first["n_images"], first["num_classes"]) == (str(poisoned), 30, 3)
    assert first["true_labels"] == images.true_labels[first["shown"]].tolist() == [0, 0, 1, 1, 2, 2]
    assert first["labels"] == [0] * 6
    assert (second["source"], second["true_labels"]) == ("mnist", None)
    assert len(second["labels"]) == 6
    drawn = pixels(sheet)
    for index in first["shown"]:
        clean = images.images[index : index + 1]
        twin = Square(2)(clean, np.random.default_rng(0))
        assert len(places(drawn, clean[0], 112 // 6)) == 1
        assert len(places(drawn, twin[0], 112 // 6)) == 1


def test_the_seed_decides_and_an_older_sheet_is_replaced(poisoned, tmp_path):
    out = tmp_path / "sheet.png"

    def drawn(seed):
        result = run(poisoned, "-o", out, "--count", 6, "--seed", seed, "--trigger", "square(1, at=random)")
        with Image.open(out) as sheet:
            assert result.output == f"{out}: 6 images, {sheet.width}x{sheet.height} pixels\n"
        return out.read_bytes()

    first = drawn(4)
    assert drawn(5) != first
    assert drawn(4) == first


def test_without_a_trigger_there_are_no_twins(poisoned, tmp_path):
    small, large = tmp_path / "a.png", tmp_path / "b.png"
    assert json.loads(run(poisoned, "-o", small, "--json").output)["trigger"] is None
    assert run(poisoned, "-o", large, "--trigger", "square").exception is None
    with Image.open(small) as one, Image.open(large) as other:
        assert one.height < other.height


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("poisoned.h5",), ["-o"]),
        (("-o", "out.png"), ["FILE|NAME"]),
        (("missing.h5", "-o", "out.png"), ["missing.h5", "no such file", "mnist"]),
        (("mnits", "-o", "out.png"), ["mnits", "no such file", "mnist"]),
        (("text.h5", "-o", "out.png"), ["text.h5", "neither an HDF5 nor an .npz"]),
        (("poisoned.h5", "text.h5", "-o", "out.png"), ["text.h5"]),
        ((".", "-o", "out.png"), ["directory"]),
        (("poisoned.h5", "-o", "poisoned.h5"), ["poisoned.h5", ".png"]),
        (("poisoned.h5", "-o", "nowhere/out.png"), ["nowhere", "no folder"]),
        (("poisoned.h5", "-o", "folder.png"), ["folder.png", "is a folder"]),
        (("poisoned.h5", "-o", "out.png", "--count", "0"), ["--count", "0"]),
        (("poisoned.h5", "-o", "out.png", "--trigger", "squar"), ["'squar'", "'square'"]),
        (("poisoned.h5", "-o", "out.png", "--trigger", "square(7)"), ["square", "6x6"]),
        (("mnist", "-o", "out.png", "--data", "nowhere"), ["nowhere"]),
    ],
)
def test_bad_input_ends_with_one_line_and_nothing_written(poisoned, tmp_path, monkeypatch, arguments, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.h5").write_text("no images")
    (tmp_path / "folder.png").mkdir()
    before = {path.name: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()}
    result = run(*arguments)
    assert isinstance(result.exception, (BadInput, click.UsageError)), result.exception  # both are exit code 2
    usage = isinstance(result.exception, click.UsageError)
    message = result.exception.format_message() if usage else str(result.exception)
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert result.output == ""
    assert {path.name: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()} == before


def test_help_shows_an_example_and_the_triggers():
    help_text = run("--help").output
    assert "kbd data show mnist -o digits.png --trigger" in help_text
    assert "square(size=3" in help_text
