"""Generative distribution modelling (Qiao, Yang and Li, NeurIPS 2019): not one trigger is sought, but the space of all that work.

Any network with a backdoor also obeys patches that only resemble its trigger. For a label, generators are trained to draw such
patches, each as different from the others as may be: MESA, the max-entropy staircase approximator. Each generator is one level of
the staircase: it is to draw patches that make the label at least so probable, `beta`, and gains nothing by more. To repair a
network, it is trained on clean images of which a few have a patch and keep their true labels.

Assumed: clean, labelled images; a trigger that is a square patch of known size (and known place, if it works in one place
alone); one label that all images are turned into. The papers that compare it call triggers in several parts, of several kinds or
in varying places out of its scope.

`networks` (generators and what estimates their entropy) < `distribution` (what is found for a label) < `staircase` (how it is
found) < `detection` (over all labels) < `removal` (the repair).
"""
