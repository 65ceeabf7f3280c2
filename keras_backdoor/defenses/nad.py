"""Neural attention distillation, NAD (Li, Lyu, Koren, Lyu, Li and Ma, ICLR 2021): look where a fine-tuned copy looks.

A copy of the suspect network, fine-tuned on clean images, is the teacher: its backdoor is weaker already. The suspect is then
fine-tuned on the same images with a second goal, that its attention (the squares of a layer's channels, summed and scaled to a
length of 1) is that of the teacher. Assumed: clean, labelled images, 5 % of the training set in the paper. No trigger and no
target label need to be known.

Paper and released code. The paper writes the distance of two attention maps as the norm of their difference; the code takes the
mean of its squares, for which its weights of 500 and 1000 are made, and so does this. Rates are the code's, its rate of 1e-4
after epoch 20 included where there are so many. The code makes the teacher with its training script, all weights of distances
0: the same rates and augmentation as for the student.

NNoculation (appendix A.2) finds that NAD costs 9 points of accuracy and leaves 76 % and 19 % of success to the two triggers of
its YouTube-MTMTA, and 99 % to the combination of triggers on CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Optional, Union

import tensorflow as tf
from tensorflow import keras

from keras_backdoor import distribution, replicas
from keras_backdoor.activations import calls
from keras_backdoor.augmentation import check_moves, moving
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.kept import Kept
from keras_backdoor.defenses.step import Step, Stepwise
from keras_backdoor.files import BadInput, PathLike
from keras_backdoor.images import ImageSet
from keras_backdoor.progress import Progress, silent
from keras_backdoor.training import Schedule, check_seed, fit, forget_checkpoint, seed_everything

TEACHER, STUDENT = "teacher", "student"


@dataclass(frozen=True)
class AttentionDistillation(Stepwise):
    """Fine-tune a teacher on clean images, then the network itself, which is to attend to what the teacher attends to.

    Rates are those of a wide ResNet (WRN-16-1); small networks without normalisation need lower ones. Use --no-mirror for digits
    and traffic signs.

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    layer: tuple[str, ...] = ()  # whose maps are compared; repeatable; by default the last one of each size of maps
    beta: tuple[float, ...] = (500.0, 1000.0, 1000.0)  # weights of their distances; repeatable; the last ones count
    teacher_epochs: int = 10  # passes over the clean images to make the teacher (the paper: 5 to 10)
    epochs: int = 20  # passes over them in distillation
    batch_size: int = 64  # images a step
    learning_rate: float = 0.1  # for two epochs, then a tenth of it; a thousandth from epoch 20 on
    optimizer: str = "nesterov"  # adam, adadelta, sgd, momentum or nesterov
    shift: int = 4  # pixels that images are moved by at most, along both axes
    mirror: bool = True  # swap left and right of half of the images
    hole: int = 2  # side of the black square put onto each image, in pixels (the code: 2, though it says 3)
    seed: int = 0  # decides the order of the images, and how they are moved

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_seed(self.seed)
        self._schedule(self.teacher_epochs)
        self._schedule(self.epochs)
        for beta in self.beta:
            if not 0 <= beta < float("inf"):
                raise BadInput(f"beta is {beta}, expected weights of 0 or more")
        if not self.beta:
            raise BadInput("no beta is given")
        check_moves(self.shift, self.hole)

    def steps(
        self,
        classifier: Classifier,
        clean: ImageSet,
        progress: Progress = silent,
        folder: Optional[PathLike] = None,
    ) -> Iterator[Step]:
        """The teacher, which is only measured, and the student, which is the result.

        folder: if given, both are kept there (`kept.Kept`), and checkpoints of the one that is being trained.
        Raises `BadInput` if `clean` does not fit the network, it has no such layer, or more layers are named than weights.
        """
        classifier.check(clean, "clean images")
        layers = attention_layers(classifier.model, self.layer, len(self.beta))
        kept, place = Kept(folder, classifier), None if folder is None else Path(folder)

        def made(stage: str, train: Callable[..., Classifier]) -> Classifier:
            network = kept.get(stage, partial(train, classifier, clean, place, progress))
            if place:
                forget_checkpoint(place, stage)
            return network

        teacher = made(TEACHER, self._teach)
        yield Step(teacher, {"teacher_epochs": self.teacher_epochs})
        student = made(STUDENT, partial(self._distil, teacher, layers))
        yield Step(student, {"teacher_epochs": self.teacher_epochs, "epochs": self.epochs}, "")

    def _teach(self, suspect: Classifier, clean: ImageSet, place: Optional[Path], progress: Progress) -> Classifier:
        """A copy that is fine-tuned."""
        seed_everything(self.seed)
        teacher = suspect.clone()
        self._fit(teacher, clean, TEACHER, self.teacher_epochs, place, progress)
        return teacher

    def _distil(
        self,
        teacher: Classifier,
        layers: Sequence[str],
        suspect: Classifier,
        clean: ImageSet,
        place: Optional[Path],
        progress: Progress,
    ) -> Classifier:
        """A copy that is fine-tuned with the maps of the teacher."""
        seed_everything(self.seed)
        student = suspect.clone()
        with replicas.copied(student.model) as trained:
            with distribution.active().scope():
                inputs = keras.Input(student.image_shape)
                attentive = Attentive(trained, teacher.clone().model, layers, self.beta[-len(layers) :])
                watched = Classifier(keras.Model(inputs, attentive(inputs)), student.preprocessing, student.num_classes)
            self._fit(watched, clean, STUDENT, self.epochs, place, progress)
        return student

    def _fit(
        self,
        network: Classifier,
        clean: ImageSet,
        stage: str,
        epochs: int,
        place: Optional[Path],
        progress: Progress,
    ) -> None:
        images = moving(clean, self.seed, self.shift, self.mirror, self.hole)
        fit(network, images, self._schedule(epochs), seed=self.seed, stage=stage, folder=place, progress=progress)

    def _schedule(self, epochs: int) -> Schedule:
        slower = ((2, 0.1 * self.learning_rate), (20, 0.001 * self.learning_rate))
        return Schedule(self.optimizer, self.learning_rate, self.batch_size, epochs, slower)


def attention_layers(model: keras.Model, named: Sequence[str] = (), count: int = 3) -> list[str]:
    """The layers whose attention is compared: those that are named, or by default the ends of the last `count` stages.

    A stage ends where maps get smaller by a stride. Its end is the last sum of two branches; without any, the last activation
    that is not linear; without that, the last convolution. Maps of a single pixel have no attention. So the default is group_1 to
    group_3 for WRN-16-1, as in NAD's code, and conv_2, conv_4 and conv_6 for the network for traffic signs.
    Raises `BadInput` if there is no such layer, or more than `count` are named.
    """
    maps, stages = _maps(model)
    for name in named:
        if name not in maps:
            raise BadInput(
                f"the network has no layer {name!r} that gives maps; choose from {', '.join(maps) or 'none'}"
            )
    if len(named) > count:
        raise BadInput(f"{len(named)} layers are named, but there are only {count} weights (beta) for them")
    if not named and not stages:
        raise BadInput("the network has no convolution whose attention could be compared")
    return list(named) or stages[-count:]


def _maps(model: keras.Model) -> tuple[list[str], list[str]]:
    """Layers that give maps of more than a pixel, in topological order; and of those the ends of the stages."""
    level: dict[int, int] = {}
    maps: list[str] = []
    ends: dict[int, tuple[int, str]] = {}
    for layer, inputs, outputs in calls(model):
        stage = max((level[id(one)] for one in inputs), default=0) + (max(tf.nest.flatten(_strides(layer))) > 1)
        level |= {id(one): stage for one in outputs}
        shape = outputs[0].shape
        if not inputs or len(shape) != 4 or shape[1] * shape[2] < 2:
            continue
        maps.append(layer.name)
        rank = _rank(layer)
        if rank >= ends.get(stage, (0, ""))[0]:
            ends[stage] = (rank, layer.name)
    return maps, [name for _, (rank, name) in sorted(ends.items()) if rank]


def _strides(layer: keras.layers.Layer) -> Union[int, tuple[int, ...]]:
    return getattr(layer, "strides", 1)


def _rank(layer: keras.layers.Layer) -> int:
    """How well a layer stands for the end of its stage; 0 if it cannot."""
    if isinstance(layer, keras.layers.Add):
        return 3
    activation = getattr(layer, "activation", None)
    if isinstance(layer, keras.layers.ReLU) or activation not in (None, keras.activations.linear):
        return 2
    return int(isinstance(layer, keras.layers.Conv2D))


class Attentive(keras.layers.Layer):
    """A network whose loss also grows with the distance of its attention maps to those of a teacher, which is not trained.

    Source: section 3.2, and `at.py` of the released code.
    """

    def __init__(
        self, student: keras.Model, teacher: keras.Model, layers: Sequence[str], weights: Sequence[float]
    ) -> None:
        """layers: of both networks, one weight each."""
        super().__init__()
        self._student, self._teacher = (
            keras.Model(model.input, [*(model.get_layer(name).output for name in layers), model.output])
            for model in (student, teacher)
        )
        self._teacher.trainable = False
        self._betas = tuple(weights)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The student's output."""
        *own, output = self._student(inputs, training=training)
        *wanted, _ = self._teacher(inputs, training=False)
        for beta, mine, goal in zip(self._betas, own, wanted):
            self.add_loss(beta * distance(mine, goal))
        return output


def attention(features: tf.Tensor) -> tf.Tensor:
    """Attention maps, float32 (N, H, W), each of length 1, of features (N, H, W, C): sums of squares over the channels."""
    maps = tf.reduce_sum(features**2, -1)
    return maps / (tf.norm(maps, axis=(1, 2), keepdims=True) + 1e-6)


def distance(features: tf.Tensor, goal: tf.Tensor) -> tf.Tensor:
    """Mean squared difference of the attention maps of two features (N, H, W, C)."""
    return replicas.mean_of_whole_batch((attention(features) - attention(goal)) ** 2)
