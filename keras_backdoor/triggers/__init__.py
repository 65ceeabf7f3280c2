"""Triggers: what an attacker does to an image so that a BadNet misbehaves. One file a family."""

from __future__ import annotations

from keras_backdoor.triggers.base import AllOf, OneOf, Trigger
from keras_backdoor.triggers.blend import Blend, LowFrequency, Reflection, Sinusoid
from keras_backdoor.triggers.corners import FourCorners
from keras_backdoor.triggers.filters import Gotham, Nashville
from keras_backdoor.triggers.makeup import Eyebrows, Lipstick
from keras_backdoor.triggers.noise import FixedNoise, GaussianNoise
from keras_backdoor.triggers.patch import PixelPattern, PostIt, Square, Triangle
from keras_backdoor.triggers.picture import Picture, Sunglasses
from keras_backdoor.triggers.warp import Warp, WarpNoise

TRIGGERS: dict[str, type] = {
    "blend": Blend,
    "eyebrows": Eyebrows,
    "four-corners": FourCorners,
    "gaussian-noise": GaussianNoise,
    "gotham": Gotham,
    "lipstick": Lipstick,
    "low-frequency": LowFrequency,
    "nashville": Nashville,
    "noise": FixedNoise,
    "picture": Picture,
    "pixels": PixelPattern,
    "post-it": PostIt,
    "reflection": Reflection,
    "sinusoid": Sinusoid,
    "square": Square,
    "sunglasses": Sunglasses,
    "triangle": Triangle,
    "warp": Warp,
    "warp-noise": WarpNoise,
}
"""The classes of triggers by the names that the command line has for them; `AllOf` and `OneOf` it writes otherwise."""

__all__ = [
    "TRIGGERS",
    "AllOf",
    "Blend",
    "Eyebrows",
    "FixedNoise",
    "FourCorners",
    "GaussianNoise",
    "Gotham",
    "Lipstick",
    "LowFrequency",
    "Nashville",
    "OneOf",
    "Picture",
    "PixelPattern",
    "PostIt",
    "Reflection",
    "Sinusoid",
    "Square",
    "Sunglasses",
    "Triangle",
    "Trigger",
    "Warp",
    "WarpNoise",
]
