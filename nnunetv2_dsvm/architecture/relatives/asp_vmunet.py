"""ASP-VMUNet (arXiv 2503.19427): atrous scans in four chunks of the channels, beside convolutions, for images."""

import itertools
import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.checkpointed_blocks import recompute_parts
from nnunetv2_dsvm.architecture.blocks.convolution import channels_first, channels_last
from nnunetv2_dsvm.architecture.blocks.resampling import pad_to_multiple
from nnunetv2_dsvm.architecture.relatives.asp_vmunet_layers import Bridge, ParallelMamba
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork, check_heads
from nnunetv2_dsvm.architecture.stage_info import FeaturesOutput, StageInfo

_GROUPS = 4  # of every GroupNorm
# Channels of the stages; the tables of the paper's "tiny" and "base".
CHANNELS = {"tiny": (8, 16, 24, 32, 48, 64), "base": (32, 64, 96, 128, 256, 384)}
# Atrous step of each layer of the encoder's stages 2 to 6 and of the decoder's, deepest first: everywhere 2.
ENCODER_STEPS, DECODER_STEPS = tuple((2,) * layers for layers in (2, 2, 2, 6, 2)), ((2, 2),) * 5
_WITHOUT_ATTENTION = (2, 4)  # of the layers of encoder stage 5: the published sizes include that they have none


class Stage(nn.Module):
    """`ParallelMamba` layers on `(B, C, H, W)`, every second one shifted, and GroupNorm behind; the first changes C."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        steps: Sequence[int],
        *,
        norm: bool = True,
        without_attention: Sequence[int] = (),
        scan_backend: str,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ParallelMamba(
                out_channels if i else in_channels,
                out_channels,
                step,
                shifted=i % 2 == 1,
                attention=i not in without_attention,
                scan_backend=scan_backend,
            )
            for i, step in enumerate(steps)
        )
        self.norm = nn.GroupNorm(_GROUPS, out_channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = channels_last(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm(channels_first(x))


class EncoderStage(nn.Module):
    """GELU of what a stage makes of `(B, C, H, W)`, at half the resolution but for the last."""

    def __init__(self, body: nn.Module, *, pooled: bool = True) -> None:
        super().__init__()
        self.body, self.pooled = body, pooled

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return F.gelu(F.max_pool2d(x, 2) if self.pooled else x)


class ASPVMUNetEncoder(nn.Module):
    """Two convolutions, four stages of `ParallelMamba`, each halving the resolution, and one more at H/32."""

    def __init__(self, input_channels: int, channels: Sequence[int], steps: Sequence[Sequence[int]], backend: str):
        super().__init__()
        self.output_channels = list(channels)
        convs = nn.Sequential(
            nn.Conv2d(input_channels, channels[0], 3, padding=1),
            nn.Conv2d(channels[0], channels[0], 3, padding=1),
            nn.GroupNorm(_GROUPS, channels[0]),
        )
        self.stages = nn.ModuleList([EncoderStage(convs)])
        last = len(steps) - 1
        for i, ((before, after), of_layers) in enumerate(zip(itertools.pairwise(channels), steps, strict=True)):
            without = _WITHOUT_ATTENTION if i == last - 1 else ()
            body = Stage(before, after, of_layers, norm=i < last, without_attention=without, scan_backend=backend)
            self.stages.append(EncoderStage(body, pooled=i < last))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image to the outputs of the six stages, H/2 first."""
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


class DecoderStage(nn.Module):
    """`GELU(stage of x) + skip`, with the stage's result at the skip's size."""

    def __init__(self, body: Stage) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.body(x)
        return F.gelu(x if x.shape == skip.shape else upsampled(x)) + skip


class ASPVMUNetDecoder(nn.Module):
    """The bridge, the stages, deepest first, and the heads, largest output first; the first at H/2 and upsampled."""

    def __init__(
        self,
        num_classes: int,
        channels: Sequence[int],
        steps: Sequence[Sequence[int]],
        heads: int,
        deep_supervision: bool,
        backend: str,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.bridge = Bridge(channels[:-1])
        self.stages = nn.ModuleList(
            DecoderStage(Stage(before, after, of_layers, scan_backend=backend))
            for (before, after), of_layers in zip(itertools.pairwise(reversed(channels)), steps, strict=True)
        )
        self.seg_layers = nn.ModuleList(nn.Conv2d(each, num_classes, 1) for each in channels[:heads])

    def forward(self, encoder_outputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits, largest first (one, without deep supervision), and the outputs of the stages, H/2 first."""
        *features, x = encoder_outputs
        outputs: list[Tensor] = []
        for stage, skip in zip(self.stages, reversed(self.bridge(features)), strict=True):
            x = stage(x, skip)
            outputs.insert(0, x)
        heads = self.seg_layers if self.deep_supervision else self.seg_layers[:1]
        first, *others = (head(x) for head, x in zip(heads, outputs, strict=False))
        return [upsampled(first), *others], outputs


def upsampled(x: Tensor) -> Tensor:
    """`(B, C, H, W)` at twice the resolution, corner to corner."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class ASPVMUNet(SegmentationNetwork):
    """ASP-VMUNet: `(B, input_channels, H, W)` to raw logits `(B, num_classes, H, W)` for any H, W ≥ 1.

    As class `atrous_ULPSR_basev3_CNN` of BaoBao0926/ASP-VMUNet at commit 10eeca3, with images of any size and shape:
    zero-padded to multiples of 32, and cropped back. The heads of the auxiliary outputs are ours.

    Args:
        input_channels: image channels.
        num_classes: channels of the logits; no softmax or sigmoid is applied.
        channels: of the six stages, multiples of 8; `CHANNELS` has the published sizes.
        encoder_steps: atrous step of each layer of the encoder's stages 2 to 6.
        decoder_steps: of the decoder's five stages, deepest first.
        deep_supervision: whether the logits of all decoder stages are returned, largest first: H, H/4, …, H/32; can be
            switched at `decoder.deep_supervision`.
        auxiliary_heads: whether their heads exist; by default only with deep supervision, so that the plain network has
            the official parameters and no others.
        gradient_checkpointing: recompute each scan in backward, for less memory and more time.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.

    Raises:
        ValueError: sizes that do not fit together.
    """

    encoder: ASPVMUNetEncoder
    decoder: ASPVMUNetDecoder
    stride = 32
    output_strides = (1, 4, 8, 16, 32)

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        channels: Sequence[int] = CHANNELS["base"],
        encoder_steps: Sequence[Sequence[int]] = ENCODER_STEPS,
        decoder_steps: Sequence[Sequence[int]] = DECODER_STEPS,
        deep_supervision: bool = False,
        auxiliary_heads: bool | None = None,
        gradient_checkpointing: bool = False,
        scan_backend: str = "auto",
    ) -> None:
        super().__init__(input_channels, num_classes)
        if not len(channels) - 1 == len(encoder_steps) == len(decoder_steps) == 5 or any(c % 8 for c in channels):
            raise ValueError(
                f"channels must be six multiples of 8, with the steps of five stages on both sides; got channels "
                f"{channels}, encoder_steps {encoder_steps}, decoder_steps {decoder_steps}"
            )
        heads = 5 if check_heads(deep_supervision, auxiliary_heads) else 1
        self.encoder = ASPVMUNetEncoder(input_channels, channels, encoder_steps, scan_backend)
        self.decoder = ASPVMUNetDecoder(num_classes, channels, decoder_steps, heads, deep_supervision, scan_backend)
        self.apply(_init_weights)
        recompute_parts(self, gradient_checkpointing)

    @property
    def encoder_stages(self) -> tuple[StageInfo, ...]:
        """The encoder's six stages, before the bridge, H/2 first; the last two are both at H/32."""
        strides = (2, 4, 8, 16, 32, 32)
        return tuple(
            StageInfo(f"encoder.stages.{i}", channels, (stride, stride))
            for i, (channels, stride) in enumerate(zip(self.encoder.output_channels, strides, strict=True))
        )

    @property
    def decoder_stages(self) -> tuple[StageInfo, ...]:
        """The decoder's five stages, skips added, H/2 first."""
        return tuple(
            StageInfo(f"decoder.stages.{4 - i}", stage.channels, stage.stride)
            for i, stage in enumerate(self.encoder_stages[:5])
        )

    def run(self, x: Tensor) -> FeaturesOutput:
        features = self.encoder(pad_to_multiple(x, self.encoder_stages[-1].stride))
        logits, decoded = self.decoder(features)
        return FeaturesOutput(logits, tuple(features), tuple(decoded))


def _init_weights(module: nn.Module) -> None:
    """Linear layers and convolutions as the official code; the scans initialise themselves."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
