"""The stages of U-Mamba (arXiv 2401.04722): what its encoder and its decoder are made of, in 2D and 3D."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.checkpointed_blocks import RecomputesAPart, called
from nnunetv2_dsvm.architecture.blocks.convolution import convolution
from nnunetv2_dsvm.architecture.blocks.mamba_1d import Mamba
from nnunetv2_dsvm.architecture.blocks.residual_conv import ConvNorm, ResidualConv
from nnunetv2_dsvm.architecture.stage_info import Axes, total_strides

_POOLINGS: dict[int, Callable[..., nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class UMambaShape(NamedTuple):
    """What encoder and decoder are both built from: one entry a stage, full resolution first; see `UMamba`."""

    features: Sequence[int]
    kernels: Sequence[Axes]
    strides: Sequence[Axes]
    january: bool

    @property
    def axes(self) -> int:
        """2 or 3."""
        return len(self.kernels[0])

    def mamba_layers(self, patch_size: Axes) -> dict[int, tuple[int, bool]]:
        """Of Enc: stage, from 0, to the width of the Mamba layer behind it and whether its tokens are the channels."""
        last = len(self.features) - 1
        every = 1 if self.axes == 3 or self.january else 2
        layers = {}
        for stage in range(last % every, last + 1, every):
            positions = math.prod(
                -(-n // s) for n, s in zip(patch_size, total_strides(self.strides)[stage], strict=True)
            )
            over_channels = positions <= self.features[stage] and not self.january
            layers[stage] = (positions if over_channels else self.features[stage], over_channels)
        return layers

    def stage(self, in_channels: int, level: int, stride: Axes, blocks: int) -> nn.Sequential:
        """Residual blocks of a stage, the first of which changes the shape."""
        channels, kernel = self.features[level], self.kernels[level]
        shortcut: nn.Module
        if self.january:
            layers: list[nn.Module] = [_POOLINGS[self.axes](stride, stride)] if max(stride) > 1 else []
            if in_channels != channels:
                layers.append(ConvNorm(in_channels, channels, [1] * self.axes, bias=False))
            shortcut = nn.Sequential(*layers)
        else:
            shortcut = convolution(self.axes)(in_channels, channels, 1, stride)
        first = ResidualConv(in_channels, channels, kernel, stride, shortcut=shortcut)
        others = (ResidualConv(channels, channels, kernel, shortcut=nn.Identity()) for _ in range(blocks - 1))
        return nn.Sequential(first, *others)

    def upsampling(self, level: int) -> nn.Module:
        """From the stage below `level` to its size and channels."""
        stride, before, channels = self.strides[level + 1], self.features[level + 1], self.features[level]
        if self.january:
            return _TRANSPOSED[self.axes](before, channels, stride, stride)
        # The official code convolves the larger map, which gives the same.
        return nn.Sequential(convolution(self.axes)(before, channels, 1), nn.Upsample(scale_factor=tuple(stride)))


class MambaLayer(RecomputesAPart):
    """Mamba(LayerNorm(x)) over the positions of `(B, C, *sizes)`, last axis fastest, or over its channels.

    The result takes the place of x: no residual, and no norm behind it.

    Args:
        width: of a token: C, or the number of positions.
        over_channels: the tokens are the channels.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.
    """

    def __init__(self, width: int, over_channels: bool, scan_backend: str) -> None:
        super().__init__()
        self.over_channels = over_channels
        self.norm = nn.LayerNorm(width)
        self.mamba = Mamba(width, scan_backend=scan_backend)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2) if self.over_channels else x.flatten(2).mT
        tokens = called(self.mamba, tokens, self.norm, recompute=self.gradient_checkpointing)
        return (tokens if self.over_channels else tokens.mT).reshape(x.shape)
