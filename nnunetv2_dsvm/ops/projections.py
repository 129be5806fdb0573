"""The matrix product that gives a scan's dt, B and C at once: the order of its columns, the type of the result."""

import torch
from torch import Tensor


def split(product: Tensor, channels: int, d_state: int) -> tuple[Tensor, Tensor, Tensor]:
    """The columns of dt `(batch, L, K, channels)`, B and C `(batch, L, K, N)`: views.

    Args:
        product: `(batch, L, K * (channels + 2 N))`: dt of all K directions, then B and C of each.
        channels, d_state: of the scan, d_inner and N.
    """
    directions = product.shape[-1] // (channels + 2 * d_state)
    dt = product[..., : directions * channels].unflatten(-1, (directions, channels))
    B, C = product[..., directions * channels :].unflatten(-1, (directions, 2, d_state)).unbind(-2)
    return dt, B, C


def output_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of y for x of `dtype`: fp32 for fp16 inputs, whose range the sum over states can exceed."""
    return torch.float32 if dtype == torch.float16 else dtype
