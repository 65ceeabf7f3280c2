"""Networks that a defense has trained, kept in the run's folder until the run is finished: what is there is not trained again."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Optional

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.files import BadInput, PathLike, write_arrays

STATE = "networks"


class Kept:
    """The folder `networks` in a run's folder: for each network its weights, as NAME.npz; nothing is kept if there is no folder.

    Weights alone, so that they fit whatever network the run was given, also one that the gate would not let in again.
    """

    def __init__(self, folder: Optional[PathLike], original: Classifier) -> None:
        """original: the network that all of them were made from."""
        self._folder = None if folder is None else Path(folder) / STATE
        self._original = original

    def __contains__(self, name: str) -> bool:
        """Whether the network called `name` is there."""
        return self._folder is not None and (self._folder / f"{name}.npz").exists()

    def get(self, name: str, make: Callable[[], Classifier]) -> Classifier:
        """The network called `name`: read, or else made and kept. Raises `BadInput` if its file is damaged."""
        if name in self:
            return self._read(name)
        network = make()
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            weights = {str(place): array for place, array in enumerate(network.model.get_weights())}
            write_arrays(self._folder / f"{name}.npz", weights)
        return network

    def _read(self, name: str) -> Classifier:
        assert self._folder is not None
        path, network = self._folder / f"{name}.npz", self._original.clone()
        try:
            with np.load(path) as file:
                network.model.set_weights([file[str(place)] for place in range(len(file.files))])
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            detail = (str(error).splitlines() or [type(error).__name__])[0]
            raise BadInput(f"{path}: not the weights of the network ({detail}); remove it to train it again") from None
        return network


def forget(folder: PathLike) -> None:
    """Remove the networks of a run whose result has been written."""
    shutil.rmtree(Path(folder) / STATE, ignore_errors=True)


def kept_arrays(
    folder: Optional[Path], name: str, make: Callable[[], Mapping[str, np.ndarray]]
) -> Mapping[str, np.ndarray]:
    """The arrays called `name`: read from NAME.npz in `folder`, or else made, and kept there if there is a folder.

    Raises `BadInput` if the file is damaged.
    """
    if folder is None:
        return make()
    path = folder / f"{name}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_arrays(path, make())
    try:
        with np.load(path) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{path}: not what this run has written ({detail}); remove it to compute it again") from None
