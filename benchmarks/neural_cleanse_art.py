"""A few steps of adversarial-robustness-toolbox's Neural Cleanse; `neural_cleanse.py` runs this in its environment.

    python benchmarks/neural_cleanse_art.py NETWORK.h5 IMAGES.npz STEPS LABEL...

IMAGES.npz has `images`, float32, scaled as the network wants them. Prints JSON: for each label the seconds that STEPS steps took.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import tensorflow as tf
from art.defences.transformer.poisoning import NeuralCleanse
from art.estimators.classification import KerasClassifier

if __name__ == "__main__":
    model, images = tf.keras.models.load_model(sys.argv[1], compile=False), np.load(sys.argv[2])["images"]
    model.compile(loss="categorical_crossentropy")
    network = KerasClassifier(model, clip_values=(float(images.min()), float(images.max())))
    targets, steps = np.eye(model.output_shape[-1]), int(sys.argv[3])
    took = []
    for label in map(int, sys.argv[4:]):
        defense = NeuralCleanse(network)(network, steps=steps)
        sys.stdout, stdout = sys.stderr, sys.stdout  # it prints every update
        started = time.perf_counter()
        defense.generate_backdoor(images, np.zeros((len(images), len(targets))), targets[label])  # labels are not used
        took.append(time.perf_counter() - started)
        sys.stdout = stdout
    sys.stdout.write(json.dumps(took) + "\n")
