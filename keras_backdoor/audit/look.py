"""The stages in their order, with an eye on the clock, and what is made of them all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from keras_backdoor.audit.case import BLIND, REFUSE, REPAIR, USE, Case
from keras_backdoor.audit.evidence import Evidence, probability
from keras_backdoor.audit.plan import Repair, disagreement, no_repair
from keras_backdoor.audit.sanity import accuracy, confidence, foreign
from keras_backdoor.audit.stages import STAGES
from keras_backdoor.audit.suspect import Stage, Suspect
from keras_backdoor.classifier import Classifier
from keras_backdoor.datasets import read_images
from keras_backdoor.files import BadInput, PathLike, read_json, write_arrays, write_json
from keras_backdoor.gate import Admitted
from keras_backdoor.images import ImageSet
from keras_backdoor.precision import fastest
from keras_backdoor.training import seed_everything

MOST_CLEAN = 5000
"""Clean images that are looked at."""
FEWEST_CLEAN = 10
REPAIRED, NETWORK = "repair", "repaired.h5"
"""The run folder of a repair, and its network."""


class OutOfTime(Exception):
    """The budget is spent."""


def load(case: Case, admitted: Admitted) -> Suspect:
    """The network and the images. Raises `BadInput` if they do not fit each other, or the network is a GoodNet."""
    settings = case.settings
    seed_everything(settings.seed)  # and the same rounding in every process
    classifier = Classifier.load(admitted, settings.preprocessing, settings.architecture)
    if classifier.detects:
        raise BadInput(f"{case.model}: is a GoodNet already; give the network that it was made of")
    clean = _images(case.clean, classifier, not settings.labels_unknown)
    if len(clean) < FEWEST_CLEAN:
        raise BadInput(f"{case.clean}: there are only {len(clean)} clean images; an audit needs {FEWEST_CLEAN}")
    chosen = np.sort(np.random.default_rng(settings.seed).permutation(len(clean))[:MOST_CLEAN])
    clean = clean.select(chosen)
    if settings.labels_unknown:
        clean = ImageSet(clean.images, classifier.predict(clean.batches()), classifier.num_classes)
    inputs = None if case.inputs is None else _images(case.inputs, classifier, False)
    return Suspect(
        classifier,
        clean,
        not settings.labels_unknown,
        inputs,
        fastest(),
        case.folder / "stages",
        settings.mntd_cache,
        settings.seed,
    )


def _images(path: PathLike, classifier: Classifier, labelled: bool) -> ImageSet:
    images = read_images(path, classifier.num_classes if labelled else None)
    if not labelled:
        images = ImageSet(images.images, np.zeros(len(images)), classifier.num_classes)
    classifier.check(images, str(path))
    return images


def look(case: Case, suspect: Suspect, evidence: Sequence[Evidence]) -> dict[str, Any]:
    """The answer, after all stages that fit. evidence: of what came before."""
    suspect.folder.mkdir(exist_ok=True)
    kept = [read_json(path) for path in suspect.folder.glob("*.json")]
    budget = case.settings.budget
    deadline = float("inf") if budget is None else case.started + 60 * budget - sum(one["seconds"] for one in kept)
    found = []
    for stage in STAGES:
        found.append(Evidence.of(stage.name, _run(case, suspect, stage, deadline)))
        case.told(found[-1])
    seconds = {one.stage: one for one in found}
    unseen = [
        f"{stage.seeks} ({stage.name}: {seconds[stage.name].what})" for stage in STAGES if not seconds[stage.name].ran
    ]
    suspicious = [one for one in found if one.suspicious]
    if not suspicious:
        why = ["No stage found anything beyond what innocent networks show. That does not prove innocence."]
        recommendation, plan = USE, None
    else:
        repair, obstacle = Repair.choose(found), no_repair(suspect)
        plan = None if obstacle else {**asdict(repair), "command": repair.command(case.model, case.clean)}
        recommendation = REFUSE if obstacle else REPAIR
        why = [f"Suspicious: {', '.join(one.stage for one in suspicious)}."]
        why += [f"It cannot be repaired with these images: {obstacle}."] if obstacle else []
    images: dict[str, Any] = {
        "count": len(suspect.clean),
        "labelled": suspect.labelled,
        "confidence": round(confidence(suspect), 4),
    }
    images["accuracy"] = round(accuracy(suspect), 4) if suspect.labelled else None
    images["foreign"] = foreign(suspect)
    if images["foreign"]:
        why.append(
            "The clean images look foreign to the network. The searches for marks need no labels and still count; what rests on "
            "answers to them is worth less."
        )
    scores = [one.score for one in found if one.score is not None]
    certainty = round(probability(scores), 4)
    return case.answer(
        [*evidence, *found], recommendation, why, certainty, [*BLIND, *unseen], repair=plan, clean_images=images
    )


def _run(case: Case, suspect: Suspect, stage: Stage, deadline: float) -> Mapping[str, Any]:
    """What the stage found, now or before; or why it did not run. What it found is kept, and that it had no time."""
    path, budget = suspect.folder / f"{stage.name}.json", case.settings.budget
    if path.exists():
        kept = read_json(path)
        if kept["ran"] or (budget is not None and budget <= kept["budget"]):
            return kept
    if stage.thorough and not case.settings.thorough:
        return {"ran": False, "what": "only with --thorough"}
    if why := stage.unfit(suspect):
        return {"ran": False, "what": why}

    def watched(part: str, done: int, total: int, values: Mapping[str, float]) -> None:
        case.progress(f"{stage.name}: {part}", done, total, values)
        if time.monotonic() > deadline:
            raise OutOfTime

    started = time.monotonic()
    try:
        if started + (suspect.seconds_a_pass * stage.passes(suspect) if budget else 0) > deadline:
            raise OutOfTime
        found = stage.look(suspect, watched)
    except OutOfTime:
        kept = {"ran": False, "what": f"the budget of {budget:g} minutes has no time for it", "budget": budget}
    except BadInput as error:
        return {"ran": False, "what": str(error)}
    else:
        kept = found.as_json()
        if found.arrays:
            write_arrays(path.with_suffix(".npz"), found.arrays)
    kept["seconds"] = round(time.monotonic() - started, 3)
    write_json(path, kept)
    return kept


def repair(case: Case, suspect: Suspect, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out the repair that an answer recommends, and say what it costs, and where the two networks disagree."""
    folder = case.folder / REPAIRED
    chosen = Repair(plan["method"], plan["settings"])
    metrics = chosen.carry_out(suspect, case.model, folder, plan["command"], case.progress)
    network = Classifier.load(folder / NETWORK)
    rates = [metrics[when]["clean_accuracy"] for when in ("before", "after")]
    return {**plan, "clean_accuracy": rates, "disagreement": disagreement(suspect, network)}


def repaired(answer: Mapping[str, Any], reached: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The answer with what became of the repair. after: that of the audit of the repaired network."""
    kept = {name: after[name] for name in ("model", "backdoored", "probability", "suspect_labels", "agree")}
    if after["backdoored"]:
        outcome = f"It was repaired ({reached['method']}), and the result is still suspicious."
    else:
        outcome = f"It was repaired ({reached['method']}), and the audit of the result finds nothing suspicious."
    recommendation = REFUSE if after["backdoored"] else REPAIR
    why = [*answer["why"], outcome]
    return {**answer, "recommendation": recommendation, "why": why, "repair": {**reached, "after": kept}}
