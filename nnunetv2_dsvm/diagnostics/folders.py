"""Whether nnU-Net's folders are set as they are meant, and can be used."""

import os
import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from nnunetv2_dsvm.autoregister import VARIABLE as TRAINERS_VARIABLE
from nnunetv2_dsvm.diagnostics.finding import Finding, Severity
from nnunetv2_dsvm.diagnostics.subprocess_probe import describe
from nnunetv2_dsvm.files.places_to_write import try_to_write
from nnunetv2_dsvm.nnunet.folder_values import fault_of_value
from nnunetv2_dsvm.nnunet.folders import VARIABLES, one_folder

SECTION = "nnU-Net's folders"


def check_folders(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """One finding per folder, and one per pair that is one folder. Tries to write, and leaves nothing behind."""
    findings = [_check(variable, environment.get(variable)) for variable in VARIABLES]
    usable = [f.subject for f in findings if f.severity is not Severity.BLOCKER]
    for a, b in combinations(usable, 2):
        if one_folder(Path(environment[a]), Path(environment[b])):
            # nnU-Net's planning copies dataset.json from the one to the other; results only get mixed up with the rest.
            severity = Severity.PROBLEM if b == "nnUNet_results" else Severity.BLOCKER
            detail = f"is the folder of {a} too, {environment[a]}"
            findings.append(Finding(SECTION, b, severity, detail, f"set {b} to a folder of its own"))
    return findings


def check_trainer_folders(listed: str) -> list[Finding]:
    """One finding per directory in which the user lets nnU-Net look for trainers.

    Args:
        listed: the user's value of `nnUNet_extTrainer`, directories divided as in PATH.
    """
    # On other systems than Windows a colon divides, but the one of C:\ is a mistake that is shown whole.
    entries = listed.split(os.pathsep) if os.name == "nt" else re.split(r":(?!\\)", listed)
    return [_check_trainers(entry) for entry in entries if entry.strip()]


def _check(variable: str, value: str | None) -> Finding:
    fault = fault_of_value(variable, value)
    if fault:
        return Finding(SECTION, variable, Severity.BLOCKER, *fault)
    assert value is not None  # a variable that is not set has a fault
    folder = Path(value)
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(p))
    try:
        try_to_write(existing)
    except OSError as error:
        # Images may lie on a disk that is read only; the other two are written during training.
        read_only_is_fine = variable == "nnUNet_raw" and os.path.isdir(folder)
        severity = Severity.PROBLEM if read_only_is_fine else Severity.BLOCKER
        advice = f"make {existing} writable, or set {variable} to a folder that is"
        return Finding(SECTION, variable, severity, f"{folder} is not writable ({describe(error)})", advice)
    if relative := _relative(variable, value):
        return relative
    state = "writable" if existing == folder.absolute() else "does not exist yet, can be created"
    return Finding(SECTION, variable, Severity.OK, f"{folder} ({state})")


def _check_trainers(entry: str) -> Finding:
    fault = fault_of_value(TRAINERS_VARIABLE, entry)
    if fault:
        return Finding(SECTION, TRAINERS_VARIABLE, Severity.PROBLEM, *fault)
    if relative := _relative(TRAINERS_VARIABLE, entry):
        return relative
    if not os.path.exists(entry):
        detail = f"lists {entry}, which does not exist: nnU-Net passes over it"
        advice = f"name a folder that exists; several are divided by {os.pathsep}"
        return Finding(SECTION, TRAINERS_VARIABLE, Severity.PROBLEM, detail, advice)
    return Finding(SECTION, TRAINERS_VARIABLE, Severity.OK, f"{entry} (nnU-Net looks for trainers there)")


def _relative(variable: str, value: str) -> Finding | None:
    """A relative path is a folder of the place where a command is run."""
    if os.path.isabs(value):
        return None
    absolute = os.path.abspath(value)
    detail = f"is {value!r}, which is {absolute} here and another folder elsewhere"
    return Finding(SECTION, variable, Severity.PROBLEM, detail, f"set it to {absolute}")
