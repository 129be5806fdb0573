"""`nnUNetv2_dsvm doctor`: can this machine train, and if not, what to do."""

import argparse
import json
import sys
from itertools import groupby

from nnunetv2_dsvm.diagnostics.diagnosis import Diagnosis, diagnose


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Looks at versions, devices, scan backends, nnU-Net's folders, and whether nnU-Net finds the trainers. "
        "The exit status is 1 if training could not start, else 0."
    )
    parser.add_argument("--json", action="store_true", help="print everything that was found as JSON")


def run(args: argparse.Namespace) -> int:
    if not args.json:
        print("Looking at this machine, which takes up to a minute …", file=sys.stderr, flush=True)
    diagnosis = diagnose()
    print(json.dumps(diagnosis.as_dict(), indent=2) if args.json else _as_text(diagnosis))
    return 0 if diagnosis.ready else 1


def _as_text(diagnosis: Diagnosis) -> str:
    lines = []
    width = max(len(finding.subject) for finding in diagnosis.findings)
    for section, in_section in groupby(diagnosis.findings, key=lambda finding: finding.section):
        lines += ["", section]
        for finding in in_section:
            lines.append(f"  {finding.severity.value:<8}{finding.subject:<{width}}  {finding.detail}")
            if finding.advice:
                lines.append(f"  {'':<8}{'':<{width}}  → {finding.advice}")
    counted = {0: "no problems", 1: "1 problem"}.get(diagnosis.problems, f"{diagnosis.problems} problems")
    verdict = "Training can start" if diagnosis.ready else "Training cannot start"
    return "\n".join([*lines, "", f"{verdict}: {counted}."])
