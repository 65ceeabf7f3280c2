"""keras-backdoor: backdoor attacks and defenses for TensorFlow/Keras image classifiers.

Importing this package imports no TensorFlow, so that the command line starts quickly; take what you need from its
modules (`keras_backdoor.images`, `keras_backdoor.classifier`, `keras_backdoor.attacks`, `keras_backdoor.defenses` …).
"""

__version__ = "0.1.0"
