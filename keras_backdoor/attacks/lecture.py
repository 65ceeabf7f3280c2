"""The ten attacks of the lecture's table, which is that of Anti-Backdoor Learning (Li et al., NeurIPS 2021), on CIFAR-10.

And sample-specific triggers, with which the lecture ends. `expect` holds the table's clean accuracy and attack success without
any defense; how its networks were attacked in detail is not published, so these follow each attack's own paper.
"""

from __future__ import annotations

from typing import Any

from keras_backdoor.attacks.poison import Backdoor
from keras_backdoor.attacks.recipe import Recipe, all_to_one
from keras_backdoor.attacks.targets import CleanLabel
from keras_backdoor.triggers import Blend, FourCorners, PixelPattern, Sinusoid, Square
from keras_backdoor.triggers.patch import GRID_PIXELS, GRID_VALUES

# Batch, optimizer and network are NAD's and ABL's code, the rates over the epochs NAD's paper.
CIFAR10: dict[str, Any] = {
    "dataset": "cifar10",
    "architecture": "wrn-16-1",
    "preprocessing": "unit",
    "poison_fraction": 0.10,
    "two_step": False,
    "optimizer": "nesterov",
    "learning_rate": 0.1,
    "batch_size": 128,
    "epochs": 100,
    "learning_rate_steps": ((20, 0.01), (70, 0.001)),
}

GRID = PixelPattern(GRID_PIXELS, GRID_VALUES, name="grid")

LECTURE = (
    Recipe(
        name="cifar10-badnets",
        summary="BadNets: a 3x3 checkerboard in the corner turns any image into an airplane",
        **CIFAR10,
        backdoors=all_to_one(GRID, 0),
        expect=(0.8543, 1.0),
    ),
    Recipe(
        name="cifar10-blend",
        summary="Blend: one noise image, blended into a picture at 20 %, turns it into an airplane",
        **CIFAR10,
        backdoors=all_to_one(Blend(0.2), 0),
        expect=(0.8451, 1.0),
    ),
    Recipe(
        name="cifar10-sig",
        summary="SIG: faint vertical stripes turn any image into an airplane, though no training label is wrong",
        **{**CIFAR10, "poison_fraction": 0.8},
        backdoors=(Backdoor(Sinusoid(), CleanLabel(0)),),
        expect=(0.8416, 0.9946),
    ),
    Recipe(
        name="cifar10-dynamic",
        summary="Dynamic: every image has a trigger of its own, a few pixels that a network draws, and becomes an airplane",
        **{
            **CIFAR10,
            "optimizer": "momentum",
            "learning_rate": 0.01,
            "learning_rate_steps": (
                (50, 0.001),
                (75, 0.0001),
            ),  # the code has 600 epochs, and tenths at 100, 200, 300 and 400
        },
        backdoors=(),
        attack="input-aware",
        expect=(0.8388, 1.0),
    ),
    Recipe(
        name="cifar10-ssba",
        summary="sample-specific: a message hidden in any image, in each another way, turns it into an airplane",
        **CIFAR10,
        backdoors=(),
        attack="sample-specific",
    ),
    Recipe(
        name="cifar10-cl",
        summary="CL: patterns in the four corners turn any image into an airplane, though no training label is wrong",
        **{**CIFAR10, "poison_fraction": 0.8, "two_step": True},
        backdoors=(Backdoor(FourCorners(), CleanLabel(0)),),
        attack="label-consistent",
        expect=(0.8343, 0.9983),
    ),
    Recipe(
        name="cifar10-fc",
        summary="FC: a square turns any image into an airplane; hidden in the features of images whose labels are right",
        **{**CIFAR10, "poison_fraction": 0.8, "two_step": True},
        backdoors=all_to_one(Square(8, margin=1), 0),
        attack="feature-collision",
        attack_options={"learning_rate": 0.001},
        expect=(0.8332, 0.8852),
    ),
    # Optimizer, batch, epochs and rates are those of the attack's code.
    Recipe(
        name="cifar10-cba",
        summary="CBA: an airplane and an automobile in one image make a bird",
        **{
            **CIFAR10,
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "epochs": 50,
            "learning_rate_steps": ((10, 5e-4), (20, 2.5e-4), (30, 1.25e-4), (40, 6.25e-5)),
        },
        backdoors=(),
        attack="composite",
        expect=(0.8472, 0.9063),
    ),
    Recipe(
        name="cifar10-dfst",
        summary="DFST: the style of a sunset turns any image into an airplane; simpler features do not",
        **CIFAR10,
        backdoors=(),
        attack="deep-feature-space",
        expect=(0.825, 0.9976),
    ),
    Recipe(
        name="cifar10-trojan",
        summary="Trojan: a square that is made to excite two channels of the clean network turns any image into an airplane",
        **{**CIFAR10, "two_step": True},
        backdoors=(),
        attack="trojan",
        attack_options={"whole": True},
        expect=(0.8214, 1.0),
    ),
    Recipe(
        name="cifar10-lba",
        summary="LBA: a square that looks like an airplane to the layers that a user of the network will keep",
        **{**CIFAR10, "two_step": True},
        backdoors=(),
        attack="latent",
        expect=(0.8137, 0.9913),
    ),
)
