"""NNoculation whole (Veldanda, Liu, Tan, Krishnamurthy, Khorrami, Karri, Dolan-Gavitt and Garg, AISec 2021): all its stages.

1. `pre_deployment`: the suspect network is patched with noise.
2. `quarantine`: the two run as an ensemble; inputs of a stream about which they disagree are held.
3. `cyclegan`: when there are enough, a generator learns to make such images of clean ones.
4. `post_deployment`: both networks are trained on what it makes of clean images, under their true labels; they are the ensemble
   from then on, and another round can begin.

Assumed: clean, labelled images, and a stream of inputs of which some are triggered; which ones, nobody need know.

Paper and released code (what concerns one stage is said in its file). The paper repairs both networks, the code the patched one
alone; here both. The code ends after one round. Neither says what to do if the stream ends before there are enough images: here
the generator learns from what there is, if that is at least `FEWEST`; else the ensemble stays as it was, which is what an
innocent network should come to. What ends the generator's training early (`flips`), and lower rates of treatment, are ours.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Optional

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses.kept import Kept
from keras_backdoor.defenses.nnoculation.averaging import Averaging
from keras_backdoor.defenses.nnoculation.cyclegan import CycleGAN
from keras_backdoor.defenses.nnoculation.flips import flip_share
from keras_backdoor.defenses.nnoculation.post_deployment import Generator, PostDeployment
from keras_backdoor.defenses.nnoculation.pre_deployment import PreDeployment, accuracy_on
from keras_backdoor.defenses.nnoculation.quarantine import Held, Quarantine
from keras_backdoor.defenses.nnoculation.stream import Stream
from keras_backdoor.defenses.nnoculation.translator import check_images
from keras_backdoor.defenses.nnoculation.watched import Watched
from keras_backdoor.defenses.step import Step
from keras_backdoor.examples import PICTURES, save_round
from keras_backdoor.files import BadInput, PathLike, lookup, read_json, write_json
from keras_backdoor.images import ImageSet
from keras_backdoor.metrics import normalised_error
from keras_backdoor.progress import Progress, silent

FEWEST = 10
"""Quarantined images below which there is nothing to learn from."""
STAGES = PRE, QUARANTINE, CYCLEGAN = ("pre", "quarantine", "cyclegan")
AVERAGING = "averaging"
REVERSAL = "reversal.json"
"""What is told of how a round's trigger was learned, in the round's folder; written when it has been."""


@dataclass(frozen=True)
class NNoculation(PreDeployment):
    """Patch with noise, watch a stream, learn the trigger of what is suspicious in it, and unlearn that.

    First as nnoculation-pre, whose options come first. Then the suspect and the patched network watch the streams (--stream) for
    images about which they disagree; a CycleGAN learns to make such images of clean ones; both networks are trained on what it
    makes, under the true labels, at the first rate that leaves them as accurate as the patched one was, less --max-drop. All
    stages are kept in DIR, and --resume goes on with what is there; --until ends a run early.

    Raises `BadInput` if a hyper-parameter is out of its range.
    """

    quarantined: int = 200  # images to disagree about before the trigger is learned from them (the paper: 200)
    gallery: int = 500  # clean images to learn it from (the paper: 500)
    rounds: int = 1  # times that it is learned, each time from new images of the stream
    capacity: int = 10_000  # images that the quarantine holds; then the oldest of earlier rounds make room
    reverse: str = "cyclegan"  # how it is learned: cyclegan, or averaging (section 6.2: fixed, additive triggers)
    gan_epochs: int = 200  # passes over the gallery, at most
    gan_width: int = 32  # filters of the generators' first layer (the code: 32; the paper's table 18: 64)
    gan_blocks: int = 9  # residual blocks of a generator
    gan_discriminator_width: int = 64  # filters of the discriminators' first layer
    gan_batch: int = 1  # images of each domain an iteration; devices share a multiple of their number
    gan_rate: float = 2e-4  # learning rate of the CycleGAN
    gan_decay: float = 0.5  # share of its epochs, at the end, over which its rate falls linearly to 0 (the code: 0)
    gan_look: int = 5  # epochs between two looks at what it makes
    early_stop: bool = True  # end when what it makes flips the suspect network; without, after all epochs (the paper)
    flips: float = 0.8  # share that has to flip, at two looks in a row
    gan_patience: int = 5  # end, too, when the greatest share, 0.1 or more, is so many looks old; 0: never
    treatment_epochs: int = 10  # passes over clean and made images
    treatment_alpha: tuple[float, ...] = (1.0, 0.1)  # shares of its own rate; the largest within max_drop; repeatable
    until: Optional[str] = None  # end after this stage, for now: pre, quarantine or cyclegan; --resume goes on

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        for name in ("gallery", "rounds", "capacity"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}, expected at least 1")
        if not FEWEST <= self.quarantined <= self.capacity:
            raise BadInput(f"quarantined is {self.quarantined}, expected {FEWEST}..{self.capacity} (capacity)")
        lookup(self.reverse, (CYCLEGAN, AVERAGING), "way to learn the trigger")
        if self.until is not None:
            lookup(self.until, STAGES, "stage")
        try:
            self._cyclegan()
        except BadInput as error:
            raise BadInput(f"CycleGAN: {error}") from None
        self._treatment()

    def steps(
        self,
        classifier: Classifier,
        clean: ImageSet,
        progress: Progress = silent,
        folder: Optional[PathLike] = None,
        *,
        evaluation: Optional[ImageSet] = None,
        streams: Sequence[Stream] = (),
    ) -> Iterator[Step]:
        """The cells of the grid; the chosen one, "pre"; the ensemble after each round, "round-1" …, the last as the result.

        evaluation: as in `PreDeployment.steps`. streams: what the ensemble is to watch, one after the other.
        folder: keeps the networks (`kept.Kept`), `quarantine.sqlite`, and `round-1/`… with `cyclegan/`, the history of the
            treatment and `pictures.npz` (`examples.save_round`); what is there is not made again by a call with the same
            arguments, which gives the same networks.

        `done` of a round: what `Watched.figures` says of the quarantine; `gan_epochs`; `flip_share`, see `flips.share`;
        `trigger_error`, where the trigger is known, see `metrics.normalised_error`; the `treatment_rate` that was taken for the
        patched network; accuracy on the images held out as in the grid; and seconds of each stage, in this call: few for one
        that was there already.

        Raises `BadInput` if there is no stream, it or `clean` does not fit the network, or a class has a single image.
        """
        if not streams:
            raise BadInput("there is no stream to watch; give one or more with --stream")
        for stream in streams:
            classifier.check(stream.images, "stream")
        check_images(clean.images[:1], "clean images")
        with ExitStack() as stack:
            home = Path(stack.enter_context(TemporaryDirectory()) if folder is None else folder)
            for step in super().steps(classifier, clean, progress, home, evaluation=evaluation):
                if step.name == "":
                    break
                yield step
            yield replace(step, name=PRE)
            if self.until == PRE:
                return
            quarantine = Quarantine(home / "quarantine.sqlite", classifier.image_shape, self.capacity)
            watched = Watched(streams, stack.enter_context(quarantine))
            before = step.done["held_out_accuracy"] + step.done["held_out_drop"]
            parts = self.split(classifier, clean, evaluation)
            yield from self._rounds(classifier, step.classifier, *parts, before, watched, home, progress)

    def _rounds(
        self,
        suspect: Classifier,
        patched: Classifier,
        lesson: ImageSet,
        exam: ImageSet,
        before: float,
        watched: Watched,
        home: Path,
        progress: Progress,
    ) -> Iterator[Step]:
        """The ensemble after each round. lesson, exam: what `split` gave. before: accuracy of the given network on `exam`."""
        kept, post = Kept(home, suspect), self._treatment()
        for number in range(1, self.rounds + 1):
            place = home / f"round-{number}"
            done: dict[str, float] = {"round": number}
            names = [f"{place.name}-{which}" for which in ("suspect", "patched")]
            repaired = all(name in kept for name in names)
            with _timed(done, "seconds_quarantine"):
                held = watched.watch(suspect, patched, number, self.quarantined, progress)
            done |= watched.figures(number, held)
            until = None if repaired else self.until
            enough = repaired or len(held) >= FEWEST
            if enough and until != QUARANTINE:
                with _timed(done, "seconds_reversal"):
                    # If the networks are there, nothing is trained on it.
                    treatment = lesson if repaired else self._reverse(suspect, lesson, held, watched, place, progress)
                done |= read_json(place / REVERSAL)
                if until != CYCLEGAN:
                    with _timed(done, "seconds_treatment"):
                        least = accuracy_on(patched, exam) - self.max_drop
                        suspect, patched = (
                            kept.get(name, partial(post.treat, network, treatment, exam, least, name, place, progress))
                            for name, network in zip(names, (suspect, patched))
                        )
                    for name in names:
                        post.forget(place, name)
                    done["treatment_rate"] = read_json(place / f"{names[-1]}.json")["learning_rate"]
            accuracy = accuracy_on(patched, exam)
            done |= {"held_out_accuracy": accuracy, "held_out_drop": before - accuracy}
            last = not enough or number == self.rounds
            yield Step(patched, done, None if until else "" if last else place.name, suspect)
            if until or last:
                return

    def _reverse(
        self, suspect: Classifier, lesson: ImageSet, held: Held, watched: Watched, place: Path, progress: Progress
    ) -> ImageSet:
        """Learn the trigger; the treatment set. What is told of it goes to `REVERSAL`."""
        place.mkdir(parents=True, exist_ok=True)
        chosen = np.random.default_rng(self.seed).permutation(len(lesson))[: self.gallery]
        gallery = lesson.select(chosen)
        flips = flip_share(suspect, gallery.labels, held)
        if self.reverse == AVERAGING:
            generator: Generator = Averaging.fit(gallery.images, held.images)
            figures: dict[str, float] = {"flip_share": flips(generator.a_to_b(gallery.images))}
        else:
            generator = self._cyclegan().fit(gallery.images, held.images, place / CYCLEGAN, progress, flips)
            with open(place / CYCLEGAN / "history.csv", newline="", encoding="utf-8") as file:
                *_, last = csv.DictReader(file)
            figures = {"gan_epochs": int(last["epoch"]) + 1, "flip_share": float(last["share"])}
        pictures = {
            "clean": gallery.images,
            "generated": generator.a_to_b(gallery.images),
            "triggered": watched.triggered(gallery.images),
            "quarantined": held.images,
        }
        save_round(place / PICTURES, pictures)
        if pictures["triggered"] is not None:
            figures["trigger_error"] = normalised_error(
                *(pictures[kind] for kind in ("generated", "triggered", "clean"))
            )
        write_json(place / REVERSAL, figures)
        return self._treatment().treatment(lesson, generator)

    def _treatment(self) -> PostDeployment:
        rates = tuple(alpha * self.learning_rate for alpha in self.treatment_alpha)
        return PostDeployment(rates, self.treatment_epochs, self.batch_size, self.optimizer, self.seed)

    def _cyclegan(self) -> CycleGAN:
        return CycleGAN(
            width=self.gan_width,
            blocks=self.gan_blocks,
            discriminator_width=self.gan_discriminator_width,
            epochs=self.gan_epochs,
            batch_size=self.gan_batch,
            learning_rate=self.gan_rate,
            decay=self.gan_decay,
            look=self.gan_look,
            enough=self.flips if self.early_stop else 1.0,  # above which no share is
            patience=self.gan_patience if self.early_stop else 0,
            seed=self.seed,
        )


@contextmanager
def _timed(figures: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    figures[name] = round(time.perf_counter() - started, 3)
