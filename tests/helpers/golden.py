"""Files with weights and results of official code on small models, computed by it in fp64."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def read_golden(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The model's config; and `weight/NAME`, `input`, `output`, `feature/…`, `grad_norm/NAME`, … by these names.

    Weights that bfloat16 holds exactly may lie in a second file, `NAME_weights.npz`: the high and the low bytes of all,
    one after the other, and their shapes.
    """
    with np.load(file) as archive:
        config = json.loads(str(archive["config"]))
        tensors = {name: torch.from_numpy(archive[name]) for name in archive.files if name != "config"}
    weights = file.with_name(f"{file.stem}_weights.npz")
    if weights.is_file():
        with np.load(weights) as archive:
            shapes = json.loads(str(archive["shapes"]))
            bits = archive["high"].astype(np.uint32) << 24 | archive["low"].astype(np.uint32) << 16
        values = torch.from_numpy(bits.view(np.float32)).split([int(np.prod(shape)) for shape in shapes.values()])
        tensors |= {name: t.view(shape) for (name, shape), t in zip(shapes.items(), values, strict=True)}
    return config, tensors
