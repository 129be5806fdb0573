"""Convolutions of images and volumes from one text, and where their channels stand."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

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
