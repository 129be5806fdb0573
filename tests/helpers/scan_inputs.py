"""Random inputs of the scan and the measure by which results are compared."""

import torch
from torch import Tensor

NAMES = ("x", "dt", "A", "B", "C", "D", "dt_bias")


def scan_inputs(
    batch: int, height: int, width: int, d_inner: int, d_state: int, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """x, dt, A, B, C, D, dt_bias with magnitudes as in a trained network; the last two and A in at least fp32."""
    length, parameters = height * width, torch.promote_types(dtype, torch.float32)

    def normal(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64).to(dtype)

    tensors = (
        normal(batch, length, d_inner),
        normal(batch, length, 4, d_inner),
        -torch.exp(normal(4, d_inner, d_state, dtype=parameters)),
        normal(batch, length, 4, d_state),
        normal(batch, length, 4, d_state),
        normal(4, d_inner, dtype=parameters),
        normal(4, d_inner, dtype=parameters) - 2,
    )
    return [t.requires_grad_() for t in tensors]


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Relative L2 error in fp64; NaN, which no comparison accepts, where either holds a NaN."""
    got, expected = got.detach().double(), expected.detach().double()
    return ((got - expected).norm() / expected.norm().clamp_min(1e-30)).item()
