"""Architectures of the literature by name, one file each, and the registry of published artifacts.

Where paper and original code disagree, the code is the default and the paper's network a variant (`name/variant`); each file
says so. Initial weights are Keras's defaults everywhere; those of sources in Caffe and PyTorch are not imitated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """What is known of an architecture without building it.

    module, options: where its `build` is, and what that is called with besides the sizes.
    input_shape, num_classes: the original's, used unless others are given; `num_classes` is None if it does not classify.
    parameters: how many it has with these sizes, those of batch normalisation that are not trained included.
    what: for people, with the source.
    """

    module: str
    options: Mapping[str, Any]
    input_shape: tuple[int, int, int]
    num_classes: int | None
    parameters: int
    what: str


ARCHITECTURES: dict[str, Architecture] = {
    "deepid": Architecture(
        "models_zoo.deepid", {}, (55, 47, 3), 1283, 601_643, "faces; CSAW-HackML 2020 and NNoculation, Keras code"
    ),
    "deepid/dropout": Architecture(
        "models_zoo.deepid",
        {"dropout": 0.5},
        (55, 47, 3),
        1283,
        601_643,
        "DeepID with dropout before the output; Fine-Pruning, Caffe code",
    ),
    "deepid/cifar10": Architecture(
        "models_zoo.deepid", {}, (32, 32, 3), 10, 102_290, "DeepID for CIFAR-10, as in NNoculation's table 4"
    ),
    "nin": Architecture(
        "models_zoo.nin",
        {},
        (32, 32, 3),
        10,
        966_986,
        "CIFAR-10, Network in Network (Lin et al. 2014); the published BadNet-TCA",
    ),
    "nin/youtube": Architecture(
        "models_zoo.nin",
        {},
        (55, 47, 3),
        1283,
        1_212_675,
        "Network in Network for faces, as in NNoculation's table 4",
    ),
    "gtsrb": Architecture("models_zoo.gtsrb", {}, (32, 32, 3), 43, 571_723, "traffic signs; Neural Cleanse, code"),
    "gtsrb/fsa": Architecture(
        "models_zoo.gtsrb", {"fsa": True}, (32, 32, 3), 43, 375_115, "traffic signs; the published BadNet-FSA"
    ),
    "mnist-badnets": Architecture(
        "models_zoo.mnist_badnets",
        {},
        (28, 28, 1),
        10,
        281_034,
        "digits, dense layer linear, pooling by maximum; the published BadNet-AAA",
    ),
    "mnist-badnets/relu": Architecture(
        "models_zoo.mnist_badnets",
        {"activation": "relu"},
        (28, 28, 1),
        10,
        281_034,
        "digits, dense layer with ReLU, pooling by maximum",
    ),
    "mnist-badnets/paper": Architecture(
        "models_zoo.mnist_badnets",
        {"activation": "relu", "pooling": "average"},
        (28, 28, 1),
        10,
        281_034,
        "digits, dense layer with ReLU, pooling by average; BadNets (Gu et al. 2019), table 1",
    ),
    "mnist-clean-label": Architecture(
        "models_zoo.mnist_clean_label", {}, (28, 28, 1), 10, 40_430, "digits; the published BadNet-CLA"
    ),
    "strip-cifar10": Architecture("models_zoo.strip_cifar10", {}, (32, 32, 3), 10, 309_290, "CIFAR-10; STRIP, code"),
    "mntd-mnist": Architecture(  # the same layers as those of BadNets, once its dense layer has a ReLU
        "models_zoo.mnist_badnets",
        {"activation": "relu"},
        (28, 28, 1),
        10,
        281_034,
        "digits; MNTD (Xu et al. 2021), code",
    ),
    "mntd-cifar10": Architecture(
        "models_zoo.mntd_cifar10", {}, (32, 32, 3), 10, 1_182_762, "CIFAR-10; MNTD (Xu et al. 2021), code"
    ),
    "wanet-mnist": Architecture(
        "models_zoo.wanet_mnist", {}, (28, 28, 1), 10, 585_930, "digits; WaNet (Nguyen and Tran 2021), code"
    ),
    "preactresnet18": Architecture(
        "models_zoo.preactresnet18",
        {},
        (32, 32, 3),
        10,
        11_177_930,
        "CIFAR-10 and traffic signs, pre-activation ResNet-18; WaNet and BackdoorBench, code",
    ),
    "wrn-16-1": Architecture(
        "models_zoo.wrn_16_1", {}, (32, 32, 3), 10, 175_994, "CIFAR-10, wide ResNet; NAD and ABL, code"
    ),
    "densenet121": Architecture(
        "models_zoo.densenet121",
        {},
        (224, 224, 3),
        1000,
        8_062_504,
        "ImageNet, DenseNet-121 (Huang et al. 2017) of keras.applications; NNoculation's BadNet-IN",
    ),
    "speechnet": Architecture(
        "models_zoo.speechnet",
        {},
        (512, 512, 3),
        10,
        17_114_122,
        "spoken digits as spectrograms; Fine-Pruning, Caffe code",
    ),
    "cyclegan-generator": Architecture(
        "models_zoo.cyclegan_generator",
        {},
        (256, 256, 3),
        None,
        2_855_811,
        "images to images, width 32; CycleGAN-Keras, code",
    ),
    "cyclegan-generator/resize": Architecture(
        "models_zoo.cyclegan_generator",
        {"resize_convolution": True},
        (256, 256, 3),
        None,
        2_855_811,
        "images to images, width 32, upsampling and convolution; CycleGAN-Keras, an option of the code",
    ),
    "cyclegan-generator/paper": Architecture(
        "models_zoo.cyclegan_generator",
        {"width": 64},
        (256, 256, 3),
        None,
        11_388_675,
        "images to images, width 64; NNoculation, table 18",
    ),
    "patchgan": Architecture(
        "models_zoo.patchgan",
        {},
        (256, 256, 3),
        None,
        2_766_529,
        "discriminator of 70x70 patches; CycleGAN-Keras, code, and NNoculation, table 17",
    ),
}
"""The architectures by name."""


def build(name: str, **sizes: Any) -> Any:
    """A new, untrained `keras.Model`; `sizes` are `input_shape` and `num_classes`, by default those of the original.

    Raises KeyError if there is no such architecture.
    """
    known = ARCHITECTURES[name]
    defaults: dict[str, Any] = {"input_shape": known.input_shape, **known.options}
    if known.num_classes is not None:
        defaults["num_classes"] = known.num_classes
    return import_module(known.module).build(**{**defaults, **sizes})
