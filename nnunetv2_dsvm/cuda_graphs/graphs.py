"""Records a module's kernels once per kind of call and replays them as a CUDA graph.

A VM-UNet launches about a thousand small kernels; on a fast GPU the launches take longer than the work. A graph
launches them all at once. Kernels, their order and so the results are those of the same call without a graph.
"""

import copy
import logging
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _get_current_dispatch_mode

from nnunetv2_dsvm.cuda_graphs.recorded_call import GraphMemory, Hold, NothingToDifferentiate, RecordedCall
from nnunetv2_dsvm.files.text import first_line

logger = logging.getLogger(__name__)

CALLS_BEFORE = 2  # of a kind, without a graph: they compile kernels, and a size that does not return costs nothing
# The same where several threads have called. A recording forbids the others to wait for the whole GPU, and needs what
# cuDNN makes for each thread: it is for times in which only one calls.
CALLS_BEFORE_OF_ONE_THREAD = 32
MAX_GRAPHS = 4
_MAX_REMEMBERED = 64
_NEVER = -1  # instead of a number of calls: recording has failed
VARIABLE = "NNUNETV2_DSVM_CUDA_GRAPHS"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

# Torch records one graph at a time. Nobody waits for this lock: who does not get it calls without a graph.
_recording = threading.Lock()
_registry = threading.Lock()  # of the two sets
_all: "weakref.WeakSet[CudaGraphs]" = weakref.WeakSet()
_recorded: "weakref.WeakSet[RecordedCall]" = weakref.WeakSet()


class _Changed(Exception):
    """Another thread changed the module or torch's settings during a recording."""


class _Shelf:
    """Graphs that share memory, and the calls that may get one; used under the lock of its `CudaGraphs`."""

    def __init__(self, memory: GraphMemory) -> None:
        self.memory = memory
        self.graphs: OrderedDict[Any, RecordedCall] = OrderedDict()
        self.calls: OrderedDict[Any, int] = OrderedDict()
        self.pending: Callable[[], Hold | None] = lambda: None

    def find(self, key: Any) -> RecordedCall | None:
        if key in self.graphs:
            self.graphs.move_to_end(key)
        return self.graphs.get(key)

    def is_due(self, key: Any, calls_before: int) -> bool:
        """Counts a call without a graph; whether it should be recorded instead."""
        calls = self.calls.pop(key, 0)
        due = calls >= calls_before
        self.calls[key] = calls if due or calls == _NEVER else calls + 1
        if len(self.calls) > _MAX_REMEMBERED:
            self.calls.popitem(last=False)
        return due

    def count_again(self) -> None:
        self.calls = OrderedDict((key, _NEVER) for key, calls in self.calls.items() if calls == _NEVER)

    def make_room(self) -> None:
        while len(self.graphs) >= MAX_GRAPHS:
            self.graphs.popitem(last=False)
        if not self.graphs:
            self.memory.renew()


class _TrainersShelf(_Shelf):
    """That of the one thread, and stream, that calls with autograd."""

    def __init__(self, memory: GraphMemory, thread: threading.Thread, stream: Any) -> None:
        super().__init__(memory)
        self.thread = thread
        self.stream = stream


class CudaGraphs:
    """Runs `function(x)` of a module through CUDA graphs where that gives the same result, and as it is elsewhere.

    Graphs are for CUDA tensors on NVIDIA GPUs. Hooks, torch.compile, gradient checkpointing, a gradient of the image,
    and anything else that has to see the single operations turn them off for a call; a change of the inputs' sizes, of
    a parameter's place in memory, of autocast or of training mode makes another graph. `NNUNETV2_DSVM_CUDA_GRAPHS=0`
    turns them off.

    Threads and streams may call at the same time. Those that infer share the graphs: one graph runs after the other,
    on the caller's stream. A thread that calls with autograd has graphs of its own, for its inference too, while it is
    the only one; from the second on, training goes without. Graphs are recorded while only one thread calls: to serve
    from many with graphs, call a few times from one before. While one records, which takes a fraction of a second,
    torch refuses other threads to wait for the whole GPU (`torch.cuda.synchronize`) or to draw random numbers on it.

    Args:
        inference: whether calls without autograd use them; what they return is a copy.
        training: whether calls with autograd do. Then outputs and gradients lie in the graph's memory: outputs are
            valid until the next call, `.grad` until the next backward, unless it is accumulated.
        inputs_stay: for inputs that are another graph's outputs, and so stay where they are in memory. They are read
            there instead of copied, and differentiated where they need it. With other inputs no graph is used.
    """

    memory_type: type[GraphMemory] = GraphMemory

    def __init__(self, inference: bool = True, training: bool = False, inputs_stay: bool = False) -> None:
        self.inference = inference
        self.training = training
        self.inputs_stay = inputs_stay
        # Held to launch a graph, never to record one: a recording waits for autograd's thread, which may call us.
        self._lock = threading.Lock()
        self._shared: dict[torch.device, _Shelf] = {}
        self._trainers: _TrainersShelf | None = None
        self._one_trainer = True
        self._thread: int | None = None  # that called last
        self._calls_before = CALLS_BEFORE
        with _registry:
            _all.add(self)

    def __deepcopy__(self, memo: dict) -> "CudaGraphs":
        return type(self)(self.inference, self.training, self.inputs_stay)

    def __reduce__(self) -> tuple:
        return type(self), (self.inference, self.training, self.inputs_stay)

    @property
    def graphs(self) -> list[RecordedCall]:
        """Those that have been recorded and are kept."""
        with self._lock:
            return [graph for shelf in self._shelves() for graph in shelf.graphs.values()]

    def __call__(self, module: nn.Module, function: Callable[[Any], Any], x: Any) -> Any:
        """`function(x)`, a method of `module`, for x a tensor or tuples of tensors."""
        grad = torch.is_grad_enabled()
        inputs, _ = pytree.tree_flatten(x)
        if not (self.training if grad else self.inference) or not self._possible(inputs):
            return function(x)
        key = self._key(module, inputs)
        if key is None:
            return function(x)
        stream = self.memory_type.current_stream(inputs[0].device)
        with self._lock:
            self._look_for_other_threads()
            shelf = self._shelf(inputs[0].device, stream, grad)
            # A forward whose backward is still to come must not be overwritten.
            if shelf is None or shelf.pending() is not None:
                graph = due = None
            elif graph := shelf.find(key):
                return self._run(shelf, graph, inputs, stream, grad)
            else:
                due = shelf.is_due(key, self._calls_before)
        if due and (graph := self._record(shelf, key, module, function, x)):
            with self._lock:
                return self._run(shelf, graph, inputs, stream, grad)
        return function(x)

    def _shelves(self) -> list[_Shelf]:
        return [*self._shared.values(), *([self._trainers] if self._trainers else [])]

    def _look_for_other_threads(self) -> None:
        thread = threading.get_ident()
        if thread == self._thread:
            return
        if self._thread is not None:
            self._calls_before = CALLS_BEFORE_OF_ONE_THREAD
            for shelf in self._shelves():
                shelf.count_again()
        self._thread = thread

    def _shelf(self, device: torch.device, stream: Any, grad: bool) -> _Shelf | None:
        """Where the calling thread's graphs are; None where it must not have any."""
        thread, trainers = threading.current_thread(), self._trainers
        if trainers and trainers.thread is thread and trainers.stream == stream:
            return trainers
        if not grad:
            if device not in self._shared:
                self._shared[device] = _Shelf(self.memory_type(device))
            return self._shared[device]
        if trainers and trainers.thread is not thread and trainers.thread.is_alive() and self._one_trainer:
            # Each would move the other's gradients while they are read.
            logger.warning("two threads call a network with autograd: from now on without CUDA graphs")
            self._one_trainer, self._trainers = False, None
        if not self._one_trainer:
            return None
        self._trainers = _TrainersShelf(self.memory_type(device), thread, stream)
        return self._trainers

    def _run(self, shelf: _Shelf, graph: RecordedCall, inputs: Sequence[Tensor], stream: Any, grad: bool) -> Any:
        for other in shelf.graphs.values() if isinstance(shelf, _TrainersShelf) else ():
            other.keep_gradients()  # they lie in the memory that all graphs share
        if grad:
            output, shelf.pending = graph.train(inputs)
            return output
        shelf.memory.wait(stream)
        try:
            return graph.infer(inputs)
        finally:
            shelf.memory.done(stream)

    def _possible(self, inputs: Sequence[Tensor]) -> bool:
        """Whether a graph can stand for a call on these inputs at all, parameters apart."""
        off = torch.version.hip is not None or os.environ.get(VARIABLE, "1") == "0"
        if off or any(x.device.type != self.memory_type.device_type for x in inputs) or _watched():
            return False
        if self.memory_type.is_being_recorded():
            return False
        if self.inputs_stay:
            with _registry:
                places = {place for graph in _recorded for place in graph.output_places}
            return all(x.untyped_storage().data_ptr() in places for x in inputs)
        return not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs))

    def _key(self, module: nn.Module, inputs: Sequence[Tensor], originals: Mapping[int, int] | None = None) -> Any:
        state = _state(module, inputs, originals or {})
        if state is None or not self.inputs_stay:
            return state
        return state, tuple((x.data_ptr(), x.requires_grad) for x in inputs)

    def _record(
        self, shelf: _Shelf, key: Any, module: nn.Module, function: Callable[[Any], Any], x: Any
    ) -> RecordedCall | None:
        if not _recording.acquire(blocking=False):
            return None
        try:
            with self._lock:
                if key in shelf.graphs:  # another thread was faster
                    return shelf.graphs[key]
                shelf.make_room()
            graph = self._recorded(shelf.memory, key, module, function, x)
            with _registry:
                _recorded.add(graph)
            with self._lock:
                shelf.graphs[key] = graph
                shelf.calls.pop(key, None)
            return graph
        except _Changed:
            return None
        except Exception as error:  # out of memory, a kernel that cannot be recorded, or cannot be compiled
            with self._lock:
                shelf.calls[key] = _NEVER
            if not isinstance(error, NothingToDifferentiate):
                _forget_all_graphs()
            logger.warning("no CUDA graph, running without: %s", first_line(error))
            return None
        finally:
            _recording.release()

    def _recorded(
        self, memory: GraphMemory, key: Any, module: nn.Module, function: Callable[[Any], Any], x: Any
    ) -> RecordedCall:
        """The call, recorded with a twin of the module, which nobody else uses, on other leaves of its parameters.

        What is left of an earlier call's autograd graph, which may still be referred to, then has no part in it, nor
        has what another thread does with the module meanwhile.
        """
        with torch.inference_mode(False):
            leaves = {p: nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in module.parameters()}
        memo = {id(p): leaf for p, leaf in leaves.items()} | {id(b): b for b in module.buffers()}
        twin = copy.deepcopy(module, memo)
        graph = memory.record(copy.deepcopy(function, memo), x, leaves, self.inputs_stay)
        inputs, _ = pytree.tree_flatten(x)
        if self._key(twin, inputs, {id(leaf): id(p) for p, leaf in leaves.items()}) != key:
            raise _Changed
        return graph


def _forget_all_graphs() -> None:
    with _registry:
        everybody = list(_all)
    for graphs in everybody:
        with graphs._lock:
            for shelf in graphs._shelves():
                shelf.graphs.clear()


def _watched() -> bool:
    """Whether something has to see the single operations."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
        or _get_current_dispatch_mode() is not None
        or torch.is_anomaly_enabled()
        or torch.jit.is_tracing()
        or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    )


def _state(root: nn.Module, inputs: Sequence[Tensor], originals: Mapping[int, int]) -> Any:
    """What a graph depends on; None where a module wants to see every call.

    `originals` has for the id of a parameter's leaf that of the parameter.
    """
    parts: list[Any] = []
    grad = torch.is_grad_enabled()
    modules, seen = [root], set()
    while modules:  # instead of root.modules(), whose nested generators take longer than the rest
        module = modules.pop()
        if module is None or id(module) in seen:
            continue
        seen.add(id(module))
        # Not by attribute: a module looks in three places before it says that it has none, and this runs in every call.
        own = module.__dict__
        modules += own["_modules"].values()
        replica = own.get("_is_replica")  # nn.DataParallel's, whose weights are another copy in every call
        if (
            replica
            or any(own[hooks] for hooks in _HOOKS)
            or (grad and own["training"] and own.get("gradient_checkpointing"))
        ):
            return None
        parts += (own["training"], own.get("return_features"), own.get("deep_supervision"))
        for tensors in (own["_parameters"], own["_buffers"]):
            for t in tensors.values():
                if t is not None:
                    parts.append((originals.get(id(t), id(t)), t.data_ptr(), t.dtype, t.requires_grad))
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
