"""`kbd zoo scan`: what a network file would do to whoever loads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import click

from kbd._options import JSON
from keras_backdoor.files import BadInput, check_file, printable

if TYPE_CHECKING:
    from keras_backdoor.gate import Report

SUFFIXES = (".h5", ".hdf5", ".keras", ".pb", ".pkl", ".pickle", ".joblib", ".npy", ".pt", ".pth")
LEVELS = {"critical": "error", "high": "error", "medium": "error", "low": "warning", "info": "note"}


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@JSON
@click.option("--sarif", "as_sarif", is_flag=True, help="Print SARIF 2.1.0, as code hosts and editors read it.")
def scan(files: tuple[str, ...], as_json: bool, as_sarif: bool) -> Optional[int]:
    """Look what each FILE would do when Keras loads it, without loading it.

    Any network file of Keras 2 will do: .h5, .keras, weights alone. Of a folder, all files in it are scanned that may be
    networks. Exit code 3 if something is unsafe.
    """
    from kbd._show import print_json
    from keras_backdoor.gate import scan_all

    if as_json and as_sarif:
        raise BadInput("--json and --sarif: choose one")
    paths = [path for name in files for path in _below(name)]  # nothing is scanned if one of them cannot be
    reports = []
    for report in scan_all(paths):
        reports.append(report)
        if not (as_json or as_sarif):
            _show(report)
    if as_json:
        every = [report.as_json() for report in reports]
        single = len(files) == 1 and not Path(files[0]).is_dir()
        print_json(every[0] if single else {"safe": all(report.safe for report in reports), "files": every})
    elif as_sarif:
        print_json(_sarif(reports))
    elif len(reports) > 1:
        unsafe = sum(not report.safe for report in reports)
        click.echo(f"{len(reports)} files, {unsafe} unsafe")
    return None if all(report.safe for report in reports) else 3


def _below(name: str) -> list[Path]:
    """The file itself, or what may be a network below a folder."""
    folder = Path(name)
    if (folder / "saved_model.pb").exists():
        return [folder]
    if not folder.is_dir():
        return [check_file(folder)]
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        raise BadInput(f"{name}: holds no file that may be a network ({' '.join(SUFFIXES)})")
    return found


def _show(report: Report) -> None:
    verdict = click.style("safe", fg="green") if report.safe else click.style("UNSAFE", fg="red", bold=True)
    if report.safe and report.refusal:
        verdict = click.style("harmless, but cannot be used", fg="yellow")
    kind = f" ({report.format})" if report.format else ""
    click.echo(f"{printable(report.file)}: {verdict}{kind}")
    for finding in report.findings:
        click.echo(f"  {finding.severity:8} {finding.where + ': ' if finding.where else ''}{finding.what}")


def _sarif(reports: Sequence[Report]) -> dict[str, Any]:
    from keras_backdoor import __version__
    from keras_backdoor.gate.report import RULES

    rules = [
        {
            "id": rule,
            "shortDescription": {"text": text},
            "defaultConfiguration": {"level": LEVELS[severity]},
            "properties": {"severity": severity},
        }
        for rule, (severity, text) in RULES.items()
    ]
    results = [
        {
            "ruleId": finding.rule,
            "level": LEVELS[finding.severity],
            "message": {"text": finding.what},
            "locations": [
                {
                    "physicalLocation": {"artifactLocation": {"uri": Path(report.file).as_posix()}},
                    "logicalLocations": [{"fullyQualifiedName": finding.where}],
                }
            ],
        }
        for report in reports
        for finding in report.findings
    ]
    tool = {"driver": {"name": "kbd zoo scan", "semanticVersion": __version__, "rules": rules}}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": tool, "results": results}],
    }
