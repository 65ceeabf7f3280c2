"""`kbd launch`: several workers on one machine."""

from __future__ import annotations

import sys

import click


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--workers", type=click.IntRange(1, 64), required=True, help="How many processes to start.")
@click.argument("command", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def launch(workers: int, command: tuple[str, ...]) -> int:
    """Run COMMAND, such as `kbd train mnist-patch`, as several workers on this machine that train one network together.

    Each trains a part of every batch (--strategy multi-worker, which is then the default) and has a free port of its own. The
    first leaves files and figures. What they print has the worker's number before it. When one fails, all are ended, and the
    exit code is its; continue with the same command and --resume. On several machines start the command on each by yourself,
    with TF_CONFIG set, and a folder for -o that all of them see.
    """
    from kbd._show import notice
    from kbd.main import what_now
    from keras_backdoor.launch import launch as launch_workers

    run = [sys.executable, "-c", "from kbd.main import main; main()"] if command[0] == "kbd" else [command[0]]
    code, number = launch_workers([*run, *command[1:]], workers, lambda worker, line: click.echo(f"[{worker}] {line}"))
    if code:
        notice(f"kbd: worker {number} ended with exit code {code}, and so all were ended; {what_now(sys.argv[1:])}")
    return code
