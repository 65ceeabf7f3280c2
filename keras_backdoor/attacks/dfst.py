"""Deep-feature-space trojan (Cheng, Liu, Ma and Zhang, AAAI 2021, DFST): a style as trigger, and simple features trained away.

A CycleGAN turns images into a style (sunrise in the paper; `style_transfer`), which is the trigger. A network that is trained on
poisoned data first learns some simple feature of the style, such as a colour, which scanners find. Controlled detoxification
removes it, in rounds of three steps:

1. compromised neurons: channels whose activation rises most with the trigger;
2. for each of them a feature injector, a small U-Net that drives the channel up, others little, and keeps the image smooth and
   similar to what it was (SSIM);
3. if an injector sends images to the target like the trigger does (70 % of them), it has found a simple feature: its images are
   added to the training data with their true labels, and the network is trained on.

Constants are those of the released code where it has them. Its thresholds for step 1 say "modify parameters here"; ours are a
rise above `rise` of the layer's largest activation and above the clean activation, in means over the image. Its injectors have
kernels of 12x12, ours of 3x3. Left out: the authors' own photographs (`sunset` makes a style), and data augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow import keras

from keras_backdoor.attacks.choice import choose
from keras_backdoor.attacks.encoder_decoder import in_batches, u_net, unit
from keras_backdoor.attacks.poison import Backdoor
from keras_backdoor.attacks.style_transfer import StyleTrigger, read_style, sunset, train_cyclegan
from keras_backdoor.attacks.targets import AllToOne
from keras_backdoor.attacks.task import Task
from keras_backdoor.classifier import Classifier
from keras_backdoor.images import ImageSet


@dataclass(frozen=True)
class DeepFeatureSpace:
    """Train the style, the BadNet, and the BadNet again after each round of detoxification.

    The task needs no backdoors. Style and injectors are not resumed in their middle: after a kill they are trained again, with
    the same result; trainings of the BadNet are resumed.
    """

    target: int = 0  # class that triggered images become
    style: str = ""  # folder with pictures of the style; "": 1000 training images at our sunset
    style_epochs: int = 200  # of the CycleGAN, over the pictures of the style
    width: int = 32  # filters of the first layer of its generators
    rounds: int = 3  # of detoxification, at most
    neurons: int = 5  # that are looked at in a round, at most
    rise: float = 0.1  # how far a compromised neuron's activation rises, as a share of its layer's largest
    injector_steps: int = 2000  # of Adam (0.001), on batches of the task's size
    fooled: float = 0.7  # share of images that an injector sends to the target, if its feature is a simple one
    detoxicant: float = 0.01  # share of each class that is added for each simple feature

    def __call__(self, task: Task) -> tuple[Backdoor, ...]:
        """Train; gives the backdoor of the style."""
        if self.style:
            style = read_style(self.style, task.train.image_shape)
        else:
            style = sunset(task.train.in_memory().images[task.rng(11).permutation(len(task.train))[:1000]])
        generator = train_cyclegan(task, style, self.style_epochs, self.width)
        backdoors = (Backdoor(StyleTrigger(generator), AllToOne(self.target)),)
        data = task.poisoned(backdoors)
        task.fit(data, backdoors=backdoors)
        for number in range(self.rounds):
            added = self.detoxicants(task, backdoors[0], number)
            if not added:
                break
            data = _together(data, *added)
            task.fit(data, stage=f"badnet-detoxified-{number + 1}", backdoors=backdoors)
        for number in range(self.rounds):
            task.forget(f"badnet-detoxified-{number + 1}")
        return backdoors

    def detoxicants(self, task: Task, backdoor: Backdoor, number: int) -> list[ImageSet]:
        """Images with each simple feature that turns them into the target, and their true labels; maybe none."""
        rng, train = task.rng(20 + number), task.train.in_memory()
        sample = train.images[rng.permutation(len(train))[:512]]
        added = []
        for layer, channel in self.compromised(task.classifier, sample, backdoor.trigger(sample, rng)):
            injector = self._inject(task, layer, channel, rng)
            features = StyleTrigger(injector, f"{layer}-{channel}")
            answers = task.classifier.predict([features(sample, rng)])
            share = float(np.mean(answers == self.target))
            task.progress(f"detoxification {number + 1}, {features.name}", 1, 1, {"fooled": share})
            chosen = choose(train.labels, train.num_classes, np.ones(len(train), bool), self.detoxicant, rng)
            if share >= self.fooled and chosen.any():
                some = train.select(chosen)
                added.append(ImageSet(features(some.images, rng), some.labels, train.num_classes, some.labels))
        return added

    def compromised(self, classifier: Classifier, clean: np.ndarray, triggered: np.ndarray) -> list[tuple[str, int]]:
        """(layer, channel) of what the trigger drives up, the most first: `neurons` at most."""
        found = []
        for layer in _rectified(classifier.model):
            part = keras.Model(classifier.model.input, layer.output)
            forward = tf.function(lambda batch, part=part: part(classifier.scale(batch), training=False))
            before, after = in_batches(forward, clean), in_batches(forward, triggered)
            largest, before, after = before.max(), before.mean((0, 1, 2)), after.mean((0, 1, 2))
            rises = (after - before) / max(largest, 1e-12)
            hit = (rises > self.rise) & (after - before > before)
            found += [(rises[channel], layer.name, int(channel)) for channel in np.flatnonzero(hit)]
        return [(name, channel) for _, name, channel in sorted(found, reverse=True)[: self.neurons]]

    def _inject(self, task: Task, layer: str, channel: int, rng: np.random.Generator) -> keras.Model:
        """A network from images in -1..1 to such images that drive up one channel of a layer."""
        classifier, images, size = task.classifier, task.train.in_memory().images, task.schedule.batch_size
        part = keras.Model(classifier.model.input, classifier.model.get_layer(layer).output)
        keras.utils.set_random_seed(task.seed)
        inputs = keras.layers.Input(task.train.image_shape)
        made = keras.layers.Conv2D(inputs.shape[-1], 3, padding="same", activation="tanh")(u_net(inputs, 32))
        injector, optimizer = keras.Model(inputs, made), keras.optimizers.Adam(1e-3)

        @tf.function
        def step(batch: tf.Tensor) -> None:
            real = unit(batch)
            with tf.GradientTape() as tape:
                fake = (injector(2 * real - 1) + 1) / 2
                outputs = part(classifier.scale(255 * fake), training=False)
                driven = tf.reduce_sum(outputs[..., channel])
                others = tf.reduce_sum(outputs) - driven
                rough = tf.reduce_sum(tf.image.total_variation(fake))
                # 7 pixels, so that small images have room for it
                alike = tf.reduce_mean(tf.image.ssim(real, fake, 1.0, filter_size=7))
                loss = 0.01 * (-driven + 1e-5 * others + 1e-3 * rough) - tf.where(alike < 0.6, 1e5, 1e2) * alike
            optimizer.minimize(loss, injector.trainable_variables, tape)

        for _ in range(self.injector_steps):
            step(images[rng.integers(len(images), size=size)])
        return injector


def _rectified(model: keras.Model) -> list[keras.layers.Layer]:
    """Layers that give images after a ReLU."""
    relu = keras.activations.relu
    return [
        layer
        for layer in model.layers
        if len(layer.output.shape) == 4
        and (isinstance(layer, keras.layers.ReLU) or getattr(layer, "activation", None) is relu)
    ]


def _together(*sets: ImageSet) -> ImageSet:
    images, labels = (np.concatenate([getattr(part, what) for part in sets]) for what in ("images", "labels"))
    return ImageSet(images, labels, sets[0].num_classes, np.concatenate([part.true_labels for part in sets]))
