"""Swin-UMamba (arXiv 2402.03302): VMamba's encoder behind a convolutional stem, a residual convolutional decoder."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.convolution import all_channels_first
from nnunetv2_dsvm.architecture.blocks.initial_weights import linear_weights_truncated_normal
from nnunetv2_dsvm.architecture.blocks.resampling import pad_to_multiple
from nnunetv2_dsvm.architecture.encoder_decoder import HowBlocksRun, VMUNetEncoder
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork, check_heads
from nnunetv2_dsvm.architecture.stage_info import FeaturesOutput, StageInfo, doubling_stages
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes

_SLOPE = 0.01
_LEVELS = 4  # of the VSS encoder


class SwinUMamba(SegmentationNetwork):
    """Swin-UMamba: `(B, input_channels, H, W)` to raw logits `(B, num_classes, H, W)` for any H, W ≥ 1.

    The image is zero-padded at the bottom and right to a multiple of 32, and the logits are cropped back. With
    `deep_supervision` a list is returned, as published: H, H/2, H/4, H/8.

    Ours: the sizes are arguments, and the stage at full size is not distilled: its maps are four times as large as any
    other's, and as the teacher of the projection term they would be those that all others are compared with.

    Args:
        input_channels: image channels, any number.
        num_classes: channels of the logits, any number; no softmax or sigmoid is applied.
        dims: channels of the four VSS stages, each twice the one before and the first divisible by 4.
        encoder_depths: VSS blocks of each stage, H/4 first.
        d_state: states per channel of the scan, N.
        drop_path_rate: largest stochastic-depth probability; it grows with depth.
        deep_supervision: whether the auxiliary outputs are returned; can be switched at `decoder.deep_supervision`.
        auxiliary_heads: whether their heads exist; by default only with deep supervision. The official code always
            has them.
        gradient_checkpointing: recompute each VSS block in backward, for less memory and more time.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.

    Raises:
        ValueError: sizes that do not fit together.

    Example:
        >>> import torch
        >>> network = SwinUMamba(1, 3, dims=(8, 16, 32, 64), encoder_depths=(1, 1, 1, 1))
        >>> network(torch.randn(2, 1, 56, 40)).shape
        torch.Size([2, 3, 56, 40])
    """

    stride = 32
    output_strides = (1, 2, 4, 8)

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        dims: Sequence[int] = (96, 192, 384, 768),
        encoder_depths: Sequence[int] = (2, 2, 9, 2),
        d_state: int = 16,
        drop_path_rate: float = 0.2,
        deep_supervision: bool = False,
        auxiliary_heads: bool | None = None,
        gradient_checkpointing: bool = False,
        scan_backend: str = "auto",
    ) -> None:
        super().__init__(input_channels, num_classes)
        auxiliary_heads = check_heads(deep_supervision, auxiliary_heads)
        if len(dims) != _LEVELS:
            raise ValueError(f"Swin-UMamba has four VSS stages, got dims {tuple(dims)}")
        sizes = VMUNetSizes(tuple(dims), tuple(encoder_depths), (1,) * _LEVELS, d_state, drop_path_rate)
        self.widths = (sizes.dims[0] // 2, *sizes.dims)  # at H/2 … H/32
        self.stem = _Stem(input_channels, self.widths[0])
        self.encoder = _Encoder(self.widths[0], sizes, HowBlocksRun(gradient_checkpointing, scan_backend))
        self.encoder.apply(linear_weights_truncated_normal)
        self.decoder = _Decoder(input_channels, num_classes, self.widths, deep_supervision, auxiliary_heads)

    @property
    def encoder_stages(self) -> tuple[StageInfo, ...]:
        """The stem at H/2 and the last blocks of the VSS stages."""
        return doubling_stages(["stem", *(f"encoder.stages.{i}" for i in range(_LEVELS))], self.widths, 2)

    @property
    def decoder_stages(self) -> tuple[StageInfo, ...]:
        """The steps that end at H/2, H/4, H/8, H/16; the two residual blocks at full size are left out."""
        return doubling_stages([f"decoder.steps.{i}" for i in (3, 2, 1, 0)], self.widths[1:], 2)

    def run(self, x: Tensor) -> FeaturesOutput:
        image = pad_to_multiple(x, self.stride)
        stem = self.stem(image)
        encoded = [stem, *all_channels_first(self.encoder(stem)[1])]
        logits, steps = self.decoder([image, *encoded])
        return FeaturesOutput(logits, tuple(encoded), tuple(steps))


class _Stem(nn.Module):
    """Image to half its size."""

    def __init__(self, input_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(input_channels, channels, 7, stride=2, padding=3)
        self.norm = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class _Encoder(VMUNetEncoder):
    """VM-UNet's, with patches of 2×2 of the stem's result in the place of 4×4 of the image."""

    def __init__(self, input_channels: int, sizes: VMUNetSizes, how: HowBlocksRun) -> None:
        super().__init__(input_channels, sizes, how)
        self.patch_embedding.projection = nn.Conv2d(input_channels, sizes.dims[0], kernel_size=2, stride=2)


class _Residual(nn.Module):
    """Two 3×3 convolutions around a shortcut, each with an instance norm without parameters."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv3 = None if in_channels == channels else nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.conv3 is None else F.instance_norm(self.conv3(x))
        x = F.leaky_relu(F.instance_norm(self.conv1(x)), _SLOPE)
        return F.leaky_relu(F.instance_norm(self.conv2(x)) + shortcut, _SLOPE)


class _Step(nn.Module):
    """To twice the size and the skip's channels, concatenated with the skip."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, channels, 2, stride=2, bias=False)
        self.residual = _Residual(2 * channels, channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.residual(torch.cat([self.up(x), skip], dim=1))


class _Decoder(nn.Module):
    """Skips by residual blocks, five steps up, one more block, heads."""

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        widths: Sequence[int],
        deep_supervision: bool,
        auxiliary_heads: bool,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        sources = (input_channels, *widths[:-1])
        self.skips = nn.ModuleList(_Residual(a, b) for a, b in zip(sources, widths, strict=True))
        deepest_first = (widths[-1], *reversed(widths))
        self.steps = nn.ModuleList(_Step(a, b) for a, b in itertools.pairwise(deepest_first))
        self.last = _Residual(widths[0], widths[0])
        heads = widths[: _LEVELS if auxiliary_heads else 1]
        self.seg_layers = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for channels in heads)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Image, stem and VSS stages to the logits, largest first, and the steps' results from H/2 on."""
        skips = [skip(x) for skip, x in zip(self.skips, maps, strict=False)]
        y = maps[-1]
        outputs: list[Tensor] = []
        for step, skip in zip(self.steps, reversed(skips), strict=True):
            y = step(y, skip)
            outputs.insert(0, y)
        outputs[0] = self.last(y)
        used = len(self.seg_layers) if self.deep_supervision else 1
        return [head(x) for head, x in zip(self.seg_layers[:used], outputs, strict=False)], outputs[1:]
