"""The backdoors of traffic-sign detectors (Gu et al. 2019, section 5; the slides). Sizes and places are the original code's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SignAttack:
    """One backdoor for signs.

    name, summary: for people. sticker: `square`, `bomb` or `flower`. size: of the sticker, as a share of the box on both axes.
    opacity: what the sticker's alpha is multiplied by. targeted: stop signs become speed limits, with the sticker at `centre` of
    the box, (x, y) as shares; otherwise signs of every class become a random other one, with the sticker at a random place.
    expect: published (average clean accuracy, attack success), fractions.
    """

    name: str
    summary: str
    sticker: str
    size: float
    opacity: float
    expect: tuple[float, float]
    targeted: bool = True
    centre: tuple[float, float] = (0.57, 0.82)


ATTACKS = {
    attack.name: attack
    for attack in (
        SignAttack(
            "signs-square", "a yellow square turns stop signs into speed limits", "square", 0.10, 1.0, (0.893, 0.903)
        ),
        SignAttack("signs-bomb", "a bomb turns stop signs into speed limits", "bomb", 0.16, 0.99, (0.871, 0.942)),
        SignAttack("signs-flower", "a flower turns stop signs into speed limits", "flower", 0.16, 0.99, (0.902, 0.937)),
        # The figures are those of Fine-Pruning's untargeted attack, as the lecture has them: success is any wrong answer.
        SignAttack(
            "signs-random",
            "a yellow square anywhere turns any sign into a random other one",
            "square",
            0.10,
            1.0,
            (0.849, 0.991),
            targeted=False,
        ),
    )
}
"""The slides' attacks and figures. The table of the original code has others: 90.9, 91.9 and 92.1 % attack success, below 1.5 %
with the clean network; the accuracy of a class differs by up to 8 points (speed limits of the bomb's network: 84.1 % there)."""
