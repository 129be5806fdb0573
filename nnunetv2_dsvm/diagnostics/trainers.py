"""Whether nnU-Net finds the trainers, and why not."""

import importlib.metadata
import os
from pathlib import Path

from nnunetv2_dsvm.autoregister import DISCOVERY_DIRECTORY, SWITCH, VARIABLE, listed_by_the_user
from nnunetv2_dsvm.diagnostics.finding import Finding, Severity
from nnunetv2_dsvm.diagnostics.subprocess_probe import ProbeFailed, run_probe_file
from nnunetv2_dsvm.host.versions import installed_version

SECTION = "trainers"
TRAINERS = ("nnUNetTrainerDSVM", "nnUNetTrainerVMUNet")
TORCH_SWITCH = "TORCH_DEVICE_BACKEND_AUTOLOAD"
PROBE = Path(__file__).with_name("trainer_probe.py")


def check_trainers() -> list[Finding]:
    """Asks nnU-Net for each trainer in a fresh process."""
    if installed_version("nnunetv2") is None:
        return [Finding(SECTION, name, Severity.BLOCKER, "nnU-Net is not installed") for name in TRAINERS]
    try:
        found = run_probe_file(PROBE, *TRAINERS, variables={VARIABLE: listed_by_the_user()})
    except ProbeFailed as failure:
        advice = "nnU-Net cannot be imported; repair it first, e.g. `pip install --force-reinstall nnunetv2`"
        return [Finding(SECTION, "nnU-Net", Severity.BLOCKER, str(failure), advice)]
    off = _why_registration_is_off()
    findings = []
    for name, answer in found.items():
        if answer["error"] is None:
            findings.append(Finding(SECTION, name, Severity.OK, f"found by nnU-Net in {answer['module']}"))
            continue
        not_found = answer["error"].startswith("RuntimeError: Could not find requested nnunet trainer")
        if not_found and off:
            detail, advice = f"nnU-Net does not find it: {off[0]}", off[1]
        elif not_found:
            detail = "nnU-Net does not find it, though nothing turns the registration off"
            advice = _set_by_hand("or reinstall nnunetv2_dsvm with pip")
        else:
            detail = f"nnU-Net's look-up failed: {answer['error']}"
            advice = (
                "look at that error: a package that the trainer, or another one in nnUNet_extTrainer, needs is broken"
            )
        findings.append(Finding(SECTION, name, Severity.BLOCKER, detail, advice))
    if off and all(f.severity is Severity.OK for f in findings):
        findings.append(Finding(SECTION, "registration", Severity.NOTE, f"{off[0]}, but {VARIABLE} names the trainers"))
    return findings


def _why_registration_is_off() -> tuple[str, str] | None:
    """Why `import torch` does not register the trainers, and what to do; None if it does."""
    if os.environ.get(SWITCH, "").strip() == "0":
        return f"{SWITCH}=0 turns the registration off", f"unset {SWITCH}, {_set_by_hand('or')}"
    torch_switch = os.environ.get(TORCH_SWITCH, "1")
    if torch_switch != "1":
        reason = f"{TORCH_SWITCH}={torch_switch} keeps torch from calling our entry point"
        return reason, f"unset {TORCH_SWITCH}, {_set_by_hand('or')}"
    entry_points = importlib.metadata.entry_points(group="torch.backends")
    if not any(point.name == "nnunetv2_dsvm" for point in entry_points):
        return "the package's entry point in the group torch.backends is not installed", _set_by_hand(
            "install the package with pip, or"
        )
    return None


def _set_by_hand(before: str) -> str:
    return f"{before} export {VARIABLE}={DISCOVERY_DIRECTORY}"
