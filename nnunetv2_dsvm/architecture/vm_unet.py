"""VM-UNet (arXiv 2402.02491): a U-shaped network of Visual State Space blocks, as a plain `nn.Module`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.resampling import pad_to_multiple
from nnunetv2_dsvm.architecture.encoder_decoder import HowBlocksRun, VMUNetDecoder, VMUNetEncoder
from nnunetv2_dsvm.architecture.finite_image import check_finite, finite_or_refused, is_recorded
from nnunetv2_dsvm.architecture.precision import inference_precision, without_autocast_cache
from nnunetv2_dsvm.architecture.stage_info import FeaturesOutput, StageInfo
from nnunetv2_dsvm.architecture.traced_size import at_this_size_only
from nnunetv2_dsvm.architecture.vm_unet_sizes import PRESETS, VMUNetSizes, strides_of
from nnunetv2_dsvm.cuda_graphs import CudaGraphs
from nnunetv2_dsvm.host.waiting_threads import sleep_when_crowded

__all__ = ["PRESETS", "VMUNet", "VMUNetOutput"]
_PUBLISHED = PRESETS["base"]
VMUNetOutput = FeaturesOutput  # what a VMUNet returns while it trains with `return_features` on


class VMUNet(nn.Module):
    """VM-UNet: `(B, input_channels, H, W)` to raw logits `(B, num_classes, H, W)` for any H, W ≥ 1.

    The image is zero-padded at the bottom and right to a multiple of `stride` (32 with four stages) and the logits are
    cropped back. With `deep_supervision` a list is returned, largest first: H, H/4, H/8, H/16 (rounded up).

    On NVIDIA GPUs repeated inference on one image size is replayed as a CUDA graph; `cuda_graphs` is the switch, also
    for training.

    Args:
        input_channels: image channels, any number.
        num_classes: channels of the logits, any number; no softmax or sigmoid is applied.
        dims: channels of each stage, each twice the one before and the first divisible by 4.
        encoder_depths: VSS blocks of each encoder stage, H/4 first.
        decoder_depths: VSS blocks of each decoder stage, deepest first.
        d_state: states per channel of the scan, N.
        drop_path_rate: largest stochastic-depth probability; it grows with depth.
        deep_supervision: whether the auxiliary outputs are returned; can be switched at `decoder.deep_supervision`.
        auxiliary_heads: whether the heads of the auxiliary outputs exist; by default only with deep supervision, so
            that the plain network has the official parameters and no others.
        gradient_checkpointing: recompute each block in backward, for less memory and more time.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.
        strides: for plans, from which nnU-Net's trainers read the sizes of the auxiliary outputs; can only be
            `strides_of(len(dims))`.

    Raises:
        ValueError: sizes that do not fit together.

    Examples:
        >>> import torch
        >>> network = VMUNet.from_preset("small", input_channels=1, num_classes=3)
        >>> network(torch.randn(2, 1, 56, 40)).shape
        torch.Size([2, 3, 56, 40])
    """

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
    ) -> None:
        super().__init__()
        auxiliary_heads = deep_supervision if auxiliary_heads is None else auxiliary_heads
        if input_channels < 1 or num_classes < 1:
            raise ValueError(
                f"input_channels and num_classes must be at least 1, got {input_channels} and {num_classes}"
            )
        sizes = VMUNetSizes(tuple(dims), tuple(encoder_depths), tuple(decoder_depths), d_state, drop_path_rate)
        if deep_supervision and not auxiliary_heads:
            raise ValueError("deep_supervision=True needs auxiliary_heads=True (or None)")
        if deep_supervision and len(sizes.dims) < 2:
            raise ValueError(f"deep_supervision=True needs two stages or more, got dims {sizes.dims}")
        if strides is not None and [list(pair) for pair in strides] != strides_of(len(dims)):
            raise ValueError(f"the strides of VM-UNet are {strides_of(len(dims))} with these dims, got {strides}")
        self.input_channels, self.sizes = input_channels, sizes
        how = HowBlocksRun(gradient_checkpointing, scan_backend)
        self.encoder = VMUNetEncoder(input_channels, sizes, how)
        self.decoder = VMUNetDecoder(
            num_classes, sizes, how, deep_supervision=deep_supervision, auxiliary_heads=auxiliary_heads
        )
        self.stride = sizes.stage_strides[-1]
        self.output_strides = (1, *sizes.stage_strides[:-1])  # of the logits, with deep supervision of all of them
        self.return_features = False
        self.cuda_graphs = CudaGraphs()
        self.apply(_init_weights)

    @classmethod
    def from_preset(cls, preset: str, input_channels: int, num_classes: int, **overrides: Any) -> "VMUNet":
        """A network of a named size (`PRESETS`); any keyword of the class can be overridden."""
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
        return cls(input_channels, num_classes, **{**PRESETS[preset], **overrides})

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

        return nnunetv2_dsvm.load_trained_network(model_folder, fold, checkpoint, device).network

    @property
    def encoder_stages(self) -> tuple[StageInfo, ...]:
        """The encoder's stages, H/4 first, as `VMUNetOutput.encoder_features` has them."""
        return self._stages("encoder.stages.{}", range(len(self.sizes.dims)))

    @property
    def decoder_stages(self) -> tuple[StageInfo, ...]:
        """The decoder's stages, H/4 first, as `VMUNetOutput.decoder_features` has them."""
        return self._stages("decoder.stages.{}", reversed(range(len(self.sizes.dims))))

    def _stages(self, module: str, indices: Iterable[int]) -> tuple[StageInfo, ...]:
        of_each = zip(indices, self.sizes.dims, self.sizes.stage_strides, strict=True)
        return tuple(StageInfo(module.format(i), channels, (stride, stride)) for i, channels, stride in of_each)

    def forward(self, x: Tensor) -> Tensor | list[Tensor] | VMUNetOutput:
        """Logits; a list with deep supervision; a `VMUNetOutput` while training with `return_features` on.

        At inference (in evaluation mode, or without autograd) `NNUNETV2_DSVM_PRECISION=float32` or `bfloat16` takes the
        place of the caller's autocast.

        Raises:
            ValueError: not a batch of images, or, at inference, an image or logits with NaN or infinite values (on
                CUDA, where the check would make the GPU wait, the logits are infinite, which nnU-Net refuses).
        """
        if torch.jit.is_tracing():
            with at_this_size_only(x) as x:
                return self._checked_forward(x)
        return self._checked_forward(x)

    def _checked_forward(self, x: Tensor) -> Tensor | list[Tensor] | VMUNetOutput:
        if x.ndim != 4 or 0 in x.shape:
            raise ValueError(f"expected images (batch, channels, height, width), got shape {tuple(x.shape)}")
        if self._in_a_training_step():
            return self._run(x)
        with inference_precision(x.device.type):
            if not is_recorded():
                check_finite(x)
            return self._run(x)

    def _in_a_training_step(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _run(self, x: Tensor) -> Tensor | list[Tensor] | VMUNetOutput:
        if torch.compiler.is_compiling():
            return self._forward(x)
        if x.device.type == "cpu":
            sleep_when_crowded()
        with without_autocast_cache():
            return self.cuda_graphs(self, self._forward, x)

    def _forward(self, x: Tensor) -> Tensor | list[Tensor] | VMUNetOutput:
        height, width = x.shape[-2:]
        stage_inputs, encoder_outputs = self.encoder(pad_to_multiple(x, self.stride))
        all_logits, decoder_outputs = self.decoder(stage_inputs, encoder_outputs[-1])
        cropped = [
            logits[..., : -(-height // stride), : -(-width // stride)]
            for logits, stride in zip(all_logits, self.output_strides, strict=False)
        ]
        if not self._in_a_training_step():
            cropped = finite_or_refused(cropped, x, self)
        logits = cropped if self.decoder.deep_supervision else cropped[0]
        if self.training and self.return_features:
            return VMUNetOutput(logits, _channels_first(encoder_outputs), _channels_first(decoder_outputs))
        return logits


def _channels_first(features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(f.permute(0, 3, 1, 2) for f in features)


def _init_weights(module: nn.Module) -> None:
    """Linear weights truncated normal 0.02, everything else as torch (or the module itself) initialises it."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
