"""Networks of the family by their names, as nnU-Net would build them, and their scans composed as their authors do."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.directional_scan import DirectionalScan
from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork
from nnunetv2_dsvm.benchmark.cases.conventional import SequenceScan, kernel_scan, scan_of_copies
from nnunetv2_dsvm.benchmark.cases.network import INPUT_CHANNELS, NUM_CLASSES, NetworkCase
from nnunetv2_dsvm.benchmark.cases.plain_conv_unet import planned_arguments
from nnunetv2_dsvm.cuda_graphs import CudaGraphs
from nnunetv2_dsvm.ops.scan_order import ScanOrder, grid_orders

_FORWARDS = (ScanOrder((0,)),)
# For CPUs, where the published sizes would take minutes; of the others nnU-Net's plans decide.
_FOUR = (1, 1, 1, 1)
_SMALL: dict[str, dict[str, Any]] = {
    "VMUNetV2": {"dims": (16, 32, 64, 128), "encoder_depths": _FOUR, "mid_channels": 8, "d_state": 2},
    "MSVMUNet": {"dims": (8, 16, 32, 64), "encoder_depths": _FOUR, "decoder_depths": (1, 1, 1)},
    "SwinUMamba": {"dims": (8, 16, 32, 64), "encoder_depths": _FOUR, "d_state": 2},
    "SwinUMambaD": {"dims": (8, 16, 32, 64), "encoder_depths": _FOUR, "decoder_depths": (1, 1, 1), "d_state": 2},
    "LightMUNet": {"channels": 8, "encoder_blocks": (1, 1, 1, 1), "decoder_blocks": (1, 1, 1)},
    "ASPVMUNet": {
        "channels": (8, 8, 8, 8, 8, 16),
        "encoder_steps": ((2, 2), (2,), (2,), (2, 2, 2), (2,)),
        "decoder_steps": ((2,), (2,), (2,), (2,), (2, 2)),
    },
}


@dataclass(frozen=True)
class FamilyCase(NetworkCase):
    """A relative on images of `height` x `width`; on a CPU a small one.

    Attributes:
        relative: its name in the registry.
        conventional: whether its scans are composed as the official code does, of mamba-ssm's kernel.
    """

    relative: str = ""
    conventional: bool = False

    @classmethod
    def of(cls, case: NetworkCase, relative: str, *, conventional: bool = False) -> "FamilyCase":
        """On the images, the device and in the number format of another network's case."""
        values = {field.name: getattr(case, field.name) for field in fields(case)}
        return cls(**values, relative=relative, conventional=conventional)

    def tiny(self) -> NetworkCase:
        # On a GPU the same shape: kernels are compiled for each kind of shape, which takes minutes where two calls of
        # the measured one take less than a second.
        return super().tiny() if torch.device(self.device).type == "cpu" else self

    def relative_network(self, scan_backend: str | None = None) -> SegmentationNetwork:
        """On the CPU, with weights that depend on the sizes only."""
        relative, is_small = RELATIVES[self.relative], torch.device(self.device).type == "cpu"
        arguments: Mapping[str, Any] = {}
        if relative.of_plans is not None:
            size = (self.height, self.width)
            planned = planned_arguments(size)
            if is_small:
                planned["features_per_stage"] = [channels // 2 for channels in planned["features_per_stage"]]
            arguments = relative.of_plans(planned, size)
        small = _SMALL.get(self.relative, {}) if is_small else {}
        options = {**arguments, **small, "scan_backend": scan_backend or self.scan_backend}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return relative.network(INPUT_CHANNELS, NUM_CLASSES, **options)

    def network(self) -> nn.Module:
        network = self.relative_network().to(self.device)
        network.cuda_graphs.training = True  # as the trainer sets it
        return conventional_relative(network) if self.conventional else network


def conventional_relative(network: SegmentationNetwork, scan: SequenceScan = kernel_scan) -> SegmentationNetwork:
    """A copy of the network, with the same weights, whose scans copy the grid into each direction's order."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, DirectionalScan):
            module.scan_backend = "torch_chunked"  # no operator that fuses the scan with what is around it
            module.scan = MethodType(_scan_by(scan), module)  # type: ignore[method-assign]
    network.cuda_graphs = CudaGraphs(inference=False, training=False)
    return network


def _scan_by(scan: SequenceScan) -> Any:
    def composed(self: DirectionalScan, x: Tensor) -> Tensor:
        tokens = x.flatten(1, -2)
        if self.orders == _FORWARDS:  # a sequence lies in memory as it is scanned: Mamba's authors copy nothing
            return scan_of_copies(scan, tokens.mT.unsqueeze(1), self)[:, 0].mT.view(x.shape)
        walks = grid_orders(tuple(x.shape[1:-1]), x.device, self.orders)  # (K, L)
        copies = tokens[:, walks].permute(0, 1, 3, 2)  # (B, K, channels, L)
        y = scan_of_copies(scan, copies, self)
        summed = torch.zeros_like(tokens, dtype=y.dtype)
        for walk, of_direction in zip(walks, y.unbind(1), strict=True):
            summed = summed.index_add(1, walk, of_direction.mT)
        return summed.view(x.shape)

    return composed
