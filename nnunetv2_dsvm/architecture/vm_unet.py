"""VM-UNet (arXiv 2402.02491): a U-shaped network of Visual State Space blocks, as a plain `nn.Module`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunetv2_dsvm.architecture.blocks.convolution import all_channels_first
from nnunetv2_dsvm.architecture.blocks.initial_weights import linear_weights_truncated_normal
from nnunetv2_dsvm.architecture.blocks.resampling import pad_to_multiple
from nnunetv2_dsvm.architecture.encoder_decoder import HowBlocksRun, VMUNetDecoder, VMUNetEncoder
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork, check_heads
from nnunetv2_dsvm.architecture.stage_info import FeaturesOutput, StageInfo
from nnunetv2_dsvm.architecture.vm_unet_sizes import PRESETS, Stem, VMUNetSizes
from nnunetv2_dsvm.errors import UserError

__all__ = ["PRESETS", "VMUNet", "VMUNetOutput"]
_PUBLISHED = PRESETS["base"]
VMUNetOutput = FeaturesOutput  # what a VMUNet returns while it trains with `return_features` on


class VMUNet(SegmentationNetwork):
    """VM-UNet: `(B, input_channels, H, W)` to raw logits `(B, num_classes, H, W)` for any H, W ≥ 1.

    With `strides` of three axes it is one of volumes, `(B, channels, D, H, W)` (ours): it scans in six directions
    instead of four, and its convolutions have three dimensions.

    The image is zero-padded at each axis's end to a multiple of `stride` (32 with four stages) and the logits are
    cropped back. With `deep_supervision` a list is returned, largest first, each smaller by one of `output_strides`:
    by default H, H/4, H/8, H/16 (rounded up).

    On NVIDIA GPUs repeated inference on one image size is replayed as a CUDA graph; `cuda_graphs` is the switch, also
    for training.

    Args:
        input_channels: image channels, any number.
        num_classes: channels of the logits, any number; no softmax or sigmoid is applied.
        dims: channels of each stage, each twice the one before and the first divisible by 4.
        encoder_depths: VSS blocks of each encoder stage, finest first.
        decoder_depths: VSS blocks of each decoder stage, deepest first.
        d_state: states per channel of the scan, N.
        drop_path_rate: largest stochastic-depth probability; it grows with depth.
        deep_supervision: whether the auxiliary outputs are returned; can be switched at `decoder.deep_supervision`.
        auxiliary_heads: whether the heads of the auxiliary outputs exist; by default only with deep supervision, so
            that the plain network has the official parameters and no others.
        gradient_checkpointing: recompute each block in backward, for less memory and more time.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.
        strides: how much smaller each resolution is than the one before, per axis, in the form of nnU-Net's plans:
            `[[1, 1, 1], patch embedding, merging, …]`, one entry more than there are stages. None: the published ones,
            `[[1, 1], [4, 4], [2, 2], …]`.
        stem, full_resolution_channels, fine_channels: additions for small structures, see `VMUNetSizes`; all ours.
        scan: False leaves the scan out of every block, see `VMUNetSizes`; ours.

    Attributes:
        stride: how many pixels of the image one of the deepest stage stands for: a number where it is the same along
            all axes, else one an axis.
        output_strides: the same, always one an axis, for each of the logits of deep supervision, full size first.

    Raises:
        ValueError: sizes that do not fit together.

    Examples:
        >>> import torch
        >>> network = VMUNet.from_preset("small", input_channels=1, num_classes=3)
        >>> network(torch.randn(2, 1, 56, 40)).shape
        torch.Size([2, 3, 56, 40])
    """

    gradients_last = ("encoder.patch_embedding", "encoder.stages.0")  # see `cuda_graphs.two_parts`
    encoder: VMUNetEncoder
    decoder: VMUNetDecoder

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        dims: Sequence[int] = _PUBLISHED.dims,
        encoder_depths: Sequence[int] = _PUBLISHED.encoder_depths,
        decoder_depths: Sequence[int] = _PUBLISHED.decoder_depths,
        d_state: int = _PUBLISHED.d_state,
        drop_path_rate: float = _PUBLISHED.drop_path_rate,
        deep_supervision: bool = False,
        auxiliary_heads: bool | None = None,
        gradient_checkpointing: bool = False,
        scan_backend: str = "auto",
        strides: Sequence[Sequence[int]] | None = None,
        stem: Stem = _PUBLISHED.stem,
        full_resolution_channels: int = _PUBLISHED.full_resolution_channels,
        fine_channels: int = _PUBLISHED.fine_channels,
        scan: bool = _PUBLISHED.scan,
    ) -> None:
        sizes = VMUNetSizes(
            dims=tuple(dims),
            encoder_depths=tuple(encoder_depths),
            decoder_depths=tuple(decoder_depths),
            d_state=d_state,
            drop_path_rate=drop_path_rate,
            strides=tuple(map(tuple, strides or ())),
            stem=stem,
            full_resolution_channels=full_resolution_channels,
            fine_channels=fine_channels,
            scan=scan,
        )
        super().__init__(input_channels, num_classes, sizes.axes)
        auxiliary_heads = check_heads(deep_supervision, auxiliary_heads)
        if deep_supervision and len(sizes.dims) < 2:
            raise ValueError(f"deep_supervision=True needs two stages or more, got dims {sizes.dims}")
        self.sizes = sizes
        how = HowBlocksRun(gradient_checkpointing, scan_backend)
        self.encoder = VMUNetEncoder(input_channels, sizes, how)
        self.decoder = VMUNetDecoder(
            input_channels, num_classes, sizes, how, deep_supervision=deep_supervision, auxiliary_heads=auxiliary_heads
        )
        deepest = sizes.stage_strides[-1]
        self.stride: int | tuple[int, ...] = deepest if len(set(deepest)) > 1 else deepest[0]
        self.output_strides = sizes.output_strides
        self.apply(linear_weights_truncated_normal)

    @classmethod
    def from_preset(cls, preset: str, input_channels: int, num_classes: int, **overrides: Any) -> "VMUNet":
        """A network of a named size (`PRESETS`); any keyword of the class can be overridden.

        With `strides` of fewer stages than the preset's, the deepest stages are left out.
        """
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
        sizes = PRESETS[preset]
        if strides := overrides.get("strides"):
            sizes = sizes.with_strides(strides)
        return cls(input_channels, num_classes, **{**sizes, **overrides})

    @classmethod
    def from_nnunet(
        cls,
        model_folder: str | Path,
        fold: int | str,
        checkpoint: str = "checkpoint_final.pth",
        *,
        device: torch.device | str = "cpu",
    ) -> "VMUNet":
        """The network of a model that nnU-Net trained with one of this package's trainers, in evaluation mode.

        It is the plain module: preprocessing (resampling, normalisation), sliding window, mirroring and the softmax
        (sigmoid for regions) are nnU-Net's, not the network's. Only this method needs nnU-Net; it is imported here.

        The checkpoint is a pickle, but nothing in it is run: only tensors, numbers and plain values are read.

        Args:
            model_folder: `nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION`.
            fold: a number or `"all"`; several folds are several networks.
            checkpoint: file in the fold's folder.
            device: where the network goes.

        Raises:
            nnunetv2_dsvm.errors.UserError: the folder, fold or checkpoint is missing, broken or of another network.
        """
        import nnunetv2_dsvm  # its names are imported when they are asked for: this module knows no trained models

        network = nnunetv2_dsvm.load_trained_network(model_folder, fold, checkpoint, device).network
        if not isinstance(network, cls):
            raise UserError(f"{model_folder} holds a {type(network).__name__}: read it with load_trained_network")
        return network

    @property
    def encoder_stages(self) -> tuple[StageInfo, ...]:
        """The encoder's stages, finest first, as `VMUNetOutput.encoder_features` has them."""
        return self._stages("encoder.stages.{}", range(len(self.sizes.dims)))

    @property
    def decoder_stages(self) -> tuple[StageInfo, ...]:
        """The decoder's stages, finest first, as `VMUNetOutput.decoder_features` has them."""
        return self._stages("decoder.stages.{}", reversed(range(len(self.sizes.dims))))

    def _stages(self, module: str, indices: Iterable[int]) -> tuple[StageInfo, ...]:
        of_each = zip(indices, self.sizes.dims, self.sizes.stage_strides, strict=True)
        return tuple(StageInfo(module.format(i), channels, stride) for i, channels, stride in of_each)

    def run(self, x: Tensor) -> FeaturesOutput:
        padded = pad_to_multiple(x, self.sizes.stage_strides[-1])
        stage_inputs, encoder_outputs, finer = self.encoder(padded)
        all_logits, decoder_outputs = self.decoder(finer, stage_inputs, encoder_outputs[-1])
        return FeaturesOutput(all_logits, all_channels_first(encoder_outputs), all_channels_first(decoder_outputs))
