"""ABS in its stages: neurons (`neurons`), stimulation and candidates, triggers (`reversal`), and the verdict (`abs`).

`pixel_mask` and `feature_filter` are the two kinds of triggers that are looked for.
"""
