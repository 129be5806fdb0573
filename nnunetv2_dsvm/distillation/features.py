"""What both distillation terms do to the feature maps they are given: check, project, widen to 32-bit floats."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunetv2_dsvm.ops.dispatch import fused_backend

ProjectionKind = Literal["convolution", "pooling"]


class ChannelPooling(nn.Module):
    """Brings features to a number of channels without parameters: means of neighbouring channels, or copies of them.

    Args:
        channels: of the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., channels), as adaptive average pooling does it."""
        present = x.shape[-1]
        if present % self.channels == 0:  # the adaptive pooling's backward is not deterministic on GPUs
            return x.unflatten(-1, (self.channels, present // self.channels)).mean(-1)
        if self.channels % present == 0:
            return x.unsqueeze(-1).expand(*x.shape, self.channels // present).flatten(-2)
        return F.adaptive_avg_pool1d(x.flatten(1, -2), self.channels).unflatten(1, x.shape[1:-1])


def channel_projection(kind: ProjectionKind, student: int, teacher: int) -> nn.Module:
    """What brings a student's channels to its teacher's: a 1x1 convolution, or pooling over channels, for `project`."""
    if kind not in get_args(ProjectionKind):
        raise ValueError(f"unknown projection {kind!r}: choose one of {', '.join(get_args(ProjectionKind))}")
    return nn.Conv2d(student, teacher, 1) if kind == "convolution" else ChannelPooling(teacher)


def at_least_fp32(features: Tensor) -> Tensor:
    """The feature map in fp32, or in its own type if that is wider."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def autocast_off(device_type: str) -> AbstractContextManager:
    """A context without autocast on this device type; where it is off already, nothing is touched.

    A mean over millions of squared 16-bit differences overflows fp16 and loses its digits in bf16.
    """
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def projects_in_bf16(features: Tensor) -> bool:
    """Whether the projections of these features run as autocast has it: on GPUs in bf16.

    In fp16 they do not: features are sums over all blocks before them, without a norm, and their projections may exceed
    65504.
    """
    device = features.device
    if not torch.is_autocast_enabled(device.type) or torch.get_autocast_dtype(device.type) != torch.bfloat16:
        return False
    return fused_backend(device, torch.bfloat16) is not None


def project(projection: nn.Module, features: Tensor) -> Tensor:
    """A `channel_projection` of (B, C, H, W). No copy where channels are last in memory.

    Returns:
        (B, channels, H, W), channels last in memory. Of a convolution bf16 where `projects_in_bf16`, at least fp32
        elsewhere and of a pooling.
    """
    x = features.permute(0, 2, 3, 1)
    if not isinstance(projection, nn.Conv2d):
        projected = projection(at_least_fp32(x))
    elif projects_in_bf16(features):
        projected = _over_channels(projection, x)
    else:
        with autocast_off(features.device.type):
            wider = torch.promote_types(at_least_fp32(x).dtype, projection.weight.dtype)
            projected = _over_channels(projection, x.to(wider))
    return projected.permute(0, 3, 1, 2)


def _over_channels(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution of (B, H, W, C), as a product over channels."""
    weight, bias = convolution.weight.flatten(1), convolution.bias
    if not torch.is_autocast_enabled(x.device.type):  # parameters may be in 16 bit
        weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    return F.linear(x, weight, bias)


def average_pool(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Average pooling of (B, C, H, W) to `size`; its type is that in which `project` reads it."""
    features = features if projects_in_bf16(features) else at_least_fp32(features)
    height, width = plane(features)
    if height % size[0] == 0 and width % size[1] == 0:
        # The same windows; the backward of the adaptive pooling is slower on GPUs and not deterministic.
        return F.avg_pool2d(features, (height // size[0], width // size[1]))
    return F.adaptive_avg_pool2d(features, size)


def check_channels(side: str, features: Sequence[Tensor], channels: Sequence[int]) -> None:
    """Raises ValueError unless `features` are one (B, C_l, H_l, W_l) map per entry of `channels`."""
    shapes = [tuple(f.shape) for f in features]
    if any(len(shape) != 4 for shape in shapes) or [shape[1] for shape in shapes] != list(channels):
        raise ValueError(
            f"the {side} features have the shapes {shapes}, but the distillation was built for 2D maps (B, C, H, W) "
            f"of {list(channels)} channels, highest resolution first"
        )


def plane(features: Tensor) -> tuple[int, int]:
    """Height and width of (B, C, H, W)."""
    height, width = features.shape[-2:]
    return height, width


def pixel_weight(mask: Tensor | None, size: tuple[int, int]) -> Tensor | None:
    """How much each pixel of a feature map of this size counts: the share of the mask that it covers.

    A pixel of the features stands for a square of the image. Where the whole square is ignored it weighs 0: the pair is
    not compared there, and no gradient starts there. Ours.

    Args:
        mask: (B, 1, H, W), 1 where the image counts and 0 where it is ignored; None: everything counts.
        size: height and width of the feature map.
    """
    return None if mask is None else F.adaptive_avg_pool2d(mask, size)
