"""LightM-UNet (arXiv 2403.05246): Mamba over flattened feature maps instead of convolutions, in 2D and 3D."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.checkpointed_blocks import RecomputesAPart, called, recompute_parts
from nnunetv2_dsvm.architecture.blocks.convolution import convolution
from nnunetv2_dsvm.architecture.blocks.mamba_1d import Mamba
from nnunetv2_dsvm.architecture.blocks.resampling import pad_to_multiple
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork, check_heads
from nnunetv2_dsvm.architecture.stage_info import Axes, FeaturesOutput, StageInfo, total_strides

_POOLINGS = {2: F.max_pool2d, 3: F.max_pool3d}
_UPSAMPLING = {2: "bilinear", 3: "trilinear"}
_GROUPS = 8  # of every GroupNorm


class ResidualMamba(RecomputesAPart):
    """The paper's RVM layer: `Linear(LN(Mamba(LN(t)) + s t))` on the positions t of `(B, C, *sizes)`.

    The last axis is the fastest. Both norms share their weights; s is learnt.
    """

    def __init__(self, in_channels: int, out_channels: int, scan_backend: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_channels)
        self.mamba = Mamba(in_channels, scan_backend=scan_backend)
        self.skip_scale = nn.Parameter(torch.ones(1))
        self.proj = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        scanned = called(self.mamba, tokens, self.norm, recompute=self.gradient_checkpointing)
        tokens = scanned + self.skip_scale * tokens
        return self.proj(self.norm(tokens)).mT.unflatten(2, x.shape[2:])


class EncoderBlock(nn.Module):
    """`x + RVM(ReLU(GN(RVM(ReLU(GN(x))))))`."""

    def __init__(self, channels: int, scan_backend: str) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, channels)
        self.mamba1 = ResidualMamba(channels, channels, scan_backend)
        self.norm2 = nn.GroupNorm(_GROUPS, channels)
        self.mamba2 = ResidualMamba(channels, channels, scan_backend)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mamba1(F.relu(self.norm1(x)))
        return x + self.mamba2(F.relu(self.norm2(y)))


class SeparableConv(nn.Sequential):
    """A depthwise convolution and a pointwise one, nothing between them."""

    def __init__(self, in_channels: int, out_channels: int, axes: int, kernel: int, *, bias: bool = False) -> None:
        conv = convolution(axes)
        depthwise = conv(in_channels, in_channels, kernel, padding=kernel // 2, groups=in_channels, bias=bias)
        super().__init__(depthwise, conv(in_channels, out_channels, 1, bias=bias))


class DecoderBlock(nn.Module):
    """`ReLU(GN(conv(ReLU(GN(x))) + s x))` with a separable convolution and a learnt s."""

    def __init__(self, channels: int, axes: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, channels)
        self.conv = SeparableConv(channels, channels, axes, kernel=3)
        self.skip_scale = nn.Parameter(torch.ones(1))
        self.norm2 = nn.GroupNorm(_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.relu(self.norm1(x))) + self.skip_scale * x
        return F.relu(self.norm2(y))


class Transition(nn.Module):
    """To the next stage of the encoder: a `ResidualMamba` at the finer resolution, then max pooling by `stride`."""

    def __init__(self, in_channels: int, out_channels: int, stride: Axes, scan_backend: str) -> None:
        super().__init__()
        self.mamba = ResidualMamba(in_channels, out_channels, scan_backend)
        self.stride = tuple(stride)

    def forward(self, x: Tensor) -> Tensor:
        return _POOLINGS[len(self.stride)](self.mamba(x), self.stride)


class LightMUNetEncoder(nn.Module):
    """A stem at full resolution and the stages, each a transition, but for the first, and blocks."""

    def __init__(
        self, input_channels: int, features: Sequence[int], blocks: Sequence[int], strides: Sequence[Axes], backend: str
    ) -> None:
        super().__init__()
        self.output_channels = list(features)
        self.stem = SeparableConv(input_channels, features[0], len(strides[0]), kernel=3)
        transitions = (
            Transition(before, after, stride, backend)
            for (before, after), stride in zip(itertools.pairwise(features), strides[1:], strict=True)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(transition, *(EncoderBlock(channels, backend) for _ in range(count)))
            for transition, channels, count in zip((nn.Identity(), *transitions), features, blocks, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image to the outputs of the stages, full resolution first."""
        x = self.stem(x)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


class Head(nn.Sequential):
    """GN, ReLU, and a separable convolution of single pixels to logits."""

    def __init__(self, channels: int, num_classes: int, axes: int) -> None:
        conv = SeparableConv(channels, num_classes, axes, kernel=1, bias=True)
        super().__init__(nn.GroupNorm(_GROUPS, channels), nn.ReLU(), conv)
        self.out_channels = num_classes  # as the convolutions say that are other networks' heads


class LightMUNetDecoder(nn.Module):
    """The stages, deepest first, each with an upsampling in front; and their heads, largest output first."""

    def __init__(
        self,
        num_classes: int,
        features: Sequence[int],
        blocks: Sequence[int],
        strides: Sequence[Axes],
        heads: int,
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        axes, self.strides = len(strides[0]), [tuple(stride) for stride in reversed(strides[1:])]
        deepest_first = features[::-1]
        self.upsamplings = nn.ModuleList(
            convolution(axes)(below, here, 1, bias=False) for below, here in itertools.pairwise(deepest_first)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(DecoderBlock(channels, axes) for _ in range(count)))
            for channels, count in zip(deepest_first[1:], blocks, strict=True)
        )
        self.seg_layers = nn.ModuleList(Head(channels, num_classes, axes) for channels in features[:heads])

    def forward(self, encoder_outputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits, largest first (one, without deep supervision), and the stages' outputs, full resolution first."""
        x = encoder_outputs[-1]
        outputs: list[Tensor] = []
        for stage, conv, stride, skip in zip(
            self.stages, self.upsamplings, self.strides, reversed(encoder_outputs[:-1]), strict=True
        ):
            x = F.interpolate(conv(x), scale_factor=stride, mode=_UPSAMPLING[len(stride)], align_corners=False)
            x = stage(x + skip)
            outputs.insert(0, x)
        heads = self.seg_layers if self.deep_supervision else self.seg_layers[:1]
        return [head(features) for head, features in zip(heads, outputs, strict=False)], outputs


class LightMUNet(SegmentationNetwork):
    """LightM-UNet: `(B, input_channels, *sizes)` to raw logits `(B, num_classes, *sizes)`, two or three sizes.

    As MrBlankness/LightM-UNet at commit 6b72e27, with images of any size. Its four stages have `strides` of 2 there,
    whatever is planned; here they are an argument, and the heads of the auxiliary outputs are ours.

    Args:
        input_channels: image channels.
        num_classes: channels of the logits; no softmax or sigmoid is applied.
        strides: of each stage, one number an axis; those of the first are 1.
        channels: of the first stage, a multiple of 8; each stage has twice those of the one before.
        encoder_blocks: of each encoder stage, full resolution first.
        decoder_blocks: of each decoder stage, deepest first; one less.
        deep_supervision: whether the logits of all decoder stages are returned, largest first; can be switched at
            `decoder.deep_supervision`.
        auxiliary_heads: whether their heads exist; by default only with deep supervision, so that the plain network has
            the official parameters and no others.
        gradient_checkpointing: recompute each scan in backward, for less memory and more time.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.

    Raises:
        ValueError: sizes that do not fit together.
    """

    encoder: LightMUNetEncoder
    decoder: LightMUNetDecoder

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        strides: Sequence[Axes],
        channels: int = 32,
        encoder_blocks: Sequence[int] = (1, 2, 2, 4),
        decoder_blocks: Sequence[int] = (1, 1, 1),
        deep_supervision: bool = False,
        auxiliary_heads: bool | None = None,
        gradient_checkpointing: bool = False,
        scan_backend: str = "auto",
    ) -> None:
        super().__init__(input_channels, num_classes, axes=len(strides[0]))
        if not len(strides) == len(encoder_blocks) == len(decoder_blocks) + 1 >= 2:
            raise ValueError(
                f"strides {strides} and encoder_blocks {encoder_blocks} need one entry a stage, two or more, and "
                f"decoder_blocks {decoder_blocks} one less"
            )
        if {len(stride) for stride in strides} not in ({2}, {3}) or set(strides[0]) != {1}:
            raise ValueError(f"strides {strides} must all have two numbers or all three, and the first be 1")
        if channels % _GROUPS or channels < 1:
            raise ValueError(f"channels must be a multiple of {_GROUPS}, the groups of its norms, got {channels}")
        self.features = tuple(channels * 2**stage for stage in range(len(strides)))
        self.total_strides = total_strides(strides)
        heads = len(decoder_blocks) if check_heads(deep_supervision, auxiliary_heads) else 1
        self.encoder = LightMUNetEncoder(input_channels, self.features, encoder_blocks, strides, scan_backend)
        self.decoder = LightMUNetDecoder(num_classes, self.features, decoder_blocks, strides, heads, deep_supervision)
        self.stride, self.output_strides = max(self.total_strides[-1]), self.total_strides[:-1]
        recompute_parts(self, gradient_checkpointing)

    @property
    def encoder_stages(self) -> tuple[StageInfo, ...]:
        """The encoder's stages, full resolution first."""
        names = [f"encoder.stages.{stage}" for stage in range(len(self.features))]
        return tuple(map(StageInfo, names, self.features, self.total_strides))

    @property
    def decoder_stages(self) -> tuple[StageInfo, ...]:
        """The decoder's stages, one less than the encoder's, full resolution first."""
        names = [f"decoder.stages.{stage}" for stage in reversed(range(len(self.decoder.stages)))]
        return tuple(map(StageInfo, names, self.features[:-1], self.total_strides[:-1]))

    def run(self, x: Tensor) -> FeaturesOutput:
        features = self.encoder(pad_to_multiple(x, self.encoder_stages[-1].stride))
        logits, decoded = self.decoder(features)
        return FeaturesOutput(logits, tuple(features), tuple(decoded))
