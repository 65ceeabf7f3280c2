"""`kbd defend`: run one defense on a network file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

import click

from kbd._method_options import evaluates, method_options, method_summary, resumes, scans, watches
from kbd._options import ARCHITECTURE, CLEAN, EXCLUDE_TARGET, JSON, OUTPUT, POISONED, PREPROCESSING, STRATEGY, TRUST
from kbd._sift import sift_command
from kbd._triggers import TriggerCommand, TriggerText, TrueTriggerText, try_on
from keras_backdoor.defenses import DEFENSES, SIFTING, SPREAD, TRAINING
from keras_backdoor.files import BadInput, lookup

if TYPE_CHECKING:
    from keras_backdoor.classifier import Classifier
    from keras_backdoor.defenses.nnoculation.stream import Stream
    from keras_backdoor.defenses.truth import TrueTrigger
    from keras_backdoor.triggers import Trigger


class Methods(click.Group):
    """One sub-command a method, with the fields of the method's dataclass as options."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The methods."""
        return [*DEFENSES, *SIFTING]

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        """The method called `name`; `BadInput` with a suggestion if there is none."""
        if name in TRAINING:
            raise BadInput(f"{name} acts while a network is trained: kbd train RECIPE --defense {name}")
        if lookup(name, [*DEFENSES, *SIFTING], "method") in SIFTING:
            return sift_command(name)
        command = (TriggerCommand if scans(name) or watches(name) else click.Command)(
            name,
            help=method_summary(name),
            callback=lambda **options: _run(name, **options),
            context_settings={"auto_envvar_prefix": "KBD_DEFEND"},
            params=[click.Argument(["model"]), *method_options(name)],
        )
        for option in (
            CLEAN,
            POISONED,
            TEST,
            MISSING_CLASSES,
            OUTPUT,
            EXCLUDE_TARGET,
            PREPROCESSING,
            ARCHITECTURE,
            TRUST,
            JSON,
        ):
            option(command)
        if name in SPREAD:
            STRATEGY(command)
        if resumes(name):
            RESUME(command)
        if scans(name):
            TRIGGER(command)
        if evaluates(name):
            EVALUATION(command)
        if watches(name):
            for option in (STREAM, ATTACK, RATIO):
                option(command)
        return command


RESUME = click.option("--resume", is_flag=True, help="Go on with the unfinished run in DIR.")
TRIGGER = click.option(
    "--trigger",
    metavar="[LABEL:]TEXT",
    type=TrueTriggerText(),
    multiple=True,
    help="The true trigger, where it is known, in the words below, and before it the label that it leads to (without: every "
    "flagged one): what is found is compared with it. May be given several times, and with --resume also after the scan.",
)
EVALUATION = click.option(
    "--evaluation",
    metavar="FILE",
    help="Clean images to choose the result by, instead of some of --clean: images as the deployed network will see them.",
)
STREAM = click.option(
    "--stream",
    metavar="FILE",
    multiple=True,
    required=True,
    help="Images that the deployed networks see, in this order; their labels are not used. May be given several times: one file "
    "after the other.",
)
ATTACK = click.option(
    "--attack",
    metavar="TEXT",
    type=TriggerText(),
    multiple=True,
    help="To simulate an attack: a trigger, in the words below, that is stamped on images of the stream; one for each --stream, "
    "or one for all. What is known of it is used for figures alone.",
)
RATIO = click.option(
    "--ratio", type=float, default=0.2, show_default=True, help="Share of the stream that --attack is stamped on, 0..1."
)
TEST = click.option(
    "--test", metavar="FILE", help="Clean images to measure accuracy on, which the defense does not use."
)
MISSING_CLASSES = click.option(
    "--missing-classes", is_flag=True, help="Go on even if there is no clean image of some class."
)


@click.group(cls=Methods, invoke_without_command=True, subcommand_metavar="METHOD MODEL --clean FILE [OPTIONS]")
@click.pass_context
def defend(ctx: click.Context) -> None:
    """Defend a network file with METHOD, using clean images only.

    With --poisoned, attack success is measured before and after. Writes metrics.json and figures; a method that repairs writes
    repaired.h5 and goodnet.h5 (the suspect and its repair together, with an extra class for "backdoored input"), one that filters
    inputs filter.json. activation-clustering and spectral-signatures look through the network's training set instead
    (--training FILE) and write sifted.npz. `kbd defend METHOD --help` shows a method's options.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _run(
    method: str,
    model: str,
    clean: str,
    poisoned: tuple[str, ...],
    test: Optional[str],
    missing_classes: bool,
    output: Optional[str],
    exclude_target: bool,
    preprocessing: Optional[str],
    architecture: Optional[str],
    trust: bool,
    as_json: bool,
    strategy: str = "none",
    resume: bool = False,
    trigger: tuple[TrueTrigger, ...] = (),
    evaluation: Optional[str] = None,
    stream: tuple[str, ...] = (),
    attack: tuple[Trigger, ...] = (),
    ratio: float = 0,
    **settings: Any,
) -> None:
    from pathlib import Path

    from kbd._inputs import admit, images_for, named_files
    from kbd._show import (
        command_line,
        filter_table,
        notice,
        print_json,
        progress_display,
        rates_table,
        steps_table,
        verdict_table,
    )
    from keras_backdoor.files import check_file
    from keras_backdoor.runs import check_output_folder

    files = named_files(poisoned)
    for path in filter(None, (clean, test, evaluation, *files.values(), *stream)):
        check_file(path)
    if len(attack) not in (0, 1, len(stream)):
        raise click.UsageError(
            f"--attack: there are {len(attack)} for {len(stream)} streams; give one for all or one for each"
        )
    folder = output or f"runs/{method}-{Path(model).stem}"
    check_output_folder(folder, resume)
    admitted = admit(model, trust)
    from keras_backdoor.classifier import Classifier
    from keras_backdoor.defenses import find
    from keras_backdoor.defenses.apply import defend as run_defense
    from keras_backdoor.distribution import is_chief, own_folder, using
    from keras_backdoor.report import write_figures

    defense = find(method)(**settings)
    with using(strategy), own_folder(folder) as place:
        classifier = Classifier.load(admitted, preprocessing, architecture)
        sets = {name: images_for(classifier, path, exclude_target) for name, path in files.items()}
        images = images_for(classifier, clean).in_memory()
        for one in trigger:
            try_on(one.trigger, images)
        streams = _streams(classifier, stream, attack, ratio)
        if test is None:
            notice("no --test: clean accuracy is measured on the images that the defense uses")
        with progress_display() as progress:
            metrics = run_defense(
                method,
                defense,
                model,
                classifier,
                images,
                sets,
                place,
                test=images_for(classifier, test) if test else None,
                exclude_target=exclude_target,
                missing_classes=missing_classes,
                resume=resume,
                true_triggers=trigger,
                streams=streams,
                evaluation=images_for(classifier, evaluation).in_memory() if evaluation else None,
                admitted=admitted,
                reproduce=command_line(),
                progress=progress,
            )
        if not is_chief():
            return
        write_figures(place)
    if as_json:
        print_json(metrics)
        return
    if metrics["verdict"]:
        verdict_table(metrics["verdict"])
    elif "filter" in metrics:
        rates_table({"before": metrics["before"], "behind the filter": metrics["after"]})
        filter_table(metrics["filter"])
    else:
        steps_table(metrics.get("steps", []))
        rates_table({"before": metrics["before"], "after": metrics["after"], "GoodNet": metrics["goodnet"]})
    click.echo(f"{metrics['seconds']:.1f} s; written to {folder}")
    if settings.get("until"):
        notice(f"ended after {settings['until']}; the same command with --resume and without --until goes on")


def _streams(
    classifier: Classifier, files: tuple[str, ...], attacks: tuple[Trigger, ...], ratio: float
) -> list[Stream]:
    """The streams; which of their images are triggered is known from --attack, or from the file."""
    from kbd._inputs import images_for
    from keras_backdoor.defenses.nnoculation.stream import Stream, poison_stream

    streams = []
    for place, path in enumerate(files):
        images = images_for(classifier, path)
        if attacks:
            attack = attacks[place % len(attacks)]
            try_on(attack, images)
            streams.append(poison_stream(images, attack, ratio, seed=place))
        else:
            true = images.true_labels
            streams.append(Stream(images, None if true is None else true != images.labels))
    return streams
