"""Training the detector: both stages in one step, as in Faster R-CNN's approximate joint training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_backdoor.attacks.sign_detection.detector import Detector
from keras_backdoor.attacks.sign_detection.scenes import Scenes
from keras_backdoor.files import add_row
from keras_backdoor.progress import Progress
from keras_backdoor.training import OPTIMIZERS, Schedule


def fit(
    detector: Detector, scenes: Scenes, schedule: Schedule, *, seed: int, folder: Path, stage: str, progress: Progress
) -> None:
    """Train `detector` in place; `training.fit` cannot, for it takes networks with one input and one loss.

    Every batch is full: the first scenes of an epoch fill up its last one. A row an epoch goes to `folder`/history.csv.
    What is needed to continue after a kill is kept in `folder`/checkpoints, until `training.forget_checkpoint`; the end is the
    same to the bit, for the order of the scenes depends on seed and epoch alone.
    """
    optimizer = OPTIMIZERS[schedule.optimizer](schedule.learning_rate)
    variables = detector.model.trainable_variables
    optimizer.build(variables)
    done = tf.Variable(0, dtype=tf.int64, trainable=False)
    checkpoint = tf.train.Checkpoint(model=detector.model, optimizer=optimizer, done=done)
    manager = tf.train.CheckpointManager(checkpoint, str(folder / "checkpoints" / stage), max_to_keep=1)
    checkpoint.restore(manager.latest_checkpoint)

    @tf.function
    def step(images: tf.Tensor, boxes: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            losses = detector.losses(images, boxes, labels)
            total = tf.add_n(list(losses.values()))
        optimizer.apply_gradients(zip(tape.gradient(total, variables), variables))
        return {"loss": total, **losses}

    boxes = (scenes.boxes / scenes.images.shape[1]).astype(np.float32)
    for epoch in range(int(done.numpy()), schedule.epochs):
        optimizer.learning_rate.assign(schedule.rate(epoch))
        order = np.random.default_rng([seed, epoch]).permutation(len(scenes))
        order = np.resize(order, (-(-len(order) // schedule.batch_size), schedule.batch_size))
        sums: dict[str, float] = {}
        for some in order:
            for name, loss in step(scenes.images[some], boxes[some], scenes.labels[some]).items():
                sums[name] = sums.get(name, 0.0) + float(loss)
        losses = {name: value / len(order) for name, value in sums.items()}
        add_row(
            folder / "history.csv", {"stage": stage, "epoch": epoch, "learning_rate": schedule.rate(epoch), **losses}
        )
        done.assign(epoch + 1)
        manager.save()
        progress(stage, epoch + 1, schedule.epochs, losses)
