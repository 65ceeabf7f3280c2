"""`kbd`: the group of commands, what they share, and how failures end."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import warnings
from importlib import import_module
from typing import Any, Optional

import click

from keras_backdoor import __version__
from keras_backdoor.distribution import WorkerLost
from keras_backdoor.files import BadInput, lookup, printable

COMMANDS = ("demo", "train", "defend", "eval", "predict", "audit", "bench", "zoo", "data", "report", "launch", "env")


class Commands(click.Group):
    """Commands are loaded when they are named, and their names are all that `kbd --help` needs besides."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The order of the contract."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> Optional[click.Command]:
        """The command called `name`, from the file of that name."""
        if name not in COMMANDS:
            return None
        return getattr(import_module(f"kbd.{name}"), name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click does, but an unknown name gets a suggestion."""
        if args and not args[0].startswith("-"):
            lookup(args[0], COMMANDS, "command")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "KBD", "max_content_width": 110},
)
@click.option("-v", "--verbose", is_flag=True, help="Let TensorFlow talk.")
@click.version_option(__version__, prog_name="kbd")
@click.pass_context
def cli(ctx: click.Context, verbose: bool) -> None:
    """Backdoored networks: train them, measure them, repair them.

    \b
    Start with        kbd demo
    then, on a file   kbd eval MODEL --clean FILE --poisoned FILE
    on a stranger's   kbd audit MODEL --clean FILE
    """
    if not verbose:
        # Before TensorFlow is imported, or it talks anyway.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore")
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


class Terminated(BaseException):
    """SIGTERM, as a machine sends it that is needed elsewhere. (Of a `KeyboardInterrupt` click would make its own `Abort`.)"""


def main() -> None:
    """Run the command line; bad input and wrong usage end with one line and exit code 2, never with a traceback."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        code = cli.main(prog_name="kbd", standalone_mode=False)
    except BadInput as error:
        _fail(error, 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except WorkerLost as error:
        _fail(f"{error}; {what_now(sys.argv[1:])}, on all workers", 1)
    except Terminated:
        _fail(f"terminated; {what_now(sys.argv[1:])}", 143)
    except (KeyboardInterrupt, click.Abort):
        _fail(f"interrupted; {what_now(sys.argv[1:])}", 130)
    else:
        sys.exit(code if isinstance(code, int) else 0)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def what_now(words: list[str]) -> str:
    """How to go on after an interrupt."""
    commands = [word for word in words if word in COMMANDS and word != "launch"]
    if commands[:1] in (["zoo"], ["data"]) and "fetch" in words:
        return "what was downloaded is kept; the same command goes on from there"
    context = click.Context(cli)
    command = cli.get_command(context, commands[0]) if commands else None
    if isinstance(command, click.Group):  # its sub-commands know, one of which is among the words
        named = [word for word in words if word in command.list_commands(context)]
        command = command.get_command(context, named[0]) if named else None
    if command is None or not any(parameter.name == "resume" for parameter in command.params):
        return "nothing was finished"
    resume = [] if "--resume" in words else ["--resume"]
    return "what was done is kept; continue with: " + shlex.join(["kbd", *words, *resume])


def _fail(message: object, code: int) -> None:
    """Print one line, however many the message has, and end."""
    click.echo("kbd: " + printable(" ".join(str(message).split()), 2000), err=True)
    sys.exit(code)
