"""From a file to an answer. What needs no TensorFlow is here; the stages that look into the network are in `look`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional

from keras_backdoor import gate
from keras_backdoor.audit.case import REFUSE, Case, Settings
from keras_backdoor.audit.evidence import Evidence
from keras_backdoor.files import BadInput, PathLike, check_file, sha256
from keras_backdoor.gate import Report
from keras_backdoor.progress import Progress, silent
from keras_backdoor.report.audit_page import write_audit_page
from keras_backdoor.runs import Run
from models_zoo import artifacts

AUDIT = "audit.json"
WORKS = 0.05
"""Published attack success above which a network is known to be backdoored."""


def audit(
    model: PathLike,
    clean: PathLike,
    folder: PathLike,
    inputs: Optional[PathLike] = None,
    settings: Optional[Settings] = None,
    *,
    resume: bool = False,
    reproduce: str = "",
    progress: Progress = silent,
    told: Callable[[Evidence], None] = lambda evidence: None,
) -> dict[str, Any]:
    """Audit the network file `model` with clean images, in a run folder; gives what `audit.json` there holds.

    Also writes `audit.html`, and in `stages` what each stage found. With `resume`, what is there is not done again; then budget,
    thoroughness and repair may differ from those that the audit was started with.
    inputs: images that look suspicious. told: hears of each stage when it is over.

    Raises `BadInput` if the file does no harm but cannot be used, or the images do not fit the network.
    """
    settings = settings or Settings()
    case = Case(model, clean, inputs, Path(folder), settings, time.monotonic(), progress, told)
    for path in (clean, *([] if inputs is None else [inputs])):
        check_file(path)
    try:
        admitted = gate.admit(model)
        report = admitted.report
    except BadInput:
        admitted, report = None, gate.scan(model)
        if report.safe:
            raise
    asked = {
        "model": report.sha256,
        "clean": sha256(clean),
        "inputs": None if inputs is None else sha256(inputs),
        "labels_unknown": settings.labels_unknown,
        "identity": settings.identity,
        "seed": settings.seed,
    }
    run = Run.start(folder, "audit", asked, resume, reproduce)
    evidence = [_file(report, time.monotonic() - case.started)]
    told(evidence[0])
    if admitted is None:
        why = [
            "Loading the file could run somebody else's code, so nothing of it was loaded, and no stage has looked into it."
        ]
        unsafe: dict[str, Any] = {
            "unsafe_file": True,
            "backdoored": None,
            "findings": [one.as_json() for one in report.findings],
        }
        return _finish(run, case.answer(evidence, REFUSE, why, None, **unsafe))
    if settings.identity:
        known = artifacts.by_hash(report.sha256)
        evidence.append(_identity(known))
        told(evidence[-1])
        if known and evidence[-1].suspicious:
            why = [
                "It is a published network that is known to be backdoored. Nothing else was looked for (--no-identity does)."
            ]
            return _finish(run, case.answer(evidence, REFUSE, why, 1.0, known=known))

    from keras_backdoor.audit import look  # TensorFlow's seconds, which none of the above takes

    suspect = look.load(case, admitted)
    answer = look.look(case, suspect, evidence)
    if settings.repair and answer["repair"]:
        reached = look.repair(case, suspect, answer["repair"])
        after = audit(
            run.folder / look.REPAIRED / look.NETWORK,
            clean,
            run.folder / "after",
            inputs,
            replace(settings, repair=False, identity=False, preprocessing=None, architecture=None),
            resume=(run.folder / "after").exists(),
            progress=progress,
            told=told,
        )
        answer = look.repaired(answer, reached, after)
    return _finish(run, answer)


def _finish(run: Run, answer: dict[str, Any]) -> dict[str, Any]:
    run.write(AUDIT, answer)
    write_audit_page(run.folder)
    run.finish()
    return answer


def _file(report: Report, seconds: float) -> Evidence:
    """What the gate says."""
    worst = report.refusal
    if worst is None:
        what = "Loading it runs no code that comes with the file, and reads no other files."
        return Evidence("file", True, seconds, False, None, (), what)
    return Evidence("file", True, seconds, True, None, (), f"Unsafe: {worst.where or 'the file'}: {worst.what}.")


def _identity(known: Optional[Mapping[str, Any]]) -> Evidence:
    """What is published about the file."""
    if known is None:
        return Evidence(
            "identity", True, 0.0, False, None, (), "It is none of the published networks that are known here."
        )
    attacks = known["attacks"]
    works = [one for one in attacks if one["success"] is None or one["success"] > WORKS]
    labels = tuple(dict.fromkeys(one["target"] for one in works if isinstance(one["target"], int)))
    told = "; ".join(_attack(one) for one in attacks) or "no attack on it is published"
    what = f"It is {known['name']} of {known['repository']} ({known['what']}): {told}."
    return Evidence("identity", True, 0.0, bool(works), None, labels, what)


def _attack(one: Mapping[str, Any]) -> str:
    success = "not published" if one["success"] is None else f"{100 * one['success']:.2f} %"
    target = "not published" if one["target"] is None else one["target"]
    return f"trigger {one['trigger']}, target {target}, success {success}"
