"""The numbers in which networks compute on a processor: float32, or bfloat16 where that is precise enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

FLOAT32, BFLOAT16 = PRECISIONS = ("float32", "bfloat16")
_OPTION = "auto_mixed_precision_onednn_bfloat16"
_NATIVE = ("avx512_bf16", "amx_bf16")
"""Instructions of a processor that computes in bfloat16."""


def fastest() -> str:
    """bfloat16 where the processor computes in it (as Linux says of an x86), else float32."""
    try:
        flags = next(
            line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if line.startswith("flags")
        )
    except (OSError, StopIteration):
        return FLOAT32
    return BFLOAT16 if set(_NATIVE) & set(flags.split()) else FLOAT32


@contextmanager
def computed_in(precision: str) -> Iterator[None]:
    """Graphs that run inside compute convolutions and products in `precision`, one of `PRECISIONS`; inputs and results stay.

    bfloat16 has the range of float32 and 8 bits of its precision. On a processor that cannot compute in it, nothing changes.
    """
    before = tf.config.optimizer.get_experimental_options().get(_OPTION, False)
    tf.config.optimizer.set_experimental_options({_OPTION: precision == BFLOAT16})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({_OPTION: before})
