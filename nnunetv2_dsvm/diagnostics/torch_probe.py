"""Asks torch what it can do here. `python -m nnunetv2_dsvm.diagnostics.torch_probe RESULT_FILE`; see `run_probe`."""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.diagnostics.subprocess_probe import describe


def import_error(module: str) -> str | None:
    """None if the module can be imported, else why not."""
    try:
        import_module(module)
    except Exception as error:  # binary mismatches raise OSError, RuntimeError or AttributeError too
        return describe(error)
    return None


def scan_report(device_type: str) -> dict[str, dict[str, Any]]:
    """For each backend: whether it supports the device, the reason, and what a tiny scan with gradients gave.

    `error` is the largest relative L2 error in fp32 against the reference in float64, `failure` says why there is none
    or what is wrong, in fp32 or in the 16-bit types that nnU-Net uses on CUDA.
    """
    import torch

    from nnunetv2_dsvm.ops import backend_report
    from nnunetv2_dsvm.ops.testing import check_projected_scan, check_scan_on_small_shapes

    device = torch.device(device_type)
    dtypes = ["float32", *(["float16", "bfloat16"] if device_type == "cuda" else [])]
    found = {}
    for name, (supported, reason) in backend_report(device, torch.float32, 16).items():
        found[name] = {"supported": supported, "reason": reason, "error": None, "failure": None}
        if not supported:
            continue
        try:
            errors = [check_scan_on_small_shapes(name, getattr(torch, dtype), device, d_state=16) for dtype in dtypes]
            for dtype in dtypes:  # with its projections, which a backend may compute itself
                check_projected_scan(name, getattr(torch, dtype), device, d_state=16)
            found[name]["error"] = errors[0]
        except Exception as failure:
            found[name]["failure"] = describe(failure)
    return found


def probe() -> dict[str, Any]:
    """Import errors of torch, torchvision and nnU-Net's network package, the devices, and the scan on each device."""
    found: dict[str, Any] = {"imports": {"torch": import_error("torch")}}
    if found["imports"]["torch"] is None:
        from nnunetv2_dsvm.host.devices import device_report

        for module in ("torchvision", "dynamic_network_architectures"):
            found["imports"][module] = import_error(module)
        found["devices"] = device_report()
        usable = ["cpu", *(["cuda"] if found["devices"]["cuda"] else []), *(["mps"] if found["devices"]["mps"] else [])]
        found["scan"] = {device: scan_report(device) for device in usable}
    return found


if __name__ == "__main__":
    answer = json.dumps(probe())
    Path(sys.argv[1]).write_text(answer, encoding="utf-8")
