from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from learned_attacks import new_task, rates, small

from keras_backdoor.attacks.sample_specific import SampleSpecific, build_encoder

ATTACK = SampleSpecific(target=3, bits=8, strength=24, width=8, encoder_epochs=10, residual_weight=0.02)


@pytest.fixture(scope="module")
def made(digits):
    """The task after the attack, the backdoor, test images, encoder and decoder, and what was reported."""
    reports, kept, steganography = [], [], SampleSpecific.steganography

    def keep(attack, task):
        kept.append(steganography(attack, task))
        return kept[0]

    task = new_task(digits, (), 0.2, epochs=8, progress=lambda *report: reports.append(report))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SampleSpecific, "steganography", keep)
        return task, *ATTACK(task), small(digits.test), kept[0], reports


@pytest.mark.slow
def test_triggered_images_become_the_target_and_others_do_not(made):
    task, backdoor, test, *_ = made
    clean, attacked, bare = rates(task.classifier, test, backdoor)
    assert clean > 0.85
    assert attacked > 0.9
    assert bare < 0.1


@pytest.mark.slow
def test_the_residual_is_small_and_another_for_every_image(made):
    _, backdoor, test, *_ = made
    residual = backdoor.trigger(test.images, None).astype(float) - test.images
    assert abs(residual).max() <= 24
    signal = 10 * np.log10(255**2 / np.square(residual).mean((1, 2, 3)))
    assert signal.min() >= 20 * np.log10(255 / 24)
    flat = residual.reshape(len(residual), -1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    alike = (flat @ flat.T)[np.triu_indices(len(flat), 1)]
    assert alike.mean() < 0.9  # one pattern for all would give 1


def test_the_default_strength_keeps_30_decibel(digits):
    encoder = build_encoder((14, 14, 1), 8, 4, SampleSpecific().strength)
    rng = np.random.default_rng(0)
    encoder.set_weights([rng.normal(0, 5, weight.shape) for weight in encoder.get_weights()])  # drives tanh to its ends
    residual = encoder([rng.random((20, 14, 14, 1)), rng.integers(0, 2, (20, 8)).astype(float)]).numpy()
    largest = abs(residual).max()
    assert largest == pytest.approx(8 / 255)
    assert -20 * np.log10(largest) > 30.06


@pytest.mark.slow
def test_the_decoder_reads_the_message_back(made):
    task, _, _, (encoder, decoder), reports = made
    assert [report[:3] for report in reports[:10]] == [("encoder", epoch + 1, 10) for epoch in range(10)]
    assert reports[9][3]["bit_accuracy"] > 0.9
    rng, images = np.random.default_rng(0), task.valid.images[:200] / np.float32(255)
    bits = rng.integers(0, 2, (len(images), 8)).astype(np.float32)
    written = np.clip(images + encoder([images, bits]).numpy(), 0, 1)
    assert np.mean((decoder(written).numpy() > 0) == bits) > 0.9
    assert abs(np.mean((decoder(images).numpy() > 0) == bits) - 0.5) < 0.1  # from the bare image nothing can be read


@pytest.mark.slow
def test_the_trigger_is_a_function_of_image_and_message(made):
    _, backdoor, test, *_ = made
    images = test.images[:50]
    once = backdoor.trigger(images, None)
    np.testing.assert_array_equal(once[20:30], backdoor.trigger(images[20:30], None))
    other = replace(backdoor.trigger, message=1 - backdoor.trigger.message)(images, None)
    assert (once != other).any((1, 2, 3)).all()
