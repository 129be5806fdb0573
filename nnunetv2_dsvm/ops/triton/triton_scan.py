"""The scan's Triton kernels: launches.

All directions read one channels-last x by index arithmetic. The states are saved only every `interval` tokens and
recomputed in backward; sums that other backends make with atomics are made from partial sums, so that every run gives
the same bits. Where images and channels do not fill the GPU, L is cut into chunks that run at the same time.
"""

import math

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.scan_inputs import ScanShape, token_strides
from nnunetv2_dsvm.ops.triton.launch_plan import ONE_STATE_CHANNELS, LaunchPlan, LaunchSettings, Tile, grid_arguments
from nnunetv2_dsvm.ops.triton.runtime import device_numbers, next_power_of_2
from nnunetv2_dsvm.ops.triton.scan_kernels import DirectionGradients, ScanKernels
from nnunetv2_dsvm.ops.triton.sums import sum_blocks


def chunk_states(
    plan: LaunchPlan, tile: Tile, chunks: int, chunk_length: int, v: Tensor, delta: Tensor, A: Tensor, w: Tensor,
    reverse: bool,
) -> Tensor:  # fmt: skip
    """The initial state (reverse: the final dh) of each chunk, `(batch, K, chunks, N, channels)`.

    Args:
        plan, tile: of the kernels that make it.
        chunks, chunk_length: of an image, in tokens.
        v: x; reverse: the gradient of y.
        delta, A: as in `ScanKernels`.
        w: B; reverse: C.
        reverse: from the end.
    """
    from nnunetv2_dsvm.ops.triton.kernels.scan_forward import chunk_end_kernel, chunk_entry_kernel

    batch, _, channels, d_state, directions, _ = plan.shape
    end = torch.empty(batch, directions, chunks, d_state, channels, dtype=torch.float32, device=plan.device)
    time = torch.empty(batch, directions, chunks, channels, dtype=torch.float32, device=plan.device)
    grid = (math.ceil(channels / tile.channels), directions, batch * chunks)
    chunk_end_kernel[grid](
        v, delta, A, w, end, time, plan.shape.length, channels, d_state, *grid_arguments(plan.shape),
        chunks, chunk_length, *token_strides(v, delta, w), w.stride(2), 1,
        REVERSE=reverse, **plan.constants(tile, (v, delta), (w,)), **tile._asdict(), num_warps=1,
    )  # fmt: skip
    block = min(256, next_power_of_2(d_state * channels))
    chunk_entry_kernel[(math.ceil(d_state * channels / block), batch * directions)](
        end, time, A, channels, d_state, chunks, REVERSE=reverse, K=directions, BLOCK=block, num_warps=2
    )
    return end


def _per_direction(plan: LaunchPlan, size: int, dtype: torch.dtype, *blocks: int) -> Tensor:
    """For results `(*blocks, batch, L, K, size)`, 0 at the tokens that a direction does not visit."""
    shape = plan.shape
    make = torch.zeros if shape.step > 1 else torch.empty
    return make(*blocks, shape.batch, shape.length, shape.directions, size, dtype=dtype, device=plan.device)


class TritonScan(ScanKernels):
    """The kernels of `kernels/scan_forward.py` and `kernels/scan_backward.py`."""

    states_dtype = torch.float32

    def supports(self, shape: ScanShape, dtype: torch.dtype, device: torch.device, save: bool) -> bool:
        """Whatever the backend does."""
        return True

    def interval(self, settings: LaunchSettings) -> int:
        """As set."""
        return settings.interval

    def forward(
        self, plan: LaunchPlan, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, dt_bias: Tensor,
        saved: Tensor | None, dtype: torch.dtype, raw: bool,
    ) -> Tensor:  # fmt: skip
        """As `ScanKernels.forward`; not of dt."""
        from nnunetv2_dsvm.ops.triton.kernels.scan_forward import forward_kernel

        batch, _, channels, d_state, directions, _ = plan.shape
        length = plan.shape.length
        tile = plan.forward_tile()
        chunks, chunk_length = plan.chunks(tile)
        initial_state = None
        if chunks > 1:
            initial_state = chunk_states(plan, tile, chunks, chunk_length, x, delta, A, B, reverse=False)
        y = _per_direction(plan, channels, dtype)
        grid = (math.ceil(channels / tile.channels), directions, batch * chunks)
        forward_kernel[grid](
            x, delta, A, B, C, y, initial_state, saved, length, channels, d_state, *grid_arguments(plan.shape),
            chunks, chunk_length, plan.intervals, *token_strides(x, delta, B), B.stride(2), 1,
            HAS_INITIAL_STATE=chunks > 1, SAVE=saved is not None, INTERVAL=plan.settings.interval,
            **plan.constants(tile, (x, delta), (B, C)), **tile._asdict(), num_warps=1,
        )  # fmt: skip
        return y

    def backward(
        self, plan: LaunchPlan, grad: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
        dt_bias: Tensor, saved: Tensor, grad_dt: Tensor, grad_B: Tensor, grad_C: Tensor, raw: bool,
    ) -> DirectionGradients:  # fmt: skip
        """As `ScanKernels.backward`."""
        from nnunetv2_dsvm.ops.triton.kernels.scan_backward import backward_kernel

        batch, _, channels, d_state, directions, _ = plan.shape
        length, interval, tile = plan.shape.length, plan.settings.interval, plan.tile()
        chunks, chunk_length = plan.chunks(tile)
        final_dh = None
        if chunks > 1:
            final_dh = chunk_states(plan, tile, chunks, chunk_length, grad, delta, A, C, reverse=True)
        blocks = math.ceil(channels / tile.channels)

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=plan.device)

        gx = _per_direction(plan, channels, x.dtype)
        gb, gc = (_per_direction(plan, d_state, torch.float32, blocks) for _ in range(2))
        if plan.shape.step > 1:
            grad_dt.zero_()
        ga = empty(batch * chunks, directions, d_state, channels)
        gbias = empty(batch * chunks, directions, channels)
        programs = blocks * directions * batch * chunks
        scratch = empty(programs * (interval // tile.T) * tile.channels * tile.LN * tile.SN)
        backward_kernel[(blocks, directions, batch * chunks)](
            grad, x, delta, A, B, C, saved, final_dh, scratch, gx, grad_dt, gb, gc, ga, gbias,
            length, channels, d_state, *grid_arguments(plan.shape), chunks, chunk_length, plan.intervals,
            *token_strides(grad, x, delta, B), B.stride(2), *token_strides(grad_dt), 1,
            HAS_FINAL_DH=chunks > 1, INTERVAL=interval, **plan.constants(tile, (grad, x, delta), (B, C)),
            **tile._asdict(), num_warps=1,
        )  # fmt: skip
        sum_blocks(gb, gc, grad_B, grad_C)
        return DirectionGradients(gx, ga, gbias)


class OneStateScan(ScanKernels):
    """The kernels of `kernels/scan_one_state.py`, for images and channels enough to fill the GPU without chunks."""

    states_dtype = torch.float32
    takes_dt = True

    def suits(self, shape: ScanShape, device: torch.device) -> bool:
        """One state, and a program for each multiprocessor."""
        if shape.d_state != 1:
            return False
        programs = shape.batch * shape.directions * math.ceil(shape.d_inner / ONE_STATE_CHANNELS)
        return programs >= device_numbers(device)[0]

    def supports(self, shape: ScanShape, dtype: torch.dtype, device: torch.device, save: bool) -> bool:
        """Whatever suits it."""
        return self.suits(shape, device)

    def interval(self, settings: LaunchSettings) -> int:
        """As set: the tokens that a program takes at once."""
        return settings.interval

    def forward(
        self, plan: LaunchPlan, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, dt_bias: Tensor,
        saved: Tensor | None, dtype: torch.dtype, raw: bool,
    ) -> Tensor:  # fmt: skip
        """As `ScanKernels.forward`."""
        from nnunetv2_dsvm.ops.triton.kernels.scan_one_state import one_state_forward_kernel

        shape, tile = plan.shape, plan.one_state_tile()
        y = _per_direction(plan, shape.d_inner, dtype)
        grid = (math.ceil(shape.d_inner / tile.BLOCK_D), shape.directions, shape.batch)
        one_state_forward_kernel[grid](
            x, delta, dt_bias, A, B, C, y, saved,
            shape.length, shape.d_inner, *grid_arguments(shape), plan.intervals,
            *token_strides(x, delta, B), B.stride(2), 1, RAW=raw, SAVE=saved is not None,
            **plan.one_state_constants(tile, x, delta),
        )  # fmt: skip
        return y

    def backward(
        self, plan: LaunchPlan, grad: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
        dt_bias: Tensor, saved: Tensor, grad_dt: Tensor, grad_B: Tensor, grad_C: Tensor, raw: bool,
    ) -> DirectionGradients:  # fmt: skip
        """As `ScanKernels.backward`."""
        from nnunetv2_dsvm.ops.triton.kernels.scan_one_state import one_state_backward_kernel

        shape, tile = plan.shape, plan.one_state_tile()
        blocks = math.ceil(shape.d_inner / tile.BLOCK_D)
        gx = _per_direction(plan, shape.d_inner, x.dtype)
        gb, gc = (_per_direction(plan, 1, torch.float32, blocks) for _ in range(2))
        if shape.step > 1:
            grad_dt.zero_()
        ga = torch.empty(shape.batch, shape.directions, 1, shape.d_inner, dtype=torch.float32, device=plan.device)
        gbias = torch.empty_like(ga[:, :, 0])
        one_state_backward_kernel[(blocks, shape.directions, shape.batch)](
            grad, x, delta, dt_bias, A, B, C, saved, gx, grad_dt, gb, gc, ga, gbias,
            shape.length, shape.d_inner, *grid_arguments(shape), plan.intervals,
            *token_strides(grad, x, delta, B), B.stride(2), *token_strides(grad_dt), 1, RAW=raw,
            **plan.one_state_constants(tile, grad, x, delta, grad_dt),
        )  # fmt: skip
        sum_blocks(gb, gc, grad_B, grad_C)
        return DirectionGradients(gx, ga, gbias)
