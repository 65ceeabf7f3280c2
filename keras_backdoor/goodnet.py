"""GoodNet: a suspect network and another one, as one network that can say "backdoored input"."""

from __future__ import annotations

from tensorflow import keras

from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput
from models_zoo.disagreement import Agreement, Disagreement


class GoodNet(Classifier):
    """G(x) = B(x) where B and its repair B' agree, else class N: "backdoored input" (the course's homework; N 0-based).

    A classifier of N + 1 outputs. In its clean accuracy, an answer of N is an error; in its attack success rate, it is none.
    """

    @classmethod
    def combine(cls, badnet: Classifier, other: Classifier, agreement: bool = False) -> GoodNet:
        """Put B and another network together. The result has copies of both, and shares nothing with them.

        agreement: flag where the two agree: `other` is an anti-repaired network, whose backdoor works and nothing else.

        Raises `BadInput` if the two do not take the same images, scaled in the same way, for the same classes.
        """
        if (badnet.image_shape, badnet.preprocessing, badnet.num_classes) != (
            other.image_shape,
            other.preprocessing,
            other.num_classes,
        ):
            raise BadInput("the network and its repair differ in image size, scaling or number of classes")
        inputs = keras.layers.Input(badnet.image_shape, name="images")
        answers = []
        for name, classifier in (("badnet", badnet), ("anti_repaired" if agreement else "repaired", other)):
            copy = classifier.clone().model
            part = keras.Model(copy.inputs, copy.outputs, name=name)  # two parts of one network need different names
            answers.append(part(inputs))
        verdict = Agreement(name="agreement") if agreement else Disagreement(name="disagreement")
        model = keras.Model(inputs, verdict(answers), name="goodnet")
        return cls(model, badnet.preprocessing, badnet.num_classes)
