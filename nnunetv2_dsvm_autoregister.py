"""torch's entry point of nnunetv2_dsvm.

A module beside the package, because `import torch` must not import the package: a later `import nnunetv2_dsvm` would
then run nothing, and it registers the trainers again where the program has set `nnUNet_extTrainer` meanwhile.
"""

import os
import runpy

_AUTOREGISTER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nnunetv2_dsvm", "autoregister.py")


def append_discovery_directory() -> None:
    """Does what `nnunetv2_dsvm.autoregister.append_discovery_directory` does, without the package; never raises."""
    try:
        runpy.run_path(_AUTOREGISTER)["append_discovery_directory"]()
    except Exception:  # `import torch` must never fail because of us; nnU-Net then names the trainer it cannot find
        pass
