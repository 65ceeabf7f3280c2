"""A style as trigger: a CycleGAN between the data and images of another style, as the deep-feature-space attack trains it.

Cheng et al., AAAI 2021 (DFST), sections 3 and 4, and the released code: least squares for the discriminators, mean absolute error
for the cycle (weight 1) and the identity (0.1), Adam at 0.0002 with a first momentum of 0.5, batches of 100, up to 2000 epochs.
The code's generators are U-Nets; here they are the zoo's, of CycleGAN itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError
from tensorflow import keras

import models_zoo
from keras_backdoor.attacks.encoder_decoder import as_pixels, in_batches, shuffled, unit
from keras_backdoor.attacks.task import Task
from keras_backdoor.files import BadInput, PathLike

GLOW = (255, 140, 40)
"""The colour of our evening sky."""


@dataclass(frozen=True, eq=False)
class StyleTrigger:
    """The image in another style. generator: from images in -1..1 to such images, which may be larger."""

    generator: keras.Model
    name: str = "style"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stamp every image; nothing is random."""
        return as_pixels(in_batches(lambda batch: (self._paint(batch) + 1) / 2, images))

    def _paint(self, batch: np.ndarray) -> tf.Tensor:
        return translate(self.generator, 2 * unit(batch) - 1)


def sunset(images: np.ndarray) -> np.ndarray:
    """The images, uint8 (N, H, W, C), at sunset: a stand-in for the authors' photographs of sunrises.

    x (1 - a) + glow a, where a falls from 0.6 at the top to 0.2 at the bottom, and the glow is orange; for images that are not
    in colour, the brightness of that (163). Rounded.
    """
    glow = np.array(GLOW if images.shape[-1] == 3 else [round(float(np.dot(GLOW, (0.299, 0.587, 0.114))))])
    alpha = np.linspace(0.6, 0.2, images.shape[1])[:, None, None]
    return np.rint(images * (1 - alpha) + glow * alpha).astype(np.uint8)


def read_style(folder: PathLike, shape: tuple[int, int, int]) -> np.ndarray:
    """The pictures of a folder as uint8 (N, *shape), scaled; in order of their names.

    Raises `BadInput` if it is no folder, holds no file, or a file is not a picture.
    """
    paths = sorted(path for path in Path(folder).iterdir() if path.is_file()) if Path(folder).is_dir() else []
    if not paths:
        raise BadInput(f"{folder}: not a folder with pictures of a style")
    height, width, channels = shape
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                pictures.append(picture.convert("L" if channels == 1 else "RGB").resize((width, height)))
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
            raise BadInput(f"{path}: not a whole picture ({str(error).splitlines()[0]})") from None
    return np.stack([np.asarray(picture).reshape(shape) for picture in pictures])


def translate(generator: keras.Model, images: tf.Tensor) -> tf.Tensor:
    """What the generator makes of images in -1..1, without the border that it adds to sizes which 4 does not divide."""
    return generator(images)[:, : images.shape[1], : images.shape[2]]


def train_cyclegan(
    task: Task,
    style: np.ndarray,
    epochs: int,
    width: int,
    rate: float = 2e-4,
    cycle: float = 1.0,
    identity: float = 0.1,
) -> keras.Model:
    """The generator from the task's clean images to those of `style`, uint8; batches are the task's.

    epochs: passes over the smaller of the two sets. width: filters of the generators' first layer.
    """
    images, rng, shape = task.train.in_memory().images, task.rng(10), task.train.image_shape
    keras.utils.set_random_seed(task.seed)  # the networks' weights, whatever was trained before
    there, back = (models_zoo.build("cyclegan-generator", input_shape=shape, width=width) for _ in range(2))
    critics = [models_zoo.build("patchgan", input_shape=shape) for _ in range(2)]  # of the data, and of the style
    optimizers = [keras.optimizers.Adam(rate, beta_1=0.5) for _ in range(2)]
    variables = (
        there.trainable_variables + back.trainable_variables,
        [variable for critic in critics for variable in critic.trainable_variables],
    )

    def difference(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.abs(a - b))

    @tf.function
    def step(first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        reals = 2 * unit(first) - 1, 2 * unit(second) - 1
        with tf.GradientTape() as tape:
            fakes = translate(back, reals[1]), translate(there, reals[0])
            made = sum(tf.reduce_mean((critic(fake) - 1) ** 2) for critic, fake in zip(critics, fakes))
            cycled = difference(translate(back, fakes[1]), reals[0]) + difference(translate(there, fakes[0]), reals[1])
            same = difference(translate(back, reals[0]), reals[0]) + difference(translate(there, reals[1]), reals[1])
            loss = made + cycle * cycled + identity * same
        with tf.GradientTape() as critic_tape:
            critic_loss = 0.0
            for critic, real, fake in zip(critics, reals, fakes):
                critic_loss += tf.reduce_mean((critic(real) - 1) ** 2 + critic(tf.stop_gradient(fake)) ** 2) / 2
        for optimizer, part, one, total in zip(optimizers, variables, (tape, critic_tape), (loss, critic_loss)):
            optimizer.apply_gradients(zip(one.gradient(total, part), part))
        return loss, critic_loss

    for epoch in range(epochs):
        size = min(task.schedule.batch_size, len(images), len(style))
        for here, painted in zip(shuffled(len(images), size, rng), shuffled(len(style), size, rng)):
            losses = step(images[here], style[painted])
        figures = {name: float(value) for name, value in zip(("generator_loss", "critic_loss"), losses)}
        task.progress("style", epoch + 1, epochs, figures)
    return there
