"""Records a network's kernels once per kind of call and replays them as a CUDA graph.

A VM-UNet launches about a thousand small kernels; on a fast GPU the launches take longer than the work. A graph
launches them all at once. Kernels, their order and so the results are those of the same call without a graph.
"""

import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _get_current_dispatch_mode

logger = logging.getLogger(__name__)

CALLS_BEFORE = 2  # of a kind, without a graph: they compile kernels, and a size that does not return costs nothing
MAX_GRAPHS = 4
_MAX_REMEMBERED = 64
_NEVER = -1  # instead of a number of calls: recording has failed
VARIABLE = "NNUNETV2_DSVM_CUDA_GRAPHS"


class _Hold:
    """Alive while the backward of a recorded forward may still be called."""


class CudaGraphs:
    """Runs `function(x)` of a network through CUDA graphs where that gives the same result, and as it is elsewhere.

    Graphs are for CUDA tensors on NVIDIA GPUs. Hooks, torch.compile, gradient checkpointing, a gradient of the image,
    and anything else that has to see the single operations turn them off for a call; a change of the image's size, of a
    parameter's place in memory, of autocast or of training mode makes another graph. `NNUNETV2_DSVM_CUDA_GRAPHS=0`
    turns them off.

    Args:
        inference: whether calls without autograd use them; what they return is a copy.
        training: whether calls with autograd do. Then outputs and gradients lie in the graph's memory: outputs are
            valid until the next training call, and `.grad` until the next backward, unless it is accumulated.
    """

    def __init__(self, inference: bool = True, training: bool = False) -> None:
        self.inference = inference
        self.training = training
        self._graphs: OrderedDict[Any, _Recorded] = OrderedDict()
        self._calls: OrderedDict[Any, int] = OrderedDict()
        self._pending: Callable[[], _Hold | None] = lambda: None
        self._pool: Any = None

    def __deepcopy__(self, memo: dict) -> "CudaGraphs":
        return type(self)(self.inference, self.training)

    def __reduce__(self) -> tuple:
        return type(self), (self.inference, self.training)

    def __call__(self, network: nn.Module, function: Callable[[Tensor], Any], x: Tensor) -> Any:
        """`function(x)`, where `function` is a method of `network` that depends on x and its parameters only."""
        recording_grads = torch.is_grad_enabled()
        if not (self.training if recording_grads else self.inference) or not _possible(x):
            return function(x)
        key = _state(network, x)
        # Graphs share memory: a forward whose backward is still to come must not be overwritten.
        if key is None or self._pending() is not None:
            return function(x)
        if key not in self._graphs and not self._record(key, network, function, x):
            return function(x)
        self._graphs.move_to_end(key)
        graph = self._graphs[key]
        if not recording_grads:
            return graph.infer(x)
        output, hold = graph.train(x)
        self._pending = weakref.ref(hold)
        return output

    def _record(self, key: Any, network: nn.Module, function: Callable[[Tensor], Any], x: Tensor) -> bool:
        calls = self._calls.pop(key, 0)
        if calls < CALLS_BEFORE:
            self._calls[key] = _NEVER if calls == _NEVER else calls + 1
            if len(self._calls) > _MAX_REMEMBERED:
                self._calls.popitem(last=False)
            return False
        while len(self._graphs) >= MAX_GRAPHS:
            self._graphs.popitem(last=False)
        if not self._graphs:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            parameters = [p for p in network.parameters() if p.requires_grad] if torch.is_grad_enabled() else []
            self._graphs[key] = _Recorded(function, x, parameters, self._pool)
        except RuntimeError as error:  # also out of memory
            self._calls[key] = _NEVER
            logger.warning("no CUDA graph for %s, running without: %s", tuple(x.shape), str(error).split("\n")[0])
            torch.cuda.synchronize(x.device)
            return False
        return True


def _possible(x: Tensor) -> bool:
    """Whether a graph can stand for a call on x at all, parameters apart."""
    if x.device.type != "cuda" or torch.version.hip is not None or os.environ.get(VARIABLE, "1") == "0":
        return False
    watched = (
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
        or _get_current_dispatch_mode() is not None
        or torch.is_anomaly_enabled()
        or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    )
    differentiated = torch.is_grad_enabled() and x.requires_grad
    return not (watched or differentiated or torch.cuda.is_current_stream_capturing())


def _state(network: nn.Module, x: Tensor) -> Any:
    """What a graph depends on; None where a module wants to see every call."""
    parts: list[Any] = []
    for module in network.modules():
        if (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
            or (module.training and torch.is_grad_enabled() and getattr(module, "gradient_checkpointing", False))
        ):
            return None
        parts += (module.training, getattr(module, "return_features", None), getattr(module, "deep_supervision", None))
        for tensors in (module._parameters, module._buffers):
            parts += [(t.data_ptr(), t.dtype, t.requires_grad) for t in tensors.values() if t is not None]
    device = x.device.type
    modes = (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
    )
    return x.shape, x.stride(), x.dtype, x.device, modes, tuple(parts)


class _Recorded:
    """One recorded call: its memory, the graph of its forward and, for parameters, that of its backward."""

    def __init__(self, function: Callable[[Tensor], Any], x: Tensor, parameters: list[Tensor], pool: Any) -> None:
        device = x.device.type
        self.parameters = parameters
        autocast = torch.autocast(
            device,
            dtype=torch.get_autocast_dtype(device),
            enabled=torch.is_autocast_enabled(device),
            cache_enabled=False,  # or weights, converted before the recording, would stay as they were
        )
        with torch.cuda.device(x.device), torch.inference_mode(False), torch.set_grad_enabled(bool(parameters)):
            self.x = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
            self.x.copy_(x)
            torch.cuda.synchronize()
            torch.cuda.empty_cache()  # what the calls without a graph left over
            self.forward = torch.cuda.CUDAGraph()
            # thread_local: nnU-Net's other threads pin memory meanwhile.
            with torch.cuda.graph(self.forward, pool=pool, capture_error_mode="thread_local"), autocast:
                output = function(self.x)
            tensors, self.spec = pytree.tree_flatten(output)
            self.grad_outputs = [torch.zeros_like(t) if t.requires_grad else None for t in tensors]
            self.grads: list[Tensor | None] = []
            if parameters:
                self.backward = torch.cuda.CUDAGraph()
                wanted = [(t, g) for t, g in zip(tensors, self.grad_outputs, strict=True) if g is not None]
                with torch.cuda.graph(self.backward, pool=pool, capture_error_mode="thread_local"):
                    self.grads = list(
                        torch.autograd.grad(
                            [t for t, _ in wanted], parameters, [g for _, g in wanted], allow_unused=True
                        )
                    )
            self.outputs = [t.detach() for t in tensors]

    def infer(self, x: Tensor) -> Any:
        self.x.copy_(x)
        self.forward.replay()
        return pytree.tree_unflatten([t.clone() for t in self.outputs], self.spec)

    def train(self, x: Tensor) -> tuple[Any, _Hold]:
        # A gradient that is being accumulated must survive the next backward.
        for parameter, grad in zip(self.parameters, self.grads, strict=True):
            if grad is not None and parameter.grad is not None and parameter.grad.data_ptr() == grad.data_ptr():
                parameter.grad = parameter.grad.clone()
        self.x.copy_(x)
        hold = _Hold()
        outputs = _Replay.apply(self, hold, *self.parameters)
        return pytree.tree_unflatten(list(outputs), self.spec), hold


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, recorded: _Recorded, hold: _Hold, *parameters: Tensor):
        ctx.recorded, ctx.hold = recorded, hold
        recorded.forward.replay()
        return tuple(t.detach() for t in recorded.outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads: Tensor):
        if ctx.hold is None:
            raise RuntimeError(
                "a training step that was recorded as a CUDA graph goes backward once only; set cuda_graphs.training "
                "= False of the network to go backward more often"
            )
        recorded, ctx.hold = ctx.recorded, None
        for kept, grad in zip(recorded.grad_outputs, grads, strict=True):
            if kept is not None and grad is not None:
                kept.copy_(grad)
        recorded.backward.replay()
        return None, None, *(None if g is None else g.detach() for g in recorded.grads)
