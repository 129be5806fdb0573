"""Lets nnU-Net find the trainers: by `import torch`, which calls our entry point, and by `import nnunetv2_dsvm`.

nnU-Net looks for a trainer in its own package and then in the directories of the variable `nnUNet_extTrainer`, which
it reads at each look-up. An entry point of the group `torch.backends` (torch >= 2.5) appends our directory to it, in
this process only. It runs in every process that imports torch, so it does next to nothing and never raises. A program
that sets the variable afterwards loses our directory; importing the package brings it back.
"""

import os
import sys

DISCOVERY_DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "training", "discovery")
VARIABLE = "nnUNet_extTrainer"
SWITCH = "NNUNETV2_DSVM_AUTOREGISTER"

_torch_is_importing_us = "torch" in sys.modules
_appended = False  # by this module: what the user has listed is not ours to take for our own work


def append_discovery_directory() -> None:
    """Appends the directory that holds our trainers to `nnUNet_extTrainer`, behind whatever the user has set.

    Does nothing when the directory is listed already, or when `NNUNETV2_DSVM_AUTOREGISTER=0`.
    """
    global _appended
    try:
        if os.environ.get(SWITCH, "").strip() == "0":
            return
        listed = os.environ.get(VARIABLE, "")
        if DISCOVERY_DIRECTORY not in listed.split(os.pathsep):
            os.environ[VARIABLE] = listed + os.pathsep + DISCOVERY_DIRECTORY if listed else DISCOVERY_DIRECTORY
            _appended = True
    except Exception:  # `import torch` must never fail because of us; nnU-Net then names the trainer it cannot find
        pass


def at_import_of_torch() -> None:
    """torch's entry point: registers, and lets a program's own `import nnunetv2_dsvm` run, which registers again.

    It would run nothing while the package, which was imported for this function's sake only, is among the modules.
    """
    append_discovery_directory()
    if _torch_is_importing_us:
        sys.modules.pop("nnunetv2_dsvm", None)


def listed_by_the_user() -> str:
    """The value of `nnUNet_extTrainer` without our directory, if that was appended here; "" where nothing is left."""
    listed = os.environ.get(VARIABLE, "")
    if _appended and listed.split(os.pathsep)[-1] == DISCOVERY_DIRECTORY:
        return listed[: -len(DISCOVERY_DIRECTORY)].removesuffix(os.pathsep)
    return listed
