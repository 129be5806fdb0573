"""What the distillation terms do to the feature maps they are given: check, project, pool."""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunetv2_dsvm.distillation.precision import at_least_fp32, autocast_off
from nnunetv2_dsvm.distillation.resize import pool_averages, pool_channels
from nnunetv2_dsvm.ops.dispatch import fused_backend

ProjectionKind = Literal["convolution", "pooling"]

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
_CONVOLUTIONS: dict[int, type[Convolution]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class ChannelPooling(nn.Module):
    """Brings features to a number of channels without parameters: means of neighbouring channels, or copies of them.

    Args:
        channels: of the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, *spatial, C) to (B, *spatial, channels), as adaptive average pooling does it."""
        present = x.shape[-1]
        if present % self.channels == 0:  # the adaptive pooling's backward is not deterministic on GPUs
            return x.unflatten(-1, (self.channels, present // self.channels)).mean(-1)
        if self.channels % present == 0:
            return x.unsqueeze(-1).expand(*x.shape, self.channels // present).flatten(-2)
        if x.ndim != 4:
            return pool_channels(x, self.channels)
        return F.adaptive_avg_pool1d(x.flatten(1, -2), self.channels).unflatten(1, x.shape[1:-1])


def channel_projection(kind: ProjectionKind, dims: int, student: int, teacher: int) -> nn.Module:
    """What brings a student's channels to its teacher's, for `project`.

    Args:
        kind: a 1x1 "convolution", or "pooling" over channels.
        dims: number of the maps' spatial axes, 1 to 3.
        student: its channels.
        teacher: its channels.
    """
    if kind not in get_args(ProjectionKind):
        raise ValueError(f"unknown projection {kind!r}: choose one of {', '.join(get_args(ProjectionKind))}")
    if dims not in _CONVOLUTIONS:
        raise ValueError(f"feature maps of 1, 2 or 3 spatial axes can be distilled, got dims={dims!r}")
    return _CONVOLUTIONS[dims](student, teacher, 1) if kind == "convolution" else ChannelPooling(teacher)


def projects_in_bf16(features: Tensor) -> bool:
    """Whether the projections of these features run in bf16: on GPUs with autocast to it; 1D and 3D maps to fp16 too.

    None runs in fp16: features may be sums over all blocks before them, without a norm, and their projections may
    exceed 65504. Of 2D maps they are then of fp32; 3D maps are too large to keep such copies, and bf16 has the range.
    """
    device = features.device
    if not torch.is_autocast_enabled(device.type):
        return False
    dtypes = [torch.bfloat16] if features.ndim == 4 else [torch.bfloat16, torch.float16]
    return torch.get_autocast_dtype(device.type) in dtypes and fused_backend(device, torch.bfloat16) is not None


def product_dtype(projection: Convolution, features: Tensor) -> torch.dtype:
    """The type in which a convolution projects these features."""
    if projects_in_bf16(features):
        return torch.bfloat16
    return torch.promote_types(torch.promote_types(features.dtype, torch.float32), projection.weight.dtype)


def project(projection: nn.Module, features: Tensor) -> Tensor:
    """A `channel_projection` of (B, C, *spatial). No copy of 2D maps with channels last in memory, nor of others.

    Returns:
        (B, channels, *spatial). Of a convolution bf16 where `projects_in_bf16`, at least fp32 elsewhere and of a
        pooling.
    """
    if not isinstance(projection, Convolution):
        return projection(at_least_fp32(features).movedim(1, -1)).movedim(-1, 1)
    if projects_in_bf16(features):
        with torch.autocast(features.device.type, torch.bfloat16):
            return _over_channels(projection, features)
    with autocast_off(features.device.type):
        return _over_channels(projection, features.to(product_dtype(projection, features)))


def _over_channels(convolution: Convolution, features: Tensor) -> Tensor:
    """A 1x1 convolution of (B, C, *spatial), as a product over channels."""
    weight, bias = convolution.weight.flatten(1), cast(Tensor, convolution.bias)
    if not torch.is_autocast_enabled(features.device.type):  # parameters may be in 16 bit
        weight, bias = weight.to(features.dtype), bias.to(features.dtype)
    if features.ndim == 4:  # a VM-UNet's maps have their channels last in memory, and the fused operators read them so
        return F.linear(features.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
    product = torch.baddbmm(bias[:, None], weight.expand(len(features), -1, -1), features.flatten(2))
    return product.unflatten(2, features.shape[2:])


def average_pool(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """Average pooling of (B, C, *spatial) to `size`; its type is that in which `project` reads it."""
    return pool_averages(features if projects_in_bf16(features) else at_least_fp32(features), size)


def check_channels(side: str, features: Sequence[Tensor], channels: Sequence[int], dims: int) -> None:
    """Raises ValueError unless `features` are one (B, C_l, *spatial) map of `dims` axes per entry of `channels`."""
    shapes = [tuple(f.shape) for f in features]
    if any(len(shape) != 2 + dims for shape in shapes) or [shape[1] for shape in shapes] != list(channels):
        raise ValueError(
            f"the {side} features have the shapes {shapes}, but the distillation was built for {dims}D maps (B, C, "
            f"{', '.join('DHW'[-dims:])}) of {list(channels)} channels, highest resolution first"
        )


def pixel_weight(mask: Tensor | None, size: tuple[int, ...]) -> Tensor | None:
    """How much each pixel of a feature map of this size counts: the share of the mask that it covers.

    A pixel (voxel) of the features stands for a box of the image. Where the whole box is ignored it weighs 0: the pair
    is not compared there, and no gradient starts there. Ours.

    Args:
        mask: (B, 1, *spatial), 1 where the image counts and 0 where it is ignored; None: everything counts.
        size: of the feature map's spatial axes.
    """
    if mask is None:
        return None
    return F.adaptive_avg_pool2d(mask, (size[0], size[1])) if mask.ndim == 4 else pool_averages(mask, size)
