"""ASP-VMUNet (arXiv 2503.19427): atrous scans in four chunks of the channels, beside convolutions, for images."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.convolution import channels_first, channels_last
from nnunetv2_dsvm.architecture.blocks.vss_block import SS2D
from nnunetv2_dsvm.architecture.relatives.tmp_base import Relative
from nnunetv2_dsvm.architecture.stage_info import StageInfo
from nnunetv2_dsvm.ops.scan_order import atrous_orders

_CHUNKS = 4  # of the channels, that one scan takes in turn
_GROUPS = 4  # of every GroupNorm
# Channels of the stages; the tables of the paper's "tiny" and "base".
CHANNELS = {"tiny": (8, 16, 24, 32, 48, 64), "base": (32, 64, 96, 128, 256, 384)}
# Atrous step of each layer of the encoder's stages 2 to 6 and of the decoder's, deepest first: everywhere 2.
ENCODER_STEPS, DECODER_STEPS = tuple((2,) * layers for layers in (2, 2, 2, 6, 2)), ((2, 2),) * 5
_WITHOUT_ATTENTION = (2, 4)  # of the layers of encoder stage 5: the published sizes include that they have none


class AtrousSS2D(SS2D):
    """SS2D whose K = step ** 2 walks share the pixels among them, `(B, H, W, dim)` to the same shape.

    Sizes that are no multiple of the step are filled with zeros between the convolution and the scan.
    """

    def __init__(self, dim: int, step: int, scan_backend: str) -> None:
        super().__init__(dim, scan_backend=scan_backend, orders=atrous_orders(2, step))
        self.step = step

    def scan(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        padded = F.pad(x, (0, 0, 0, -width % self.step, 0, -height % self.step))
        return super().scan(padded)[:, :height, :width]


class ConvBranch(nn.Sequential):
    """Depthwise 3×3 convolution, BatchNorm, GELU and a pointwise one."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels),
            nn.BatchNorm2d(in_channels),
            nn.GELU(),
            nn.Conv2d(in_channels, out_channels, 1),
        )


class SqueezeExcitation(nn.Module):
    """`x sigmoid(W2 GELU(W1 mean(LN(x))))` on `(B, H, W, C)`, the mean over the pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.reduce = nn.Linear(channels, channels // 8)
        self.expand = nn.Linear(channels // 8, channels)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.sigmoid(self.expand(F.gelu(self.reduce(self.norm(x).mean((1, 2))))))
        return x * weights[:, None, None]


class SelectiveKernel(nn.Module):
    """A sum of two maps `(B, H, W, C)` whose weights, one a channel, come from the mean of both (arXiv 1903.06586)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(32, channels // 2)
        self.squeeze = nn.Linear(channels, hidden)
        self.select = nn.ModuleList(nn.Linear(hidden, channels) for _ in range(2))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        z = self.squeeze((first + second).mean((1, 2)))
        a, b = torch.stack([linear(z) for linear in self.select]).softmax(0)[:, :, None, None]
        return a * first + b * second


class ParallelMamba(nn.Module):
    """The paper's PVM layer, `(B, H, W, C)` to `(B, H, W, C')`: scans of four chunks of the channels, and convolutions.

    `shifted`: the chunks begin an eighth of the channels earlier ("shift round").
    """

    def __init__(
        self, in_channels: int, out_channels: int, step: int, *, shifted: bool, attention: bool, scan_backend: str
    ) -> None:
        super().__init__()
        self.shift = in_channels // 8 if shifted else 0
        self.norm = nn.LayerNorm(in_channels)
        self.ss2d = AtrousSS2D(in_channels // _CHUNKS, step, scan_backend)
        self.skip_scale = nn.Parameter(torch.ones(1))
        self.proj = nn.Linear(in_channels, out_channels)
        self.convs = ConvBranch(in_channels, out_channels)
        self.attention = SqueezeExcitation(out_channels) if attention else nn.Identity()
        self.merge = SelectiveKernel(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        convolved = channels_last(self.convs(channels_first(x)))
        chunks = torch.cat(self.norm(x).roll(self.shift, -1).chunk(_CHUNKS, -1))  # as a batch
        scanned = self.ss2d(chunks, nn.Identity()) + self.skip_scale * chunks
        scanned = torch.cat(scanned.chunk(_CHUNKS), -1).roll(-self.shift, -1)
        return self.merge(self.attention(convolved), self.attention(self.proj(self.norm(scanned))))


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


class Bridge(nn.Module):
    """The skips: attention to pixels, then to channels of all resolutions at once (arXiv 2403.20035)."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.pixels = nn.Conv2d(2, 1, 7, padding=9, dilation=3)
        self.across = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.channels = nn.ModuleList(nn.Linear(sum(channels), each) for each in channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        weighted = [
            t * torch.sigmoid(self.pixels(torch.cat([t.mean(1, keepdim=True), t.amax(1, keepdim=True)], 1)))
            for t in features
        ]
        sums = [a + t for a, t in zip(weighted, features, strict=True)]
        means = self.across(torch.cat([b.mean((2, 3)) for b in sums], 1)[:, None])[:, 0]
        gates = [torch.sigmoid(linear(means))[:, :, None, None] for linear in self.channels]
        return [g * b + a for g, b, a in zip(gates, sums, weighted, strict=True)]


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
        self, num_classes: int, channels: Sequence[int], steps: Sequence[Sequence[int]], heads: int, backend: str
    ) -> None:
        super().__init__()
        self.deep_supervision = False
        self.bridge = Bridge(channels[:-1])
        self.stages = nn.ModuleList(
            DecoderStage(Stage(before, after, of_layers, scan_backend=backend))
            for (before, after), of_layers in zip(itertools.pairwise(reversed(channels)), steps, strict=True)
        )
        self.seg_layers = nn.ModuleList(nn.Conv2d(each, num_classes, 1) for each in channels[:heads])

    def forward(self, encoder_outputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits, largest first (one, without deep supervision), and the outputs of the stages, H/2 first."""
        *features, x = encoder_outputs
        outputs = []
        for stage, skip in zip(self.stages, reversed(self.bridge(features)), strict=True):
            x = stage(x, skip)
            outputs.insert(0, x)
        heads = self.seg_layers if self.deep_supervision else self.seg_layers[:1]
        first, *others = (head(x) for head, x in zip(heads, outputs, strict=False))
        return [upsampled(first), *others], outputs


def upsampled(x: Tensor) -> Tensor:
    """`(B, C, H, W)` at twice the resolution, corner to corner."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class ASPVMUNet(Relative):
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
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.

    Raises:
        ValueError: sizes that do not fit together.
    """

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
        scan_backend: str = "auto",
    ) -> None:
        super().__init__()
        if not len(channels) - 1 == len(encoder_steps) == len(decoder_steps) == 5 or any(c % 8 for c in channels):
            raise ValueError(
                f"channels must be six multiples of 8, with the steps of five stages on both sides; got channels "
                f"{channels}, encoder_steps {encoder_steps}, decoder_steps {decoder_steps}"
            )
        self.encoder = ASPVMUNetEncoder(input_channels, channels, encoder_steps, scan_backend)
        heads = 5 if auxiliary_heads else 1
        self.decoder = ASPVMUNetDecoder(num_classes, channels, decoder_steps, heads, scan_backend)
        self.decoder.deep_supervision = deep_supervision
        self.stride = 32
        self.output_strides = (1, 4, 8, 16, 32)
        self.apply(_init_weights)

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

    def _forward_padded(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        features = self.encoder(x)
        logits, decoded = self.decoder(features)
        return logits, features, decoded


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
