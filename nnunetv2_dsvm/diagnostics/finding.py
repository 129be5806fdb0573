"""One line of the doctor's report."""

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How bad it is. Only BLOCKER means that training could not start."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"
    BLOCKER = "error"


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and for a problem one line on what to do."""

    section: str
    subject: str
    severity: Severity
    detail: str
    advice: str = ""
