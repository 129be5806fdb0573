"""Whether torch works here, on which devices, and which scan backends run on each."""

import shutil
from typing import Any

from nnunetv2_dsvm.diagnostics.finding import Finding, Severity
from nnunetv2_dsvm.diagnostics.subprocess_probe import ProbeFailed, run_probe

DEVICES, SCAN, IMPORTS = "devices", "scan backends", "imports"
_IMPORT_ADVICE = {
    "torch": "reinstall it for this machine: https://pytorch.org/get-started/locally",
    "torchvision": "install the torchvision that belongs to this torch, both in one pip command",
    "dynamic_network_architectures": "pip install --force-reinstall dynamic-network-architectures",
}
_NOT_INSTALLED = "ModuleNotFoundError"


def check_hardware() -> tuple[list[Finding], dict[str, Any]]:
    """Findings on imports, devices and scan backends, and the raw answer of the probe."""
    try:
        answer = run_probe("nnunetv2_dsvm.diagnostics.torch_probe")
    except ProbeFailed as failure:
        return [Finding(IMPORTS, "torch", Severity.BLOCKER, str(failure), _IMPORT_ADVICE["torch"])], {}
    findings = [_import_finding(module, error) for module, error in answer["imports"].items()]
    if "devices" in answer:
        findings += _device_findings(answer["devices"])
        for device, backends in answer["scan"].items():
            findings += _scan_findings(device, backends)
    return findings, answer


def _import_finding(module: str, error: str | None) -> Finding:
    if error is None:
        return Finding(IMPORTS, module, Severity.OK, "can be imported")
    if module == "torchvision" and error.startswith(_NOT_INSTALLED):
        return Finding(IMPORTS, module, Severity.NOTE, "is not installed; nnU-Net's augmentation may want it")
    return Finding(IMPORTS, module, Severity.BLOCKER, f"cannot be imported ({error})", _IMPORT_ADVICE[module])


def _device_findings(devices: dict[str, Any]) -> list[Finding]:
    cpu = devices["cpu"]
    findings = [
        Finding(
            DEVICES,
            "cpu",
            Severity.OK,
            f"{cpu['name']}, {cpu['cores']} cores, torch uses {cpu['torch_threads']} threads",
        )
    ]
    for index, gpu in enumerate(devices["cuda"]):
        detail = f"{gpu['name']}, {gpu['memory_gib']} GiB, compute capability {gpu['capability']}"
        findings.append(Finding(DEVICES, f"cuda:{index}", Severity.OK, detail))
    if not devices["cuda"] and shutil.which("nvidia-smi"):
        detail = f"there is an NVIDIA driver, but torch cannot use it ({devices['cuda_problem']})"
        advice = "install the torch build for your driver: https://pytorch.org/get-started/locally"
        findings.append(Finding(DEVICES, "cuda", Severity.PROBLEM, detail, advice))
    elif not devices["cuda"]:
        detail = "none" + ("" if devices["mps"] else ": nnU-Net's commands want it unless you pass `-device cpu`")
        findings.append(Finding(DEVICES, "cuda", Severity.NOTE, detail))
    if devices["mps"]:
        findings.append(Finding(DEVICES, "mps", Severity.OK, "available: pass `-device mps` to nnU-Net's commands"))
    return findings


def _scan_findings(device: str, backends: dict[str, dict[str, Any]]) -> list[Finding]:
    """`auto` takes the first supported backend: if that one is broken, training is."""
    findings = []
    first = next((name for name, b in backends.items() if b["supported"]), None)
    for name, backend in backends.items():
        subject = f"{name} on {device}"
        if not backend["supported"]:
            findings.append(Finding(SCAN, subject, Severity.NOTE, f"not here: {backend['reason']}"))
        elif backend["failure"]:
            working = next((n for n, b in backends.items() if b["supported"] and not b["failure"]), "none")
            severity = Severity.BLOCKER if name == first else Severity.PROBLEM
            advice = f"report this with `nnUNetv2_dsvm doctor --json`; a backend that works on {device}: {working}"
            findings.append(Finding(SCAN, subject, severity, backend["failure"], advice))
        else:
            chosen = ", taken by default" if name == first else ""
            detail = f"works, relative error {backend['error']:.0e}{chosen}"
            findings.append(Finding(SCAN, subject, Severity.OK, detail))
    return findings
