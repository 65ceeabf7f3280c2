"""Options that several commands share."""

from __future__ import annotations

import click

CLEAN = click.option("--clean", metavar="FILE", required=True, help="Clean images with their labels (HDF5 or .npz).")
POISONED = click.option(
    "--poisoned",
    metavar="[NAME=]FILE",
    multiple=True,
    help="Triggered images, labelled as the attacker wants; may be given several times.",
)
PREPROCESSING = click.option(
    "--preprocessing",
    type=click.Choice(["unit", "raw"]),
    help="How the network's inputs are scaled (unit: pixel/255), for files that do not say and are not known.",
)
ARCHITECTURE = click.option(
    "--architecture", metavar="NAME", help="Whose weights they are, for files that hold weights only."
)
TRUST = click.option("--trust", is_flag=True, help="Load MODEL even if it is refused. Whatever code it holds will run.")
EXCLUDE_TARGET = click.option(
    "--exclude-target",
    is_flag=True,
    help="Leave images whose true label is the target out of the attack success rate (needs true labels in the file).",
)
OUTPUT = click.option("-o", "--output", metavar="DIR", help="Folder for the results; by default runs/METHOD-MODEL.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
RESUME = click.option("--resume", is_flag=True, help="Continue the run in the folder, if one was interrupted there.")
SEED = click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Decides everything random."
)
STRATEGY = click.option(
    "--strategy",
    type=click.Choice(["auto", "none", "mirrored", "multi-worker"]),
    default="auto",
    show_default=True,
    help="What computes: all GPUs, or one device without (auto); one device (none); all GPUs or logical CPUs of this machine "
    "(mirrored); the machines that TF_CONFIG names (multi-worker). Each takes a part of every batch, or of a scan's labels.",
)
