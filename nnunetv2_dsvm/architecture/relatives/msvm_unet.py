"""MSVM-UNet (arXiv 2408.13735): VMamba's second-generation encoder and a decoder of multi-scale blocks."""

import itertools
from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.checkpointed_blocks import Blocks
from nnunetv2_dsvm.architecture.blocks.convolution import (
    all_channels_first,
    channels_first,
    channels_last,
    depthwise,
    is_plain,
)
from nnunetv2_dsvm.architecture.blocks.initial_weights import linear_weights_truncated_normal
from nnunetv2_dsvm.architecture.blocks.layer_norm import LayerNorm
from nnunetv2_dsvm.architecture.blocks.stochastic_depth import drop_path_rates
from nnunetv2_dsvm.architecture.blocks.vmamba2_block import VMamba2Block
from nnunetv2_dsvm.architecture.concatenating_decoder import ConcatenatingDecoder
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork, check_heads
from nnunetv2_dsvm.architecture.stage_info import FeaturesOutput, StageInfo, doubling_stages
from nnunetv2_dsvm.architecture.vmamba2_encoder import VMamba2Encoder
from nnunetv2_dsvm.ops.dispatch import fused_backend
from nnunetv2_dsvm.ops.fused import normalised
from nnunetv2_dsvm.ops.fused.depthwise import depthwise_convolution
from nnunetv2_dsvm.ops.resampling import Resampling

_LEVELS = 4
_KERNELS = (1, 3, 5)


class MSVMUNet(SegmentationNetwork):
    """MSVM-UNet: `(B, input_channels, H, W)` to raw logits `(B, num_classes, H, W)` for any H, W ≥ 1.

    Each upsampled map is cropped to its skip and the logits to the image; nothing is padded. Where the official code
    runs (sizes of 32 k - 3 to 32 k) this is its result, cropped to the image.

    Ours: with `deep_supervision` 1×1 convolutions on the decoder's stages give further logits, at H/4, H/8, H/16.

    Args:
        input_channels: image channels, any number.
        num_classes: channels of the logits, any number; no softmax or sigmoid is applied.
        dims: channels of the four stages, each twice the one before and the first even.
        encoder_depths: blocks of each encoder stage; (2, 2, 8, 2) is the published "tiny", (2, 2, 20, 2) "small".
        decoder_depths: blocks of each decoder stage, deepest first.
        encoder_ratio: channels of the encoder's scan by the stage's: 1 as published (checkpoints `vssm1_*`), or 2
            (`vssm_*_0229`, `vssm_*_0230`).
        encoder_drop_path_rate: largest stochastic-depth probability; it grows with depth. 0.3 for "small".
        decoder_drop_path_rate: the same of the decoder's deepest block; it falls to 0.
        deep_supervision: whether the auxiliary outputs are returned; can be switched at `decoder.deep_supervision`.
        auxiliary_heads: whether their heads exist; by default only with deep supervision.
        gradient_checkpointing: recompute each block in backward, for less memory and more time.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.

    Raises:
        ValueError: sizes that do not fit together.

    Example:
        >>> import torch
        >>> network = MSVMUNet(1, 3, dims=(8, 16, 32, 64), encoder_depths=(1, 1, 1, 1), decoder_depths=(1, 1, 1))
        >>> network(torch.randn(2, 1, 50, 33)).shape
        torch.Size([2, 3, 50, 33])
    """

    stride = 32
    output_strides = (1, 4, 8, 16)
    pads = False

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        dims: Sequence[int] = (96, 192, 384, 768),
        encoder_depths: Sequence[int] = (2, 2, 8, 2),
        decoder_depths: Sequence[int] = (2, 2, 2),
        encoder_ratio: int = 1,
        encoder_drop_path_rate: float = 0.2,
        decoder_drop_path_rate: float = 0.2,
        deep_supervision: bool = False,
        auxiliary_heads: bool | None = None,
        gradient_checkpointing: bool = False,
        scan_backend: str = "auto",
    ) -> None:
        super().__init__(input_channels, num_classes)
        doubled = all(wide == 2 * narrow for narrow, wide in itertools.pairwise(dims))
        if len(dims) != _LEVELS or len(encoder_depths) != _LEVELS or not doubled or dims[0] % 2:
            raise ValueError(
                f"dims {tuple(dims)} and encoder_depths {tuple(encoder_depths)} must be those of four stages, and dims "
                "even and doubling from stage to stage"
            )
        if len(decoder_depths) != _LEVELS - 1 or min(*encoder_depths, *decoder_depths) < 1:
            raise ValueError(
                f"every stage needs a block, and the decoder three stages, got depths {tuple(encoder_depths)} and "
                f"{tuple(decoder_depths)}"
            )
        auxiliary_heads = check_heads(deep_supervision, auxiliary_heads)
        self.dims = tuple(dims)
        self.encoder = VMamba2Encoder(
            input_channels,
            dims,
            encoder_depths,
            ratio=encoder_ratio,
            drop_path_rate=encoder_drop_path_rate,
            gradient_checkpointing=gradient_checkpointing,
            scan_backend=scan_backend,
        )
        self.encoder.apply(linear_weights_truncated_normal)
        of_stages = drop_path_rates(decoder_drop_path_rate, 0.0, decoder_depths)
        stages = [
            Blocks((VMamba2Block(dim, 1, rate, scan_backend, _MultiScaleFFN) for rate in rates), gradient_checkpointing)
            for dim, rates in zip(dims[-2::-1], of_stages, strict=True)
        ]
        heads = {"deep_supervision": deep_supervision, "auxiliary_heads": auxiliary_heads}
        self.decoder = ConcatenatingDecoder(num_classes, dims, _Expanding, stages, **heads)

    @property
    def encoder_stages(self) -> tuple[StageInfo, ...]:
        """The last block of each stage, before the downsampling."""
        return doubling_stages([f"encoder.stages.{i}" for i in range(_LEVELS)], self.dims, 4)

    @property
    def decoder_stages(self) -> tuple[StageInfo, ...]:
        """The blocks at H/4, H/8 and H/16; the decoder begins with the encoder's last stage, without one of its own."""
        return doubling_stages([f"decoder.stages.{i}" for i in (2, 1, 0)], self.dims[:-1], 4)

    def run(self, x: Tensor) -> FeaturesOutput:
        encoded = self.encoder(x)
        logits, decoded = self.decoder(encoded)
        return FeaturesOutput(logits, all_channels_first(encoded), all_channels_first(decoded))


class _MultiScaleFFN(nn.Module):
    """A FFN that adds to its hidden channels three depthwise convolutions of them."""

    product_weights = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")  # see `cuda_graphs.converted_weights`

    def __init__(self, dim: int) -> None:
        super().__init__()
        wide = 4 * dim
        self.fc1 = nn.Linear(dim, wide)
        self.convs = nn.ModuleList(
            nn.Conv2d(wide, wide, size, padding=size // 2, groups=wide, bias=False) for size in _KERNELS
        )
        self.fc2 = nn.Linear(wide, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.fc1(x))
        if is_plain(*self.convs):
            return self.fc2(depthwise_convolution(hidden, self._kernel()))
        of_channels = channels_first(hidden)
        return self.fc2(hidden + sum(channels_last(conv(of_channels)) for conv in self.convs))

    def _kernel(self) -> Tensor:
        """h and its three convolutions are one convolution: the kernels, centred, and 1 in the middle."""
        of_one, of_three, of_five = (cast(Tensor, conv.weight) for conv in self.convs)
        return F.pad(F.pad(1 + of_one, [1] * 4) + of_three, [1] * 4) + of_five


class _Expanding(nn.Module):
    """Large-kernel patch expanding: `(B, H, W, dim)` to `(B, scale H, scale W, out_dim)`."""

    product_weights = ("expand.weight", "expand.bias")

    def __init__(self, dim: int, scale: int, out_dim: int) -> None:
        super().__init__()
        wide = scale * scale * out_dim
        self.scale = scale
        self.expand = nn.Conv2d(dim, wide, 1)
        self.batch_norm = nn.BatchNorm2d(wide)
        self.conv = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.norm = LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        if fused_backend(x.device, x.dtype) is None or not is_plain(self.expand):
            x = channels_last(self.expand(channels_first(x)))
        else:  # The same as a product, which adds the bias as it writes; cuDNN takes two more passes over memory.
            x = F.linear(x, self.expand.weight.flatten(1), self.expand.bias)
        return self.norm(self._convolved(x).contiguous(), Resampling((self.scale, self.scale), merging=False))

    def _convolved(self, x: Tensor) -> Tensor:
        """conv(ReLU(batch_norm(x))) of `(B, H, W, channels)`."""
        norm, conv = self.batch_norm, self.conv
        by_kernel = is_plain(norm, conv) and normalised.supports(x, conv.weight)
        # No momentum: means of all batches so far. The others: layers that were built without.
        needed = norm.momentum, norm.running_mean, norm.num_batches_tracked, norm.weight, conv.bias
        if not by_kernel or not norm.track_running_stats or any(part is None for part in needed):
            return depthwise(conv, channels_last(F.relu(norm(channels_first(x)))))
        assert norm.running_mean is not None and norm.running_var is not None and conv.bias is not None
        assert norm.momentum is not None and norm.num_batches_tracked is not None
        if norm.training:
            norm.num_batches_tracked.add_(1)
        return normalised.normalised_convolution(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, conv.weight, conv.bias,
            training=norm.training, momentum=norm.momentum, eps=norm.eps,
        )  # fmt: skip
