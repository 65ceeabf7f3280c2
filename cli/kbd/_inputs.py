"""Files that commands are given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from keras_backdoor.files import BadInput

if TYPE_CHECKING:
    from keras_backdoor.classifier import Classifier
    from keras_backdoor.gate import Admitted
    from keras_backdoor.images import ImageSet


def named_files(values: tuple[str, ...]) -> dict[str, str]:
    """`[NAME=]FILE` options as name -> file; a file without a name gets that of the file, without suffix."""
    files: dict[str, str] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or Path(value).exists():
            name, path = Path(value).stem, value
        if name in files:
            raise BadInput(f"--poisoned: two files are called {name!r}; name them apart with NAME=FILE")
        files[name] = path
    return files


def admit(model: str, trust: bool) -> Admitted:
    """A network file through the gate, before TensorFlow is imported; loud if it is trusted against what was found."""
    from kbd._show import notice
    from keras_backdoor import gate

    admitted = gate.admit(model, trust)
    if admitted.trusted:
        notice(f"WARNING: --trust: {model} is not safe and is loaded all the same. What it does, it does as you:")
        for finding in admitted.report.findings:
            notice(f"WARNING:   {finding.severity}: {finding.where or 'the file'}: {finding.what}")
    return admitted


def images_for(classifier: Classifier, path: str, exclude_target: bool = False) -> ImageSet:
    """The images in a file, if the network takes them; `BadInput` that names the file otherwise."""
    from keras_backdoor.datasets import read_images

    image_set = read_images(path, classifier.num_classes)
    classifier.check(image_set, path)
    if exclude_target and image_set.true_labels is None:
        raise BadInput(f"{path}: does not hold the true labels (true_label), which --exclude-target needs")
    return image_set
