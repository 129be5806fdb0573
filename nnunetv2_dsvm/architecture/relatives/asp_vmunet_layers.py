"""The layers of ASP-VMUNet (arXiv 2503.19427): an atrous scan of chunks beside convolutions, and the skips' bridge."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.checkpointed_blocks import RecomputesAPart, called
from nnunetv2_dsvm.architecture.blocks.convolution import channels_first, channels_last
from nnunetv2_dsvm.architecture.blocks.vss_block import SS2D
from nnunetv2_dsvm.ops.scan_order import atrous_orders

_CHUNKS = 4  # of the channels, that one scan takes in turn


class AtrousSS2D(SS2D):
    """SS2D whose K = step ** 2 walks share the pixels among them, `(B, H, W, dim)` to the same shape.

    Sizes that are no multiple of the step are filled with zeros between the convolution and the scan: it is called
    without a norm, for the fused operator would not fill them.
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


class ParallelMamba(RecomputesAPart):
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
        scanned = called(self.ss2d, chunks, recompute=self.gradient_checkpointing)
        scanned = scanned + self.skip_scale * chunks
        scanned = torch.cat(scanned.unflatten(0, (_CHUNKS, x.shape[0])).unbind(), -1).roll(-self.shift, -1)
        return self.merge(self.attention(convolved), self.attention(self.proj(self.norm(scanned))))


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
