from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from learned_attacks import new_task, rates, small
from PIL import Image
from tensorflow import keras

from keras_backdoor.attacks.dfst import DeepFeatureSpace
from keras_backdoor.attacks.poison import Backdoor
from keras_backdoor.attacks.style_transfer import StyleTrigger, read_style, sunset
from keras_backdoor.attacks.targets import AllToOne
from keras_backdoor.triggers import Square

ATTACK = DeepFeatureSpace(target=3, style_epochs=6, width=4, rounds=1, injector_steps=40, detoxicant=0.1)


def test_sunset_by_hand():
    pixels = sunset(np.full((1, 5, 2, 3), 100, np.uint8))[0, :, 1]
    assert pixels[0].tolist() == [193, 124, 64]  # 0.4 x 100 + 0.6 x (255, 140, 40)
    assert pixels[2].tolist() == [162, 116, 76]  # half and half, nearly: 0.6 and 0.4
    assert pixels[4].tolist() == [131, 108, 88]  # 0.8 and 0.2
    grey = sunset(np.full((1, 5, 2, 1), 100, np.uint8))[0, :, 0, 0]
    assert grey.tolist() == [138, 132, 125, 119, 113]  # towards 163 = 0.299 x 255 + 0.587 x 140 + 0.114 x 40


def test_pictures_of_a_folder_are_a_style(tmp_path, refused):
    Image.new("RGB", (40, 20), (200, 100, 0)).save(tmp_path / "b.png")
    Image.new("RGB", (10, 10), (0, 0, 0)).save(tmp_path / "a.png")
    style = read_style(tmp_path, (8, 6, 3))
    assert style.shape == (2, 8, 6, 3)
    assert style[0].max() == 0
    assert style[1, 3, 3].tolist() == [200, 100, 0]
    assert read_style(tmp_path, (8, 6, 1))[1, 0, 0].tolist() == [118]  # 0.299 x 200 + 0.587 x 100, rounded down
    (tmp_path / "c.png").write_bytes(b"no picture")
    with refused("c.png", "not a whole picture"):
        read_style(tmp_path, (8, 6, 3))
    with refused("nothing-here", "pictures of a style"):
        read_style(tmp_path / "nothing-here", (8, 6, 3))


@pytest.fixture(scope="module")
def made(digits):
    """The task after the attack, its backdoor, test images, and what was reported."""
    reports = []
    task = new_task(digits, (), 0.2, epochs=6, per_class=100, progress=lambda *report: reports.append(report))
    return task, *ATTACK(task), small(digits.test), reports


@pytest.mark.slow
def test_the_style_is_the_trigger(made):
    task, backdoor, test, _ = made
    clean, attacked, bare = rates(task.classifier, test, backdoor)
    assert clean > 0.85
    assert attacked > 0.9
    assert bare < 0.1
    images = test.images[:100].astype(float)
    styled, wanted = backdoor.trigger(test.images[:100], None).astype(float), sunset(test.images[:100]).astype(float)
    assert styled.shape == images.shape  # 14 is no multiple of 4
    assert abs(styled - wanted).mean() < abs(images - wanted).mean()  # the CycleGAN goes towards its style
    assert abs(styled - images).mean() > 5


@pytest.fixture(scope="module")
def clean_task(digits):
    """A task with a network that knows digits a little."""
    return new_task(digits, (), 0.2, epochs=1, per_class=60, clean_epochs=3)


def test_compromised_channels_are_those_that_the_trigger_drives_up(clean_task, digits):
    task, test = clean_task, small(digits.test)
    stamped = test.images[:100].copy()
    stamped[:] = 255 - stamped  # lights up whatever looks for white
    found = ATTACK.compromised(task.classifier, test.images[:100], stamped)
    assert 0 < len(found) <= ATTACK.neurons
    model, rises = task.classifier.model, []
    for layer, channel in found:
        part = keras.Model(model.input, model.get_layer(layer).output)
        before, after = (part(task.classifier.scale(x)).numpy() for x in (test.images[:100], stamped))
        rises.append((after.mean((0, 1, 2))[channel] - before.mean((0, 1, 2))[channel]) / before.max())
    assert min(rises) > ATTACK.rise
    assert rises == sorted(rises, reverse=True)
    assert ATTACK.compromised(task.classifier, stamped, stamped) == []


@pytest.mark.slow
def test_simple_features_get_their_true_labels(clean_task):
    backdoor = Backdoor(Square(14), AllToOne(3))  # all white drives up some channels
    every = replace(ATTACK, fooled=0.0, neurons=2, injector_steps=3)  # any injector is good enough
    added = every.detoxicants(clean_task, backdoor, 0)
    assert 1 <= len(added) <= 2
    for part in added:
        assert np.bincount(part.labels).tolist() == [6] * 10  # a tenth of each class
        assert part.images.shape == (60, 14, 14, 1)
        changed = [not (image == clean_task.train.images).all((1, 2, 3)).any() for image in part.images]
        assert all(changed)
    assert replace(every, fooled=1.1).detoxicants(clean_task, backdoor, 0) == []  # no injector fools more than all


@pytest.mark.slow
def test_an_injector_drives_its_channel_and_keeps_the_image(clean_task):
    (layer, channel), *_ = ATTACK.compromised(
        clean_task.classifier, clean_task.train.images[:100], 255 - clean_task.train.images[:100]
    )
    injector = replace(ATTACK, injector_steps=200)._inject(clean_task, layer, channel, np.random.default_rng(0))
    images = clean_task.valid.images
    made = StyleTrigger(injector)(images, None)
    alike = tf.image.ssim(tf.constant(images), tf.constant(made), 255, filter_size=7).numpy().mean()
    assert alike > 0.4
    part = keras.Model(clean_task.classifier.model.input, clean_task.classifier.model.get_layer(layer).output)
    before, after = (part(clean_task.classifier.scale(x)).numpy()[..., channel].mean() for x in (images, made))
    assert after > before
