"""Reads the weights of a checkpoint of VMamba, VM-UNet or nnU-Net (ours), however named, without running its code."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunetv2_dsvm.architecture.checkpoints import from_official_state_dict, to_first_generation_name
from nnunetv2_dsvm.errors import UserError

PATCH_EMBEDDING = "encoder.patch_embedding.projection.weight"
_FIRST_A_LOG = "encoder.stages.0.blocks.0.ss2d.A_log"
OURS = "this package's VM-UNet"
VM_UNET = "the official VM-UNet"
FIRST_GENERATION = "VMamba, first generation"
SECOND_GENERATION = "VMamba, second generation"
_RECOGNISED_BY = (
    (OURS, r"encoder\.patch_embedding\..+"),
    (VM_UNET, r"layers_up\.\d+\..+"),
    (FIRST_GENERATION, r"layers\.\d+\.blocks\.\d+\.self_attention\..+"),
    (SECOND_GENERATION, r"layers\.\d+\.blocks\.\d+\.op\..+"),
)
# Where checkpoints keep the weights: nnU-Net's; VMamba's, whose averaged weights ("model_ema") are those it publishes
# the accuracy of and has others start from (its analyze/get_ckpt.py); those of VM-UNet's train.py; common ones.
_ENTRIES = ("network_weights", "model_ema", "model", "model_state_dict", "state_dict")
_PREFIXES = ("module.", "_orig_mod.", "vmunet.")  # of DDP, torch.compile and VM-UNet's outer class


@dataclass(frozen=True)
class Pretrained:
    """The weights of a checkpoint under our names.

    Attributes:
        file: where they were read from.
        naming: how they were named, one of this module's constants.
        entry: the checkpoint's entry that held them; empty where the file is a plain state dict.
        weights: fp32 on the CPU, by our name.
        names: their names in the file, by our name.
        without_counterpart: the names in the file that are no part of a VM-UNet.
    """

    file: Path
    naming: str
    entry: str
    weights: dict[str, Tensor]
    names: dict[str, str]
    without_counterpart: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, Any]:
        """Of the encoder, by the names of VMUNet's arguments."""
        found = ((re.fullmatch(r"encoder\.stages\.(\d+)\.blocks\.\d+\.norm\.weight", n), n) for n in self.weights)
        dims_by_stage: dict[int, list[int]] = {}  # one for each of its blocks
        for match, name in found:
            if match:
                dims_by_stage.setdefault(int(match[1]), []).append(len(self.weights[name]))
        blocks = [dims_by_stage[stage] for stage in sorted(dims_by_stage)]
        return {
            "input_channels": self.weights[PATCH_EMBEDDING].shape[1],
            "dims": [of_stage[0] for of_stage in blocks],
            "encoder_depths": [len(of_stage) for of_stage in blocks],
            "d_state": self.weights[_FIRST_A_LOG].shape[-1],
        }

    @property
    def has_decoder(self) -> bool:
        return any(name.startswith("decoder.") for name in self.weights)


def read_pretrained(path: Path) -> Pretrained:
    """Reads a checkpoint; nothing but tensors and plain values is built from it (`weights_only=True`).

    Raises:
        UserError: it is missing, truncated, no checkpoint, asks for code to be run, is of another network, or holds
            values that are not finite.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    entry, state_dict, naming = _find(path, _load(path))
    weights, names, without_counterpart = {}, {}, []
    for name, tensor in state_dict.items():
        try:
            ours, value = _convert(_stripped(name), tensor, naming)
        except KeyError:
            without_counterpart.append(name)
            continue
        if not value.isfinite().all():
            raise UserError(f"{path} is damaged: {name} holds NaN or infinite values. Nothing was written.")
        weights[ours], names[ours] = value, name
    missing = [name for name in (PATCH_EMBEDDING, _FIRST_A_LOG) if name not in weights]
    if missing:
        raise UserError(
            f"{path} ({naming}) has nothing for {', '.join(missing)}: it is no whole encoder. Nothing was written."
        )
    return Pretrained(path, naming, entry, weights, names, tuple(without_counterpart))


def _load(path: Path) -> Any:
    with torch.serialization.safe_globals(_STAND_INS):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            foreign = re.search(r"GLOBAL (\S+)", str(error))
            if foreign:
                raise UserError(
                    f"{path} was not loaded: it asks for {foreign[1]}, and only tensors and plain values are read, "
                    "because anything else can run code. Nothing of it was run. If you trust its origin, load it in "
                    "Python yourself and save its state dict alone: torch.save({'model': state_dict}, FILE)"
                ) from error
            reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
            raise UserError(
                f"{path} ({path.stat().st_size} bytes) cannot be read{f' ({reason[1]})' if reason else ''}: it is "
                "truncated, as by an interrupted download, or no checkpoint of PyTorch. Download or copy it again."
            ) from error


def _stand_in(module: str, name: str, **methods: Any) -> type:
    return type(name, (), {"__module__": module, **methods})


def _forget(self, *arguments: Any) -> None:
    pass


# What these checkpoints hold beside tensors and plain values: nnU-Net's log has NumPy's numbers, and VMamba's training
# stores its configuration. Classes of the same names take their places, which keep nothing and run nothing. (Of the
# classes that take items, torch fills an OrderedDict.)
_NUMPY = (("numpy", "dtype"), ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"))
_STAND_INS = [
    *(_stand_in(module, name, __init__=_forget, __setstate__=_forget) for module, name in _NUMPY),
    _stand_in("yacs.config", "CfgNode", __new__=lambda cls: OrderedDict()),
]


def _find(path: Path, checkpoint: Any) -> tuple[str, Mapping[str, Tensor], str]:
    """The first entry that holds weights which are recognised, and how they are named."""
    candidates = {}
    if isinstance(checkpoint, Mapping):
        candidates = {entry: checkpoint[entry] for entry in _ENTRIES if isinstance(checkpoint.get(entry), Mapping)}
        candidates = candidates or {"": checkpoint}
    found = []
    for entry, values in candidates.items():
        tensors = {name: v for name, v in values.items() if isinstance(name, str) and isinstance(v, Tensor)}
        found += list(tensors)[:3]
        for naming, pattern in _RECOGNISED_BY:
            if any(re.fullmatch(pattern, _stripped(name)) for name in tensors):
                return entry, tensors, naming
    raise UserError(
        f"{path} holds weights of neither VMamba nor VM-UNet: "
        + (f"its first tensors are {', '.join(found)}" if found else "it has no state dict")
        + f". Expected a state dict, or a checkpoint with one under {', '.join(_ENTRIES)}."
    )


def _stripped(name: str) -> str:
    while prefix := next((p for p in _PREFIXES if name.startswith(p)), ""):
        name = name.removeprefix(prefix)
    return name


def _convert(name: str, tensor: Tensor, naming: str) -> tuple[str, Tensor]:
    tensor = tensor.detach().float()
    if naming == OURS:
        if not name.startswith(("encoder.", "decoder.")):
            raise KeyError(name)
        return name, tensor
    if naming == SECOND_GENERATION:
        name = to_first_generation_name(name)
    ((name, tensor),) = from_official_state_dict({name: tensor}).items()
    return name, tensor
