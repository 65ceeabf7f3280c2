"""STRIP of adversarial-robustness-toolbox, at its defaults; `strip.py` runs this with an interpreter that has it.

    python benchmarks/strip_art.py NETWORK.h5 IMAGES.npz

IMAGES.npz has float32 arrays, scaled as the network wants them: `clean` to fit on, and `inputs`. Prints JSON: seconds for the
inputs, and for each whether it was stopped.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from art.defences.transformer.poisoning import STRIP
from art.estimators.classification import TensorFlowV2Classifier
from tensorflow import keras

if __name__ == "__main__":
    model, images = keras.models.load_model(sys.argv[1], compile=False), np.load(sys.argv[2])
    network = TensorFlowV2Classifier(model, model.output_shape[-1], model.input_shape[1:])
    np.random.seed(0)  # noqa: NPY002  it draws its overlays from the global generator
    defense = STRIP(network)()
    defense.mitigate(images["clean"])
    started = time.perf_counter()
    answers = defense.predict(images["inputs"])
    seconds = time.perf_counter() - started
    sys.stdout.write(json.dumps({"seconds": seconds, "stopped": (answers == 0).all(-1).tolist()}) + "\n")
