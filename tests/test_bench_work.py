"""What a cell's process does besides training and defending: streams, and figures for the record."""

from __future__ import annotations

import numpy as np

from keras_backdoor.benchmark.figures import figures_of
from keras_backdoor.benchmark.work import _streams
from keras_backdoor.images import ImageSet


def numbered(count: int, offset: int = 0) -> ImageSet:
    """Images whose pixel is their number."""
    return ImageSet(np.arange(offset, offset + count, dtype=np.uint8)[:, None, None, None], np.arange(count) % 3, 3)


def test_a_stream_is_half_of_the_test_images_and_nothing_of_it_is_measured_on():
    test, poisoned = numbered(60), {"a": numbered(60, 100), "b": numbered(60, 180)}
    streams, rest, left = _streams(test, poisoned, poisoned, seed=0)
    kept = rest.images.ravel()
    assert len(kept) == 30 and list(kept) == sorted(kept)
    assert list(left["a"].images.ravel() - 100) == list(left["b"].images.ravel() - 180) == list(kept)
    for stream, offset in zip(streams, (100, 180)):
        pixels = stream.images.images.ravel()
        assert list(np.flatnonzero(stream.poisoned)) == [0, 5, 10, 15, 20, 25]
        seen = np.where(stream.poisoned, pixels - offset, pixels)
        assert sorted([*seen, *kept]) == list(range(60))
        assert not np.array_equal(seen, np.sort(seen))  # drawn at random, not in the order of the file
    (calm,), _, _ = _streams(test, {}, poisoned, seed=0)
    assert not calm.poisoned.any() and calm.images.images.max() < 60


def scores(accuracy: float, success: float) -> dict:
    return {"clean_accuracy": accuracy, "attack_success_rate": {"x": success}, "robust_accuracy": {"x": 0.0}}


def test_figures_of_each_kind_of_defense():
    before, after, goodnet = scores(0.9, 1.0), scores(0.8, 0.2), scores(0.7, 0.1)
    known = {"before": before, "after": after, "goodnet": goodnet, "verdict": None, "seconds": 3.0}
    repair = figures_of({"method": "nad", **known})
    assert repair["after"] == after and abs(repair["effectiveness"]["x"] - 0.85) < 1e-9 and repair["seconds"] == 3.0
    assert repair["verdict"] is repair["filter"] is repair["sifted"] is None
    # The result of what breaks the network is what it detects.
    broken = figures_of({"method": "anti-repair", **known})
    assert broken["after"] == goodnet and abs(broken["effectiveness"]["x"] - 0.85) < 1e-9
    verdict = {"backdoored": True, "labels": [3], "score": 2.5, "probability": 0.9, "norms": [1.0]}
    scan = figures_of({"method": "neural-cleanse", **known, "after": before, "verdict": verdict})
    assert scan["effectiveness"] is None and scan["verdict"] == {k: v for k, v in verdict.items() if k != "norms"}
    sifted = {"images": 9, "flagged": 2, "poisoned": 1, "recall": 1.0, "precision": 0.5, "false_flags": 0.125}
    told = {"method": "spectral-signatures", "before": None, "after": None, "seconds": 1.0}
    assert figures_of({**told, "sifted": {**sifted, "by_class": {}}})["sifted"] == sifted
