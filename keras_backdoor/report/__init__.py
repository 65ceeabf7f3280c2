"""The report: one self-contained page about the runs in folders, for readers who have never heard of backdoors.

It reads run folders and draws plain arrays; it knows no network, no attack and no defense, and needs no TensorFlow.
"""

from keras_backdoor.report.defense_figures import write_figures
from keras_backdoor.report.page import build_report

__all__ = ["build_report", "write_figures"]
