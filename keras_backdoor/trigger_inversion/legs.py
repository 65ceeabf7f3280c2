"""The ways of `TargetFree`: where they begin, their parts, each at a fixed cost of the mask's pixels, and what stands out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

from keras_backdoor.verdict import spread

BARE = -2.0
"""Added to random masks before tanh in a search: they cover 0.05 of an image, not half. Under full ones a restart stays with the
label that the network sees in the noise: on BadNet-SG 7 of 16 found the backdoor, 15 with this. A scan starts from full
ones, as Neural Cleanse does; from bare ones label 8 of the multi-trigger BadNet, whose sunglasses cover much, had a mask of
middling size after 124 updates. Small triggers are found from bare ones more often: each way misses what the other finds."""

LONE = 2.0
"""Times the threshold: so many deviations of logarithms must a label stand out, too. The least of very many norms lies two below
the median, the paper's threshold, in any network: of 1,283 normally distributed values it lies 3.5 below the median of 32 of
them, 5.4 in one of twenty cases. Logarithms of norms keep to that, while norms cannot: no trigger is smaller than nothing. A
search found GTSRB's white square at 6.8 and nothing more; one on images and negatives the backdoors of BadNet-SG and of the
multi-trigger BadNet at 7.5, and 6.9 and 4.7. What came first where none was left: 2.8 (multi-trigger), 2.6 (the patched network;
background without negatives), 2.9 (lab 3's; background of a scan), where norms say up to 2.3."""


def lone_bound(norms: np.ndarray, threshold: float) -> float:
    """The norm below which one stands out of these: by `threshold` deviations, and by `LONE` times as many of logarithms."""
    logs = np.log(np.maximum(norms, np.finfo(float).tiny))
    (median, mad), (middle, width) = spread(norms), spread(logs)
    return float(min(median - threshold * mad, np.exp(middle - LONE * threshold * width)))


@dataclass(frozen=True)
class Leg:
    """Part of the way: how many updates of Adam, on how many images each, at which cost of a mask's pixel; what goes on then.

    keep: how many labels go on to the next leg of a scan, the background and the labels that were named apart. None: all.
    negatives: whether every other image is turned into its negative, 255 - x.
    """

    updates: int
    batch_size: int
    cost: float
    keep: Optional[int] = None
    negatives: bool = False


FREE = (Leg(60, 16, 0.003), Leg(90, 16, 0.02))
"""The small cost lets restarts reach a label, the large one makes the mask small. No negatives: on that of a black background a
white square is not to be seen."""

SCAN = (
    Leg(16, 8, 0.003, 96, negatives=True),
    Leg(32, 16, 0.02, 32, negatives=True),
    Leg(60, 32, 0.02, 16, negatives=True),
    Leg(130, 32, 0.02, negatives=True),
)
"""What a label costs after a few updates on few images tells the hopeless. The rest take larger batches: noise holds masks up.

Negatives part backdoors from the small triggers that any network has. Without them, triggers of the patched network (NNoculation)
that covered 60 to 74 pixels turned 0.67 of negatives to the backdoor's label 0, 0.10 to 0.26 to five innocent ones; those of the
multi-trigger BadNet 0.99 to label 8, at most 0.77 to innocent ones (but 0.23 to label 5). By what they cost after the first leg,
the true labels were among 1,283 the 2nd (lab 3's 0) and the 1st, 2nd and 7th (multi-trigger: 1, 5, 8). Without negatives 8 was
the 49th, and ended as the 11th by its norm, with them as the 6th: 70 pixels, after innocent labels of 56, 60 and 63.
"""
