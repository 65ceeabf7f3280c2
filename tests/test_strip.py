"""STRIP: on networks that can be computed on paper, beside the released algorithm, and on backdoors planted in real digits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from small_attacks import TARGET, halved, small_task
from tensorflow import keras

from keras_backdoor.attacks.poison import Backdoor, poison, poison_all
from keras_backdoor.attacks.targets import AllToAll, AllToOne
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses import find
from keras_backdoor.defenses.strip import Strip
from keras_backdoor.detection import auc, false_acceptance_rate, false_rejection_rate, quantile_threshold
from keras_backdoor.goodnet import GoodNet
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import score
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.triggers import Square

SCALINGS = (Preprocessing.named("unit"), Preprocessing.named("raw"), Preprocessing("standardise", (120.0,), (60.0,)))


@pytest.fixture
def network() -> Classifier:
    """A seeded, untrained network from 8x8x1 images to 3 classes whose answers differ from image to image."""
    keras.utils.set_random_seed(0)
    inputs = keras.layers.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    logits = keras.layers.Dense(3, kernel_initializer=keras.initializers.RandomNormal(stddev=2.0))
    outputs = keras.layers.Softmax()(logits(keras.layers.Flatten()(keras.layers.MaxPooling2D(2)(x))))
    return Classifier(keras.Model(inputs, outputs), Preprocessing.named("unit"), 3)


def test_it_is_known_by_its_name():
    assert find("strip") is Strip


# --- on paper -------------------------------------------------------------------------------------------------------------

# Ten pixels vote for a class each, one mutes all votes, one is the trigger, one is a serial number that nobody looks at. One vote
# gives its class a probability of 0.991, and the others 0.001 each.
MUTE, TRIGGER, SERIAL = 10, 11, 12
SURE, UNCERTAIN = -0.991 * np.log2(0.991) - 9 * 0.001 * np.log2(0.001), np.log2(10)


def voting() -> Classifier:
    inputs = keras.layers.Input((1, 13, 1))
    heard = keras.layers.Dense(11, activation="relu")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(heard))
    ears, voice = np.zeros((13, 11)), np.zeros((11, 10))
    ears[range(10), range(10)], ears[MUTE, :10], ears[TRIGGER, 10] = 1, -10, 1
    voice[range(10), range(10)] = voice[10, TARGET] = np.log(991)
    model.set_weights([ears, np.zeros(11), voice, np.zeros(10)])
    return Classifier(model, Preprocessing.named("raw"), 10)


def pictures(*lit: tuple[int, ...]) -> ImageSet:
    """One picture for each tuple of pixels that are 1 in it; the serial number makes them different."""
    images = np.zeros((len(lit), 1, 13, 1), np.uint8)
    for number, (image, pixels) in enumerate(zip(images, lit)):
        image[0, list(pixels)], image[0, SERIAL] = 1, number
    return ImageSet(images, np.zeros(len(lit)), 10)


VOTERS = pictures(*((i % 10,) for i in range(20)))
INPUTS = {"backdoored": (MUTE, TRIGGER), "clean, always uncertain": (MUTE,), "clean, its answers differ": ()}


def test_the_entropy_is_over_classes_in_bits():
    """An implementation that normalises over the overlays gives 2.161, 2.161 and 0.684, and lets the trojan pass."""
    assert (round(SURE, 3), round(UNCERTAIN, 3)) == (0.103, 3.322)
    scores = Strip(overlays=20).fit_filter(voting(), VOTERS).scores(pictures(*INPUTS.values()))
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, [SURE, UNCERTAIN, SURE], rtol=1e-5)


def test_the_threshold_lies_where_a_normal_fit_of_clean_entropies_has_the_preset_share_below():
    for rate in (0.01, 0.03, 0.05):
        fitted = Strip(overlays=30, false_rejection_rate=rate, threshold="normal").fit_filter(voting(), VOTERS)
        assert fitted.threshold == pytest.approx(norm.ppf(rate, *norm.fit(fitted.clean_scores)), rel=1e-12)
    assert len(fitted.clean_scores) == 20
    np.testing.assert_array_equal(np.sort(fitted.scores(VOTERS)), np.sort(fitted.clean_scores))


def test_an_input_at_the_threshold_is_flagged():
    fitted = Strip(overlays=20).fit_filter(voting(), VOTERS)
    inputs = pictures(*INPUTS.values())
    trojan = fitted.scores(inputs)[0]
    assert replace(fitted, threshold=trojan).flags(inputs)[:2].tolist() == [True, False]
    assert replace(fitted, threshold=np.nextafter(trojan, 0)).flags(inputs)[:2].tolist() == [False, False]


def one_pixel(scaling: Preprocessing) -> Classifier:
    """One grey pixel to (p, 1 - p) with p = input / 2000 + 1/4: the entropy tells what the network saw."""
    inputs = keras.layers.Input((1, 1, 1))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    model.set_weights([np.array([[1, -1]]) / 2000, np.array([0.25, 0.75])])
    return Classifier(model, scaling, 2)


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: scaling.name)
@pytest.mark.parametrize(
    ("blending", "seen"), [("sum", lambda s: s), ("saturating", lambda s: min(s, 255)), ("half", lambda s: s / 2)]
)
def test_what_the_network_sees(blending, seen, scaling):
    pool = ImageSet(np.arange(0, 240, 12, dtype=np.uint8).reshape(20, 1, 1, 1), np.zeros(20), 2)
    fitted = Strip(overlays=1, blending=blending).fit_filter(one_pixel(scaling), pool)
    inputs = ImageSet(np.array([1, 55, 130, 255], np.uint8).reshape(4, 1, 1, 1), np.zeros(4), 2)
    expected = []
    for image in inputs.images:
        (overlay,) = fitted._draw(image)
        p = (seen(int(image.item()) + 12 * overlay) - scaling.mean[0]) / scaling.deviation[0] / 2000 + 0.25
        expected.append(-p * np.log2(p) - (1 - p) * np.log2(1 - p))
    np.testing.assert_allclose(fitted.scores(inputs), expected, rtol=2e-6)


# --- the released algorithm -----------------------------------------------------------------------------------------------


def released(classifier: Classifier, image: np.ndarray, overlays: np.ndarray) -> float:
    """What STRIP's notebook does with one input: scaled images are added, unclipped, and NaN of 0 log 0 is left out."""
    added = np.stack([image / 255.0 + overlay / 255.0 for overlay in overlays]).astype(np.float32)
    answers = classifier.model(added).numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.nansum(answers * np.log2(answers)) / len(overlays)


@pytest.mark.parametrize("loudness", [1, 30])
def test_scores_are_those_of_the_released_algorithm_over_the_same_overlays(network, make_set, loudness):
    *weights, kernel, bias = network.model.get_weights()
    network.model.set_weights([*weights, loudness * kernel, bias])
    pool, inputs = make_set(40), make_set(6, seed=1)
    assert (network.probabilities(inputs.batches()) == 0).any() == (loudness > 1)
    fitted = Strip(overlays=25).fit_filter(network, pool)
    expected = [released(network, image, pool.images[fitted._draw(image)]) for image in inputs.images]
    assert np.std(expected) > 1e-3
    np.testing.assert_allclose(fitted.scores(inputs), expected, rtol=1e-4, atol=1e-6)


# --- overlays -------------------------------------------------------------------------------------------------------------


def test_an_image_is_never_laid_over_itself_and_every_other_one_is(network, make_set):
    pool = make_set(20)
    fitted = Strip(overlays=1000).fit_filter(network, pool)
    for place, image in enumerate(pool.images):
        drawn, counts = np.unique(fitted._draw(image), return_counts=True)
        assert drawn.tolist() == [other for other in range(20) if other != place]
        assert counts.min() > 20 and counts.max() < 90  # 53 are expected, with a deviation of 7
    drawn, counts = np.unique(fitted._draw(make_set(1, seed=5).images[0]), return_counts=True)
    assert drawn.tolist() == list(range(20))
    assert counts.min() > 20


def test_every_input_gets_overlays_of_its_own_and_the_seed_decides(network, make_set):
    inputs = make_set(3, seed=1)
    first, again, other = (Strip(seed=seed, overlays=50).fit_filter(network, make_set(30)) for seed in (0, 0, 1))
    draws = [tuple(fitted._draw(image)) for fitted in (first, other) for image in inputs.images]
    assert len(set(draws)) == 6
    np.testing.assert_array_equal(first.scores(inputs), again.scores(inputs))
    assert (first.scores(inputs) != other.scores(inputs)).all()
    assert first.threshold == again.threshold != other.threshold


@pytest.mark.parametrize("first_overlays", [0, 10])
def test_scores_do_not_depend_on_the_batch_or_the_company(network, make_set, first_overlays):
    inputs, pool = make_set(41, seed=1), make_set(30)
    small, large = (
        Strip(memory=memory, first_overlays=first_overlays).fit_filter(network, pool) for memory in (1, 500)
    )
    told = []
    scores = small.scores(inputs, lambda *what: told.append(what))
    np.testing.assert_allclose(scores, large.scores(inputs), rtol=1e-5)
    order = np.random.default_rng(0).permutation(41)
    np.testing.assert_allclose(small.scores(inputs.select(order)), scores[order], rtol=1e-5)
    np.testing.assert_allclose(small.scores(inputs.select(np.array([7]))), scores[7:8], rtol=1e-5)
    assert told[-1] == ("STRIP", 41, 41, {})


def test_the_budget_decides_how_many_images_go_through_at_once(network, make_set):
    """The widest layer, conv_1, takes 8x8 values and gives 6x6x4: 832 bytes an image."""
    fitted = Strip(memory=1, overlays=2000).fit_filter(network, make_set(20))
    sizes = []

    def counting(pairs, images):
        sizes.append(len(pairs[0]))
        return fitted.entropies(pairs, images)

    replace(fitted, entropies=counting).scores(make_set(3, seed=1))
    assert sizes == [1260, 1260, 1260, 1260, 960]
    assert 1260 == (1 << 20) // 832


def test_backgrounds_are_as_many_as_asked_for(network, make_set):
    assert len(Strip(overlays=5, backgrounds=25).fit_filter(network, make_set(60)).clean_scores) == 25


# --- looking before all overlays are laid -----------------------------------------------------------------------------------


def counted(fitted, counts):
    """The same filter; it adds to `counts` how many images went through the network."""

    def entropies(pairs, images):
        counts.append(len(pairs[0]))
        return fitted.entropies(pairs, images)

    return replace(fitted, entropies=entropies)


def test_early_verdicts_agree_with_late_ones_and_cost_less(planted):
    networks, valid, test = planted
    classifier, backdoor = networks["all-to-one"]
    whole = Strip(false_rejection_rate=0.05, blending="saturating").fit_filter(classifier, valid)
    early, passes = replace(whole, settings=replace(whole.settings, first_overlays=10)), []
    triggered = poison_all(test, backdoor, np.random.default_rng(1))
    for images in (test, triggered):
        expected = whole.flags(images)
        flags = counted(early, passes).flags(images)
        assert (flags == expected).mean() >= 0.995
        assert 0.005 < expected.mean() < 0.995  # there are both verdicts to agree on
        assert flags[expected].all()  # what all overlays would flag is never let through
    assert sum(passes) < 0.5 * 100 * (len(test) + len(triggered))


def test_an_input_is_decided_where_the_looks_say_so(network, make_set):
    """Beside a loop over images and looks."""
    inputs, settings = make_set(150, seed=1), Strip(overlays=50, first_overlays=15)
    fitted = replace(settings, false_rejection_rate=0.3).fit_filter(network, make_set(80))
    assert [count for count, _ in fitted.looks] == [15, 30, 45, 50]
    expected, passes, ends = [], [], []
    for image in inputs.images:
        overlays = fitted._draw(image)
        bits = fitted.entropies((np.zeros(50, np.int32), overlays), image[None]).numpy().astype(float)
        for count, most in fitted.looks:
            total = bits[:count].sum()
            if total > 50 * fitted.threshold or total <= most:
                break
        expected.append(total / count)
        ends.append(count)
    assert set(ends) == {15, 30, 45, 50}
    np.testing.assert_allclose(counted(fitted, passes).scores(inputs), expected, rtol=1e-5)
    assert sum(passes) == sum(ends)


def test_early_flags_are_wrong_for_hardly_any_background(network, make_set):
    """Counted anew: every background, its overlays begun at every tenth one, is flagged early in error once in two thousand."""
    settings = Strip(overlays=100, first_overlays=10, false_rejection_rate=0.2)
    fitted = settings.fit_filter(network, make_set(400))
    cleared = fitted.clean_entropies[fitted.clean_scores > fitted.threshold]
    wrong = 0
    for start in range(0, 100, 10):
        sums = np.roll(cleared, -start, axis=1).cumsum(1)
        still = np.ones(len(sums), bool)
        for count, most in fitted.looks[:-1]:
            assert most <= count * fitted.threshold
            still &= sums[:, count - 1] <= 100 * fitted.threshold
            wrong += (still & (sums[:, count - 1] <= most)).sum()
            still &= sums[:, count - 1] > most
    assert 0 < wrong <= 0.0005 * 10 * 400
    mosts = [most for _, most in fitted.looks[:-1]]
    assert mosts[-1] > 0


def test_the_threshold_is_fitted_on_all_overlays_and_early_looks_follow_another_one(network, make_set):
    fits = [Strip(first_overlays=first).fit_filter(network, make_set(40)) for first in (0, 8)]
    assert fits[0].threshold == fits[1].threshold
    np.testing.assert_array_equal(fits[0].clean_scores, fits[1].clean_scores)
    assert fits[0].looks == [(100, -np.inf)]
    higher = replace(fits[1], threshold=fits[1].threshold + 0.3)
    assert higher.looks[5][1] > fits[1].looks[5][1]


def test_below_zero_nothing_is_flagged_and_one_look_tells(network, make_set):
    fitted, passes = Strip(first_overlays=5).fit_filter(network, make_set(40)), []
    inputs = make_set(30, seed=1)
    assert not counted(replace(fitted, threshold=-0.1), passes).flags(inputs).any()
    assert sum(passes) == 30 * 5


# --- real digits ----------------------------------------------------------------------------------------------------------

SQUARE = Square(3, margin=0)


@pytest.fixture(scope="module")
def planted(digits):
    """Networks on digits of 14x14: with an all-to-one backdoor, with an all-to-all one, and innocent; clean and test images."""
    networks = {}
    for name, target_map, fraction in (
        ("all-to-one", AllToOne(TARGET), 0.5),
        ("all-to-all", AllToAll(10), 0.5),
        ("innocent", AllToOne(TARGET), 0.0),
    ):
        task, backdoor = small_task(digits, epochs=4), Backdoor(SQUARE, target_map)
        task.fit(poison(task.train, [backdoor], fraction, np.random.default_rng(0))[0], stage="badnet")
        networks[name] = task.classifier, backdoor
    return networks, halved(digits.valid), halved(digits.test)


@pytest.fixture(scope="module")
def told_apart(planted):
    """For each network: scores of clean and of triggered images, and the filter that gave them."""
    networks, valid, test = planted
    found = {}
    for name, (classifier, backdoor) in networks.items():
        fitted = Strip(overlays=40, blending="saturating").fit_filter(classifier, valid)
        triggered = poison_all(test, backdoor, np.random.default_rng(1))
        found[name] = fitted.scores(test), fitted.scores(triggered), fitted
    return found


def test_the_networks_are_what_they_are_meant_to_be(planted):
    networks, _, test = planted
    for name, (classifier, backdoor) in networks.items():
        rates = score(classifier, test, {"t": poison_all(test, backdoor, np.random.default_rng(1))})
        assert rates.clean_accuracy > 0.8
        assert (rates.attack_success_rate["t"] > 0.7) == (name != "innocent")


def test_a_trigger_that_overrides_everything_is_caught(told_apart):
    clean, triggered, fitted = told_apart["all-to-one"]
    assert false_acceptance_rate(triggered, fitted.threshold) < 0.03
    assert false_rejection_rate(clean, fitted.threshold) < 0.05
    assert auc(clean, triggered) > 0.99


def test_bfloat16_gives_nearly_the_same_scores_and_verdicts(planted, told_apart):
    networks, valid, test = planted
    classifier, backdoor = networks["all-to-one"]
    fitted = Strip(overlays=40, blending="saturating", precision="bfloat16").fit_filter(classifier, valid)
    clean, _, exact = told_apart["all-to-one"]
    scores = fitted.scores(test)
    np.testing.assert_allclose(scores, clean, atol=0.05)
    assert ((scores <= fitted.threshold) == (clean <= exact.threshold)).mean() > 0.98
    triggered = poison_all(test, backdoor, np.random.default_rng(1))
    assert false_acceptance_rate(fitted.scores(triggered), fitted.threshold) < 0.03


def test_a_trigger_whose_target_depends_on_the_input_is_not(told_apart):
    clean, triggered, fitted = told_apart["all-to-all"]
    assert false_acceptance_rate(triggered, fitted.threshold) > 0.9
    assert 0.3 < auc(clean, triggered) < 0.7


@pytest.mark.parametrize("rate", [0.01, 0.03, 0.05])
def test_an_innocent_network_flags_the_preset_share(told_apart, rate):
    clean, triggered, fitted = told_apart["innocent"]
    threshold = quantile_threshold(fitted.clean_scores, rate)
    assert false_rejection_rate(clean, threshold) == pytest.approx(rate, abs=0.015)
    assert false_acceptance_rate(triggered, threshold) > 0.9


# --- bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"overlays": 0}, ["overlays is 0", "at least 1"]),
        ({"blending": "sums"}, ["blending 'sums'", "'sum'"]),
        ({"blending": "x"}, ["sum, saturating, half"]),
        ({"threshold": "fit"}, ["threshold 'fit'", "normal, quantile"]),
        ({"false_rejection_rate": 0.0}, ["false_rejection_rate is 0.0", "between 0 and 1"]),
        ({"false_rejection_rate": 1.0}, ["between 0 and 1"]),
        ({"false_rejection_rate": float("nan")}, ["between 0 and 1"]),
        ({"first_overlays": 1}, ["first_overlays is 1", "2 or more", "(100)"]),
        ({"first_overlays": 100}, ["fewer than overlays (100)"]),
        ({"first_overlays": -5}, ["first_overlays is -5"]),
        ({"backgrounds": 19}, ["backgrounds is 19", "at least 20"]),
        ({"memory": 0}, ["memory is 0"]),
        ({"precision": "float16"}, ["precision 'float16'", "bfloat16"]),
        ({"seed": -1}, ["seed"]),
    ],
)
def test_hyper_parameters_out_of_range(refused, settings, parts):
    with refused(*parts):
        Strip(**settings)


def test_clean_images_that_do_not_do(network, make_set, refused):
    with refused("clean images: 19 different ones", "at least 20"):
        Strip().fit_filter(network, make_set(19))
    same = make_set(40)
    with refused("clean images: 19 different ones"):
        Strip().fit_filter(network, same.select(np.arange(40) % 19))
    with refused("clean images: images are 9x9x1", "8x8x1"):
        Strip().fit_filter(network, make_set(40, shape=(9, 9, 1)))
    with refused("images: images are 9x9x1", "8x8x1"):
        Strip(overlays=5).fit_filter(network, make_set(40)).scores(make_set(3, shape=(9, 9, 1)))


def test_networks_that_leave_nothing_to_fit(network, make_set, refused):
    weights = network.model.get_weights()
    network.model.set_weights([0 * weight for weight in weights])
    with refused("all 40 have the score 1.585"):  # log2 of 3 classes
        Strip(overlays=5).fit_filter(network, make_set(40))
    network.model.set_weights([weight + np.nan for weight in weights])
    with refused("finite"):
        Strip(overlays=5).fit_filter(network, make_set(40))


def test_a_goodnet_is_refused(network, make_set, refused):
    with refused("GoodNet"):
        Strip().fit_filter(GoodNet.combine(network, network.clone()), make_set(40))
