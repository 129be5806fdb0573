"""A network for torch.export and ONNX: the same weights and numbers, in torch's own operators and for any size."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.directional_scan import DirectionalScan
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork, cropped_to
from nnunetv2_dsvm.models.export.traceable_scan import scan_by_rows
from nnunetv2_dsvm.models.export.unknown_sizes import unknown, unknown_multiple

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class TraceableNetwork(nn.Module):
    """Images `(B, channels, *sizes)`, any sizes ≥ 1, to logits `(B, classes, *sizes)` at full resolution; fp32, CPU.

    A network with an `only_size` takes that. A copy: the network itself stays as it was; deep supervision is off, and
    its heads lie there unused. Images are not looked at for NaN and infinite values.
    """

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
        self.network.decoder.deep_supervision = False  # type: ignore[assignment]  # torch's stubs: a Tensor or Module
        for module in self.network.modules():
            if isinstance(module, DirectionalScan):
                _make_traceable(module)
            elif isinstance(module, _CONVOLUTIONS):
                module.register_forward_pre_hook(_with_channels_outermost)

    def forward(self, image: Tensor) -> Tensor:
        sizes = image.shape[2:]
        image = image.narrow(0, 0, _no_more_than(image.shape[0], unknown(image.shape[0])))
        if self.network.only_size is None:
            image = self._of_unknown_sizes(image)
        logits = self.network.run(image)[0]
        return cropped_to(logits[0], sizes)

    def _of_unknown_sizes(self, image: Tensor) -> Tensor:
        """The image, zero-padded as the network would pad it."""
        sizes = image.shape[2:]
        if not self.network.pads:
            return cropped_to(image, [_no_more_than(size, unknown(size)) for size in sizes])
        strides = self.network.encoder_stages[-1].stride
        missing = [unknown_multiple(size, step) - size for size, step in zip(sizes, strides, strict=True)]
        return F.pad(image, [n for at_end in reversed(missing) for n in (0, at_end)])


def _no_more_than(size: int, number: int) -> int:
    torch._check(number <= size)
    return number


def _with_channels_outermost(_: nn.Module, inputs: Any) -> Tensor:
    """A copy: of convolutions' inputs in other layouts the sizes would be looked at."""
    return inputs[0].clone(memory_format=torch.contiguous_format)


class _TraceableScan(DirectionalScan):
    """`scan` in operators of torch's own. Behind a kind of block in its bases, this takes the place of the base's."""

    def scan(self, x: Tensor) -> Tensor:
        step = max((order.step for order in self.orders or ()), default=1)
        if step > 1:  # the caller has made all sizes multiples of it, which torch.export cannot see
            x = cropped_to(x.movedim(-1, 1), [unknown(size // step) * step for size in x.shape[1:-1]]).movedim(1, -1)
        dt, B, C = [], [], []
        for k in range(self.directions):
            low_rank, b, c = F.linear(x, self.x_proj[k]).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
            dt.append(F.softplus(F.linear(low_rank, self.dt_proj[k], self.dt_bias[k])))
            B.append(b)
            C.append(c)
        return scan_by_rows(x, dt, self._A(), B, C, self.D, self.orders)


def _make_traceable(block: DirectionalScan) -> None:
    block.scan_backend = "torch_chunked"  # by name, so that it is never a fused kernel
    kind = type(block)
    block.__class__ = type(kind.__name__, (kind, _TraceableScan), {})
