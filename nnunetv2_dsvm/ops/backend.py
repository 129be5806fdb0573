"""The contract of a backend: what runs the scan, and what it may run besides, fused.

A backend is one module in `ops/backends` and one line in `dispatch.BACKENDS`, whose key is its name. Nothing else in
the package asks which one it talks to.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.resampling import Resampling
from nnunetv2_dsvm.ops.scan_inputs import ScanGradients, ScanInputs, ScanShape
from nnunetv2_dsvm.ops.scan_order import ScanOrder

# Tokens between the states that the fused scan keeps for backward, and that memory is planned with: 1/64 of the states'
# memory, 1/64 of their traffic. Kept in 16 bit twice as often, they take the same bytes.
SAVED_STATES_INTERVAL = 64

Orders = tuple[ScanOrder, ...] | None  # None: `axis_orders`
CoreGradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class FusedOperators(ABC):
    """Operators around the scan, each a kernel or a few. Tensors are on the GPU that is the current one."""

    @abstractmethod
    def core_forward(
        self, x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor, shape: ScanShape, save: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The scan with the projections that give dt, B and C.

        Args:
            x, weight, A, D, dt_bias: as in `fused_core.scan_core`.
            shape: of the scan, with its grid and walks.
            save: whether a backward follows.

        Returns:
            y in `projections.output_dtype`, and with `save` what `core_backward` starts from, as the backend's
            `saved_states`.
        """

    @abstractmethod
    def core_norm_forward(
        self, x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor, norm_weight: Tensor, norm_bias: Tensor,
        gate: Tensor, shape: ScanShape, save: bool, eps: float, dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
        """`layer_norm_forward` of `core_forward`'s y, with a gate of y's shape.

        Returns:
            The norm's result `(batch, L, d_inner)` in `dtype`, and with `save` y and what `core_backward` starts from.
        """

    @abstractmethod
    def core_backward(
        self, grad: Tensor, saved: Tensor, x: Tensor, weight: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor,
        shape: ScanShape,
    ) -> CoreGradients:  # fmt: skip
        """The gradients of x, weight, A, D and dt_bias from `grad`, that of y."""

    @abstractmethod
    def layer_norm_forward(
        self, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float, dtype: torch.dtype,
        resampling: Resampling | None = None,
    ) -> Tensor:  # fmt: skip
        """LayerNorm over the last axis, of x or resampled, times SiLU(gate) if there is a gate, in `dtype`.

        As `layer_norm`. A gate and a resampling do not come together.
        """

    @abstractmethod
    def layer_norm_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, eps: float,
        resampling: Resampling | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """The gradients of x, weight, bias and gate (empty without one) from `grad`, that of the result."""

    @abstractmethod
    def convolution_forward(self, u: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
        """conv(u) + bias, a depthwise convolution with zeros around u, or silu of that.

        Args:
            u: `(B, *sizes, C)`; fp32, fp16 or bf16.
            weight: `(C, 1, k, …)`, k odd.
            bias: `(C,)`, or None for 0.
            silu: whether SiLU follows.

        Returns:
            u's shape, contiguous, in u's dtype. Weights are not rounded to it.
        """

    @abstractmethod
    def convolution_backward(
        self, grad: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, own: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of u, weight and bias (also without one) from `grad`, that of the result.

        Args:
            grad, u, weight, bias, silu: as before.
            own: whether it is called by an operator that needs `grad` no more, which is overwritten, and whose
                gradients of parameters may be put off (`side_branch.later`).
        """

    @abstractmethod
    def batch_statistics(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (the mean square) of each channel of `(B, H, W, C)` over all pixels; `(C,)`, fp32."""

    @abstractmethod
    def normalised_convolution_forward(
        self, u: Tensor, mean: Tensor, var: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor,
        bias: Tensor,
    ) -> Tensor:  # fmt: skip
        """conv(relu(norm(u))) + bias, a depthwise convolution of images with zeros around what the ReLU gives.

        Args:
            u: `(B, H, W, C)`; fp32, fp16 or bf16.
            mean, var, norm_weight, norm_bias, eps: of the norm, channel by channel; `(C,)`, fp32.
            weight: `(C, 1, k, k)`, k odd.
            bias: `(C,)`.
        """

    @abstractmethod
    def normalised_convolution_backward(
        self, grad: Tensor, u: Tensor, mean: Tensor, var: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float,
        weight: Tensor, bias: Tensor, batch: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """The gradients of u, norm_weight, norm_bias, weight and bias from `grad`, that of the result.

        With `batch`, mean and variance are those of u and change with it.
        """

    @abstractmethod
    def scaled_sum(self, x: Tensor | None, branch: Tensor, scale: Tensor) -> Tensor:
        """x + scale * branch, or without x scale * branch: `(B, …)` and a factor for each image, `(B, 1, …)`."""

    @abstractmethod
    def resized_mse(self, student: Tensor, teacher: Tensor, upstream: Tensor | None) -> Tensor:
        """The value of `fused.resized_mse.resized_mse`, or the student's gradient from `upstream`, the value's."""

    @abstractmethod
    def resized_mse_ahead(
        self, students: Sequence[Tensor], teachers: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The mean of the values of `fused.resized_mse.resized_mse` of some pairs, whose maps are read once.

        Args:
            students, teachers: of each pair; one at least.
            gradients: where that of each student goes, of its shape and with channels last in memory; none: nowhere.

        Returns:
            The mean, a scalar in fp32, and the sums of the gradients over batch and pixels, those of all channels of
            the first student, then those of the second and so on; in fp32, empty without gradients.
        """

    @abstractmethod
    def average_pool(self, features: Tensor, window: Sequence[int]) -> Tensor:
        """As `fused.average_pool.average_pool`."""

    @abstractmethod
    def average_pool_backward(self, grad: Tensor, window: Sequence[int]) -> Tensor:
        """The gradient of the features from `grad`, that of the means; channels last in memory."""


class Backend(ABC):
    """What runs the scan.

    Attributes:
        fused: operators around the scan that the backend runs besides, or None.
        definition: the plain loop that the others are compared with, too slow for large grids. Asked for by name, it
            runs outside of any operator of ours: autograd differentiates `forward`, and `backward` is not called.
        plain_torch: made of torch's operators, thousands of them a call, which takes long on a GPU.
    """

    fused: FusedOperators | None = None
    definition: bool = False
    plain_torch: bool = False

    @abstractmethod
    def supports(
        self, device: torch.device, dtype: torch.dtype, d_state: int, axes: int, orders: Orders = None
    ) -> tuple[bool, str]:
        """Whether it can run a call, and the reason, which users read: say what is missing.

        Args:
            device, dtype: of x.
            d_state: states per channel, N.
            axes: of the token grid.
            orders: of the directions.
        """

    @abstractmethod
    def forward(self, inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor | None]:
        """y `(batch, L, d_inner)` in x's dtype, and with `save` what helps `backward`, as `saved_states`, or None."""

    def backward(self, grad: Tensor, inputs: ScanInputs, saved: Tensor | None) -> ScanGradients:
        """The gradients from `grad`, that of y, and from what `forward` saved; None: it is made again."""
        raise NotImplementedError(f"{type(self).__name__} leaves its gradients to autograd")

    def saved_states(self, shape: ScanShape, dtype: torch.dtype, like: Tensor) -> Tensor:
        """A new tensor as `forward` saves for inputs of `dtype`, on the device of `like`; empty if it saves nothing."""
        return like.new_empty(0)
