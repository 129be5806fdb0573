"""Where the numbers were measured."""

import os
import platform
from datetime import datetime, timezone
from typing import Any

import torch

from nnunetv2_dsvm.benchmark.cases import conventional
from nnunetv2_dsvm.benchmark.measuring import memory
from nnunetv2_dsvm.host.devices import device_name, usable_cpu_cores
from nnunetv2_dsvm.host.versions import versions


def environment(device: torch.device) -> dict[str, Any]:
    """Hardware, versions and settings that a speed depends on."""
    found = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "device": device.type,
        "device_name": device_name(device),
        "cpu_cores": usable_cpu_cores(),
        "torch_threads": torch.get_num_threads(),
        "versions": {name: version for name, version in versions().items() if version is not None},
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT"),
        "memory_measured_by": memory.HOW[device.type],
    }
    if device.type == "cuda":
        found["cuda"] = torch.version.cuda or f"ROCm {torch.version.hip}"
        found["compute_capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
        module, reason = conventional.kernel()
        found["mamba_ssm_kernel"] = "available" if module else reason
    return found
