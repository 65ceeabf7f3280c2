"""DenseNet-121 (Huang et al. 2017) for ImageNet, as NNoculation has it for BadNet-IN; that of keras.applications, untrained.

NNoculation published neither code nor file of this network. Layer names are Keras's.
"""

from __future__ import annotations

from tensorflow import keras


def build(input_shape: tuple[int, int, int] = (224, 224, 3), num_classes: int = 1000) -> keras.Model:
    """Inputs (N, 224, 224, 3) float32, standardised; outputs (N, num_classes) probabilities. 8,062,504 parameters."""
    return keras.applications.DenseNet121(weights=None, input_shape=input_shape, classes=num_classes)
