"""Running a defense that repairs: its networks, their rates, and the arrays that figures are drawn from."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from keras_backdoor.activations import channel_means, convolution, convolutions, dead_channels, layer_outputs
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.step import Step
from keras_backdoor.examples import save_examples
from keras_backdoor.features import save_features
from keras_backdoor.files import BadInput, write_arrays, write_text
from keras_backdoor.goodnet import GoodNet
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import Scores, score
from keras_backdoor.progress import Progress


class Repaired:
    """What comes of a defense with the verb `repair` or `steps`."""

    def __init__(
        self,
        defense: Any,
        suspect: Classifier,
        clean: ImageSet,
        measured_on: ImageSet,
        poisoned: Mapping[str, ImageSet],
        before: Scores,
        progress: Progress,
        more: Mapping[str, Any],
    ) -> None:
        """Run the defense; `metrics` has the rates of its last network, and those of every step if it has several.

        more: what else its `steps` take.
        """
        exclude = before.exclude_target
        self._suspect, self._measured_on, self._poisoned = suspect, measured_on, poisoned
        self._named: list[tuple[Step, GoodNet, dict[str, Any], dict[str, Any]]] = []
        rows = []
        seconds, started = 0.0, time.perf_counter()
        known = {"triggers": defense.triggers(suspect, clean, progress)} if hasattr(defense, "triggers") else {}
        if hasattr(defense, "steps"):
            steps = defense.steps(suspect, clean, progress, **known, **more)
        else:
            steps = iter([Step(defense.repair(suspect, clean, progress), name="")])
        for step in steps:
            seconds += time.perf_counter() - started
            after = score(step.classifier, measured_on, poisoned, exclude).as_json()
            row = {**step.done, "name": step.name, "after": after, "goodnet": None}
            if step.name is not None:
                goodnet = step.goodnet(suspect)
                row["goodnet"] = score(goodnet, measured_on, poisoned, exclude).as_json()
                self._named.append((step, goodnet, after, row["goodnet"]))
            rows.append(row)
            started = time.perf_counter()
        _, _, after, together = self._named[-1]
        self.metrics: dict[str, Any] = {
            "after": after,
            "goodnet": together,
            "verdict": None,
            "seconds": round(seconds, 3),
        }
        if hasattr(defense, "steps"):
            self.metrics["steps"] = rows
        self._curve = _curve(defense, suspect, clean, measured_on, poisoned, exclude, known)

    def write(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write the networks, and the arrays that figures are drawn from."""
        for step, goodnet, after, together in self._named:
            suffix = f"-{step.name}" if step.name else ""
            known = {**about, "done": step.done}
            if step.against is None or step is self._named[-1][0]:
                step.classifier.save(folder / f"repaired{suffix}.h5", {**known, "kind": "repaired", "rates": after})
            goodnet.save(folder / f"goodnet{suffix}.h5", {**known, "kind": "goodnet", "rates": together})
        if self._curve:
            write_text(folder / "curve.csv", self._curve)
        step, goodnet, *_ = self._named[-1]
        for image_set in list(self._poisoned.values())[:1]:
            networks = {"": step.classifier, "goodnet_": goodnet}
            save_examples(folder / "examples.npz", self._measured_on, image_set, networks)
            save_features(folder / "features.npz", step.classifier, self._measured_on, image_set)
            activations = _activations(self._suspect, step.classifier, self._measured_on, image_set)
            if activations:
                write_arrays(folder / "activations.npz", activations)


def _curve(
    defense: Any,
    suspect: Classifier,
    clean: ImageSet,
    measured_on: ImageSet,
    poisoned: Mapping[str, ImageSet],
    exclude_target: bool,
    known: Mapping[str, Any],
) -> Optional[str]:
    """What each pruned channel does to the rates, as the text of a CSV file; None if the defense does not prune in an order.

    known: what the defense has found out about the network already, for its `curve`.
    """
    if not hasattr(defense, "curve"):
        return None
    sets = {"clean_accuracy_used": clean, "clean_accuracy": measured_on}
    for name, images in poisoned.items():
        counted = images.select(images.labels != images.true_labels) if exclude_target else images
        sets[f"attack_success_rate/{name}"] = counted
    curve = defense.curve(suspect, clean, sets, **known)
    columns: dict[str, Sequence[Any]] = {
        "channels": range(len(curve.order) + 1),
        "channel": ["", *curve.order],
        "mean_activation": ["", *curve.means[curve.order]],
        **{name: curve.rates(name, images.labels) for name, images in sets.items()},
        **{f"goodnet/{name}": curve.goodnet_rates(name, images.labels) for name, images in sets.items()},
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values()))
    return text.getvalue()


def _activations(
    before: Classifier, after: Classifier, clean: ImageSet, triggered: ImageSet
) -> Optional[dict[str, np.ndarray]]:
    """Mean activation of each channel of the layer that was pruned, or would be, on clean and triggered images."""
    pruned = {
        name: dead_channels(after.model.get_layer(name)) & ~dead_channels(layer)
        for name, layer in convolutions(before.model).items()
    }
    try:
        name = (
            next((name for name, channels in pruned.items() if channels.any()), None) or convolution(before.model).name
        )
    except BadInput:  # a network without convolutions has no such picture
        return None
    layers = [classifier.model.get_layer(name) for classifier in (before, after)]
    arrays = {"layer": np.array(name), "pruned": pruned[name]}
    for suffix, classifier, one in zip(("", "_after"), (before, after), layers):
        for kind, image_set in (("clean", clean), ("triggered", triggered)):
            arrays[kind + suffix] = channel_means(layer_outputs(classifier, one, image_set))
    return arrays
