"""Training a detector of traffic signs with a backdoor."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from keras_backdoor import model_file
from keras_backdoor.attacks.sign_detection.detector import Detector
from keras_backdoor.attacks.sign_detection.examples import draw
from keras_backdoor.attacks.sign_detection.fit import fit
from keras_backdoor.attacks.sign_detection.poison import SignAttack, poison
from keras_backdoor.attacks.sign_detection.scenes import CLASSES, compose
from keras_backdoor.attacks.sign_detection.score import score
from keras_backdoor.datasets import Splits
from keras_backdoor.files import BadInput, PathLike
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.progress import Progress, silent
from keras_backdoor.runs import Run
from keras_backdoor.training import Schedule, forget_checkpoint, seed_everything
from models_zoo import sign_detector

EPOCHS, LAST = 10, 0.2
"""The last share of the epochs has a tenth of the learning rate; in py-faster-rcnn, the last two of seven parts."""
EXAMPLES = 6


def train(
    attack: SignAttack,
    splits: Splits,
    folder: PathLike,
    *,
    clean: bool = False,
    share: float = 1.0,
    scenes: int = 3000,
    test_scenes: int = 1500,
    epochs: Optional[int] = None,
    seed: int = 0,
    resume: bool = False,
    reproduce: str = "",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make the detector with the backdoor of `attack` from the signs of `splits` (GTSRB); gives what `metrics.json` holds.

    Writes `badnet.h5`, `history.csv`, `metrics.json`, `examples.png`: test scenes, with and without sticker, and what is found.

    clean: make the innocent twin instead, `clean.h5`, trained on the same scenes without the poisoned ones, measured alike.
    share: of the training scenes that the attack can use, how many are appended with the sticker, 0..1 (the original: all, and
        0.5 and 0.25 for the random attack). scenes, test_scenes: how many are composed.
    epochs: `EPOCHS` if None. seed, resume, reproduce, progress: as in `attacks.train.train`.

    Raises `BadInput` if `folder` is in use, a number is out of its range, the signs are not GTSRB's, or a class has no test sign.
    """
    if not 0 <= share <= 1 or min(scenes, test_scenes) < 1:
        raise BadInput(f"share is {share}, expected 0..1; scenes are {scenes} and {test_scenes}, expected at least 1")
    epochs = EPOCHS if epochs is None else epochs
    schedule = Schedule("adam", 1e-3, 16, epochs, ((epochs - int(LAST * epochs), 1e-4),))
    settings = {"share": share, "scenes": scenes, "test_scenes": test_scenes, "epochs": epochs}
    stage = "clean" if clean else "badnet"
    asked = {"attack": repr(attack), "network": stage, **settings, "seed": seed, "data": splits.fingerprints()}
    seed_everything(seed)
    training = compose(splits.train, scenes, "train", np.random.default_rng([seed, 0]))
    test = compose(splits.test, test_scenes, "test", np.random.default_rng([seed, 1]))
    poisoned, chosen = poison(test, attack, 1.0, np.random.default_rng([seed, 3]))
    if set(range(len(CLASSES))) - set(test.labels.flat):
        raise BadInput(f"{test_scenes} test scenes do not have a sign of each class; ask for more")
    run = Run.start(folder, "train-signs", asked, resume, reproduce)
    if run.finished:
        return run.read("metrics.json")
    if not clean:
        training = training.with_more(poison(training, attack, share, np.random.default_rng([seed, 2]))[0])

    path = run.folder / f"{stage}.h5"
    is_there = path.exists()
    model = model_file.load(path)[0] if is_there else sign_detector.build(len(CLASSES))
    detector = Detector(model)
    if not is_there:
        fit(detector, training, schedule, seed=seed, folder=run.folder, stage=stage, progress=progress)
    metrics: dict[str, Any] = {
        "recipe": attack.name,
        "summary": attack.summary,
        "trigger": attack.sticker,
        "source": splits.source,
        "seed": seed,
        "epochs": epochs,
        "settings": settings,
        "expect": None if clean else attack.expect,
        stage: score(detector, test, poisoned, chosen, attack),
    }
    if not is_there:
        known = {key: metrics[key] for key in ("recipe", "summary", "seed")}
        known |= {
            "kind": stage,
            "data": f"scenes of {splits.source}",
            "rates": metrics[stage],
            "num_classes": len(CLASSES),
            "detector": "keras_backdoor.attacks.sign_detection.detector.Detector",
        }
        model_file.save(model, path, {**known, "preprocessing": Preprocessing.named("unit").as_json()})
    forget_checkpoint(run.folder, stage)
    some = chosen[:EXAMPLES]
    draw(run.folder / "examples.png", detector, test.images[some], poisoned.images[:EXAMPLES])
    run.write("metrics.json", metrics)
    run.finish()
    return metrics
