"""What every network of this package does around its layers: checks, number format, CUDA graphs, cropping, features."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.finite_image import check_finite, finite_or_refused, is_recorded
from nnunetv2_dsvm.architecture.precision import inference_precision, without_autocast_cache
from nnunetv2_dsvm.architecture.stage_info import FeaturesOutput, StageInfo
from nnunetv2_dsvm.architecture.traced_size import at_this_size_only
from nnunetv2_dsvm.cuda_graphs import CudaGraphs
from nnunetv2_dsvm.host.waiting_threads import sleep_when_crowded

_AXES = "depth, height, width"


class SegmentationNetwork(nn.Module, ABC):
    """Images `(B, input_channels, *sizes)` to raw logits `(B, num_classes, *sizes)`, for any sizes ≥ 1.

    A subclass builds `encoder` and `decoder`, which has the switch `deep_supervision` and the heads `seg_layers`,
    largest output first; sets `stride` and `output_strides`; states its stages; and computes, in `run`.

    With `decoder.deep_supervision` a list is returned, largest first. On NVIDIA GPUs repeated inference on one image
    size is replayed as a CUDA graph; `cuda_graphs` is the switch, also for training.

    Args:
        input_channels: image channels, any number.
        num_classes: channels of the logits, any number; no softmax or sigmoid is applied.
        axes: of the images, 2 or 3.

    Attributes:
        stride: of the deepest stage, in pixels; sizes that are no multiple work too.
        output_strides: pixels of the image that a pixel of each of the logits stands for, one for all axes or one each.
        pads: whether `run` fills images with zeros up to multiples of the deepest stage's stride.
        only_size: the one size of images that the network is made for, up to that padding; None: any.
        return_features: whether a `FeaturesOutput` is returned in training.

    Raises:
        ValueError: no channels or no classes.
    """

    stride: int | tuple[int, ...]
    output_strides: Sequence[int | Sequence[int]]
    pads = True
    only_size: tuple[int, ...] | None = None
    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, input_channels: int, num_classes: int, axes: int = 2) -> None:
        super().__init__()
        if input_channels < 1 or num_classes < 1:
            raise ValueError(
                f"input_channels and num_classes must be at least 1, got {input_channels} and {num_classes}"
            )
        self.input_channels, self.axes = input_channels, axes
        self.return_features = False
        self.cuda_graphs = CudaGraphs()

    @property
    @abstractmethod
    def encoder_stages(self) -> tuple[StageInfo, ...]:
        """The encoder's stages, highest resolution first, as `FeaturesOutput.encoder_features` has them."""

    @property
    @abstractmethod
    def decoder_stages(self) -> tuple[StageInfo, ...]:
        """The decoder's stages, highest resolution first, as `FeaturesOutput.decoder_features` has them."""

    @abstractmethod
    def run(self, x: Tensor) -> FeaturesOutput:
        """All that is computed of images `(B, input_channels, *sizes)`.

        Returns:
            A list of logits, largest first, the first alone without deep supervision, each as large as the image by its
            entry of `output_strides`, rounded up, or larger (what is beyond is cropped by the caller); and the stages'
            feature maps, channels first.
        """

    def forward(self, x: Tensor) -> Tensor | list[Tensor] | FeaturesOutput:
        """Logits; a list with deep supervision; a `FeaturesOutput` while training with `return_features` on.

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

    def _checked_forward(self, x: Tensor) -> Tensor | list[Tensor] | FeaturesOutput:
        if x.ndim != 2 + self.axes or 0 in x.shape:
            axes = ", ".join(_AXES.split(", ")[-self.axes :])
            raise ValueError(f"expected images (batch, channels, {axes}), got shape {tuple(x.shape)}")
        if self._in_a_training_step():
            return self._graphed(x)
        with inference_precision(x.device.type):
            if not is_recorded():
                check_finite(x)
            return self._graphed(x)

    def _in_a_training_step(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _graphed(self, x: Tensor) -> Tensor | list[Tensor] | FeaturesOutput:
        if torch.compiler.is_compiling():
            return self._forward(x)
        if x.device.type == "cpu":
            sleep_when_crowded()
        with without_autocast_cache():
            return self.cuda_graphs(self, self._forward, x)

    def _forward(self, x: Tensor) -> Tensor | list[Tensor] | FeaturesOutput:
        all_logits, *features = self.run(x)
        cropped = [
            _cropped(logits, x.shape[2:], stride)
            for logits, stride in zip(all_logits, self.output_strides, strict=False)
        ]
        if not self._in_a_training_step():
            cropped = finite_or_refused(cropped, x, self)
        logits = cropped if self.decoder.deep_supervision else cropped[0]
        if self.training and self.return_features:
            return FeaturesOutput(logits, *features)
        return logits


def check_heads(deep_supervision: bool, auxiliary_heads: bool | None) -> bool:
    """Whether a network has the heads of its auxiliary outputs: as it says, else where it has deep supervision.

    Raises:
        ValueError: deep supervision without its heads.
    """
    if deep_supervision and auxiliary_heads is False:
        raise ValueError("deep_supervision=True needs auxiliary_heads=True (or None)")
    return deep_supervision if auxiliary_heads is None else auxiliary_heads


def cropped_to(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """The beginning of `(B, C, *)` along each axis; a view."""
    for axis, size in enumerate(sizes, 2):
        x = x.narrow(axis, 0, size)
    return x


def per_axis(stride: int | Sequence[int], axes: int) -> Sequence[int]:
    """A stride along each axis, where one number stands for all."""
    return [stride] * axes if isinstance(stride, int) else stride


def _cropped(logits: Tensor, sizes: Sequence[int], stride: int | Sequence[int]) -> Tensor:
    steps = per_axis(stride, len(sizes))
    return cropped_to(logits, [-(-size // step) for size, step in zip(sizes, steps, strict=True)])
