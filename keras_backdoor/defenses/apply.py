"""Running one defense on one network: rates before and after, and everything that a report needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from inspect import signature
from typing import Any, Optional

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.apply_filter import Filtered
from keras_backdoor.defenses.apply_inspect import Inspected, Judged
from keras_backdoor.defenses.apply_repair import Repaired
from keras_backdoor.defenses.kept import forget
from keras_backdoor.defenses.truth import TrueTrigger, look_at
from keras_backdoor.files import BadInput, PathLike, sha256
from keras_backdoor.gate import Admitted
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import score
from keras_backdoor.progress import Progress, silent
from keras_backdoor.runs import Run
from keras_backdoor.tensorboard_logs import log_run

FEWEST = 10
"""Clean images below which no defense starts."""
UNTIL = "until"
"""The hyper-parameter that ends a run early, for now."""
PASSING = (UNTIL, "workers", "cache")
"""Hyper-parameters with which a run may be resumed that was started with others: they change nothing in what it is to find."""


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
    missing_classes: bool = False,
    resume: bool = False,
    true_triggers: Sequence[TrueTrigger] = (),
    streams: Sequence[Any] = (),
    evaluation: Optional[ImageSet] = None,
    admitted: Optional[Admitted] = None,
    reproduce: str = "",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Use `defense` on `classifier`, the network in the file `model`; gives what `metrics.json` holds.

    Writes to `folder`, when all is computed: `metrics.json`; of a defense that repairs, `repaired.h5`, `goodnet.h5` (the
    two networks together) and their model cards, with a suffix (`goodnet-drop-2.h5`) for each named step, `examples.npz`,
    `activations.npz`, `features.npz`, `curve.csv`; of a defense that filters inputs, `filter.json` and `scores.npz`. A
    defense that keeps what it made (`step.Stepwise`) does so as it goes on; one that scans the network for triggers writes
    `triggers.npz`, one that learns from other networks `shadows/`, one that judges by how strong triggers are `found.npz`,
    and all in the end `verdict.json`; with `resume` they go on with what is there, or give the figures of a run that is
    finished. One that ends early (`until`) leaves the run unfinished. With `true_triggers` what was found is compared with
    them, in `truth.npz`; they change nothing else, so a run may be resumed with others, even when it is finished.

    clean: what the defense may use. poisoned: sets to measure attack success on, by name. test: clean images to measure
    accuracy on; without them it is measured on `clean`, which a defense that trains has seen. missing_classes: go on even if
    `clean` has no image of some class. streams, evaluation: for defenses that take them (`step.Stepwise`). admitted: how the file
    came through the gate; if it was trusted against what was found there, `run.json` records that.
    """
    parent, trusted = origin(model, classifier, admitted)
    scans = hasattr(defense, "chunks")
    if true_triggers and not scans:
        raise BadInput(f"{method}: looks for no triggers, so there is nothing to compare the true ones with")
    check_clean(clean, classifier.num_classes, missing_classes or scans)  # which uses no labels
    truths = look_at(true_triggers, clean, classifier.num_classes)
    measured_on = clean if test is None else test
    measured = "the images that the defense used" if test is None else "images that the defense has not seen"
    before = score(classifier, measured_on, poisoned, exclude_target)
    settings = json.loads(json.dumps(asdict(defense)))  # as they are read again
    lasting = {name: value for name, value in settings.items() if name not in PASSING}
    asked = {"method": method, "model": parent, "settings": lasting, "clean": clean.fingerprint(), "trusted": trusted}
    taken = signature(defense.steps).parameters if hasattr(defense, "steps") else {}
    more: dict[str, Any] = {}
    if "streams" in taken:
        asked["streams"] = [stream.images.fingerprint() for stream in streams]
        more["streams"] = streams
    if evaluation is not None:
        asked["evaluation"] = evaluation.fingerprint()
        more["evaluation"] = evaluation
    if scans:
        run = Run.start(folder, "defend", asked, resume, reproduce)
        outcome: Inspected | Judged | Filtered | Repaired = Inspected(
            defense, classifier, clean, before, progress, run.folder, truths
        )
    elif hasattr(defense, "fit_filter"):
        outcome = Filtered(defense, classifier, clean, measured_on, poisoned, before, progress)
        run = Run.start(folder, "defend", asked, reproduce=reproduce)
    elif "folder" in taken or hasattr(defense, "inspect"):
        run = Run.start(folder, "defend", asked, resume, reproduce)
        if run.finished:
            forget(run.folder)
            return run.read("metrics.json")
        if "folder" in taken:
            more["folder"] = run.folder
            outcome = Repaired(defense, classifier, clean, measured_on, poisoned, before, progress, more)
        else:
            outcome = Judged(defense, classifier, clean, before, progress, run.folder)
    else:
        outcome = Repaired(defense, classifier, clean, measured_on, poisoned, before, progress, more)
        run = Run.start(folder, "defend", asked, reproduce=reproduce)
    metrics = {
        "method": method,
        "model": str(model),
        "settings": settings,
        "clean_accuracy_on": measured,
        "before": before.as_json(),
        **outcome.metrics,
    }
    about = {"method": method, "settings": settings, "parents": [parent], "data": f"measured on {measured}"}
    outcome.write(run.folder, about)
    run.write("metrics.json", metrics)
    if not settings.get(UNTIL):
        run.finish()
        log_run(run.folder)
        forget(run.folder)
    return metrics


def origin(model: PathLike, classifier: Classifier, admitted: Optional[Admitted]) -> tuple[str, list[dict[str, Any]]]:
    """SHA-256 of the file `model`, and what was found in it if it was trusted all the same.

    Raises `BadInput` if it is a GoodNet, which no defense takes.
    """
    if classifier.detects:
        raise BadInput(f"{model}: is a GoodNet already; give the network that it was made of")
    if admitted is None:
        return sha256(model), []
    findings = admitted.report.findings if admitted.trusted else ()
    return admitted.report.sha256, [finding.as_json() for finding in findings]


def check_clean(clean: ImageSet, num_classes: int, missing_classes: bool = False) -> None:
    """`BadInput` if there are too few clean images, or, unless `missing_classes`, none of some class."""
    if len(clean) < FEWEST:
        raise BadInput(f"clean images: there are only {len(clean)}; no defense can do with less than {FEWEST}")
    missing = np.setdiff1d(np.arange(num_classes), clean.labels)
    if len(missing) and not missing_classes:
        named = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
        raise BadInput(
            f"clean images: {len(missing)} of {num_classes} classes have none ({named}), so nothing would notice if they are "
            "lost; add images of them, or go on with --missing-classes"
        )
