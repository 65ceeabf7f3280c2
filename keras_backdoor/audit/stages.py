"""The stages of an audit, cheapest first."""

from __future__ import annotations

from keras_backdoor.audit.others import (
    inputs,
    inputs_passes,
    mntd,
    mntd_passes,
    no_inputs,
    no_mntd,
    stimulation,
    stimulation_passes,
)
from keras_backdoor.audit.sanity import sanity
from keras_backdoor.audit.searches import filters, filters_passes, one_class, shortcuts, shortcuts_passes
from keras_backdoor.audit.suspect import Stage
from keras_backdoor.audit.triggers import inversion, inversion_passes, search, search_passes

STAGES = (
    Stage("sanity", "odd answers and odd weights", sanity, lambda suspect: len(suspect.clean)),
    Stage("search", "a small mark that turns any image into one label", search, search_passes),
    Stage("inputs", "triggered images among the inputs that were given", inputs, inputs_passes, no_inputs),
    Stage("inversion", "the same, label by label", inversion, inversion_passes),
    Stage("shortcuts", "a mark that sends each class to another one", shortcuts, shortcuts_passes),
    Stage("one-class", "a mark that sends one class to another one, and no others", one_class, lambda suspect: 0),
    Stage("filters", "a filter of the whole image that turns any image into one label", filters, filters_passes),
    Stage("mntd", "likeness to networks that were trained with trojans", mntd, mntd_passes, no_mntd),
    Stage("stimulation", "a single neuron that decides alone", stimulation, stimulation_passes, thorough=True),
)
