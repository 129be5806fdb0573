"""Records a module's kernels once per kind of call and replays them as a CUDA graph.

A VM-UNet launches about a thousand small kernels; on a fast GPU the launches take longer than the work. A graph
launches them all at once. Kernels, their order and so the results are those of the same call without a graph.
"""

import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _NothingToDifferentiate(Exception):
    """No output of a call with autograd needs a gradient."""


class _Hold:
    """Alive while the backward of a recorded forward may still be called."""


class CudaGraphs:
    """Runs `function(x)` of a module through CUDA graphs where that gives the same result, and as it is elsewhere.

    Graphs are for CUDA tensors on NVIDIA GPUs. Hooks, torch.compile, gradient checkpointing, a gradient of the image,
    and anything else that has to see the single operations turn them off for a call; a change of the inputs' sizes, of
    a parameter's place in memory, of autocast or of training mode makes another graph. `NNUNETV2_DSVM_CUDA_GRAPHS=0`
    turns them off; so must be done where two threads or streams call one network at the same time.

    Args:
        inference: whether calls without autograd use them; what they return is a copy.
        training: whether calls with autograd do. Then outputs and gradients lie in the graph's memory: outputs are
            valid until the next call, `.grad` until the next backward, unless it is accumulated.
        inputs_stay: for inputs that are another graph's outputs, and so stay where they are in memory. They are read
            there instead of copied, and differentiated where they need it. With other inputs no graph is used.
    """

    def __init__(self, inference: bool = True, training: bool = False, inputs_stay: bool = False) -> None:
        self.inference = inference
        self.training = training
        self.inputs_stay = inputs_stay
        self._graphs: OrderedDict[Any, _Recorded] = OrderedDict()
        self._calls: OrderedDict[Any, int] = OrderedDict()
        self._pending: Callable[[], _Hold | None] = lambda: None
        self._pool: Any = None
        _all.add(self)

    def __deepcopy__(self, memo: dict) -> "CudaGraphs":
        return type(self)(self.inference, self.training, self.inputs_stay)

    def __reduce__(self) -> tuple:
        return type(self), (self.inference, self.training, self.inputs_stay)

    def __call__(self, module: nn.Module, function: Callable[[Any], Any], x: Any) -> Any:
        """`function(x)`, a function of x, a tensor or tuples of tensors, and of the parameters of `module` only."""
        recording_grads = torch.is_grad_enabled()
        inputs, _ = pytree.tree_flatten(x)
        if not (self.training if recording_grads else self.inference) or not self._possible(inputs):
            return function(x)
        key = self._key(module, inputs)
        # Graphs share memory: a forward whose backward is still to come must not be overwritten.
        if key is None or self._pending() is not None:
            return function(x)
        if key not in self._graphs and not self._record(key, module, function, x):
            return function(x)
        self._graphs.move_to_end(key)
        graph = self._graphs[key]
        for other in self._graphs.values():
            other.keep_gradients()  # they lie in the memory that all graphs share
        if not recording_grads:
            return graph.infer(inputs)
        output, hold = graph.train(inputs)
        self._pending = weakref.ref(hold)
        return output

    def _possible(self, inputs: Sequence[Tensor]) -> bool:
        if not _possible(inputs):
            return False
        if self.inputs_stay:
            places = {place for graphs in _all for graph in graphs._graphs.values() for place in graph.output_places}
            return all(x.untyped_storage().data_ptr() in places for x in inputs)
        return not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs))

    def _key(self, module: nn.Module, inputs: Sequence[Tensor]) -> Any:
        state = _state(module, inputs)
        if state is None or not self.inputs_stay:
            return state
        return state, tuple((x.data_ptr(), x.requires_grad) for x in inputs)

    def _record(self, key: Any, module: nn.Module, function: Callable[[Any], Any], x: Any) -> bool:
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
        device = pytree.tree_flatten(x)[0][0].device
        generator = torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
        random_state = generator.clone_state()
        try:
            self._graphs[key] = _Recorded(module, function, x, self._pool, self.inputs_stay)
        except Exception as error:  # out of memory, a kernel that cannot be recorded, or cannot be compiled
            self._calls[key] = _NEVER
            if not isinstance(error, _NothingToDifferentiate):
                # The generator still believes to be recorded, and every graph has been recorded with it.
                generator.graphsafe_set_state(random_state)
                for graphs in _all:
                    graphs._graphs.clear()
            logger.warning("no CUDA graph, running without: %s", str(error).split("\n")[0])
            torch.cuda.synchronize(device)
            return False
        return True


_all: weakref.WeakSet[CudaGraphs] = weakref.WeakSet()


def _possible(inputs: Sequence[Tensor]) -> bool:
    """Whether a graph can stand for a call on these inputs at all, parameters apart."""
    off = torch.version.hip is not None or os.environ.get(VARIABLE, "1") == "0"
    if off or any(x.device.type != "cuda" for x in inputs):
        return False
    watched = (
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
        or _get_current_dispatch_mode() is not None
        or torch.is_anomaly_enabled()
        or torch.jit.is_tracing()
        or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    )
    return not (watched or torch.cuda.is_current_stream_capturing())


def _state(root: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """What a graph depends on; None where a module wants to see every call."""
    parts: list[Any] = []
    grad = torch.is_grad_enabled()
    for module in root.modules():
        # Not by attribute: a module looks in three places before it says that it has none, and this runs in every call.
        own = module.__dict__
        replica = own.get("_is_replica")  # nn.DataParallel's, whose weights are another copy in every call
        if (
            replica
            or any(own[hooks] for hooks in _HOOKS)
            or (grad and own["training"] and own.get("gradient_checkpointing"))
        ):
            return None
        parts += (own["training"], own.get("return_features"), own.get("deep_supervision"))
        for tensors in (own["_parameters"], own["_buffers"]):
            parts += [(id(t), t.data_ptr(), t.dtype, t.requires_grad) for t in tensors.values() if t is not None]
    device = inputs[0].device.type
    modes = (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
    )
    return tuple((x.shape, x.stride(), x.dtype, x.device) for x in inputs), modes, tuple(parts)


@contextmanager
def _fresh_leaves(module: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The module on other leaves of the same parameters, of which those that need a gradient are given.

    What is left of an earlier call's autograd graph, which may still be referred to, then has no part in a recording.
    """
    leaves: dict[nn.Parameter, nn.Parameter] = {}
    places = [(m, name, p) for m in module.modules() for name, p in m._parameters.items() if p is not None]
    for owner, name, p in places:
        owner._parameters[name] = leaves.setdefault(p, nn.Parameter(p.detach(), requires_grad=p.requires_grad))
    try:
        yield [leaves[p] for p in leaves if p.requires_grad]
    finally:
        for owner, name, p in places:
            owner._parameters[name] = p


@contextmanager
def _own_workspace() -> Iterator[None]:
    """cuBLAS keeps a workspace per thread and stream, made by the first product that needs one.

    Made while a backward is recorded, it may lie where that graph's activations were until then. A second graph that is
    replayed between this one's forward and backward must therefore not get the same: it would write into them.
    """
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


class _Recorded:
    """One recorded call: its memory, the graph of its forward and, with autograd, that of its backward."""

    def __init__(self, module: nn.Module, function: Callable[[Any], Any], x: Any, pool: Any, inputs_stay: bool) -> None:
        given, spec = pytree.tree_flatten(x)
        device, grad = given[0].device, torch.is_grad_enabled()
        self.inputs_stay = inputs_stay
        self.parameters = [p for p in module.parameters() if grad and p.requires_grad]
        autocast = torch.autocast(
            device.type,
            dtype=torch.get_autocast_dtype(device.type),
            enabled=torch.is_autocast_enabled(device.type),
            cache_enabled=False,  # or weights, converted before the recording, would stay as they were
        )
        with torch.cuda.device(device), torch.inference_mode(False), torch.set_grad_enabled(grad), _own_workspace():
            if inputs_stay:
                self.inputs = [t.detach().requires_grad_(t.requires_grad) for t in given]
            else:
                self.inputs = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device) for t in given]
                self._copy(given)
            torch.cuda.synchronize()
            torch.cuda.empty_cache()  # what the calls without a graph left over
            self.forward = torch.cuda.CUDAGraph()
            with _fresh_leaves(module) as leaves:
                # thread_local: nnU-Net's other threads pin memory meanwhile.
                with torch.cuda.graph(self.forward, pool=pool, capture_error_mode="thread_local"), autocast:
                    output = function(pytree.tree_unflatten(self.inputs, spec))
                tensors, self.spec = pytree.tree_flatten(output)
                wanted = [t for t in tensors if t.requires_grad]
                if grad and not wanted:
                    raise _NothingToDifferentiate("no output needs a gradient")
                self.grad_outputs = [torch.zeros_like(t) if t.requires_grad else None for t in tensors]
                self.grads: list[Tensor | None] = []
                if wanted:
                    self.backward = torch.cuda.CUDAGraph()
                    sources = [t for t in self.inputs if t.requires_grad] + leaves
                    upstream = [g for g in self.grad_outputs if g is not None]
                    with torch.cuda.graph(self.backward, pool=pool, capture_error_mode="thread_local"):
                        self.grads = list(torch.autograd.grad(wanted, sources, upstream, allow_unused=True))
            self.outputs = [t.detach() for t in tensors]
            self.output_places = {t.untyped_storage().data_ptr() for t in tensors}

    def _copy(self, inputs: Sequence[Tensor]) -> None:
        for kept, new in zip(self.inputs, inputs, strict=True):
            kept.copy_(new)

    def keep_gradients(self) -> None:
        """Moves gradients that wait for the optimiser, or are being accumulated, out of the next replay's way."""
        for parameter, grad in zip(self.parameters, self.grads[len(self.grads) - len(self.parameters) :], strict=True):
            if grad is not None and parameter.grad is not None and parameter.grad.data_ptr() == grad.data_ptr():
                parameter.grad = parameter.grad.clone()

    def infer(self, inputs: Sequence[Tensor]) -> Any:
        if not self.inputs_stay:
            self._copy(inputs)
        self.forward.replay()
        return pytree.tree_unflatten([t.clone() for t in self.outputs], self.spec)

    def train(self, inputs: Sequence[Tensor]) -> tuple[Any, _Hold]:
        differentiated = [t for t in inputs if t.requires_grad]
        if not self.inputs_stay:
            self._copy(inputs)
        hold = _Hold()
        outputs = _Replay.apply(self, hold, *differentiated, *self.parameters)
        return pytree.tree_unflatten(list(outputs), self.spec), hold


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, recorded: _Recorded, hold: _Hold, *differentiated: Tensor):
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
