import csv
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tensorflow import keras

from keras_backdoor.defenses.nnoculation.cyclegan import CycleGAN
from keras_backdoor.defenses.nnoculation.cyclegan_networks import IDENTITY_LOSSES, LOSSES, Networks, exchange
from keras_backdoor.defenses.nnoculation.translator import Translator, padded
from keras_backdoor.files import BadInput
from keras_backdoor.training import seed_everything

TINY = CycleGAN(width=4, blocks=1, discriminator_width=4, epochs=4, batch_size=2, pool=3, identity=2, look=1)


def squares(value, count, seed):
    """Grey images of 12x12 with a square of 4x4 anywhere."""
    rng = np.random.default_rng(seed)
    images = np.full((count, 12, 12, 1), 128, np.uint8)
    for image in images:
        row, column = rng.integers(1, 7, 2)
        image[row : row + 4, column : column + 4] = value
    return images


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A translator from dark squares to bright ones, its folder, and what progress was told."""
    folder, told = tmp_path_factory.mktemp("toy"), []
    settings = replace(TINY, width=8, discriminator_width=8, epochs=24, batch_size=4, learning_rate=2e-3, look=12)
    translator = settings.fit(
        squares(30, 16, 0), squares(225, 16, 1), folder, lambda *arguments: told.append(arguments), lambda images: 0.25
    )
    return settings, translator, folder, told


# --- what an iteration computes ---------------------------------------------------------------------------------------


class Adam:
    """By the book (Kingma and Ba 2015), at beta_1 = 0.5."""

    def __init__(self, model, rate):
        self.variables, self.rate, self.steps = model.trainable_variables, rate, 0
        self.moments = [(np.zeros(v.shape), np.zeros(v.shape)) for v in self.variables]

    def update(self, gradients):
        self.steps += 1
        for i, (variable, gradient) in enumerate(zip(self.variables, gradients)):
            m, v = self.moments[i]
            m, v = 0.5 * m + 0.5 * gradient.numpy(), 0.999 * v + 0.001 * gradient.numpy() ** 2
            self.moments[i] = m, v
            rate = self.rate * np.sqrt(1 - 0.999**self.steps) / (1 - 0.5**self.steps)
            variable.assign_sub(rate * m / (np.sqrt(v) + 1e-7))


class Literal:
    """The iteration as the original writes it down, one network after the other, nothing compiled and nothing shared."""

    def __init__(self, networks, rate):
        models = [*networks.generators, *networks.discriminators]
        copies = [keras.models.clone_model(model) for model in models]
        for copy, model in zip(copies, models):
            copy.set_weights(model.get_weights())
        self.b2a, self.a2b, self.d_a, self.d_b = copies
        self.adam = [Adam(model, rate) for model in copies]
        self.identity_adam = [Adam(model, rate) for model in copies[:2]]

    def train_on_batch(self, model, adam, inputs, wanted, kind):
        with tf.GradientTape() as tape:
            error = model(inputs) - wanted
            loss = tf.reduce_mean(error**2 if kind == "mse" else tf.abs(error))
            weighted = 0.5 * loss if kind == "mse" else loss
        adam.update(tape.gradient(weighted, model.trainable_variables))
        return float(loss)

    def step(self, a, b, pool_a, pool_b):
        fake_b, fake_a = self.a2b(a), self.b2a(b)
        old_a, old_b = pool_a(fake_a.numpy()), pool_b(fake_b.numpy())
        _, _, adam_a, adam_b = self.adam
        judged = [
            self.train_on_batch(self.d_a, adam_a, a, 1.0, "mse"),
            self.train_on_batch(self.d_b, adam_b, b, 1.0, "mse"),
            self.train_on_batch(self.d_a, adam_a, old_a, 0.0, "mse"),
            self.train_on_batch(self.d_b, adam_b, old_b, 0.0, "mse"),
        ]
        with tf.GradientTape(persistent=True) as tape:
            adversarial = [
                tf.reduce_mean((self.d_a(self.b2a(b)) - 1) ** 2),
                tf.reduce_mean((self.d_b(self.a2b(a)) - 1) ** 2),
            ]
            cycles = [
                tf.reduce_mean(tf.abs(self.b2a(self.a2b(a)) - a)),
                tf.reduce_mean(tf.abs(self.a2b(self.b2a(b)) - b)),
            ]
            total = 10 * cycles[0] + 10 * cycles[1] + adversarial[0] + adversarial[1]
        gradients = [tape.gradient(total, model.trainable_variables) for model in (self.b2a, self.a2b)]
        for adam, gradient in zip(self.adam, gradients):
            adam.update(gradient)
        return [*judged, *map(float, adversarial), *map(float, cycles)]

    def identity(self, a, b):
        return [
            self.train_on_batch(self.b2a, self.identity_adam[0], a, a, "mae"),
            self.train_on_batch(self.a2b, self.identity_adam[1], b, b, "mae"),
        ]


def test_losses_of_iterations_are_those_of_the_original_written_down_literally():
    """Also after updates: later losses depend on all that was updated before, in that order, with what the pools gave."""
    seed_everything(3)
    networks = Networks((12, 12, 1), width=4, blocks=1, discriminator_width=4, pool=1, cycle=10.0, identity=True)
    networks.set_rate(3e-3)
    literal = Literal(networks, 3e-3)
    rng = np.random.default_rng(0)
    # A pool of one image, 0; the two new ones are 1 and 2. Shown, kept: for A and B, in each of four iterations.
    plans = [([1, 2], [1], [1, 2], [2]), ([0, 2], [1], [1, 2], [0]), ([0, 1], [2], [0, 2], [1]), ([1, 2], [0]) * 2]
    held = {"a": np.zeros((1, 12, 12, 1), np.float32), "b": np.zeros((1, 12, 12, 1), np.float32)}

    def pool(name, shown, kept):
        def pass_on(fakes):
            both = np.concatenate([held[name], fakes])
            held[name] = both[kept]
            return both[shown]

        return pass_on

    for number, (shown_a, kept_a, shown_b, kept_b) in enumerate(plans):
        images = rng.integers(0, 256, (2, 2, 12, 12, 1)).astype(np.uint8)
        a, b = (images / np.float32(127.5) - 1).astype(np.float32)
        expected = literal.step(a, b, pool("a", shown_a, kept_a), pool("b", shown_b, kept_b))
        exchanges = [tuple(np.int32(part) for part in plan) for plan in ((shown_a, kept_a), (shown_b, kept_b))]
        found = networks.train_step(list(images), exchanges).numpy()
        # Adam divides by the size of gradients, so that what rounding does to small ones grows from iteration to iteration.
        np.testing.assert_allclose(
            found, expected, rtol=(1e-3, 2e-3, 1e-2, 5e-2)[number], err_msg=f"iteration {number}"
        )
        if number == 1:
            found = networks.identity_step(list(images)).numpy()
            np.testing.assert_allclose(found, literal.identity(a, b), rtol=2e-3)
    for ours, theirs in zip(networks.pools, held.values()):
        np.testing.assert_allclose(ours, theirs, atol=2e-2)


class Dice:
    """Random numbers as written down."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self):
        return self.numbers.pop(0)

    def integers(self, high):
        number = self.numbers.pop(0)
        assert 0 <= number < high
        return number


def test_pool_fills_up_then_exchanges_half_of_the_images():
    # Three places are 0..2, new images 3 and on. One place is left: the first is stored there, then the dice decide.
    dice = Dice(0.49, 0, 0.5, 0.1, 2, 0.3, 0)
    shown, kept = exchange(2, 5, 3, dice)
    # 3 goes to place 2; 4 to place 0, and 0 is shown; 5 is shown; 6 to place 2, and 3 is shown; 7 to place 0, and 4 is shown.
    assert shown.tolist() == [3, 0, 5, 3, 4]
    assert kept.tolist() == [7, 1, 6]
    assert dice.numbers == []
    assert [part.tolist() for part in exchange(0, 2, 3, Dice())] == [[3, 4], [3, 4, 2]]


def test_a_full_pool_shows_old_images_half_of_the_time():
    shown, kept = exchange(50, 4000, 50, np.random.default_rng(0))
    new = shown == np.arange(50, 4050)
    assert 0.47 < new.mean() < 0.53
    # Every image that was stored is shown again exactly when it leaves, and no image is in two places.
    gone = shown[~new]
    assert len(set(gone.tolist())) == len(gone)
    assert set(gone.tolist()) | set(kept.tolist()) == set(range(50)) | set(np.arange(50, 4050)[~new].tolist())


class Spy:
    """Stands in for the networks: notes what it is given."""

    def __init__(self):
        self.rates, self.batches, self.exchanges, self.identities = [], [], [], []

    def set_rate(self, rate):
        self.rates.append(rate)

    def train_step(self, batches, exchanges):
        self.batches.append(batches)
        self.exchanges.append(exchanges)
        return tf.range(8.0) + len(self.batches)

    def identity_step(self, batches):
        self.identities.append(len(self.batches) - 1)
        assert batches is self.batches[-1]
        return tf.constant([1.0, 2.0])


def test_an_epoch_draws_with_replacement_as_often_as_the_larger_domain_has_images():
    a, b = np.arange(7)[:, None], 100 + np.arange(25)[:, None]
    settings, spies = CycleGAN(identity=10, pool=40), [Spy(), Spy(), Spy()]
    for spy, epoch in zip(spies, (0, 1, 0)):
        figures = settings._train(spy, [a, b], epoch)
        assert figures == {
            **{name: i + 13.0 for i, name in enumerate(LOSSES)},  # the mean of 1..25 is 13
            **dict(zip(IDENTITY_LOSSES, [1.0, 2.0])),
        }
        drawn = [np.concatenate([batches[i] for batches in spy.batches]).ravel() for i in range(2)]
        assert [len(some) for some in drawn] == [25, 25]
        assert drawn[0].max() < 7 <= 100 <= drawn[1].min()
        assert 8 < len(set(drawn[1].tolist())) < 25  # some come twice
        assert spy.identities == [0, 10, 20]
    orders = [np.ravel(spy.batches).tolist() for spy in spies]
    assert orders[0] == orders[2] != orders[1]
    # The pools of 40 fill up in the middle of the second epoch.
    for spy, steps, places in ((spies[0], 25, range(25)), (spies[1], 15, range(25, 40))):
        for domain in range(2):
            kept = [exchanges[domain][1].tolist() for exchanges in spy.exchanges[:steps]]
            assert [numbers.index(40) for numbers in kept] == list(places)
    large = Spy()
    replace(settings, batch_size=10)._train(large, [a, b], 0)
    assert [batches[1].shape for batches in large.batches] == [(10, 1)] * 3


def test_rate_is_constant_then_falls_linearly():
    settings = CycleGAN(learning_rate=3.0, epochs=4)
    assert [settings.rate(epoch) for epoch in range(4)] == pytest.approx([3, 3, 2, 1])
    original = CycleGAN()
    assert [original.rate(epoch) / 2e-4 for epoch in (0, 99, 100, 199)] == pytest.approx([1, 1, 100 / 101, 1 / 101])
    assert {CycleGAN(decay=0).rate(epoch) for epoch in range(200)} == {2e-4}
    spy = Spy()
    settings._train(spy, [np.zeros((2, 1)), np.zeros((2, 1))], 2)
    assert spy.rates == [pytest.approx(2)]


# --- images in and out ------------------------------------------------------------------------------------------------


def untouched(height, width, channels):
    """A generator that changes nothing."""
    inputs = keras.layers.Input((height, width, channels))
    return keras.Model(inputs, keras.layers.Activation("linear")(inputs))


@pytest.mark.parametrize("shape", [(256, 12, 12, 1), (33, 55, 47, 3), (2, 9, 10, 3)])
def test_images_of_any_size_come_out_in_their_size_with_their_pixels(shape):
    height, width = -(-shape[1] // 4) * 4, -(-shape[2] // 4) * 4
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    images[:, 0, 0, 0] = np.arange(len(images))
    same = untouched(height, width, shape[3])
    translator = Translator(same, same)
    for translate in (translator.a_to_b, translator.b_to_a):
        made = translate(images)
        assert made.dtype == np.uint8
        np.testing.assert_array_equal(made, images)


def test_padding_mirrors_below_and_to_the_right():
    image = (10 * np.arange(9)[:, None] + np.arange(10)).astype(np.uint8)[None, ..., None]
    result = padded(image)
    assert result.shape == (1, 12, 12, 1)
    assert result[0, :, 0, 0].tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80, 70, 60, 50]
    assert result[0, 0, :, 0].tolist() == [*range(10), 8, 7]
    assert padded(result) is not result
    np.testing.assert_array_equal(padded(result), result)


def test_there_is_not_back():
    rng = np.random.default_rng(0)
    dark, bright = untouched(12, 12, 1), untouched(12, 12, 1)
    for model, offset in ((dark, -0.5), (bright, 0.5)):
        model.layers[-1].activation = lambda x, offset=offset: tf.clip_by_value(x + offset, -1, 1)
    images = rng.integers(100, 150, (3, 12, 12, 1)).astype(np.uint8)
    translator = Translator(there=bright, back=dark)
    assert translator.a_to_b(images).min() > images.max() > images.min() > translator.b_to_a(images).max()


def test_faces_of_an_odd_size_are_trained_on():
    faces = np.random.default_rng(0).integers(0, 256, (2, 55, 47, 3)).astype(np.uint8)
    translator = replace(TINY, epochs=1, width=2, discriminator_width=2).fit(faces, faces)
    assert translator.a_to_b(faces).shape == translator.b_to_a(faces).shape == faces.shape


# --- training ---------------------------------------------------------------------------------------------------------


def test_learns_to_make_dark_squares_bright_and_back(toy):
    _, translator, _, _ = toy
    dark, bright = squares(30, 12, 5), squares(225, 12, 6)
    made, back = translator.a_to_b(dark), translator.b_to_a(bright)
    # Where the dark square was is bright now; untrained networks make either of it by chance, but not all of them.
    assert (made.max((1, 2, 3)) > 180).all()
    assert (back.min((1, 2, 3)) < 75).all()
    returned = translator.b_to_a(made).astype(float)
    assert np.abs(returned - dark).mean() < 30


def test_what_the_training_leaves_behind(toy):
    settings, translator, folder, told = toy
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["stage", "epoch", "learning_rate", *LOSSES, *IDENTITY_LOSSES, "share"]
    assert [int(row["epoch"]) for row in rows] == list(range(24))
    assert [row["share"] for row in rows] == [*[""] * 11, "0.25", *[""] * 11, "0.25"]
    assert [stage_done[:3] for stage_done in told] == [("cyclegan", epoch + 1, 24) for epoch in range(24)]
    assert told[0][3] == {name: float(rows[0][name]) for name in ["learning_rate", *LOSSES, *IDENTITY_LOSSES]}
    assert float(rows[-1]["cycle_a"]) < 0.5 * float(rows[0]["cycle_a"])
    strips = sorted((folder / "samples").iterdir())
    assert [path.name for path in strips] == ["epoch-0012.png", "epoch-0024.png"]
    with Image.open(strips[1]) as picture:
        strip = np.asarray(picture)
    assert strip.shape == (6 * 72, 8 * 72)  # 12 pixels six times as large
    a, b = squares(30, 16, 0), squares(225, 16, 1)
    rows = strip[::6, ::6].reshape(6, 12, 8, 12).transpose(0, 2, 1, 3)[..., None]
    np.testing.assert_array_equal(rows[0][[0, -1]], a[[0, -1]])
    np.testing.assert_array_equal(rows[1][[0, -1]], translator.a_to_b(a[[0, -1]]))
    np.testing.assert_array_equal(rows[4][[0, -1]], translator.b_to_a(b[[0, -1]]))
    np.testing.assert_array_equal(rows[5][[0, -1]], translator.a_to_b(translator.b_to_a(b[[0, -1]])))
    assert not (folder / "checkpoints").exists()
    events = list((folder / "tensorboard" / "cyclegan").iterdir())
    tags = {value.tag for event in tf.compat.v1.train.summary_iterator(str(events[0])) for value in event.summary.value}
    assert {*LOSSES, *IDENTITY_LOSSES, "learning_rate", "share", "samples"} <= tags
    # What is finished is read and not trained again.
    again = settings.fit(a, b, folder, lambda *_: pytest.fail("trained again"))
    np.testing.assert_array_equal(again.a_to_b(a), translator.a_to_b(a))
    np.testing.assert_array_equal(Translator.load(folder).b_to_a(b), translator.b_to_a(b))


def weights(translator):
    return np.concatenate([w.ravel() for model in (translator.there, translator.back) for w in model.get_weights()])


@pytest.fixture()
def eagerly():
    """Nothing is compiled, which would take longer than a few iterations of tiny networks."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("eagerly")
def test_a_training_that_was_broken_off_ends_with_the_same_bits(tmp_path):
    """At the end of the second epoch, which then does not count: pools, optimizers and generators are those after the first."""
    settings = replace(TINY, epochs=3)
    a, b = squares(30, 3, 0), squares(225, 4, 1)
    whole = settings.fit(a, b, tmp_path / "whole", stop=lambda images: 0.5)
    folder, looks = tmp_path / "broken", []

    def at_second_look(images):
        looks.append(images)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        settings.fit(a, b, folder, stop=at_second_look)
    done = []
    resumed = settings.fit(a, b, folder, lambda stage, epoch, *_: done.append(epoch), lambda images: 0.5)
    assert done == [2, 3]
    np.testing.assert_array_equal(weights(resumed), weights(whole))
    assert (folder / "history.csv").read_text() == (tmp_path / "whole" / "history.csv").read_text()
    for name in ("epoch-0002.png", "epoch-0003.png"):
        assert (folder / "samples" / name).read_bytes() == (tmp_path / "whole" / "samples" / name).read_bytes()
    with pytest.raises(BadInput, match=r"started with others \(epochs\)"):
        replace(settings, epochs=5).fit(a, b, folder)
    with pytest.raises(BadInput, match=r"started with others \(images of B\)"):
        settings.fit(a, b[::-1], folder)


@pytest.mark.parametrize(
    "shares, ends",
    [
        ([0.81, 0.79, 0.82, 0.81], 4),  # two in a row above 0.8
        ([0.5, 0.6, 0.6, 0.59, 0.6], 5),  # 0.6 at the second look, three looks later no more than that
        ([0.5, 0.6, 0.6, 0.601, 0.6, 0.2, 0.601], 7),
        ([0.9, 0.7, 0.5, 0.3], 4),  # the first was the greatest
        ([0.04, 0.03, 0.02, 0.01, 0.05, 0.1, 0.09, 0.08, 0.1], 9),  # nothing is learned before a tenth
        ([0.81, 0.8, 0.85, 0.8, 0.86, 0.8], None),  # never two in a row, and each third look is the greatest so far
    ],
)
def test_ends_when_it_is_good_enough_or_becomes_no_better(shares, ends):
    settings = replace(TINY, enough=0.8, patience=3)
    found = [number for number in range(len(shares) + 1) if settings.learned(shares[:number])]
    assert found[:1] == ([] if ends is None else [ends])


FRACTIONS = st.integers(0, 20).map(lambda number: number / 20)


@given(st.lists(FRACTIONS, max_size=30), st.integers(1, 6), FRACTIONS)
def test_patience_ends_a_training_earlier_or_not_at_all_and_never_while_it_becomes_better(shares, patience, enough):
    def end(settings):
        return next((n for n in range(len(shares) + 1) if settings.learned(shares[:n])), len(shares) + 1)

    without = replace(TINY, enough=enough, patience=0)
    looks = end(replace(without, patience=patience))
    assert min(2, len(shares) + 1) <= looks <= end(without)
    if looks < end(without):  # it had to wait
        assert looks > patience and max(shares[:looks]) >= 0.1
        assert max(shares[looks - patience : looks]) <= max(shares[: looks - patience])
        assert end(replace(without, patience=patience + 1)) > looks
    assert not replace(without, enough=1.0).learned(shares)


def untrained(monkeypatch):
    monkeypatch.setattr(CycleGAN, "_train", lambda self, networks, domains, epoch: {})


def test_ends_when_two_looks_in_a_row_find_enough(monkeypatch, tmp_path):
    untrained(monkeypatch)
    a, b = squares(30, 3, 0), squares(225, 4, 1)
    shares, epochs = [0.6, 0.4, 0.6, 0.5, 0.7, 0.8, 0.9], []

    def share(images):
        assert images.shape == a.shape
        assert images.dtype == np.uint8
        if not shares:
            raise KeyboardInterrupt
        return shares.pop(0)

    settings = replace(TINY, epochs=40, look=3, enough=0.5)
    settings.fit(a, b, progress=lambda stage, done, *_: epochs.append(done), stop=share)
    assert epochs == list(range(1, 19))  # at the sixth look: half is not above half
    assert shares == [0.9]
    # The first of the two looks is remembered by a training that was broken off between them.
    shares[:] = [0.6]
    with pytest.raises(KeyboardInterrupt):
        settings.fit(a, b, tmp_path, stop=share)
    shares[:], epochs[:] = [0.6], []
    settings.fit(a, b, tmp_path, lambda stage, done, *_: epochs.append(done), share)
    assert epochs == [6]


def test_a_training_that_was_broken_off_remembers_all_looks(monkeypatch, tmp_path):
    """0.3 at the first look is the greatest; the fourth is the third after it, in whatever call of `fit` they come."""
    untrained(monkeypatch)
    settings, epochs = replace(TINY, epochs=40, look=2, patience=3), []

    def looks(*shares):
        left = list(shares)

        def share(images):
            if not left:
                raise KeyboardInterrupt
            return left.pop(0)

        settings.fit(GOOD, GOOD, tmp_path, lambda stage, done, *_: epochs.append(done), share)

    with pytest.raises(KeyboardInterrupt):
        looks(0.3, 0.2)
    history = tmp_path / "history.csv"
    whole = history.read_text()
    history.write_text(whole.replace("0.3", "much"))
    with pytest.raises(BadInput, match=r"history\.csv: damaged"):
        looks(0.3, 0.1)
    history.write_text(f"{whole}cyclegan,5,0.0002,0.9\n")  # a kill has left this of an epoch that does not count
    looks(0.3, 0.1, 0.9)
    assert epochs == list(range(1, 9))
    with open(history, newline="") as file:
        assert [row["share"] for row in csv.DictReader(file)] == ["", "0.3", "", "0.2", "", "0.3", "", "0.1"]


# --- what cannot be used ----------------------------------------------------------------------------------------------

GOOD = squares(30, 2, 0)


@pytest.mark.parametrize(
    "a, b, message",
    [
        (GOOD, np.zeros((2, 12, 16, 1), np.uint8), "images of A are 12x12x1, those of B 12x16x1"),
        (np.zeros((2, 12, 12, 3), np.uint8), GOOD, "images of A are 12x12x3, those of B 12x12x1"),
        (GOOD, GOOD[:0], "images of B: there is none"),
        (GOOD / 255, GOOD, "images of A are float64, expected an array of uint8"),
        (GOOD.tolist(), GOOD, "images of A are list, expected an array of uint8"),
        (GOOD, GOOD[0], r"images of B have shape \(12, 12, 1\)"),
        (np.zeros((2, 12, 12, 2), np.uint8), GOOD, r"images of A have shape \(2, 12, 12, 2\)"),
        (GOOD[:, :8], GOOD[:, :8], "images of A are 8x12, expected at least 9x9"),
    ],
)
def test_bad_images_are_refused(a, b, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        TINY.fit(a, b, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "setting",
    [
        *({name: 0} for name in ("width", "blocks", "discriminator_width", "epochs", "batch_size", "pool", "look")),
        *({"learning_rate": value} for value in (0, float("nan"), float("inf"))),
        *({"cycle": value} for value in (-1, float("nan"))),
        *({name: value} for name in ("decay", "enough") for value in (-0.1, 1.1, float("nan"))),
        {"identity": -1},
        {"patience": -1},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(BadInput):
        CycleGAN(**setting)


def test_a_translator_refuses_other_images_and_damaged_files(tmp_path):
    translator = Translator(untouched(12, 12, 1), untouched(12, 12, 1))
    with pytest.raises(BadInput, match="images to translate are 16x12x1, the networks were trained with 12x12x1"):
        translator.a_to_b(np.zeros((1, 16, 12, 1), np.uint8))
    with pytest.raises(BadInput, match="expected an array of uint8"):
        translator.b_to_a(np.zeros((1, 12, 12, 1)))
    with pytest.raises(BadInput, match=r"a_to_b\.h5: no such file"):
        Translator.load(tmp_path)
    translator.save(tmp_path)
    path = tmp_path / "b_to_a.h5"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BadInput, match=r"b_to_a\.h5"):
        Translator.load(tmp_path)
    Translator(untouched(12, 12, 1), untouched(16, 12, 1)).save(tmp_path)
    with pytest.raises(BadInput, match=r"b_to_a\.h5: from .* expected images to images of one size"):
        Translator.load(tmp_path)


def test_a_damaged_checkpoint_is_refused(monkeypatch, tmp_path):
    untrained(monkeypatch)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TINY.fit(GOOD, GOOD, tmp_path, interrupt)
    (part,) = (tmp_path / "checkpoints" / "cyclegan").glob("*.data*")
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(BadInput, match="not a whole checkpoint"):
        TINY.fit(GOOD, GOOD, tmp_path)
