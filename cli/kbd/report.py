"""`kbd report`: the HTML page of run folders and bench folders."""

from __future__ import annotations

from typing import Optional

import click


@click.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True)
@click.option(
    "-o", "--output", metavar="FILE", help="The page; by default DIR/report.html, of several folders report.html here."
)
@click.option(
    "--figures", is_flag=True, help="Write the page's figures beside it, too, into figures/, as PNG and as SVG."
)
def report(folders: tuple[str, ...], output: Optional[str], figures: bool) -> None:
    """Make one HTML page of what is in each DIR: a run, runs in sub-folders, or a bench.

    The page holds all it needs and loads nothing. Given the folders of a BadNet and of its defenses, these stand together.
    """
    from pathlib import Path

    from keras_backdoor.report import build_report

    for folder in folders:
        if (Path(folder) / "cells").is_dir():  # the table may be older than the cells
            from keras_backdoor.benchmark.tables import write_tables

            write_tables(folder)
    if output is None and len(folders) > 1:
        output = "report.html"
    click.echo(build_report(folders, output, figures))
