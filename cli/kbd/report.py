"""`kbd report`: the HTML page of a run folder."""

from __future__ import annotations

import click


@click.command()
@click.argument("folder", metavar="DIR")
def report(folder: str) -> None:
    """Rebuild DIR/report.html from what the run in DIR, or the runs in its sub-folders, left there."""
    from keras_backdoor.report import build_report

    click.echo(build_report(folder))
