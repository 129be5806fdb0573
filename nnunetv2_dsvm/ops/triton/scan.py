"""The scan of tensors in memory, by the fastest kernels that run it: for the backend and its fused core."""

import math

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.scan_inputs import ScanGradients, ScanInputs, ScanShape, common_dtype
from nnunetv2_dsvm.ops.side_branch import wait
from nnunetv2_dsvm.ops.triton.elementwise import delta_dtype, merge, softplus
from nnunetv2_dsvm.ops.triton.launch_plan import LaunchPlan, LaunchSettings
from nnunetv2_dsvm.ops.triton.nvrtc_scan import NVRTCScan
from nnunetv2_dsvm.ops.triton.scan_kernels import ScanKernels
from nnunetv2_dsvm.ops.triton.sums import sum_scan
from nnunetv2_dsvm.ops.triton.triton_scan import OneStateScan, TritonScan

# Fastest first; the last runs every call.
SCAN_KERNELS: tuple[ScanKernels, ...] = (NVRTCScan(), OneStateScan(), TritonScan())


def _kernels(shape: ScanShape, dtype: torch.dtype, device: torch.device, save: bool) -> ScanKernels:
    return next(kernels for kernels in SCAN_KERNELS if kernels.supports(shape, dtype, device, save))


def _kernels_of(saved: Tensor, shape: ScanShape) -> ScanKernels:
    """Those whose forward saved the states."""
    return next(k for k in SCAN_KERNELS if k.states_dtype == saved.dtype and k.suits(shape, saved.device))


def _saved_states(kernels: ScanKernels, shape: ScanShape, settings: LaunchSettings, like: Tensor) -> Tensor:
    """Uninitialised, `(batch, K, intervals, N, channels)`."""
    intervals = math.ceil(shape.visited / kernels.interval(settings))
    sizes = (shape.batch, shape.directions, intervals, shape.d_state, shape.d_inner)
    return like.new_empty(sizes, dtype=kernels.states_dtype)


def saved_states(shape: ScanShape, dtype: torch.dtype, settings: LaunchSettings, like: Tensor) -> Tensor:
    """Uninitialised states, as forward saves them for inputs that are all of `dtype` on the device of `like`."""
    return _saved_states(_kernels(shape, dtype, like.device, save=True), shape, settings, like)


def forward_takes_dt(plan: LaunchPlan, dtype: torch.dtype, save: bool) -> bool:
    """Whether `scan_forward` takes dt in place of delta, for inputs that are all of `dtype`."""
    return _kernels(plan.shape, dtype, plan.device, save).takes_dt


def backward_takes_dt(saved: Tensor, shape: ScanShape) -> bool:
    """Whether `scan_backward` takes dt in place of delta."""
    return _kernels_of(saved, shape).takes_dt


def scan_forward(
    plan: LaunchPlan, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, dt_bias: Tensor, save: bool,
    dtype: torch.dtype, raw: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """In `dtype`, the output of each direction without the skip, `(batch, L, K, channels)`, and the saved states.

    If `raw`, delta is dt.
    """
    kernels = _kernels(plan.shape, common_dtype(x, B, C), plan.device, save)
    saved = _saved_states(kernels, plan.shape, plan.settings, x) if save else None
    return kernels.forward(plan, x, delta, A, B, C, dt_bias, saved, dtype, raw), saved


def scan_backward(
    plan: LaunchPlan, grad: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
    dt_bias: Tensor, saved: Tensor, grad_dt: Tensor, grad_B: Tensor, grad_C: Tensor, raw: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, A, D and dt_bias, with the skip's; those of dt, B and C into tensors of their shapes.

    If `raw`, delta is dt.
    """
    kernels = _kernels_of(saved, plan.shape)
    g = kernels.backward(plan, grad, x, delta, A, B, C, dt_bias, saved, grad_dt, grad_B, grad_C, raw)
    grad_x, dot = _merge(plan.shape, g.x, grad, D, x.dtype, x)
    assert dot is not None  # for `other` there is one
    grad_A, grad_bias, grad_D = sum_scan(g.A, g.dt_bias, dot)
    if plan.shape.step > 1:
        grad_D = _visits(plan.shape, x.device).mT @ (grad.float() * x).sum(0)
    return grad_x, grad_A, grad_D, grad_bias


def merge_with_skip(shape: ScanShape, parts: Tensor, skip: Tensor, D: Tensor, dtype: torch.dtype) -> Tensor:
    """`parts` `(batch, L, K, channels)` summed over K plus skip * D of directions that visit a token, in `dtype`."""
    return _merge(shape, parts, skip, D, dtype, None)[0]


def _merge(
    shape: ScanShape, parts: Tensor, skip: Tensor, D: Tensor, dtype: torch.dtype, other: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """`merge_with_skip`, and the second result of `merge`."""
    if shape.step == 1:
        return merge(parts, skip, D, dtype, other)
    out, dot = merge(parts, skip, torch.zeros_like(D), torch.float32, other)
    return torch.addcmul(out, skip.float(), _visits(shape, skip.device) @ D).to(dtype), dot


def _visits(shape: ScanShape, device: torch.device) -> Tensor:
    """1 where a direction visits a token and 0 elsewhere, `(L, K)`.

    By arithmetic on the device: a CUDA graph cannot record a copy from the CPU, as `torch.unravel_index` makes two.
    """
    token, place_value = torch.arange(shape.length, device=device), 1
    number = torch.zeros_like(token)
    for size in reversed(shape.sizes):
        number += token % size % shape.step * place_value
        token, place_value = token // size, place_value * shape.step
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
    parts, saved = scan_forward(plan, x, delta, A, B, C, dt_bias, save, dtype, raw=False)
    return merge_with_skip(plan.shape, parts, x, inputs.D.float(), x.dtype), saved


def backward(grad: Tensor, inputs: ScanInputs, saved: Tensor | None, settings: LaunchSettings) -> ScanGradients:
    """As `Backend.backward`."""
    if saved is None:
        saved = forward(inputs, True, settings)[1]
        assert saved is not None  # it was asked for
    grad = grad.contiguous()
    plan, x, delta, A, B, C, dt_bias = _prepare(inputs, settings)
    dtype = _kernels_of(saved, plan.shape).dt_dtype or inputs.dt.dtype
    grad_dt = torch.empty_like(inputs.dt, dtype=dtype, memory_format=torch.contiguous_format)
    grad_B, grad_C = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (B, C))
    grad_x, grad_A, grad_D, grad_bias = scan_backward(
        plan, grad, x, delta, A, B, C, inputs.D.float(), dt_bias, saved, grad_dt, grad_B, grad_C, raw=False
    )
    wait(x.device)  # for the sums, which are converted
    grads = (grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_bias)
    return ScanGradients(*(g.to(t.dtype).contiguous() for g, t in zip(grads, inputs.tensors, strict=True)))
