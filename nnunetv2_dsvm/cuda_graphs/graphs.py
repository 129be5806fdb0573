"""Records a module's kernels once per kind of call and replays them as a CUDA graph.

A VM-UNet launches about a thousand small kernels; on a fast GPU the launches take longer than the work. A graph
launches them all at once. Kernels, their order and so the results are those of the same call without a graph.
"""

import copy
import logging
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nnunetv2_dsvm.cuda_graphs.averaged_gradients import AveragedGradients
from nnunetv2_dsvm.cuda_graphs.conditions import state_key, turned_off, watched
from nnunetv2_dsvm.cuda_graphs.recorded_call import GraphMemory, NothingToDifferentiate, RecordedCall
from nnunetv2_dsvm.cuda_graphs.shelf import Shelf, TrainersShelf
from nnunetv2_dsvm.cuda_graphs.two_parts import Cut
from nnunetv2_dsvm.files.text import first_line

logger = logging.getLogger(__name__)

CALLS_BEFORE = 2  # of a kind, without a graph: they compile kernels, and a size that does not return costs nothing
# The same where several threads have called. A recording forbids the others to wait for the whole GPU, and needs what
# cuDNN makes for each thread: it is for times in which only one calls.
CALLS_BEFORE_OF_ONE_THREAD = 32

# Torch records one graph at a time. Nobody waits for this lock: who does not get it calls without a graph.
_recording = threading.Lock()
_registry = threading.Lock()  # of the two sets
_all: "weakref.WeakSet[CudaGraphs]" = weakref.WeakSet()
_recorded: "weakref.WeakSet[RecordedCall]" = weakref.WeakSet()


class _Changed(Exception):
    """Another thread changed the module or torch's settings during a recording."""


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
        self.averaged = AveragedGradients()
        # Held to launch a graph, never to record one: a recording waits for autograd's thread, which may call us.
        self._lock = threading.Lock()
        self._shared: dict[torch.device, Shelf] = {}
        self._trainers: TrainersShelf | None = None
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
            graph, due = None, False
            # A forward whose backward is still to come must not be overwritten.
            if shelf is not None and shelf.pending() is None:
                if graph := shelf.find(key):
                    return self._run(shelf, graph, inputs, stream, grad)
                due = shelf.is_due(key, self._calls_before)
        if shelf is not None and due and (graph := self._record(shelf, key, module, function, x)):
            with self._lock:
                return self._run(shelf, graph, inputs, stream, grad)
        return function(x)

    def _shelves(self) -> list[Shelf]:
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

    def _shelf(self, device: torch.device, stream: Any, grad: bool) -> Shelf | None:
        """Where the calling thread's graphs are; None where it must not have any."""
        thread, trainers = threading.current_thread(), self._trainers
        if trainers and trainers.thread is thread and trainers.stream == stream:
            return trainers
        if not grad:
            if device not in self._shared:
                self._shared[device] = Shelf(self.memory_type(device))
            return self._shared[device]
        if trainers and trainers.thread is not thread and trainers.thread.is_alive() and self._one_trainer:
            # Each would move the other's gradients while they are read.
            logger.warning("two threads call a network with autograd: from now on without CUDA graphs")
            self._one_trainer, self._trainers = False, None
        if not self._one_trainer:
            return None
        self._trainers = TrainersShelf(self.memory_type(device), thread, stream)
        return self._trainers

    def _run(self, shelf: Shelf, graph: RecordedCall, inputs: Sequence[Tensor], stream: Any, grad: bool) -> Any:
        for other in shelf.graphs.values() if isinstance(shelf, TrainersShelf) else ():
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
        if turned_off() or any(x.device.type != self.memory_type.device_type for x in inputs) or watched():
            return False
        if self.memory_type.is_being_recorded():
            return False
        if self.inputs_stay:
            with _registry:
                places = {place for graph in _recorded for place in graph.output_places}
            return all(x.untyped_storage().data_ptr() in places for x in inputs)
        return not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs))

    def _key(self, module: nn.Module, inputs: Sequence[Tensor], originals: Mapping[int, int] | None = None) -> Any:
        state = state_key(module, inputs, originals or {})
        if state is None or not self.inputs_stay:
            return state
        return state, tuple((x.data_ptr(), x.requires_grad) for x in inputs)

    def _record(
        self, shelf: Shelf, key: Any, module: nn.Module, function: Callable[[Any], Any], x: Any
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
                shelf.keep(key, graph)
            return graph
        except _Changed:
            return None
        except Exception as error:  # out of memory, a kernel that cannot be recorded, or cannot be compiled
            with self._lock:
                shelf.never_record(key)
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
            leaves: dict[Tensor, Tensor] = {
                p: nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in module.parameters()
            }
        memo: dict[int, Any] = {id(p): leaf for p, leaf in leaves.items()} | {id(b): b for b in module.buffers()}
        twin = copy.deepcopy(module, memo)
        run = copy.deepcopy(function, memo)
        inputs, _ = pytree.tree_flatten(x)
        cut = Cut(getattr(module, "gradients_last", ()) if self.averaged.places else ())

        def converted(x: Any) -> Any:
            with cut.within(twin, inputs[0].device.type):
                return run(x)

        graph = memory.record(converted, x, leaves, self.inputs_stay, self.averaged, cut)
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
