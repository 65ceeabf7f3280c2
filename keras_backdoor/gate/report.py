"""What the gate says about a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from keras_backdoor.files import BadInput, printable

RULES = {
    "code": ("critical", "Runs code that comes with the file, or calls functions that the file chooses"),
    "import": ("critical", "Makes Keras import a module that the file chooses"),
    "file-access": ("high", "Reads or writes other files"),
    "bomb": ("high", "Small on disk, exhausts memory or time when loaded"),
    "polyglot": ("high", "Is two files in one: what it is depends on who reads it"),
    "unknown-class": ("medium", "Uses something that is not on the list of what is known to be harmless"),
    "malformed": ("medium", "Is damaged, or is not what Keras writes"),
    "format": ("medium", "Is not a kind of file that can be vetted"),
    "misfit": ("low", "The weights do not fit the network"),
    "not-finite": ("low", "Weights are NaN or infinite"),
    "dead-channels": ("info", "Channels whose weights are all zero, as pruning leaves them"),
    "training-state": ("info", "Training configuration or optimizer state, which is not used"),
}
"""Rule: severity, and what it means. Severities `critical`, `high` and `medium` are unsafe; a file with a `low` finding does no
harm and cannot be used; `info` is merely odd."""

UNSAFE = ("critical", "high", "medium")
MOST_FINDINGS = 100


@dataclass(frozen=True)
class Finding:
    """One thing about a file: the rule, where in the file (a path of groups or layers), and what it would do."""

    rule: str
    where: str
    what: str

    @property
    def severity(self) -> str:
        """`critical`, `high`, `medium`, `low` or `info`."""
        return RULES[self.rule][0]

    def as_json(self) -> dict[str, str]:
        """A dictionary that JSON can hold."""
        return {"rule": self.rule, "severity": self.severity, "where": self.where, "what": self.what}


class Stop(Exception):
    """Looking further is impossible or pointless; carries the last finding."""

    def __init__(self, rule: str, where: str, what: str) -> None:
        super().__init__(rule, where, what)
        self.finding = Finding(rule, printable(where), printable(what))


class Findings(list[Finding]):
    """What was found so far, without repetitions and not more than a person would read."""

    def add(self, rule: str, where: str, what: str) -> None:
        """Note a finding; `where` and `what` may hold text from the file."""
        finding = Finding(rule, printable(where), printable(what))
        if finding not in self and len(self) < MOST_FINDINGS:
            self.append(finding)

    @property
    def unsafe(self) -> bool:
        """Whether something was found that may do harm."""
        return any(finding.severity in UNSAFE for finding in self)


@dataclass(frozen=True)
class Report:
    """What the gate found in one file.

    file: its path. sha256: 64 hexadecimal digits, empty if it was not read to its end. format: `model.h5`, `weights.h5`,
    `keras`, or what it was taken for.
    """

    file: str
    sha256: str
    format: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def safe(self) -> bool:
        """Whether loading it cannot do harm."""
        return not Findings(self.findings).unsafe

    @property
    def refusal(self) -> Finding | None:
        """The finding, worst first, for which the file is not loaded; None if it can be."""
        severities = [*UNSAFE, "low"]
        worst = [finding for finding in self.findings if finding.severity in severities]
        return min(worst, key=lambda finding: severities.index(finding.severity), default=None)

    def check(self) -> None:
        """`BadInput`, in one line, if the file cannot be loaded."""
        worst = self.refusal
        if worst is not None:
            verb = "refused" if not self.safe else "cannot be used"
            at = f"{worst.where}: " if worst.where else ""
            raise BadInput(printable(f"{self.file}: {verb}, {at}{worst.what}", 500))

    def as_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        findings = [finding.as_json() for finding in self.findings]
        return {
            "file": self.file,
            "safe": self.safe,
            "format": self.format,
            "sha256": self.sha256,
            "findings": findings,
        }
