"""Convolutions of images and volumes from one text, where their channels stand, and which layers need no call."""

from collections.abc import Callable, Iterable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.cuda_graphs.conditions import HOOKS
from nnunetv2_dsvm.ops.fused.depthwise import depthwise_convolution

Convolution = nn.Conv2d | nn.Conv3d


def convolution(axes: int) -> Callable[..., Convolution]:
    """torch's convolution of grids with 2 or 3 axes."""
    return nn.Conv2d if axes == 2 else nn.Conv3d


def channels_last(x: Tensor) -> Tensor:
    """`(B, C, *sizes)` as a view `(B, *sizes, C)`."""
    return x.permute(0, *range(2, x.ndim), 1)


def channels_first(x: Tensor) -> Tensor:
    """`(B, *sizes, C)` as a view `(B, C, *sizes)`."""
    return x.permute(0, x.ndim - 1, *range(1, x.ndim - 1))


def all_channels_first(features: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """`channels_first` of each feature map."""
    return tuple(map(channels_first, features))


_PLAIN = tuple(layer.forward for layer in (nn.Linear, nn.Conv2d, nn.Conv3d, nn.BatchNorm2d, nn.LayerNorm))


def has_hooks(module: nn.Module) -> bool:
    """Whether something has to see the calls of a module."""
    return any(getattr(module, hooks) for hooks in HOOKS)


def is_plain(*layers: nn.Module) -> bool:
    """Whether layers may be computed from their weights without being called.

    Taps, pruning and the older norms of weights are hooks, which run in a call; a layer that was put in the place of
    torch's own has a call of its own. Convolutions are those with zeros around the grid.
    """
    return all(
        type(layer).forward in _PLAIN and not has_hooks(layer) and getattr(layer, "padding_mode", "zeros") == "zeros"
        for layer in layers
    )


def depthwise(layer: Convolution, x: Tensor, activation: Literal["silu", "none"] = "none") -> Tensor:
    """A depthwise convolution of `(B, *sizes, C)`, `depthwise_convolution` where the layer is plain."""
    if is_plain(layer):
        return depthwise_convolution(x, layer.weight, layer.bias, activation)
    y = channels_last(layer(channels_first(x)))
    return F.silu(y) if activation == "silu" else y
