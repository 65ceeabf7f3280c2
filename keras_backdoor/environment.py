"""What this machine and this installation are: what a report of a bug needs, and whether the parts work together."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import numpy as np

import keras_backdoor

PACKAGES = (
    *("tensorflow", "keras", "tensorflow-addons", "numpy", "h5py", "imgaug", "opencv-python", "opencv-python-headless"),
    *("mlxtend", "scikit-image", "scikit-learn", "scipy", "matplotlib", "Pillow", "click"),
)
INSTRUCTIONS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd")
"""Of a processor, those that decide how fast networks are."""

VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "KBD_CACHE", "KBD_SHARED_DATA", "OMP_NUM_THREADS", "TF_CONFIG", "TF_CPP_MIN_LOG_LEVEL"),
    *("TF_DETERMINISTIC_OPS", "TF_ENABLE_ONEDNN_OPTS", "TF_FORCE_GPU_ALLOW_GROWTH", "TF_GPU_ALLOCATOR"),
    *("TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_XLA_FLAGS", "XLA_FLAGS"),
)
"""Of the environment, those that change what is computed, or how fast. No others are told: they may be secret."""


def environment() -> dict[str, Any]:
    """Versions, devices, processor and memory, as JSON holds them; None where the system does not say."""
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    devices = []
    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device)
        capability = details.get("compute_capability")
        devices.append(
            {
                "type": device.device_type,
                "name": details.get("device_name") or device.name,
                "compute_capability": capability and ".".join(map(str, capability)),
            }
        )
    return {
        "keras_backdoor": keras_backdoor.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": devices,
        "cuda": build.get("cuda_version"),
        "cudnn": build.get("cudnn_version"),
        "processor": _first("/proc/cpuinfo", "model name") or platform.processor() or None,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": sorted(set((_first("/proc/cpuinfo", "flags", "Features") or "").split()) & set(INSTRUCTIONS)),
        "memory": _bytes("MemTotal"),
        "memory_available": _bytes("MemAvailable"),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _version(package: str) -> Optional[str]:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first(path: str, *keys: str) -> Optional[str]:
    """The value of the first line `key : value` of a file of Linux, if there is one."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() in keys), None)


def _bytes(key: str) -> Optional[int]:
    text = _first("/proc/meminfo", key)
    return None if text is None else int(text.split()[0]) * 1024


def check() -> Iterator[tuple[str, Optional[str], float]]:
    """Try the parts that everything else needs, each for some seconds: its name, what failed (None: nothing), and the seconds.

    The folder for temporary files must be writable. A part that needs what an earlier one made fails with it.
    """
    with tempfile.TemporaryDirectory(prefix="kbd-check-") as folder:
        trial = _Trial(Path(folder))
        for name, part in trial.parts().items():
            started, failure = time.perf_counter(), None
            try:
                part()
            except Exception as error:  # whatever an installation can do wrong
                first = (str(error).splitlines() or [""])[0]
                failure = f"{type(error).__name__}: {first}"
            yield name, failure, time.perf_counter() - started


class _Trial:
    """A small network, on a few of the digits that ship with a dependency."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digits: Any = None
        self._network: Any = None

    def parts(self) -> dict[str, Callable[[], None]]:
        """What is tried, in order."""
        return {
            "read images": self._read,
            "train a few steps": self._train,
            "save and load a network": self._save,
            "write and read HDF5": self._hdf5,
            "imgaug": self._imgaug,
            "tensorflow-addons": self._addons,
        }

    def _read(self) -> None:
        from keras_backdoor import datasets

        self._digits = datasets.load("mnist").limited(20).train

    def _train(self) -> None:
        import models_zoo
        from keras_backdoor.classifier import Classifier
        from keras_backdoor.preprocessing import Preprocessing
        from keras_backdoor.training import Schedule, fit, seed_everything

        seed_everything(0)
        network = Classifier(models_zoo.build("mnist-badnets/relu"), Preprocessing.named("unit"), 10)
        rows = fit(network, self._digits, Schedule("adam", 1e-3, 20, 3), seed=0)
        _expect(rows[-1]["loss"] < rows[0]["loss"], f"the loss does not fall: {[row['loss'] for row in rows]}")
        self._network = network

    def _save(self) -> None:
        from keras_backdoor.classifier import Classifier

        path = self._folder / "network.h5"
        self._network.save(path)
        before, after = (one.probabilities(self._digits.batches()) for one in (self._network, Classifier.load(path)))
        _expect(np.array_equal(before, after), "the network answers otherwise when it is read again")

    def _hdf5(self) -> None:
        from keras_backdoor.datasets import read_images, write_csaw_hdf5

        path = self._folder / "digits.h5"
        write_csaw_hdf5(path, self._digits)
        again = read_images(path, 10).in_memory()
        _expect(np.array_equal(again.images, self._digits.images), "images are others when they are read again")
        _expect(np.array_equal(again.labels, self._digits.labels), "labels are others when they are read again")

    def _imgaug(self) -> None:
        from imgaug import augmenters

        images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
        _expect(np.array_equal(augmenters.Fliplr(1.0)(images=images), images[:, :, ::-1]), "it does not mirror images")

    def _addons(self) -> None:
        import tensorflow as tf

        from models_zoo.instance_normalization import addons

        values = addons()(tf.random.stateless_normal((2, 4, 4, 3), [0, 0]) + 5).numpy()
        _expect(abs(values.mean()) < 1e-3, f"instance normalisation leaves a mean of {values.mean()}")


def _expect(right: bool, otherwise: str) -> None:
    if not right:
        raise AssertionError(otherwise)
