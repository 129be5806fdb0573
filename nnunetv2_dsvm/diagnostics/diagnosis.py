"""All that the doctor looks at, as one call."""

from dataclasses import dataclass
from typing import Any

from nnunetv2_dsvm.autoregister import listed_by_the_user
from nnunetv2_dsvm.diagnostics.finding import Finding, Severity
from nnunetv2_dsvm.diagnostics.folders import check_folders, check_trainer_folders
from nnunetv2_dsvm.diagnostics.hardware import check_hardware
from nnunetv2_dsvm.diagnostics.requirements import check_requirements
from nnunetv2_dsvm.diagnostics.trainers import check_trainers
from nnunetv2_dsvm.host.versions import versions


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        findings: in the order of their sections.
        probe: what torch answered in a process of its own: import errors, devices, and each scan backend's error.
    """

    findings: list[Finding]
    probe: dict[str, Any]

    @property
    def ready(self) -> bool:
        """Whether training can start."""
        return all(finding.severity is not Severity.BLOCKER for finding in self.findings)

    @property
    def problems(self) -> int:
        """How many findings want something done."""
        return sum(finding.severity in (Severity.PROBLEM, Severity.BLOCKER) for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        findings = [{**vars(finding), "severity": finding.severity.value} for finding in self.findings]
        return {"ready": self.ready, "versions": versions(), **self.probe, "findings": findings}


def diagnose() -> Diagnosis:
    """Looks at versions, devices, scan backends, the trainers and nnU-Net's folders; takes up to a minute."""
    hardware, probe = check_hardware()
    folders = [*check_folders(), *check_trainer_folders(listed_by_the_user())]
    return Diagnosis([*check_requirements(), *hardware, *check_trainers(), *folders], probe)
