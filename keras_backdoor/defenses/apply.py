"""Running one defense on one network: rates before and after, and everything that a report needs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Optional

import numpy as np

from keras_backdoor.activations import channel_means, convolution, dead_channels, layer_outputs
from keras_backdoor.classifier import Classifier
from keras_backdoor.examples import save_examples
from keras_backdoor.files import BadInput, PathLike, sha256, write_arrays
from keras_backdoor.gate import Admitted
from keras_backdoor.goodnet import GoodNet
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import score
from keras_backdoor.progress import Progress, silent
from keras_backdoor.runs import Run


def defend(
    method: str,
    defense: Any,
    model: PathLike,
    classifier: Classifier,
    clean: ImageSet,
    poisoned: Mapping[str, ImageSet],
    folder: PathLike,
    *,
    test: Optional[ImageSet] = None,
    exclude_target: bool = False,
    admitted: Optional[Admitted] = None,
    reproduce: str = "",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Repair `classifier`, the network in the file `model`, with `defense`; gives what `metrics.json` holds.

    Writes to `folder`, when all is computed: `repaired.h5`, `goodnet.h5` (the two networks together), their model cards,
    `metrics.json`, `examples.npz`, `activations.npz`.

    clean: what the defense may use. poisoned: sets to measure attack success on, by name. test: clean images to measure
    accuracy on; without them it is measured on `clean`, which a defense that trains has seen. admitted: how the file came
    through the gate; if it was trusted against what was found there, `run.json` records that.
    """
    if classifier.detects:
        raise BadInput(f"{model}: is a GoodNet already; give the network that it was made of")
    measured_on = clean if test is None else test
    before = score(classifier, measured_on, poisoned, exclude_target)
    started = time.perf_counter()
    repaired = defense.repair(classifier, clean, progress)
    seconds = time.perf_counter() - started
    goodnet = GoodNet.combine(classifier, repaired)
    measured = "the images that the defense used" if test is None else "images that the defense has not seen"
    after = score(repaired, measured_on, poisoned, exclude_target).as_json()
    together = score(goodnet, measured_on, poisoned, exclude_target).as_json()
    metrics = {
        "method": method,
        "model": str(model),
        "settings": asdict(defense),
        "clean_accuracy_on": measured,
        "before": before.as_json(),
        "after": after,
        "goodnet": together,
        "verdict": None,
        "seconds": round(seconds, 3),
    }
    parent = admitted.report.sha256 if admitted else sha256(model)
    trusted = [finding.as_json() for finding in admitted.report.findings] if admitted and admitted.trusted else []
    asked = {"method": method, "model": parent, "settings": asdict(defense), "clean": clean.fingerprint()}
    run = Run.start(folder, "defend", {**asked, "trusted": trusted}, reproduce=reproduce)
    about = {"method": method, "settings": asdict(defense), "parents": [parent], "data": f"measured on {measured}"}
    repaired.save(run.folder / "repaired.h5", {**about, "kind": "repaired", "rates": after})
    goodnet.save(run.folder / "goodnet.h5", {**about, "kind": "goodnet", "rates": together})
    for image_set in list(poisoned.values())[:1]:
        save_examples(run.folder / "examples.npz", measured_on, image_set, {"": repaired, "goodnet_": goodnet})
        _save_activations(run.folder / "activations.npz", classifier, repaired, measured_on, image_set, defense)
    run.write("metrics.json", metrics)
    run.finish()
    return metrics


def _save_activations(
    path: PathLike, before: Classifier, after: Classifier, clean: ImageSet, triggered: ImageSet, defense: Any
) -> None:
    """Mean activation of each channel of the layer that was pruned, or would be, on clean and triggered images."""
    try:
        name = convolution(before.model, getattr(defense, "layer", None)).name
    except BadInput:  # a network without convolutions has no such picture
        return
    layers = [classifier.model.get_layer(name) for classifier in (before, after)]
    arrays = {"layer": np.array(name), "pruned": dead_channels(layers[1]) & ~dead_channels(layers[0])}
    for suffix, classifier, layer in zip(("", "_after"), (before, after), layers):
        for kind, image_set in (("clean", clean), ("triggered", triggered)):
            arrays[kind + suffix] = channel_means(layer_outputs(classifier, layer, image_set))
    write_arrays(path, arrays)
