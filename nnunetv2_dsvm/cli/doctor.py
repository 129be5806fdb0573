"""`nnUNetv2_dsvm doctor`: can this machine train, and if not, what to do."""

import argparse
import json
import sys
from itertools import groupby

from nnunetv2_dsvm.autoregister import listed_by_the_user
from nnunetv2_dsvm.diagnostics.finding import Finding, Severity
from nnunetv2_dsvm.diagnostics.folders import check_folders, check_trainer_folders
from nnunetv2_dsvm.diagnostics.hardware import check_hardware
from nnunetv2_dsvm.diagnostics.requirements import check_requirements
from nnunetv2_dsvm.diagnostics.trainers import check_trainers
from nnunetv2_dsvm.host.versions import versions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Looks at versions, devices, scan backends, nnU-Net's folders, and whether nnU-Net finds the trainers. "
        "The exit status is 1 if training could not start, else 0."
    )
    parser.add_argument("--json", action="store_true", help="print everything that was found as JSON")


def run(args: argparse.Namespace) -> int:
    if not args.json:
        print("Looking at this machine, which takes up to a minute …", file=sys.stderr, flush=True)
    hardware, raw = check_hardware()
    folders = [*check_folders(), *check_trainer_folders(listed_by_the_user())]
    findings = [*check_requirements(), *hardware, *check_trainers(), *folders]
    ready = all(finding.severity is not Severity.BLOCKER for finding in findings)
    if args.json:
        print(json.dumps({"ready": ready, "versions": versions(), **raw, "findings": _as_dicts(findings)}, indent=2))
    else:
        print(_as_text(findings, ready))
    return 0 if ready else 1


def _as_dicts(findings: list[Finding]) -> list[dict[str, str]]:
    return [{**vars(finding), "severity": finding.severity.value} for finding in findings]


def _as_text(findings: list[Finding], ready: bool) -> str:
    lines = []
    width = max(len(finding.subject) for finding in findings)
    for section, in_section in groupby(findings, key=lambda finding: finding.section):
        lines += ["", section]
        for finding in in_section:
            lines.append(f"  {finding.severity.value:<8}{finding.subject:<{width}}  {finding.detail}")
            if finding.advice:
                lines.append(f"  {'':<8}{'':<{width}}  → {finding.advice}")
    problems = sum(finding.severity in (Severity.PROBLEM, Severity.BLOCKER) for finding in findings)
    counted = {0: "no problems", 1: "1 problem"}.get(problems, f"{problems} problems")
    verdict = "Training can start" if ready else "Training cannot start"
    return "\n".join([*lines, "", f"{verdict}: {counted}."])
