"""`kbd audit`: may I use this network file?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import click

from kbd._options import ARCHITECTURE, CLEAN, JSON, PREPROCESSING, RESUME, SEED
from keras_backdoor.files import printable

if TYPE_CHECKING:
    from keras_backdoor.audit import Evidence


@click.command()
@click.argument("model")
@CLEAN
@click.option("--inputs", metavar="FILE", help="Images that look suspicious to you, or that were answered oddly.")
@click.option("--labels-unknown", is_flag=True, help="Do not use the labels of --clean: they are not the network's.")
@click.option("-o", "--output", metavar="DIR", help="Folder for the results; by default runs/audit-MODEL.")
@click.option("--budget", type=float, metavar="MINUTES", help="End by then, and say which stages had no time.")
@click.option("--thorough", is_flag=True, help="Run every stage, also the long ones.")
@click.option("--repair", is_flag=True, help="If it looks backdoored, repair it and audit the result.")
@click.option("--no-identity", is_flag=True, help="Look into it even if it is a published network that is backdoored.")
@click.option("--mntd-cache", metavar="DIR", help="Shadow networks of kbd defend mntd for such networks (DIR/shadows).")
@RESUME
@SEED
@PREPROCESSING
@ARCHITECTURE
@JSON
def audit(
    model: str,
    clean: str,
    inputs: Optional[str],
    labels_unknown: bool,
    output: Optional[str],
    budget: Optional[float],
    thorough: bool,
    repair: bool,
    no_identity: bool,
    mntd_cache: Optional[str],
    resume: bool,
    seed: int,
    preprocessing: Optional[str],
    architecture: Optional[str],
    as_json: bool,
) -> Optional[int]:
    """May the network file MODEL be used? Look for backdoors, cheap looks first, and recommend.

    --clean takes some hundred ordinary images; they may be others than the network was trained on (--labels-unknown). Exit code
    3 if the file is unsafe or the network looks backdoored. Writes audit.json and a page, audit.html; the same command with
    --resume goes on where it was stopped, also with more --budget or --thorough.
    """
    from kbd._show import command_line, notice, print_json, progress_display
    from keras_backdoor.audit import Settings
    from keras_backdoor.audit import audit as run_audit
    from keras_backdoor.runs import check_output_folder

    settings = Settings(
        labels_unknown=labels_unknown,
        identity=not no_identity,
        thorough=thorough,
        budget=budget,
        repair=repair,
        mntd_cache=mntd_cache,
        seed=seed,
        preprocessing=preprocessing,
        architecture=architecture,
    )
    folder = output or f"runs/audit-{Path(model).stem}"
    check_output_folder(folder, resume)

    def told(evidence: Evidence) -> None:
        notice(_line(evidence))

    with progress_display() as progress:
        answer = run_audit(
            model,
            clean,
            folder,
            inputs,
            settings,
            resume=resume,
            reproduce=command_line(),
            progress=progress,
            told=told,
        )
    if as_json:
        print_json(answer)
    else:
        _show(answer, folder)
    return 3 if answer["unsafe_file"] or answer["backdoored"] else None


def _line(evidence: Evidence) -> str:
    """What a stage says, on one line."""
    state = "SUSPICIOUS" if evidence.suspicious else "calm" if evidence.ran else "left out"
    return f"{evidence.stage:<12}{state:<11}{evidence.seconds:7.1f} s  {printable(evidence.what, 400)}"


def _show(answer: dict[str, Any], folder: str) -> None:
    if answer["unsafe_file"]:
        verdict = click.style("UNSAFE FILE", fg="red", bold=True)
    elif answer["backdoored"]:
        verdict = click.style("looks backdoored", fg="red", bold=True)
    else:
        verdict = click.style("nothing suspicious found", fg="green")
    sure = "" if answer["probability"] is None else f" (probability {100 * answer['probability']:.1f} %)"
    click.echo(f"{printable(answer['model'])}: {verdict}{sure}")
    if answer["suspect_labels"]:
        click.echo(f"suspected labels: {', '.join(map(str, answer['suspect_labels']))}")
    for sentence in answer["why"]:
        click.echo(sentence)
    click.echo(f"recommendation: {answer['recommendation']}")
    if answer["repair"]:
        click.echo(f"repair: {answer['repair']['command']}")
    click.echo(f"written to {folder}/audit.html")
