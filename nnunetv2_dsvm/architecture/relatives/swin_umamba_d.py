"""Swin-UMamba† (arXiv 2402.03302): VM-UNet's encoder, and a decoder of VSS blocks with concatenated skips."""

from collections.abc import Sequence

from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.convolution import all_channels_first
from nnunetv2_dsvm.architecture.blocks.initial_weights import linear_weights_truncated_normal
from nnunetv2_dsvm.architecture.blocks.resampling import PatchExpanding, pad_to_multiple
from nnunetv2_dsvm.architecture.blocks.stochastic_depth import drop_path_rates
from nnunetv2_dsvm.architecture.concatenating_decoder import ConcatenatingDecoder
from nnunetv2_dsvm.architecture.encoder_decoder import HowBlocksRun, Stage, VMUNetEncoder
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork, check_heads
from nnunetv2_dsvm.architecture.stage_info import FeaturesOutput, StageInfo, doubling_stages
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes

_SLOPE = 0.01
_LEVELS = 4


class SwinUMambaD(SegmentationNetwork):
    """Swin-UMamba†: `(B, input_channels, H, W)` to raw logits `(B, num_classes, H, W)` for any H, W ≥ 1.

    The image is zero-padded at the bottom and right to a multiple of 32, and the logits are cropped back. With
    `deep_supervision` a list is returned, as published: H, H/4, H/8, H/16. Ours: the sizes are arguments.

    Args:
        input_channels: image channels, any number.
        num_classes: channels of the logits, any number; no softmax or sigmoid is applied.
        dims: channels of the four encoder stages, each twice the one before and the first divisible by 4.
        encoder_depths: VSS blocks of each encoder stage, H/4 first.
        decoder_depths: VSS blocks of each decoder stage, H/16 first.
        d_state: states per channel of the scan, N.
        drop_path_rate: largest stochastic-depth probability; it grows with depth.
        deep_supervision: whether the auxiliary outputs are returned; can be switched at `decoder.deep_supervision`.
        auxiliary_heads: whether their heads exist; by default only with deep supervision.
        gradient_checkpointing: recompute each block in backward, for less memory and more time.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.

    Raises:
        ValueError: sizes that do not fit together.

    Example:
        >>> import torch
        >>> network = SwinUMambaD(1, 3, dims=(8, 16, 32, 64), encoder_depths=(1,) * 4, decoder_depths=(1,) * 3)
        >>> network(torch.randn(2, 1, 56, 40)).shape
        torch.Size([2, 3, 56, 40])
    """

    stride = 32
    output_strides = (1, 4, 8, 16)

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        dims: Sequence[int] = (96, 192, 384, 768),
        encoder_depths: Sequence[int] = (2, 2, 9, 2),
        decoder_depths: Sequence[int] = (2, 2, 2),
        d_state: int = 16,
        drop_path_rate: float = 0.2,
        deep_supervision: bool = False,
        auxiliary_heads: bool | None = None,
        gradient_checkpointing: bool = False,
        scan_backend: str = "auto",
    ) -> None:
        super().__init__(input_channels, num_classes)
        if len(dims) != _LEVELS or len(decoder_depths) != _LEVELS - 1:
            raise ValueError(
                f"Swin-UMamba† has four stages in the encoder and three in the decoder, got dims {tuple(dims)} and "
                f"decoder_depths {tuple(decoder_depths)}"
            )
        auxiliary_heads = check_heads(deep_supervision, auxiliary_heads)
        sizes = VMUNetSizes(tuple(dims), tuple(encoder_depths), (*decoder_depths, 1), d_state, drop_path_rate)
        how = HowBlocksRun(gradient_checkpointing, scan_backend)
        self.dims = sizes.dims
        self.encoder = VMUNetEncoder(input_channels, sizes, how)
        self.encoder.apply(linear_weights_truncated_normal)
        rates = drop_path_rates(drop_path_rate, 0.0, decoder_depths)
        stages = [Stage(dim, of_stage, sizes, how) for dim, of_stage in zip(dims[-2::-1], rates, strict=True)]
        heads = {"deep_supervision": deep_supervision, "auxiliary_heads": auxiliary_heads}
        self.decoder = ConcatenatingDecoder(num_classes, self.dims, _expanding, stages, **heads)
        self.apply(_convolutions_he_normal)

    @property
    def encoder_stages(self) -> tuple[StageInfo, ...]:
        """The last block of each stage, before the merging."""
        return doubling_stages([f"encoder.stages.{i}" for i in range(_LEVELS)], self.dims, 4)

    @property
    def decoder_stages(self) -> tuple[StageInfo, ...]:
        """The blocks at H/4, H/8 and H/16; the decoder begins with the encoder's last stage, without one of its own."""
        return doubling_stages([f"decoder.stages.{i}" for i in (2, 1, 0)], self.dims[:-1], 4)

    def run(self, x: Tensor) -> FeaturesOutput:
        _, encoded, _ = self.encoder(pad_to_multiple(x, self.stride))
        logits, decoded = self.decoder(encoded)
        return FeaturesOutput(logits, all_channels_first(encoded), all_channels_first(decoded))


def _expanding(dim: int, scale: int, out_dim: int) -> PatchExpanding:
    return PatchExpanding(dim, (scale, scale), out_dim)


def _convolutions_he_normal(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
