"""Whether nnU-Net's three folders are set and can be used."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nnunetv2_dsvm.diagnostics.finding import Finding, Severity
from nnunetv2_dsvm.diagnostics.subprocess_probe import describe

SECTION = "nnU-Net's folders"
VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def check_folders(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """One finding per folder. Tries to write, and leaves nothing behind."""
    return [_check(variable, environment.get(variable, "")) for variable in VARIABLES]


def _check(variable: str, value: str) -> Finding:
    if not value.strip():
        return Finding(SECTION, variable, Severity.BLOCKER, "is not set", f"export {variable}=/path/to/a/folder")
    folder = Path(value)
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(p))
    if not existing.is_dir():
        advice = f"set {variable} to a folder: {existing} is something else"
        return Finding(SECTION, variable, Severity.BLOCKER, f"{folder} cannot be a folder", advice)
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".nnunetv2_dsvm_doctor_"):
            pass
    except OSError as error:
        # Images may lie on a disk that is read only; the other two are written during training.
        read_only_is_fine = variable == "nnUNet_raw" and folder.is_dir()
        severity = Severity.PROBLEM if read_only_is_fine else Severity.BLOCKER
        advice = f"make {existing} writable, or set {variable} to a folder that is"
        return Finding(SECTION, variable, severity, f"{folder} is not writable ({describe(error)})", advice)
    state = "writable" if existing == folder.absolute() else "does not exist yet, can be created"
    return Finding(SECTION, variable, Severity.OK, f"{folder} ({state})")
