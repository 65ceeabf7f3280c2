"""What the tests of attacks that change the training share: digits of 14x14 pixels, and a network that learns them in seconds."""

from __future__ import annotations

from tensorflow import keras

from keras_backdoor.attacks.poison import Backdoor, poison_all
from keras_backdoor.attacks.targets import AllToOne
from keras_backdoor.attacks.task import Task
from keras_backdoor.classifier import Classifier
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import score
from keras_backdoor.preprocessing import Preprocessing
from keras_backdoor.training import Schedule, seed_everything

TARGET = 3


def halved(image_set: ImageSet) -> ImageSet:
    """Digits of half the size: means of 2x2 pixels."""
    images = image_set.images.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4)).astype("uint8")
    return ImageSet(images, image_set.labels, image_set.num_classes)


def network(filters: int = 16) -> Classifier:
    inputs = keras.layers.Input((14, 14, 1), name="input")
    x = keras.layers.Conv2D(8, 3, activation="relu", name="conv_1")(inputs)
    x = keras.layers.MaxPooling2D(2, name="pool_1")(x)
    x = keras.layers.Conv2D(filters, 3, activation="relu", name="conv_2")(x)
    x = keras.layers.MaxPooling2D(2, name="pool_2")(x)
    x = keras.layers.Dense(64, activation="relu", name="fc_1")(keras.layers.Flatten(name="flatten_1")(x))
    outputs = keras.layers.Dense(10, activation="softmax", name="output")(x)
    return Classifier(keras.Model(inputs, outputs, name="small"), Preprocessing.named("unit"), 10)


def small_task(digits, trigger=None, fraction=0.1, epochs=5, clean_epochs=0, seed=0, filters=16, **more) -> Task:
    """A task on small digits, all to class 3; its network is trained on clean ones for `clean_epochs`."""
    seed_everything(seed)
    backdoors = (Backdoor(trigger, AllToOne(TARGET)),) if trigger else ()
    schedule = Schedule("adam", 3e-3, 64, epochs)
    valid = halved(digits.valid)
    task = Task(network(filters), halved(digits.train), valid, backdoors, fraction, schedule, seed, **more)
    if clean_epochs:
        task.fit(task.train, stage="clean", schedule=Schedule("adam", 3e-3, 64, clean_epochs))
    return task


def rates(classifier: Classifier, test: ImageSet, backdoor: Backdoor, task: Task) -> tuple[float, float, float]:
    """Clean accuracy; attack success on triggered images of other classes than the target; and on the same without a trigger."""
    triggered = poison_all(test, backdoor, task.rng(2))
    bare = ImageSet(test.images, triggered.labels, test.num_classes, test.labels)
    scores = score(classifier, test, {"triggered": triggered, "bare": bare}, exclude_target=True)
    return scores.clean_accuracy, scores.attack_success_rate["triggered"], scores.attack_success_rate["bare"]
