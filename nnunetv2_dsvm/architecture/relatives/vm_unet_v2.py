"""VM-UNet V2 (arXiv 2403.09157): VM-UNet's encoder, whose stage inputs are attended to and infused into each other."""

import itertools
from collections.abc import Sequence
from typing import cast

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

_LEVELS = 4


class VMUNetV2(SegmentationNetwork):
    """VM-UNet V2: `(B, input_channels, H, W)` to raw logits `(B, num_classes, H, W)` for any H, W ≥ 1.

    The image is zero-padded at the bottom and right to a multiple of 32, and the logits are cropped back. As published,
    the logits are o_1 + T(o_2): the heads' maps of the two finest decoder stages, brought to H and H/2 by bilinear
    enlargement, and T a transposed convolution ×2.

    Ours: the encoder's stage 4, which the official code computes and throws away, is not built, nor are a transposed
    convolution and two heads that it never uses (8,948,834 of its 22,770,934 parameters); T maps K classes to K, which
    for K = 1 is the official one; and with `deep_supervision` the list o_1 + T(o_2), o_2, o_3, o_4 (at H, H/2, H/4,
    H/8) is returned, where the official switch of this name means the sum alone.

    Args:
        input_channels: image channels, any number.
        num_classes: channels of the logits, any number; no softmax or sigmoid is applied.
        dims: channels of the four stages, each twice the one before and the first divisible by 16.
        encoder_depths: VSS blocks of the encoder's stages 1 to 3; of stage 4 its share of the stochastic depth alone.
        mid_channels: width of everything after the encoder.
        d_state: states per channel of the scan, N.
        drop_path_rate: largest stochastic-depth probability; it grows with depth, the absent stage 4's blocks counted.
        deep_supervision: whether the auxiliary outputs are returned; can be switched at `decoder.deep_supervision`.
        auxiliary_heads: whether the heads of the two coarsest outputs exist; by default only with deep supervision.
        gradient_checkpointing: recompute each block in backward, for less memory and more time.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.

    Raises:
        ValueError: sizes that do not fit together.

    Example:
        >>> import torch
        >>> network = VMUNetV2(1, 3, dims=(16, 32, 64, 128), encoder_depths=(1, 1, 1, 1), mid_channels=8)
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
        mid_channels: int = 48,
        d_state: int = 16,
        drop_path_rate: float = 0.2,
        deep_supervision: bool = False,
        auxiliary_heads: bool | None = None,
        gradient_checkpointing: bool = False,
        scan_backend: str = "auto",
    ) -> None:
        super().__init__(input_channels, num_classes)
        if len(dims) != _LEVELS or dims[0] % 16 or mid_channels < 1:
            raise ValueError(
                f"VM-UNet V2 has four stages, the first of a multiple of 16 channels, and mid_channels ≥ 1, got dims "
                f"{tuple(dims)} and mid_channels {mid_channels}"
            )
        sizes = VMUNetSizes(tuple(dims), tuple(encoder_depths), (1,) * _LEVELS, d_state, drop_path_rate)
        auxiliary_heads = check_heads(deep_supervision, auxiliary_heads)
        self.dims, self.mid_channels = sizes.dims, mid_channels
        self.encoder = _Encoder(input_channels, sizes, HowBlocksRun(gradient_checkpointing, scan_backend))
        self.decoder = _Decoder(num_classes, sizes.dims, mid_channels, deep_supervision, auxiliary_heads)
        self.apply(linear_weights_truncated_normal)

    @property
    def encoder_stages(self) -> tuple[StageInfo, ...]:
        """The last blocks of stages 1 to 3; at H/32 what the decoder reads there, the third merging's result."""
        modules = (*(f"encoder.stages.{i}" for i in range(_LEVELS - 1)), "encoder.mergings.2")
        return doubling_stages(modules, self.dims, 4)

    @property
    def decoder_stages(self) -> tuple[StageInfo, ...]:
        """The running sums y_1 … y_4; y_4 is the infusion at H/32 itself."""
        modules = ("decoder.sums.0", "decoder.sums.1", "decoder.sums.2", "decoder.infusions.3")
        return doubling_stages(modules, [self.mid_channels] * _LEVELS, 4)

    def run(self, x: Tensor) -> FeaturesOutput:
        levels, stage_outputs, _ = self.encoder(pad_to_multiple(x, self.stride))
        features = all_channels_first([*stage_outputs, levels[-1]])
        logits, sums = self.decoder(all_channels_first(levels))
        return FeaturesOutput(logits, features, tuple(sums))


class _Encoder(VMUNetEncoder):
    """VM-UNet's, up to the third merging: nothing reads stage 4."""

    def __init__(self, input_channels: int, sizes: VMUNetSizes, how: HowBlocksRun) -> None:
        super().__init__(input_channels, sizes, how)
        del self.stages[-1]

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Image to f_1 … f_4 at strides 4 … 32 and the outputs of stages 1 to 3, channels last; the image."""
        levels, outputs = [self.patch_embedding(x)], []
        for stage, merging in zip(self.stages, self.mergings, strict=True):
            outputs.append(stage(levels[-1]))
            levels.append(merging(outputs[-1]))
        return levels, outputs, [x]


class _Attention(nn.Module):
    """A factor per channel, then one per pixel (CBAM, arXiv 1807.06521)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.excite = nn.Conv2d(channels // 16, channels, 1, bias=False)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = (x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True))
        mean, maximum = (self.excite(F.relu(self.squeeze(p))) for p in pooled)
        x = x * torch.sigmoid(mean + maximum)
        pixels = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.spatial(pixels))


class _Infusion(nn.Module):
    """The product of all levels' maps at the size of one of them (the SDI of U-Net v2, arXiv 2311.17791)."""

    def __init__(self, channels: int, level: int) -> None:
        super().__init__()
        self.level = level
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(_LEVELS))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[self.level].shape[2:]
        product = None
        for level, (x, conv) in enumerate(zip(maps, self.convs, strict=True)):
            if level < self.level:  # larger by a whole factor, so that adaptive pooling is this one
                factor = 2 ** (self.level - level)
                x = F.avg_pool2d(x, factor)
            elif level > self.level:
                x = F.interpolate(x, size, mode="bilinear", align_corners=True)
            x = conv(x)
            product = x if product is None else product * x
        assert product is not None
        return product


class _Sum(nn.Module):
    """One step up: the coarser level enlarged by a transposed convolution, plus what was infused at this one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False)

    def forward(self, coarser: Tensor, infused: Tensor) -> Tensor:
        return self.up(coarser) + infused


class _FinestHead(nn.Conv2d):
    """The head of y_1, and T, which brings the next one's map to its size: all whose shapes the classes decide."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(channels, num_classes, 1)
        self.enlarge = nn.ConvTranspose2d(num_classes, num_classes, 3, stride=2, padding=1, output_padding=1)


class _Decoder(nn.Module):
    """Attention, reduction, infusion, sums from the coarsest level on, and heads."""

    def __init__(
        self, num_classes: int, dims: Sequence[int], channels: int, deep_supervision: bool, auxiliary_heads: bool
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.attentions = nn.ModuleList(_Attention(dim) for dim in dims)
        self.reductions = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, channels, 1, bias=False), nn.BatchNorm2d(channels)) for dim in dims
        )
        self.infusions = nn.ModuleList(_Infusion(channels, level) for level in range(_LEVELS))
        self.sums = nn.ModuleList(_Sum(channels) for _ in range(_LEVELS - 1))
        heads = _LEVELS if auxiliary_heads else 2
        others = (nn.Conv2d(channels, num_classes, 1) for _ in range(heads - 1))
        self.seg_layers = nn.ModuleList([_FinestHead(channels, num_classes), *others])

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """f_1 … f_4 to the logits, largest first, and y_1 … y_4."""
        parts = zip(levels, self.attentions, self.reductions, strict=True)
        maps = [reduction(attention(x)) for x, attention, reduction in parts]
        y = self.infusions[-1](maps)
        sums = [y]
        for step, infusion in zip(reversed(self.sums), reversed(self.infusions[:-1]), strict=True):
            y = step(y, infusion(maps))
            sums.insert(0, y)
        used = len(self.seg_layers) if self.deep_supervision else 2
        heads = itertools.islice(zip(self.seg_layers, sums, strict=False), used)
        outputs = [F.interpolate(head(y), scale_factor=4, mode="bilinear") for head, y in heads]
        finest = cast(_FinestHead, self.seg_layers[0])
        logits = [outputs[0] + finest.enlarge(outputs[1]), *outputs[1:]]
        return logits if self.deep_supervision else logits[:1], sums
