"""The scan of tensors in memory, by the fastest kernels that run it: for the backend and its fused core."""

import math

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.scan_inputs import ScanGradients, ScanInputs, ScanShape, common_dtype
from nnunetv2_dsvm.ops.triton.elementwise import delta_dtype, merge, softplus
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchPlan, LaunchSettings
from nnunetv2_dsvm.ops.triton.nvrtc_scan import NVRTCScan
from nnunetv2_dsvm.ops.triton.scan_kernels import DirectionGradients, ScanKernels
from nnunetv2_dsvm.ops.triton.triton_scan import TritonScan

# Fastest first; the last runs every call.
SCAN_KERNELS: tuple[ScanKernels, ...] = (NVRTCScan(), TritonScan())


def _kernels(shape: ScanShape, dtype: torch.dtype, device: torch.device) -> ScanKernels:
    return next(kernels for kernels in SCAN_KERNELS if kernels.supports(shape, dtype, device))


def _kernels_of(saved: Tensor) -> ScanKernels:
    """Those whose forward saved the states."""
    return next(kernels for kernels in SCAN_KERNELS if kernels.states_dtype == saved.dtype)


def _saved_states(kernels: ScanKernels, shape: ScanShape, settings: LaunchSettings, like: Tensor) -> Tensor:
    """Uninitialised, `(batch, K, intervals, N, channels)`."""
    intervals = math.ceil(shape.visited / kernels.interval(settings))
    sizes = (shape.batch, shape.directions, intervals, shape.d_state, shape.d_inner)
    return like.new_empty(sizes, dtype=kernels.states_dtype)


def saved_states(shape: ScanShape, dtype: torch.dtype, settings: LaunchSettings, like: Tensor) -> Tensor:
    """Uninitialised states, as forward saves them for inputs that are all of `dtype` on the device of `like`."""
    return _saved_states(_kernels(shape, dtype, like.device), shape, settings, like)


def forward_takes_dt(plan: LaunchPlan, dtype: torch.dtype) -> bool:
    """Whether `scan_forward` gets dt in place of delta, for inputs that are all of `dtype`."""
    return _kernels(plan.shape, dtype, plan.device).takes_dt(plan, backward=False)


def backward_takes_dt(plan: LaunchPlan, saved: Tensor) -> bool:
    """Whether `scan_backward` gets dt in place of delta."""
    return _kernels_of(saved).takes_dt(plan, backward=True)


def scan_forward(
    plan: LaunchPlan, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, dt_bias: Tensor, save: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """In `dtype`, the output of each direction without the skip, `(batch, L, K, channels)`, and the saved states."""
    kernels = _kernels(plan.shape, common_dtype(x, B, C), plan.device)
    saved = _saved_states(kernels, plan.shape, plan.settings, x) if save else None
    return kernels.forward(plan, x, delta, A, B, C, dt_bias, saved, dtype), saved


def scan_backward(
    plan: LaunchPlan, grad: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, dt_bias: Tensor,
    saved: Tensor, grad_dt: Tensor, grad_B: Tensor, grad_C: Tensor,
) -> DirectionGradients:  # fmt: skip
    """Gradients, without those of the skip. Those of dt, B and C are written into tensors of their shapes."""
    return _kernels_of(saved).backward(plan, grad, x, delta, A, B, C, dt_bias, saved, grad_dt, grad_B, grad_C)


def merge_with_skip(
    shape: ScanShape, parts: Tensor, skip: Tensor, D: Tensor, dtype: torch.dtype, other: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """`parts` `(batch, L, K, channels)` summed over K plus skip * D of each direction that visits a token, in `dtype`.

    The second result is each direction's sum of skip * other over its tokens, `(K, channels)`.
    """
    if shape.step == 1:
        out, dot = merge(parts, skip, D.sum(0), dtype, other)
        return out, None if dot is None else dot.expand_as(D)
    visits = _visits(shape, skip.device)
    out, _ = merge(parts, skip, torch.zeros_like(D[0]), torch.float32)
    out = torch.addcmul(out, skip.float(), visits @ D).to(dtype)
    return out, None if other is None else visits.mT @ (skip.float() * other).sum(0)


def _visits(shape: ScanShape, device: torch.device) -> Tensor:
    """1 where a direction visits a token and 0 elsewhere, `(L, K)`; by arithmetic, so that a CUDA graph records it."""
    places = torch.unravel_index(torch.arange(shape.length, device=device), shape.sizes)
    number = torch.zeros_like(places[0])
    for place in places:
        number = number * shape.step + place % shape.step
    numbers = []
    for order in shape.orders or ():
        numbers.append(0)
        for phase in order.phase:
            numbers[-1] = numbers[-1] * shape.step + phase
    return torch.stack([number == n for n in numbers], dim=-1).float()


def _prepare(
    inputs: ScanInputs, settings: LaunchSettings
) -> tuple[LaunchPlan, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(the plan, x, delta, A, B, C, dt_bias), as the kernels read them."""
    x, dt, A, B, C, _, dt_bias = inputs.tensors
    delta = torch.empty(dt.shape, dtype=delta_dtype(x.dtype), device=x.device)
    dt_bias = dt_bias.float().contiguous()
    delta = softplus(dt.contiguous(), dt_bias, delta)
    plan = LaunchPlan(inputs.shape, x.device, settings)
    return plan, x.contiguous(), delta, A.float().contiguous(), B.contiguous(), C.contiguous(), dt_bias


def forward(inputs: ScanInputs, save: bool, settings: LaunchSettings) -> tuple[Tensor, Tensor | None]:
    """As `Backend.forward`."""
    plan, x, delta, A, B, C, dt_bias = _prepare(inputs, settings)
    # A direction alone can exceed the range of float16 where the sum does not.
    dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
    parts, saved = scan_forward(plan, x, delta, A, B, C, dt_bias, save, dtype)
    return merge_with_skip(plan.shape, parts, x, inputs.D.float(), x.dtype)[0], saved


def backward(grad: Tensor, inputs: ScanInputs, saved: Tensor | None, settings: LaunchSettings) -> ScanGradients:
    """As `Backend.backward`."""
    if saved is None:
        saved = forward(inputs, True, settings)[1]
        assert saved is not None  # it was asked for
    grad = grad.contiguous()
    plan, x, delta, A, B, C, dt_bias = _prepare(inputs, settings)
    dtype = _kernels_of(saved).dt_dtype or inputs.dt.dtype
    grad_dt = torch.empty_like(inputs.dt, dtype=dtype, memory_format=torch.contiguous_format)
    grad_B, grad_C = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (B, C))
    g = scan_backward(plan, grad, x, delta, A, B, C, dt_bias, saved, grad_dt, grad_B, grad_C)
    grad_x, grad_D = merge_with_skip(plan.shape, g.x, grad, inputs.D.float(), x.dtype, other=x)
    assert grad_D is not None  # for `other` there is one
    grads = (grad_x, grad_dt, g.A, grad_B, grad_C, grad_D, g.dt_bias)
    return ScanGradients(*(g.to(t.dtype).contiguous() for g, t in zip(grads, inputs.tensors, strict=True)))
