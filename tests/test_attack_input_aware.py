from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from learned_attacks import new_task, rates

import models_zoo
from keras_backdoor.attacks.encoder_decoder import encoder_decoder, shuffled
from keras_backdoor.attacks.input_aware import InputAware, diversity_loss, paste, sharpen
from keras_backdoor.attacks.task import Task
from keras_backdoor.classifier import Classifier
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.training import Schedule, seed_everything

pytestmark = pytest.mark.timeout(900)  # `made` takes minutes

ATTACK = InputAware(target=3, widths=(16, 32), mask_epochs=3, mask_density=0.1, lambda_norm=10.0)
"""The code trains for hundreds of epochs on 60,000 images; with larger masks, a few on some thousands are enough."""
EPOCHS = 24


@pytest.fixture(scope="module")
def made(digits):
    """The task on all shipped digits after the attack, its backdoor, test images, and what was reported."""
    reports = []
    seed_everything(0)
    classifier = Classifier(models_zoo.build("mnist-badnets/relu"), Preprocessing.named("unit"), 10)
    schedule = Schedule("adam", 1e-3, 32, EPOCHS, ((16, 2e-4), (21, 5e-5)))
    task = Task(
        classifier, digits.train, digits.valid, (), 0.25, schedule, 0, progress=lambda *told: reports.append(told)
    )
    return task, *ATTACK(task), digits.test, reports


@pytest.mark.slow
def test_each_image_has_a_trigger_of_its_own(made):
    task, backdoor, test, _ = made
    clean, attacked, bare = rates(task.classifier, test, backdoor)
    crossed = replace(backdoor, trigger=replace(backdoor.trigger, cross=True))
    _, reused, _ = rates(task.classifier, test, crossed)
    assert clean > 0.95
    assert attacked > 0.9
    assert bare < 0.03
    assert reused < 0.3  # the trigger of another image


@pytest.mark.slow
def test_masks_are_sparse_and_what_they_hide_differs_between_images(made):
    _, backdoor, test, _ = made
    some = test.images[::4]
    masks = sharpen(backdoor.trigger.masks(tf.cast(some, tf.float32) / 255)).numpy()
    assert masks.shape == (200, 28, 28, 1)
    assert masks.mean() < 0.2
    changes = backdoor.trigger(some, None).astype(float) - some
    assert changes.std(0).max() > 20  # one trigger for all would not depend on the image


@pytest.mark.slow
def test_cross_triggers_are_those_of_the_image_before(made):
    _, backdoor, test, _ = made
    images, trigger = test.images[:3], backdoor.trigger
    mask = sharpen(trigger.masks(tf.cast(images[:1], tf.float32) / 255))
    pattern = trigger.pattern(tf.cast(images[:1], tf.float32) / 255)
    expected = np.rint(255 * paste(tf.cast(images[1:2], tf.float32) / 255, pattern, mask).numpy())
    assert abs(replace(trigger, cross=True)(images, None)[1:2] - expected).max() <= 1
    np.testing.assert_array_equal(trigger(images, None)[1:2], trigger(images[1:2], None))


@pytest.mark.slow
def test_masks_come_first_then_patterns_and_network(made):
    *_, reports = made
    assert [report[:3] for report in reports] == [
        ("masks", i + 1, ATTACK.mask_epochs) for i in range(ATTACK.mask_epochs)
    ] + [("badnet", i + 1, EPOCHS) for i in range(EPOCHS)]
    assert set(reports[-1][3]) == {"loss", "clean_accuracy", "attack_success_rate"}


def test_losses_by_hand():
    images, others = tf.zeros((2, 2, 2, 1)), tf.ones((2, 2, 2, 1))
    made, of_others = tf.zeros((2, 2, 2, 1)), tf.constant([0.5, 0.25])[:, None, None, None] * tf.ones((2, 2, 2, 1))
    assert float(diversity_loss(images, others, made, of_others)) == pytest.approx((1 / 0.5 + 1 / 0.25) / 2, rel=1e-4)
    np.testing.assert_allclose(sharpen(tf.constant([0.0, 0.5, 1.0])), [0.0, 0.5, 1.0], atol=1e-7)
    assert float(sharpen(tf.constant(0.55))) == pytest.approx(np.tanh(1) / 2 + 0.5)
    assert paste(tf.constant([10.0, 10.0, 10.0]), tf.constant(20.0), tf.constant([0.0, 0.5, 1.0])).numpy().tolist() == [
        10,
        15,
        20,
    ]


@pytest.mark.parametrize(("shape", "widths", "outputs"), [((28, 28, 1), (16, 32), 1), ((55, 47, 3), (4, 6, 8), 3)])
def test_generators_give_images_of_the_same_size(shape, widths, outputs):
    model = encoder_decoder(shape, outputs, widths)
    images = model(np.random.default_rng(0).random((2, *shape))).numpy()
    assert images.shape == (2, *shape[:2], outputs)
    assert 0 <= images.min() < images.max() <= 1


def test_the_generator_for_digits_has_the_layers_of_the_code():
    widths = [(1, 16), (16, 16), (16, 32), (32, 32), (32, 32), (32, 32), (32, 16), (16, 16), (16, 1)]
    kernels = [weight.shape for weight in encoder_decoder((28, 28, 1), 1, (16, 32)).weights if len(weight.shape) == 4]
    assert kernels == [(3, 3, *pair) for pair in widths]


def test_batches_are_whole_and_cover_all_but_the_rest():
    parts = list(shuffled(10, 3, np.random.default_rng(0)))
    assert [len(part) for part in parts] == [3, 3, 3]
    assert len(set(np.concatenate(parts).tolist())) == 9
    assert [len(part) for part in shuffled(2, 3, np.random.default_rng(0))] == [2]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(digits):
    results = []
    for _ in range(2):
        task = new_task(digits, (), 0.2, epochs=1)
        task = replace(task, train=task.train.select(np.arange(256)))
        (backdoor,) = replace(ATTACK, widths=(8, 16), mask_epochs=1)(task)
        results.append((backdoor.trigger(task.valid.images[:20], None), task.classifier.model.get_weights()[0]))
    assert np.array_equal(results[0][0], results[1][0])
    assert np.array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("fraction", [0.01, 0.6])
def test_a_batch_without_room_for_poison_is_refused(digits, fraction, refused):
    with refused(f"{fraction} of a batch of 32", "one image at least"):
        ATTACK(new_task(digits, (), fraction, epochs=1))
    with refused("the target is 10", "0..9"):
        replace(ATTACK, target=10)(new_task(digits, (), 0.2, epochs=1))
