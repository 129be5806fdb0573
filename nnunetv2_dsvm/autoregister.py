"""Lets nnU-Net find the trainers: torch calls `append_discovery_directory` at the end of `import torch`.

nnU-Net looks for a trainer in its own package and then in the directories of the variable `nnUNet_extTrainer`, which it
reads at each look-up. An entry point of the group `torch.backends` (torch >= 2.5) appends our directory to it, in this
process only. It runs in every process that imports torch, so it does next to nothing and never raises.
"""

import os

DISCOVERY_DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "training", "discovery")
VARIABLE = "nnUNet_extTrainer"
SWITCH = "NNUNETV2_DSVM_AUTOREGISTER"


def append_discovery_directory() -> None:
    """Appends the directory that holds our trainers to `nnUNet_extTrainer`, behind whatever the user has set.

    Does nothing when the directory is listed already, or when `NNUNETV2_DSVM_AUTOREGISTER=0`.
    """
    try:
        if os.environ.get(SWITCH, "").strip() == "0":
            return
        listed = os.environ.get(VARIABLE, "")
        if DISCOVERY_DIRECTORY not in listed.split(os.pathsep):
            os.environ[VARIABLE] = listed + os.pathsep + DISCOVERY_DIRECTORY if listed else DISCOVERY_DIRECTORY
    except Exception:  # `import torch` must never fail because of us; nnU-Net then names the trainer it cannot find
        pass
