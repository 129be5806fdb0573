"""Random inputs of the scan, and the measure by which results are compared."""

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.scan_inputs import ScanShape
from nnunetv2_dsvm.ops.testing import INPUT_NAMES as NAMES
from nnunetv2_dsvm.ops.testing import relative_l2 as relative_error

__all__ = ["NAMES", "grid_inputs", "relative_error", "scan_inputs"]


def scan_inputs(
    batch: int, height: int, width: int, d_inner: int, d_state: int, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """`grid_inputs` of an image."""
    return grid_inputs(ScanShape.of_grid(batch, (height, width), d_inner, d_state), dtype)


def grid_inputs(shape: ScanShape, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, dt, A, B, C, D, dt_bias with magnitudes as in a trained network; the last two and A in at least fp32."""
    batch, _, d_inner, d_state, directions, _ = shape
    length, parameters = shape.length, torch.promote_types(dtype, torch.float32)

    def normal(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64).to(dtype)

    tensors = (
        normal(batch, length, d_inner),
        normal(batch, length, directions, d_inner),
        -torch.exp(normal(directions, d_inner, d_state, dtype=parameters)),
        normal(batch, length, directions, d_state),
        normal(batch, length, directions, d_state),
        normal(directions, d_inner, dtype=parameters),
        normal(directions, d_inner, dtype=parameters) - 2,
    )
    return [t.requires_grad_() for t in tensors]
