"""A VM-UNet for torch.export and ONNX: the same weights and numbers, in torch's own operators and for any size."""

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.gated_convolution import GatedConvolution
from nnunetv2_dsvm.architecture.blocks.stem import ConvolutionStep
from nnunetv2_dsvm.architecture.blocks.vss_block import SS2D, VSSBlock
from nnunetv2_dsvm.architecture.segmentation_network import cropped_to
from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.models.export.traceable_scan import scan_by_rows


class TraceableVMUNet(nn.Module):
    """Images `(B, channels, *sizes)`, any sizes ≥ 1, to logits `(B, classes, *sizes)` at full resolution; fp32, CPU.

    A copy of the network: heads of deep supervision are left out, and the network itself stays as it was. Images are
    not looked at for NaN and infinite values.
    """

    def __init__(self, network: VMUNet) -> None:
        super().__init__()
        network = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
        network.decoder.deep_supervision = False
        network.decoder.seg_layers = nn.ModuleList([_ConvOfACopy(network.decoder.seg_layers[0])])
        for module in network.modules():
            if isinstance(module, VSSBlock):
                module.ss2d = _TraceableSS2D.of(module.ss2d)
            elif isinstance(module, GatedConvolution):
                module.add_module("conv", _ConvOfACopy(module.conv))
            elif isinstance(module, ConvolutionStep):
                module.add_module("convolution", _ConvOfACopy(module.convolution))
        self.encoder, self.decoder, self.stride = network.encoder, network.decoder, network.sizes.stage_strides[-1]

    def forward(self, image: Tensor) -> Tensor:
        sizes = image.shape[2:]
        missing: list[int] = []
        for size, stride in zip(sizes, self.stride, strict=True):
            tokens = _unknown((size + stride - 1) // stride)
            torch._check(tokens >= 1)
            torch._check(tokens * stride >= size)
            missing = [0, tokens * stride - size, *missing]  # the last axis first
        padded = F.pad(image, missing)
        stage_inputs, encoder_outputs = self.encoder(padded)
        (logits,), _ = self.decoder(padded, stage_inputs, encoder_outputs[-1])
        return cropped_to(logits, sizes)


def _unknown(size: int) -> int:
    """The same number, as one of which torch.export knows nothing.

    A size that is computed from the image's is compared with 1 wherever torch could take a shorter way for it, and a
    program that was traced with more than one token in the deepest stage would then refuse images with only one.
    """
    return cast(int, torch.scalar_tensor(size, dtype=torch.int64).item())


class _ConvOfACopy(nn.Module):
    """A convolution of a copy with the channels outermost: of other layouts the sizes would be looked at."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.clone(memory_format=torch.contiguous_format))


class _TraceableSS2D(SS2D):
    @classmethod
    def of(cls, ss2d: SS2D) -> "_TraceableSS2D":
        with torch.device("meta"):
            # a backend by name, so that it is never a fused kernel
            traceable = cls(ss2d.in_proj.in_features, ss2d.d_state, "torch_chunked", ss2d.axes, ss2d.orders)
        traceable.load_state_dict(ss2d.state_dict(), assign=True)
        traceable.add_module("conv", _ConvOfACopy(traceable.conv))
        return traceable.eval().requires_grad_(False)

    def scan(self, x: Tensor) -> Tensor:
        dt, B, C = [], [], []
        for k in range(self.directions):
            low_rank, b, c = F.linear(x, self.x_proj[k]).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
            dt.append(F.softplus(F.linear(low_rank, self.dt_proj[k], self.dt_bias[k])))
            B.append(b)
            C.append(c)
        return scan_by_rows(x, dt, self._A(), B, C, self.D, self.orders)
