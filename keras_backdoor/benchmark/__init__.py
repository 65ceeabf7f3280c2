"""The papers' table: every BadNet against every defense.

`presets` has the plans that have a name; `cells` what a cell is, and what makes it another one; `runner` runs cells, each in a
process of its own (`process` on this side, `child` and `work` on the other); `results` reads what they left; `published` has the
papers' figures, `tables` puts both side by side. Only `work` needs TensorFlow.
"""
