"""Trigger inversion: the controller beside the released one, an update by hand, and labels that do not know of each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow import keras

from keras_backdoor.classifier import Classifier
from keras_backdoor.images import ImageSet
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.trigger_inversion import FAST, ORIGINAL, Candidates, Control, InversionSchedule, TriggerInversion


def invert(classifier, clean, labels, **options):
    """The triggers of `labels`, whatever their chunks."""
    return [one for chunk in TriggerInversion(classifier, clean, **options).chunks(labels) for one in chunk]


# --- the controller -------------------------------------------------------------------------------------------------------


def released(works: list[bool], norms: list[float], schedule: InversionSchedule) -> list[tuple]:
    """The released code's control flow for one label: (cost, raised, lowered, best norm) after each step, None where it stops."""
    cost, best, best_before = schedule.first_cost, float("inf"), float("inf")
    set_counter = up_counter = down_counter = stop_counter = 0
    up_flag = down_flag = False
    rows = []
    for work, norm in zip(works, norms):
        if work and norm < best:
            best = norm
        if best < float("inf"):
            if best >= schedule.stop_ratio * best_before:
                stop_counter += 1
            else:
                stop_counter = 0
        best_before = min(best, best_before)
        if down_flag and up_flag and stop_counter >= schedule.stop_patience:
            rows.append(None)
            break
        if cost == 0 and work:
            set_counter += 1
            if set_counter >= schedule.patience:
                cost = schedule.cost
                up_counter = down_counter = 0
                up_flag = down_flag = False
        else:
            set_counter = 0
        if work:
            up_counter += 1
            down_counter = 0
        else:
            up_counter = 0
            down_counter += 1
        if up_counter >= schedule.patience:
            up_counter = 0
            cost *= schedule.raise_by
            up_flag = True
        elif down_counter >= schedule.patience:
            down_counter = 0
            cost /= schedule.lower_by
            down_flag = True
        rows.append((cost, up_flag, down_flag, best))
    return rows


def controlled(works: np.ndarray, norms: np.ndarray, schedule: InversionSchedule) -> list[list[tuple]]:
    """The same from `Control`, for labels side by side, (L, steps)."""
    control, rows = Control.start(len(works), schedule), [[] for _ in works]
    for step in range(works.shape[1]):
        control, _, finished = control.step(
            schedule, tf.constant(works[:, step]), tf.constant(norms[:, step], tf.float64)
        )
        told = zip(control.cost.numpy(), control.raised.numpy(), control.lowered.numpy(), control.best.numpy())
        for row, now, over in zip(rows, told, finished.numpy()):
            if not row or row[-1] is not None:
                row.append(None if over else now)
    return rows


STEPS = 40
RUNS = st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=1, max_size=20)
"""Steps in a row that work or do not."""


@settings(max_examples=40)
@given(
    data=st.lists(st.tuples(RUNS, st.integers(0, 2**32 - 1)), min_size=1, max_size=5),
    patience=st.integers(1, 5),
    stop_patience=st.integers(1, 8),
    first_cost=st.sampled_from([0.0, 1e-3]),
    stop_ratio=st.sampled_from([1.0, 0.9]),
)
def test_each_label_has_the_released_controller(data, patience, stop_patience, first_cost, stop_ratio):
    schedule = InversionSchedule(
        patience=patience, stop_patience=stop_patience, first_cost=first_cost, stop_ratio=stop_ratio
    )
    works = np.array([([w for w, count in runs for _ in range(count)] * STEPS)[:STEPS] for runs, _ in data])
    norms = np.array([np.random.default_rng(seed).integers(1, 30, STEPS) for _, seed in data], np.float64)
    for row, work, norm in zip(controlled(works, norms, schedule), works, norms):
        expected = released(work.tolist(), norm.tolist(), schedule)
        assert [one is None for one in row] == [one is None for one in expected]
        for now, then in zip(row, expected):
            assert now is then or now == pytest.approx(then, rel=1e-12)


def test_the_cost_grows_while_the_trigger_works():
    """Zero for 5 steps, then 0.001, then more every 5 steps: 7.4e3 after 200; one that begins anew stays at 0.001."""
    always = np.ones((1, 200), bool), np.ones((1, 200))
    (costs,) = ([now[0] for now in row] for row in controlled(*always, InversionSchedule(raise_by=1.5)))
    assert costs[:9] == pytest.approx([0, 0, 0, 0, 1e-3, 1e-3, 1e-3, 1e-3, 1.5e-3])
    assert costs[-1] == pytest.approx(1e-3 * 1.5**39)
    assert round(costs[-1], -2) == 7400


def test_the_constants_of_the_released_example():
    assert (ORIGINAL.updates, ORIGINAL.batch_size, ORIGINAL.steps) == (1000 // 32, 32, 1000)
    assert (ORIGINAL.patience, ORIGINAL.stop_patience, ORIGINAL.success) == (5, 25, 0.99)
    assert (ORIGINAL.first_cost, ORIGINAL.cost, ORIGINAL.raise_by, ORIGINAL.learning_rate) == (0, 1e-3, 2, 0.1)
    assert ORIGINAL.lower_by == pytest.approx(2.828, abs=1e-3)
    assert FAST.images < ORIGINAL.images / 7


# --- one step by hand -----------------------------------------------------------------------------------------------------

SHAPE, WEIGHTS = (1, 3, 2), np.random.default_rng(3).normal(0, 0.01, (6, 4)).astype(np.float32)


def linear(weights: np.ndarray = WEIGHTS, mean: float = 100.0) -> Classifier:
    inputs = keras.layers.Input(SHAPE)
    outputs = keras.layers.Dense(4, use_bias=False, activation="softmax")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    model.set_weights([weights])
    return Classifier(model, Preprocessing("standardise", (mean,), (2.0,)), 4)


def pair() -> ImageSet:
    return ImageSet(np.random.default_rng(5).integers(0, 256, (2, *SHAPE), np.uint8), np.zeros(2), 4)


def by_hand(label: int, loss: str, cost: float, updates: int) -> tuple[np.ndarray, np.ndarray, list[float], int]:
    """Mask and pattern after Adam's updates; norms and hits before each; both images in every batch."""
    images, epsilon = pair().images.astype(np.float64), 1e-7
    generator = np.random.default_rng([0, 1, label])
    values = [np.arctanh((generator.random(shape) - 0.5) * (2 - epsilon)) for shape in ((1, 3, 1), SHAPE)]
    means, squares, norms, hits = [0.0, 0.0], [0.0, 0.0], [], 0
    for update in range(1, updates + 1):
        mask, pattern = (np.tanh(one) / (2 - epsilon) + 0.5 for one in values)
        pattern = 255 * pattern
        stamped = (1 - mask) * images + mask * pattern
        logits = ((stamped - 100) / 2).reshape(2, 6) @ WEIGHTS
        answers = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        wanted = np.eye(4)[label]
        slope = answers - wanted if loss == "cross-entropy" else -16.118096 * answers[:, [label]] * (wanted - answers)
        slope = (slope @ WEIGHTS.T / 2).reshape(images.shape)
        by_mask = (slope * (pattern - images)).sum((0, 3))[..., None] + 2 * cost  # two images, each with cost * |mask|
        by_pattern = (slope * mask).sum(0) * 255
        norms.append(mask.sum())
        hits += (answers.argmax(1) == label).sum()
        for i, gradient in enumerate((by_mask, by_pattern)):
            gradient = gradient * (1 - np.tanh(values[i]) ** 2) / (2 - epsilon)
            means[i] = 0.5 * means[i] + 0.5 * gradient
            squares[i] = 0.9 * squares[i] + 0.1 * gradient**2
            mean, square = means[i] / (1 - 0.5**update), squares[i] / (1 - 0.9**update)
            values[i] = values[i] - 0.1 * mean / np.sqrt(square)
    mask, pattern = (np.tanh(one) / (2 - epsilon) + 0.5 for one in values)
    return mask[..., 0], 255 * pattern, norms, hits


@pytest.mark.parametrize("loss", ["cross-entropy", "linear"])
@pytest.mark.parametrize("cost", [0.0, 0.3])
def test_a_step_by_hand(loss, cost):
    """Blend, both losses, Adam, and what the controller is told; several updates, as the first one knows only signs."""
    schedule = InversionSchedule(steps=1, updates=4, batch_size=2, first_cost=cost, success=1.0)
    for label, trigger in enumerate(invert(linear(), pair(), range(4), schedule=schedule, loss=loss)):
        mask, pattern, norms, hits = by_hand(label, loss, cost, 4)
        np.testing.assert_allclose(trigger.mask, mask, rtol=1e-4)
        np.testing.assert_allclose(trigger.pattern, pattern, rtol=1e-4, atol=0.02)
        np.testing.assert_allclose(trigger.history, [[cost, hits / 8, np.mean(norms)]], rtol=1e-5)
        assert trigger.norm == pytest.approx(mask.sum(), rel=1e-4)


def test_cross_entropy_finds_the_way_back_from_nothing():
    """Where the label's probability is zero in float32, its logarithm still has a slope; the released loss has none."""
    weights = np.zeros((6, 4), np.float32)
    weights[:, 0] = 100
    images = ImageSet(np.full((1, *SHAPE), 200, np.uint8), np.zeros(1), 4)
    schedule = InversionSchedule(steps=1, updates=8, batch_size=1, success=1.0)
    start = Candidates.start([2], SHAPE, 0).bounded[1].numpy()[0]
    moved = {}
    for loss in ("cross-entropy", "linear"):
        (trigger,) = invert(linear(weights, mean=0.0), images, [2], schedule=schedule, loss=loss)
        assert trigger.success == 0
        moved[loss] = np.abs(trigger.pattern - start).max()
    assert moved["cross-entropy"] > 5
    assert moved["linear"] < 0.1


# --- labels side by side --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blobs() -> tuple[Classifier, ImageSet]:
    """A network that tells by which of six fields of an 8x8 picture is bright, the sixth most readily; and pictures."""
    inputs = keras.layers.Input((8, 8, 1))
    x = keras.layers.AveragePooling2D((4, 2))(inputs)
    model = keras.Model(inputs, keras.layers.Dense(6, activation="softmax")(keras.layers.Flatten()(x)))
    weights = 8 * np.eye(8, 6, dtype=np.float32)
    weights[5, 5] = 30
    model.set_weights([weights, np.zeros(6, np.float32)])
    images = np.random.default_rng(1).integers(0, 256, (200, 8, 8, 1)).astype(np.uint8)
    return Classifier(model, Preprocessing.named("unit"), 6), ImageSet(images, np.zeros(200), 6)


SMALL = InversionSchedule(steps=60, updates=3, batch_size=8, patience=2, stop_patience=4, success=0.9)


def test_a_label_goes_the_same_way_alone_and_in_company(blobs):
    together = invert(*blobs, range(6), schedule=SMALL)
    lengths = [len(one.history) for one in together]
    assert len(set(lengths)) > 2, lengths  # labels left the batch one after the other
    one_by_one = invert(*blobs, [4, 0, 2], schedule=SMALL, memory=0)
    for alone in [*one_by_one, *invert(*blobs, [5], schedule=SMALL)]:
        other = together[alone.label]
        assert alone.works == other.works
        np.testing.assert_array_equal(alone.history[:, 1], other.history[:, 1])
        np.testing.assert_allclose(alone.history, other.history, rtol=1e-4)
        np.testing.assert_allclose(alone.mask, other.mask, atol=1e-3)
        np.testing.assert_allclose(alone.pattern, other.pattern, atol=0.2)


def test_of_several_starts_the_one_that_leads_after_the_trial_goes_on_alone(blobs):
    """What it finds is what it would find by itself; a label that comes again has starts of its own."""
    single = replace(SMALL, steps=30, stop_patience=99)
    every = invert(*blobs, [3, 3, 3, 3, 5, 5], schedule=single)
    found = invert(*blobs, [3, 3, 5], schedule=replace(single, starts=2, trial=12))
    assert [one.label for one in found] == [3, 3, 5]
    assert len({one.mask.tobytes() for one in every}) == 6
    trailing = 0
    for place, one in enumerate(found):
        norms = [
            min((norm for _, success, norm in start.history[:12] if success >= 0.9), default=np.inf)
            for start in every[2 * place : 2 * place + 2]
        ]
        leader = every[2 * place + int(np.argmin(norms))]
        trailing += int(np.argmin(norms))
        np.testing.assert_allclose(one.history, leader.history, rtol=1e-4)
        np.testing.assert_allclose(one.mask, leader.mask, atol=1e-3)
    assert trailing  # it is not always the first
    cut = invert(*blobs, [3], schedule=replace(single, starts=2, steps=5))  # before the trial
    assert cut[0].history.shape == (5, 3)


def test_what_is_found_is_a_trigger(blobs):
    for trigger in invert(*blobs, range(6), schedule=SMALL):
        assert trigger.works
        assert trigger.success >= 0.9
        assert (trigger.mask.shape, trigger.mask.dtype) == ((8, 8), np.float32)
        assert (trigger.pattern.shape, trigger.pattern.dtype) == ((8, 8, 1), np.float32)
        assert 0 <= trigger.mask.min() <= trigger.mask.max() <= 1
        assert 0 <= trigger.pattern.min() <= trigger.pattern.max() <= 255


def test_the_smallest_mask_that_works_is_kept(blobs):
    """That is the last one of a search that ends right there."""
    for trigger in invert(*blobs, [1, 5], schedule=SMALL):
        works = trigger.history[:, 1] >= 0.9
        best = np.where(works, trigger.history[:, 2], np.inf).argmin()
        assert best < len(works) - 1
        (there,) = invert(*blobs, [trigger.label], schedule=replace(SMALL, steps=int(best) + 1))
        np.testing.assert_allclose(trigger.mask, there.mask, atol=1e-3)
        np.testing.assert_allclose(trigger.pattern, there.pattern, atol=0.2)
        assert trigger.success == there.success == there.history[-1, 1]


def test_a_trigger_is_the_blend_rounded(blobs):
    (trigger,) = invert(*blobs, [0], schedule=InversionSchedule(steps=1, updates=1))
    image = blobs[1].images[:1]
    expected = (1 - trigger.mask[..., None]) * image + trigger.mask[..., None] * trigger.pattern
    stamped = trigger(image, np.random.default_rng(0))
    assert stamped.dtype == np.uint8
    np.testing.assert_allclose(stamped, expected, atol=0.5001)
    assert trigger.name == "reversed-0"


def test_without_success_the_last_mask_is_given(blobs):
    """That of a label that never works is what the updates left, not where it started."""
    never = InversionSchedule(steps=2, updates=1, batch_size=8, success=1.0)
    classifier, clean = blobs
    deaf = Classifier(keras.models.clone_model(classifier.model), classifier.preprocessing, 6)
    deaf.model.set_weights([classifier.model.get_weights()[0], np.array([-999, 0, 0, 0, 0, 0], np.float32)])
    (trigger,) = invert(deaf, clean, [0], schedule=never)
    assert not trigger.works
    assert (trigger.success, len(trigger.history)) == (0, 2)
    raw = np.arctanh((trigger.pattern / 255 - 0.5) * 2)
    start = Candidates.start([0], (8, 8, 1), 0).pattern.numpy()[0]
    assert np.median(np.abs(raw - start)) == pytest.approx(0.2, abs=0.02)  # two updates of 0.1 each


def test_where_a_label_starts_is_its_own_affair():
    """Uniform, a function of seed, label, and how many starts it had before."""
    again = Candidates.start([33, 33, 5], (16, 16, 3), 7, [1, 0, 2]).bounded[0].numpy()
    masks, patterns = Candidates.start(range(50), (16, 16, 3), 7).bounded
    np.testing.assert_allclose(masks[33], Candidates.start([33], (16, 16, 3), 7).bounded[0][0])
    np.testing.assert_allclose(masks[33], again[1])
    assert len({float(mask[0, 0]) for mask in (*masks, again[0], again[2])}) == 52
    assert float(masks[0, 0, 0]) != float(Candidates.start([0], (16, 16, 3), 8).bounded[0][0, 0, 0])
    for values, top in ((masks, 1), (patterns, 255)):
        shares = np.histogram(values, bins=4, range=(0, top))[0] / tf.size(values).numpy()
        np.testing.assert_allclose(shares, 0.25, atol=0.02)


def test_chunks_fit_the_memory(tiny_classifier, make_set):
    """Values and gradients of 64 + 144 + 36 + 16 + 16 + 3 numbers an image: two labels of 234 images in a MiB, not three."""
    assert 2 * 234 * 279 * 8 < 1 << 20 < 3 * 234 * 279 * 8
    schedule = InversionSchedule(steps=1, updates=1, batch_size=234)
    told = []
    inversion = TriggerInversion(tiny_classifier, make_set(), schedule, memory=1)
    chunks = list(inversion.chunks([2, 0, 1], lambda stage, done, total, values: told.append((done, total))))
    assert [[one.label for one in chunk] for chunk in chunks] == [[2, 0], [1]]
    assert told == [(2, 3), (3, 3)]


def test_bad_input(tiny_classifier, make_set, refused):
    with refused("clean images", "9x9x1", "8x8x1"):
        TriggerInversion(tiny_classifier, make_set(shape=(9, 9, 1)))
    with refused("loss", "linaer", "linear"):
        TriggerInversion(tiny_classifier, make_set(), loss="linaer")
    with refused("label 3", "0..2"):
        next(TriggerInversion(tiny_classifier, make_set()).chunks([0, 3]))
