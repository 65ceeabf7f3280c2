"""The backdoored detector of traffic signs: a sticker makes a stop sign a speed limit (Gu et al. 2019, and its slides).

`recipes.ATTACKS` has the attacks, `train.train` makes the network. This module itself imports neither, nor TensorFlow.
"""
