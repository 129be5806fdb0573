"""Resizing and pooling of maps with one to three spatial axes, deterministic on GPUs, forward and backward.

torch's linear and trilinear interpolation and its 3D and adaptive pooling have backwards that are not: they add up in
the order in which the threads arrive. Here each axis is multiplied by a small matrix instead. 2D maps keep torch's
bilinear interpolation and pooling, but for whole windows of those with channels last in memory, see `average_pool`.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunetv2_dsvm.distillation.precision import at_least_fp32, autocast_off
from nnunetv2_dsvm.ops.fused import average_pool

# (present, wanted, ...) -> (wanted, present), or a map to and fro on the present places
_Build = Callable[[int, int, torch.dtype, torch.device], Tensor]


def spatial_size(features: Tensor) -> tuple[int, ...]:
    """The sizes of the spatial axes of (B, C, *spatial)."""
    return tuple(features.shape[2:])


def resize_linearly(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """Linear interpolation along each axis (linear, bilinear, trilinear; `align_corners=False`).

    Args:
        features: (B, C, *spatial), at least fp32.
        size: of the result's spatial axes.
    """
    if features.ndim == 4:
        return F.interpolate(features, size, mode="bilinear", align_corners=False)
    return _along_each_axis(features, size, _interpolation)


def gather_linearly(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """The transpose of `resize_linearly` from `size`: each element goes to the neighbours that it would be made of.

    Args:
        features: (B, C, *spatial), at least fp32.
        size: of the result's spatial axes.
    """
    return _along_each_axis(features, size, _gathering)


def enlarge_and_gather(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """`resize_linearly` to `size` and its transpose back, on the map's own grid.

    Args:
        features: (B, C, *spatial), at least fp32.
        size: of the enlarged map's spatial axes.
    """
    present = spatial_size(features)
    with autocast_off(features.device.type):
        for axis, (small, large) in enumerate(zip(present, size, strict=True)):
            if small != large:
                features = _product(_matrix(_enlarging_and_gathering, small, large, features), features, 2 + axis)
    return features


def pool_averages(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """Means over windows, those of adaptive average pooling: index i of n has floor(i m / n) up to ceil((i + 1) m / n).

    Args:
        features: (B, C, *spatial).
        size: of the result's spatial axes.
    """
    scales = [divmod(present, wanted) for present, wanted in zip(spatial_size(features), size, strict=True)]
    windows = tuple(window for window, _ in scales)
    if any(rest for _, rest in scales):
        if features.ndim == 4:
            return F.adaptive_avg_pool2d(features, (size[0], size[1]))
        return _along_each_axis(at_least_fp32(features), size, _averages).to(features.dtype)
    if average_pool.supports(features, windows):
        return average_pool.average_pool(features, windows)
    if features.ndim == 4:
        # The same windows; the backward of the adaptive pooling is slower on GPUs and not deterministic.
        return F.avg_pool2d(features, windows)
    for axis in reversed(range(len(size))):  # splitting an axis moves only those behind it
        features = features.unflatten(2 + axis, (size[axis], windows[axis]))
    return features.mean(tuple(range(3, features.ndim, 2)))


def pool_channels(features: Tensor, channels: int) -> Tensor:
    """The same means over the last axis of (B, *spatial, C), at least fp32, to (B, *spatial, channels)."""
    with autocast_off(features.device.type):
        return F.linear(features, _matrix(_averages, features.shape[-1], channels, features))


def _along_each_axis(features: Tensor, size: tuple[int, ...], build: _Build) -> Tensor:
    """The product with a matrix along each axis that changes, in the order that keeps the map small for longest."""
    present = spatial_size(features)
    with autocast_off(features.device.type):
        for axis in sorted(range(len(size)), key=lambda axis: size[axis] / present[axis]):
            if size[axis] != present[axis]:
                features = _product(_matrix(build, present[axis], size[axis], features), features, 2 + axis)
    return features


def _product(matrix: Tensor, features: Tensor, axis: int) -> Tensor:
    """`matrix` (wanted, present) times one axis of a map."""
    before, after = features.shape[:axis], features.shape[axis + 1 :]
    if not after:
        return F.linear(features, matrix)
    slices = features.reshape(math.prod(before), features.shape[axis], math.prod(after))
    return torch.bmm(matrix.expand(len(slices), -1, -1), slices).view(*before, len(matrix), *after)


def _matrix(build: _Build, present: int, wanted: int, like: Tensor) -> Tensor:
    """That of `build`, made once for each pair of sizes; where torch.compile traces, a part of its graph."""
    if torch.compiler.is_compiling():
        return build(present, wanted, like.dtype, like.device)
    return _kept(build, present, wanted, like.dtype, like.device)


@lru_cache(maxsize=256)
def _kept(build: _Build, present: int, wanted: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a training may use it later
        return build(present, wanted, dtype, device)


def _interpolation(present: int, wanted: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Row i: the weights of the two neighbours of the place (i + 1/2) * present / wanted - 1/2, clamped to the map."""
    unit = 2 * wanted  # places are whole numbers of 1 / unit, so that no digit is lost
    place = ((2 * torch.arange(wanted, device=device) + 1) * present - wanted).clamp_min(0)[:, None]
    column, lower, fraction = torch.arange(present, device=device), place // unit, place % unit
    upper = (lower + 1).clamp_max(present - 1)
    return ((column == lower) * (unit - fraction) + (column == upper) * fraction).to(dtype) / unit


def _gathering(present: int, wanted: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The transpose of the interpolation from `wanted` to `present`."""
    return _interpolation(wanted, present, dtype, device).mT.contiguous()


def _enlarging_and_gathering(small: int, large: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The interpolation to `large` and its transpose: (small, small)."""
    enlarge = _interpolation(small, large, dtype, device)
    return enlarge.mT @ enlarge


def _averages(present: int, wanted: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Row i: equal weights from floor(i * present / wanted) up to ceil((i + 1) * present / wanted)."""
    index, column = torch.arange(wanted, device=device)[:, None], torch.arange(present, device=device)
    first, end = index * present // wanted, ((index + 1) * present + wanted - 1) // wanted
    return ((first <= column) & (column < end)).to(dtype) / (end - first)
