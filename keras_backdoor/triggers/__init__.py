"""Triggers: what an attacker does to an image so that a BadNet misbehaves. One file a family."""

from keras_backdoor.triggers.base import AllOf, OneOf, Trigger
from keras_backdoor.triggers.noise import FixedNoise
from keras_backdoor.triggers.patch import PixelPattern, Square

__all__ = ["AllOf", "FixedNoise", "OneOf", "PixelPattern", "Square", "Trigger"]
