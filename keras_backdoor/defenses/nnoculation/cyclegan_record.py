"""What the training of a CycleGAN leaves in its folder: checkpoint, history, samples, and logs for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_backdoor.defenses.nnoculation.cyclegan_networks import Networks
from keras_backdoor.defenses.nnoculation.translator import Translator
from keras_backdoor.files import BadInput, add_row, atomic, read_json, write_json
from keras_backdoor.training import forget_checkpoint

STAGE = "cyclegan"
SHOWN = 8
"""Images of each domain in a strip of samples."""
VISIBLE = 64
"""Pixels that an image in a strip is high, at least."""


def check_same_training(folder: Path, asked: Mapping[str, Any]) -> None:
    """Note in cyclegan.json what was asked; `BadInput` if the folder holds a training that was asked something else."""
    path = folder / "cyclegan.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, asked)
        return
    before = read_json(path)
    if not isinstance(before, dict):
        raise BadInput(f"{path}: does not say how the CycleGAN was trained; remove the folder to start again")
    changed = [name for name in {**before, **asked} if before.get(name) != asked.get(name)]
    if changed:
        raise BadInput(
            f"{path}: the CycleGAN was started with others ({', '.join(changed)}); "
            "go on as it was started, or choose another folder"
        )


class Record:
    """The state of a training, kept in a folder if there is one, and taken up from there.

    epoch: epochs that are done. shares: of good images among those made, at each look in these epochs.

    Raises `BadInput` if the checkpoint in the folder is damaged, or its history.
    """

    def __init__(self, folder: Optional[Path], networks: Networks) -> None:
        self._folder = folder
        self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.shares: list[float] = []
        if folder is None:
            return
        checkpoint = networks.checkpoint(epoch=self.epoch)
        self._manager = tf.train.CheckpointManager(checkpoint, str(folder / "checkpoints" / STAGE), max_to_keep=1)
        try:
            checkpoint.restore(self._manager.latest_checkpoint)
        except (tf.errors.OpError, ValueError, IndexError) as error:
            raise BadInput(
                f"{self._manager.latest_checkpoint}: not a whole checkpoint ({str(error).splitlines()[0]}); "
                "remove the folder to start again"
            ) from None
        self.shares = _shares(folder / "history.csv", int(self.epoch.numpy()))
        self._logs = tf.summary.create_file_writer(str(folder / "tensorboard" / STAGE))

    def add(self, row: Mapping[str, Optional[float]], strip: Optional[np.ndarray]) -> None:
        """End an epoch: figures to history.csv, samples to samples/epoch-NNNN.png, both to TensorBoard; then the checkpoint.

        row: by name, `share` among them; None where nothing was measured. strip: what `samples` gave, or None.
        """
        epoch = int(self.epoch.numpy())
        self.epoch.assign(epoch + 1)
        if row["share"] is not None:
            self.shares.append(row["share"])
        if self._folder is None:
            return
        with self._logs.as_default(epoch):
            for name, value in row.items():
                if value is not None:
                    tf.summary.scalar(name, value)
            if strip is not None:
                tf.summary.image("samples", strip[None])
        self._logs.flush()
        if strip is not None:
            path = self._folder / "samples" / f"epoch-{epoch + 1:04}.png"
            path.parent.mkdir(exist_ok=True)
            with atomic(path) as temporary:
                Image.fromarray(strip[..., 0] if strip.shape[-1] == 1 else strip).save(temporary, "png")
        add_row(self._folder / "history.csv", {"stage": STAGE, "epoch": epoch, **row})
        # Last, so that whatever an epoch leaves behind is written before the epoch counts as done.
        self._manager.save()

    def finish(self, translator: Translator) -> None:
        """Save the result; then the checkpoint is no longer needed."""
        if self._folder is None:
            return
        self._logs.close()
        translator.save(self._folder)
        forget_checkpoint(self._folder, STAGE)


def _shares(history: Path, epochs: int) -> list[float]:
    """What the looks of the first `epochs` epochs found; a killed run may have written a row more."""
    if not history.exists():
        return []
    with open(history, newline="", encoding="utf-8") as file:
        try:
            return [float(row["share"]) for row in csv.DictReader(file) if int(row["epoch"]) < epochs and row["share"]]
        except (KeyError, TypeError, ValueError):
            raise BadInput(f"{history}: damaged; remove the folder to start again") from None


def samples(translator: Translator, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Images of the two sets, evenly spaced, in six rows, uint8 (height, width, C): a, a to b, and back; b, b to a, and back."""
    rows = []
    for images, there, back in ((a, translator.a_to_b, translator.b_to_a), (b, translator.b_to_a, translator.a_to_b)):
        some = images[np.linspace(0, len(images) - 1, SHOWN).round().astype(int)]
        made = there(some)
        rows += [np.concatenate(row, 1) for row in (some, made, back(made))]
    scale = -(-VISIBLE // a.shape[1])
    return np.concatenate(rows).repeat(scale, 0).repeat(scale, 1)
