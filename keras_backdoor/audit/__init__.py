"""The audit: may a downloaded network be used? One answer, from the file to the searches for triggers, with its evidence.

Importing this takes no TensorFlow, nor does an audit of a file that is refused or known to be backdoored.
"""

from __future__ import annotations

from keras_backdoor.audit.conduct import Settings, audit
from keras_backdoor.audit.evidence import Evidence

__all__ = ["Evidence", "Settings", "audit"]
