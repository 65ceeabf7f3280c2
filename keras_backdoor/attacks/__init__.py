"""Attacks: which images are poisoned, how, and how a BadNet is trained on them."""
