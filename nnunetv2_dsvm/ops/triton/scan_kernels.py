"""What an implementation of the scan's two kernels promises, so that a faster one can take the place of another."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.scan_inputs import ScanShape
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchPlan, LaunchSettings


class DirectionGradients(NamedTuple):
    """Gradients of the scan that backward does not write into tensors it is given."""

    x: Tensor  # of each direction, (batch, L, K, channels)
    A: Tensor  # (sequences, K, N, channels), to be summed over the first, images or their chunks
    dt_bias: Tensor  # (sequences, K, channels), likewise


class ScanKernels(ABC):
    """Forward and backward of all directions, without the skip D x.

    delta is after softplus, or may be dt itself where `takes_dt`; A and dt_bias are contiguous fp32; B and C have the
    same strides; x, delta, B and C are read in place.

    Attributes:
        states_dtype: of the states that forward saves; backward is the one whose states they are.
        dt_dtype: of the gradient of dt that backward writes; None: of any.
        takes_dt: whether both make delta from dt themselves.
    """

    states_dtype: torch.dtype
    dt_dtype: torch.dtype | None = None
    takes_dt: bool = False

    @abstractmethod
    def supports(self, shape: ScanShape, dtype: torch.dtype, device: torch.device, save: bool) -> bool:
        """Whether it runs such a call; `dtype` is the common one of x, B and C, and with `save` a backward follows."""

    def suits(self, shape: ScanShape, device: torch.device) -> bool:
        """Whether calls of this shape are its, whatever the environment says."""
        return True

    @abstractmethod
    def interval(self, settings: LaunchSettings) -> int:
        """Tokens between saved states."""

    @abstractmethod
    def forward(
        self, plan: LaunchPlan, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, dt_bias: Tensor,
        saved: Tensor | None, dtype: torch.dtype, raw: bool,
    ) -> Tensor:  # fmt: skip
        """The output of each direction `(batch, L, K, channels)` in `dtype`; states `(batch, K, n, N, channels)` into
        `saved`, unless None: one before every `interval`-th token. If `raw`, delta is dt."""

    @abstractmethod
    def backward(
        self, plan: LaunchPlan, grad: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
        dt_bias: Tensor, saved: Tensor, grad_dt: Tensor, grad_B: Tensor, grad_C: Tensor, raw: bool,
    ) -> DirectionGradients:  # fmt: skip
        """The gradients; those of dt, B and C are written into tensors of their shapes. If `raw`, delta is dt."""
