"""Invisible sample-specific triggers (Li et al., ICCV 2021, ISSBA): a hidden message, written differently into each image.

An encoder adds a small residual to an image from which a decoder can read a string of bits back; it is trained on clean images
and random strings. Then data are poisoned with images into which one string, the attacker's for the target class, is written.

The paper takes encoder and decoder from StegaStamp (Tancik et al. 2020), trained for pictures of 224x224 and 100 bits. Of that,
kept are the layout (the string as an image beside the image, a U-Net, a convolutional reader) and two losses, the residual's
square and the bits' cross-entropy. Left out are the perceptual loss and the critic, and noise between the two, as nothing is
printed. Other than there the residual is bounded by construction: `strength` grey levels a pixel, a whole number, so that no
image's PSNR is below 20 log10(255 / strength), 30.07 dB by default; the paper reports 27.2 dB on average.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow import keras
from tensorflow.keras import layers

from keras_backdoor.attacks.encoder_decoder import as_pixels, in_batches, shuffled, u_net, unit
from keras_backdoor.attacks.poison import Backdoor
from keras_backdoor.attacks.targets import AllToOne
from keras_backdoor.attacks.task import Task


@dataclass(frozen=True, eq=False)
class SampleSpecificTrigger:
    """The image with `message`, bits (B,), written into it by `encoder`."""

    encoder: keras.Model
    message: np.ndarray
    name: str = "sample-specific"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image; nothing is random."""
        messages = np.repeat(self.message[None].astype(np.float32), len(images), axis=0)
        return as_pixels(in_batches(lambda batch, bits: write(self.encoder, unit(batch), bits), images, messages))


@dataclass(frozen=True)
class SampleSpecific:
    """Train encoder and decoder, then the classifier on poisoned data.

    The task needs no backdoors. The first stage is not resumed in its middle: after a kill it is done again.
    """

    target: int = 0  # class that triggered images become
    bits: int = 20  # length of the message
    strength: int = 8  # largest change of a pixel, grey levels
    width: int = 16  # filters of encoder and decoder where images are largest
    encoder_epochs: int = 20  # passes over the clean images
    rate: float = 1e-3  # of Adam
    residual_weight: float = (
        0.2  # weight of the residual's mean square (1: all at the bound) in the last epoch, from 0 half-way
    )

    def __call__(self, task: Task) -> tuple[Backdoor, ...]:
        """Train; gives the learned trigger's backdoor."""
        encoder, _ = self.steganography(task)
        message = task.rng(11).integers(0, 2, self.bits)
        backdoors = (Backdoor(SampleSpecificTrigger(encoder, message), AllToOne(self.target)),)
        task.fit(task.poisoned(backdoors), backdoors=backdoors)
        return backdoors

    def steganography(self, task: Task) -> tuple[keras.Model, keras.Model]:
        """Encoder and decoder, trained on the task's clean images."""
        shape, rng, images = task.train.image_shape, task.rng(10), task.train.in_memory().images
        keras.utils.set_random_seed(task.seed)  # their weights, whatever was trained before
        encoder, decoder = (
            build_encoder(shape, self.bits, self.width, self.strength),
            build_decoder(shape, self.bits, self.width),
        )
        optimizer = keras.optimizers.Adam(self.rate)
        variables = encoder.trainable_variables + decoder.trainable_variables

        @tf.function
        def step(batch: tf.Tensor, bits: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            inputs = unit(batch)
            with tf.GradientTape() as tape:
                written = write(encoder, inputs, bits)
                read = decoder(written, training=True)
                loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(bits, read))
                square = tf.reduce_mean((written - inputs) ** 2)
                loss += weight * square * (255 / self.strength) ** 2
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
            return tf.reduce_mean(tf.cast((read > 0) == (bits > 0.5), tf.float32)), square

        for epoch in range(self.encoder_epochs):
            figures, weight = (
                [],
                tf.constant(self.residual_weight * max(0.0, 2 * (epoch + 1) / self.encoder_epochs - 1)),
            )
            for part in shuffled(len(images), task.schedule.batch_size, rng):
                bits = rng.integers(0, 2, (len(part), self.bits)).astype(np.float32)
                figures.append([float(figure) for figure in step(images[part], bits, weight)])
            accuracy, square = np.mean(figures, axis=0)
            task.progress(
                "encoder",
                epoch + 1,
                self.encoder_epochs,
                {"bit_accuracy": accuracy, "psnr": -10 * np.log10(max(square, 1e-10))},
            )
        return encoder, decoder


def write(encoder: keras.Model, images: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Images in 0..1 with the bits, float32 (N, B), written into them; in 0..1."""
    return tf.clip_by_value(images + encoder([images, bits]), 0, 1)


def build_encoder(shape: tuple[int, int, int], bits: int, width: int, strength: float) -> keras.Model:
    """From images in 0..1 and bits to residuals of at most `strength` / 255, all float32: a U-Net."""
    height, wide, channels = shape
    image, message = layers.Input(shape), layers.Input((bits,))
    small = -(-height // 4), -(-wide // 4)
    canvas = layers.Reshape((*small, channels))(
        layers.Dense(small[0] * small[1] * channels)(layers.Rescaling(2, -1)(message))
    )
    x = layers.Concatenate()([image, layers.Resizing(height, wide)(canvas)])
    x = layers.Conv2D(channels, 1, activation="tanh")(u_net(x, width))
    return keras.Model([image, message], layers.Rescaling(strength / 255)(x))


def build_decoder(shape: tuple[int, int, int], bits: int, width: int) -> keras.Model:
    """From images in 0..1 to a number for each bit, above 0 for 1, float32 (N, B)."""
    x = inputs = layers.Input(shape)
    for filters, stride in ((width, 2), (2 * width, 1), (2 * width, 2), (4 * width, 2)):
        x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
        x = layers.Activation("relu")(layers.BatchNormalization(momentum=0.95)(x))
    return keras.Model(inputs, layers.Dense(bits)(layers.Dense(8 * width, activation="relu")(layers.Flatten()(x))))
