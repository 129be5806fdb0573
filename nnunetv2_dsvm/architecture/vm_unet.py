"""VM-UNet (arXiv 2402.02491): a U-shaped network of Visual State Space blocks, as a plain `nn.Module`."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nnunetv2_dsvm.architecture.blocks.resampling import (
    PATCH_SIZE,
    PatchEmbedding,
    PatchExpanding,
    PatchMerging,
    pad_to_multiple,
)
from nnunetv2_dsvm.architecture.blocks.vss_block import VSSBlock
from nnunetv2_dsvm.architecture.finite_image import check_finite, finite_or_refused, is_recorded
from nnunetv2_dsvm.architecture.precision import inference_precision, without_autocast_cache
from nnunetv2_dsvm.architecture.traced_size import at_this_size_only
from nnunetv2_dsvm.cuda_graphs import CudaGraphs
from nnunetv2_dsvm.host.waiting_threads import sleep_when_crowded

# "base" is the published recipe (27,427,561 parameters with 3 channels in and 1 class), "large" the official class's
# defaults (44,273,833); "small" is ours, for CPUs. "wide", "deep" and "huge" are ours, for GPUs with 24, 40 and 80 GB;
# VMamba's tiny and base encoders (arXiv 2401.10166) have the depths and channels of "large" and "deep".
PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "dims": (16, 32, 64, 128),
        "encoder_depths": (1, 1, 1, 1),
        "decoder_depths": (1, 1, 1, 1),
        "d_state": 8,
        "drop_path_rate": 0.0,
    },
    "base": {"dims": (96, 192, 384, 768), "encoder_depths": (2, 2, 2, 2), "decoder_depths": (2, 2, 2, 1)},
    "large": {"dims": (96, 192, 384, 768), "encoder_depths": (2, 2, 9, 2), "decoder_depths": (2, 9, 2, 2)},
    "wide": {"dims": (128, 256, 512, 1024), "encoder_depths": (2, 2, 9, 2), "decoder_depths": (2, 9, 2, 2)},
    "deep": {"dims": (128, 256, 512, 1024), "encoder_depths": (2, 2, 27, 2), "decoder_depths": (2, 27, 2, 2)},
    "huge": {"dims": (192, 384, 768, 1536), "encoder_depths": (2, 2, 9, 2), "decoder_depths": (2, 9, 2, 2)},
}


def strides_of(num_stages: int) -> list[list[int]]:
    """How much smaller each resolution is than the one before, per axis, in the form of nnU-Net's plans."""
    return [[1, 1], [PATCH_SIZE, PATCH_SIZE], *([2, 2] for _ in range(num_stages - 1))]


class VMUNetOutput(NamedTuple):
    """What the network returns while it trains with `return_features` on.

    `encoder_features[l - 1]` and `decoder_features[l - 1]` are the outputs of the last block of stage l (l = 1 at H/4,
    l = M the deepest), `(B, dims[l - 1], H / 2^(l+1), W / 2^(l+1))`.
    """

    logits: Tensor | list[Tensor]
    encoder_features: tuple[Tensor, ...]
    decoder_features: tuple[Tensor, ...]


class Stage(nn.Module):
    """VSS blocks at one resolution, `(B, H, W, dim)`."""

    def __init__(
        self, dim: int, drop_paths: Sequence[float], d_state: int, gradient_checkpointing: bool, scan_backend: str
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(VSSBlock(dim, d_state, p, scan_backend) for p in drop_paths)
        self.gradient_checkpointing = gradient_checkpointing

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class VMUNetEncoder(nn.Module):
    """Patch embedding and the encoder's stages; patch merging between them."""

    def __init__(
        self, input_channels: int, dims: Sequence[int], depths: Sequence[int], drop_path_rate: float, d_state: int,
        gradient_checkpointing: bool, scan_backend: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.output_channels = list(dims)
        self.patch_embedding = PatchEmbedding(input_channels, dims[0])
        drop_paths = _split(_linspace(0.0, drop_path_rate, sum(depths)), depths)
        self.stages = nn.ModuleList(
            Stage(dim, p, d_state, gradient_checkpointing, scan_backend)
            for dim, p in zip(dims, drop_paths, strict=True)
        )
        self.mergings = nn.ModuleList(PatchMerging(dim) for dim in dims[:-1])

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Image `(B, channels, H, W)` to the inputs and the outputs of the stages, H/4 first, channels last."""
        x = self.patch_embedding(x)
        inputs, outputs = [], []
        for i, stage in enumerate(self.stages):
            if i > 0:
                x = self.mergings[i - 1](x)
            inputs.append(x)
            x = stage(x)
            outputs.append(x)
        return inputs, outputs


class VMUNetDecoder(nn.Module):
    """The decoder's stages, patch expanding between them, and the segmentation heads.

    `seg_layers[0]` is the head at full resolution. With `auxiliary_heads`, `seg_layers[l]` is a head on decoder stage
    l = 1 … M - 1 (at H/4, H/8, …), used when `deep_supervision` is on.
    """

    def __init__(
        self, num_classes: int, dims: Sequence[int], depths: Sequence[int], drop_path_rate: float, d_state: int,
        gradient_checkpointing: bool, scan_backend: str, deep_supervision: bool, auxiliary_heads: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.output_channels = list(dims)
        self.deep_supervision = deep_supervision
        deepest_first = list(reversed(dims))
        drop_paths = _split(_linspace(drop_path_rate, 0.0, sum(depths)), depths)
        self.stages = nn.ModuleList(
            Stage(dim, p, d_state, gradient_checkpointing, scan_backend)
            for dim, p in zip(deepest_first, drop_paths, strict=True)
        )
        self.expandings = nn.ModuleList(PatchExpanding(dim, 2, dim // 2) for dim in deepest_first[:-1])
        self.final_expanding = PatchExpanding(dims[0], PATCH_SIZE, dims[0] // PATCH_SIZE)
        head_channels = [dims[0] // PATCH_SIZE, *(dims[:-1] if auxiliary_heads else [])]
        self.seg_layers = nn.ModuleList(nn.Conv2d(c, num_classes, kernel_size=1) for c in head_channels)

    def forward(self, stage_inputs: Sequence[Tensor], bottleneck: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Logits `(B, classes, …)`, largest first, and the outputs of the stages, H/4 first, channels last.

        `stage_inputs` are the encoder's skips. They are added before the patch expanding, and so the skip of stage M
        meets the output of decoder stage M; the one at H/4 is never used (VM-UNet's official code).
        """
        x = self.stages[0](bottleneck)
        outputs = [x]
        for stage, expanding, skip in zip(self.stages[1:], self.expandings, reversed(stage_inputs), strict=False):
            x = stage(expanding(x + skip))
            outputs.insert(0, x)
        logits = [self._head(0, self.final_expanding(x))]
        if self.deep_supervision:
            logits += [self._head(level, outputs[level - 1]) for level in range(1, len(self.seg_layers))]
        return logits, outputs

    def _head(self, index: int, x: Tensor) -> Tensor:
        return self.seg_layers[index](x.permute(0, 3, 1, 2))


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

    Example:
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
        dims: Sequence[int] = PRESETS["base"]["dims"],
        encoder_depths: Sequence[int] = PRESETS["base"]["encoder_depths"],
        decoder_depths: Sequence[int] = PRESETS["base"]["decoder_depths"],
        d_state: int = 16,
        drop_path_rate: float = 0.2,
        deep_supervision: bool = False,
        auxiliary_heads: bool | None = None,
        gradient_checkpointing: bool = False,
        scan_backend: str = "auto",
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        auxiliary_heads = deep_supervision if auxiliary_heads is None else auxiliary_heads
        _check_sizes(input_channels, num_classes, dims, encoder_depths, decoder_depths, d_state, drop_path_rate)
        if deep_supervision and not auxiliary_heads:
            raise ValueError("deep_supervision=True needs auxiliary_heads=True (or None)")
        if deep_supervision and len(dims) < 2:
            raise ValueError(f"deep_supervision=True needs two stages or more, got dims {tuple(dims)}")
        if strides is not None and [list(pair) for pair in strides] != strides_of(len(dims)):
            raise ValueError(f"the strides of VM-UNet are {strides_of(len(dims))} with these dims, got {strides}")
        common = {
            "dims": dims,
            "drop_path_rate": drop_path_rate,
            "d_state": d_state,
            "gradient_checkpointing": gradient_checkpointing,
            "scan_backend": scan_backend,
        }
        self.encoder = VMUNetEncoder(input_channels, depths=encoder_depths, **common)
        self.decoder = VMUNetDecoder(
            num_classes,
            depths=decoder_depths,
            deep_supervision=deep_supervision,
            auxiliary_heads=auxiliary_heads,
            **common,
        )
        self.stride = PATCH_SIZE * 2 ** (len(dims) - 1)
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

        The checkpoint is a pickle, but nothing in it is run: it is read with `weights_only=True`.

        Args:
            model_folder: `nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION`.
            fold: a number or `"all"`; several folds are several networks.
            checkpoint: file in the fold's folder.
            device: where the network goes.

        Raises:
            nnunetv2_dsvm.errors.UserError: the folder, fold or checkpoint is missing, broken or of another network.
        """
        from nnunetv2_dsvm.models.trained_network import load_trained_network

        return load_trained_network(model_folder, fold, checkpoint, device).network

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
        scales = [1] + [PATCH_SIZE * 2**level for level in range(len(all_logits) - 1)]
        cropped = [
            logits[..., : -(-height // scale), : -(-width // scale)]
            for logits, scale in zip(all_logits, scales, strict=True)
        ]
        if not self._in_a_training_step():
            cropped = finite_or_refused(cropped, x, self)
        logits = cropped if self.decoder.deep_supervision else cropped[0]
        if self.training and self.return_features:
            return VMUNetOutput(logits, _channels_first(encoder_outputs), _channels_first(decoder_outputs))
        return logits


def _channels_first(features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(f.permute(0, 3, 1, 2) for f in features)


def _linspace(start: float, end: float, count: int) -> list[float]:
    return [start + (end - start) * i / max(count - 1, 1) for i in range(count)]


def _split(values: Sequence[float], sizes: Sequence[int]) -> list[list[float]]:
    iterator = iter(values)
    return [[next(iterator) for _ in range(size)] for size in sizes]


def _init_weights(module: nn.Module) -> None:
    """Linear weights truncated normal 0.02, everything else as torch (or the module itself) initialises it."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)


def _check_sizes(
    input_channels: int, num_classes: int, dims: Sequence[int], encoder_depths: Sequence[int],
    decoder_depths: Sequence[int], d_state: int, drop_path_rate: float,
) -> None:  # fmt: skip
    if input_channels < 1 or num_classes < 1:
        raise ValueError(f"input_channels and num_classes must be at least 1, got {input_channels} and {num_classes}")
    if not len(dims) == len(encoder_depths) == len(decoder_depths) >= 1:
        raise ValueError(
            f"dims {tuple(dims)}, encoder_depths {tuple(encoder_depths)} and decoder_depths {tuple(decoder_depths)} "
            f"must have one entry per stage"
        )
    if any(larger != 2 * smaller for smaller, larger in itertools.pairwise(dims)) or dims[0] % PATCH_SIZE:
        raise ValueError(f"dims {tuple(dims)} must double from stage to stage and start with a multiple of 4")
    if min(*encoder_depths, *decoder_depths) < 1:
        raise ValueError(f"every stage needs a block, got depths {tuple(encoder_depths)} and {tuple(decoder_depths)}")
    if d_state < 1 or not 0.0 <= drop_path_rate < 1.0:
        raise ValueError(f"d_state must be ≥ 1 and drop_path_rate in [0, 1), got {d_state} and {drop_path_rate}")
