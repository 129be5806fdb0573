"""One call of a function on CUDA, recorded as a graph of its forward and, with autograd, one of its backward."""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nnunetv2_dsvm.cuda_graphs import averaged_gradients
from nnunetv2_dsvm.cuda_graphs.autograd_graph import leaves_reached, weights_are_computed, weights_are_shared
from nnunetv2_dsvm.cuda_graphs.two_parts import Cut, gradients_in_two_parts
from nnunetv2_dsvm.ops.once_differentiable import once_differentiable
from nnunetv2_dsvm.ops.side_branch import side_branch, wait


class NothingToDifferentiate(Exception):
    """No output of a call with autograd needs a gradient."""


class Hold:
    """Alive while the backward of a recorded forward may still be called."""


class GraphMemory:
    """The memory that some graphs share on one GPU: they must run one after the other, on whatever streams they do.

    All that `nnunetv2_dsvm.cuda_graphs` knows of CUDA; a test puts a stand-in in its place.
    """

    device_type = "cuda"

    def __init__(self, device: torch.device) -> None:
        self.device = torch.device(device.type, torch.cuda.current_device() if device.index is None else device.index)
        # One stream for all, as the allocator keeps memory by streams; torch's own is on one GPU of a process only.
        # Of high priority, because torch hands out the others in turn: somebody might be using the same.
        self.stream = torch.cuda.Stream(self.device, priority=-2)
        self.side = torch.cuda.Stream(self.device, priority=-1)  # for what may wait
        self.pool = torch.cuda.graph_pool_handle()
        self._last = self.current_stream(device)
        self._done = torch.cuda.Event()

    @staticmethod
    def current_stream(device: torch.device) -> torch.cuda.Stream:
        return torch.cuda.current_stream(device)

    @staticmethod
    def is_being_recorded() -> bool:
        """Whether the caller records what this thread launches, as a graph of its own."""
        return torch.cuda.is_current_stream_capturing()

    def renew(self) -> None:
        """Call it where no graph is left: what the last ones took is then given back."""
        self.pool = torch.cuda.graph_pool_handle()

    def record(
        self, function: Callable[[Any], Any], x: Any, leaves: Mapping[Tensor, Tensor], inputs_stay: bool,
        averaged: averaged_gradients.AveragedGradients, cut: Cut,
    ) -> "RecordedCall":  # fmt: skip
        """Records `function(x)`; see `RecordedCall`."""
        try:
            return RecordedCall(self, function, x, leaves, inputs_stay, averaged, cut)
        except Exception:
            torch.cuda.synchronize(self.device)
            raise

    def mark(self) -> torch.cuda.Event | None:
        """While a graph is recorded: an event that each replay records here. None: this torch knows of none."""
        try:
            event = torch.cuda.Event(external=True)
        except TypeError:
            return None
        event.record()
        return event

    def wait(self, stream: torch.cuda.Stream) -> None:
        """Before a graph runs on `stream`, which must be the current one."""
        if stream != self._last:
            stream.wait_event(self._done)

    def done(self, stream: torch.cuda.Stream) -> None:
        """After it, when what it gave has been copied."""
        self._done.record(stream)
        self._last = stream


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


@contextmanager
def _capture(memory: GraphMemory) -> Iterator[torch.cuda.CUDAGraph]:
    """Records what this thread launches. On failure the stream is reset, which `torch.cuda.graph` forgets."""
    graph = torch.cuda.CUDAGraph()
    generator = torch.cuda.default_generators[memory.device.index]
    random_state = generator.clone_state()
    try:
        with torch.cuda.stream(memory.stream):
            # thread_local: nnU-Net's other threads pin memory meanwhile.
            graph.capture_begin(pool=memory.pool, capture_error_mode="thread_local")
            try:
                yield graph
            except BaseException:
                with suppress(RuntimeError):  # it fails too, and says less
                    graph.capture_end()
                raise
            graph.capture_end()
    except BaseException:
        generator.graphsafe_set_state(random_state)  # the one before still believes to be recorded
        raise


class RecordedCall:
    """`function(x)`, recorded once to be run on other tensors of x's sizes.

    Args:
        memory: where its tensors lie.
        function: of a tensor or tuples of tensors.
        x: what it is recorded with.
        leaves: the parameters, and what `function` uses in the place of each: a leaf on the same memory.
        inputs_stay: x stays where it is in memory, and is read there.
        averaged: where backward has to leave the gradients of parameters; of others, in the graph's memory.
        cut: of `function`, when it has been called; between the two parts of a backward whose gradients are averaged.
    """

    def __init__(
        self, memory: GraphMemory, function: Callable[[Any], Any], x: Any, leaves: Mapping[Tensor, Tensor],
        inputs_stay: bool, averaged: averaged_gradients.AveragedGradients, cut: Cut,
    ) -> None:  # fmt: skip
        given, spec = pytree.tree_flatten(x)
        device, grad = given[0].device, torch.is_grad_enabled()
        self.inputs_stay, self.averaged = inputs_stay, averaged
        self.first: set[Tensor] = set()
        self.first_is_there: torch.cuda.Event | None = None
        self.parameters = [p for p in leaves if grad and p.requires_grad]
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
            with _capture(memory) as self.forward, autocast, side_branch(memory.stream, memory.side):
                output = function(pytree.tree_unflatten(self.inputs, spec))
            tensors, self.spec = pytree.tree_flatten(output)
            wanted = [t for t in tensors if t.requires_grad]
            if grad and not wanted:
                raise NothingToDifferentiate("no output needs a gradient")
            self.grad_outputs = [torch.zeros_like(t) if t.requires_grad else None for t in tensors]
            self.grads: list[Tensor | None] = []
            if wanted:
                sources = [t for t in self.inputs if t.requires_grad] + [leaves[p] for p in self.parameters]
                if not leaves_reached(wanted) <= set(sources):
                    raise RuntimeError("a gradient is wanted beyond the module's own parameters")
                upstream = [g for g in self.grad_outputs if g is not None]
                # What autograd itself does with gradients is done on the recorded stream, which knows of no branch.
                alone = weights_are_shared(wanted, self.inputs) or weights_are_computed(wanted)
                branch = nullcontext() if alone else side_branch(memory.stream, memory.side)
                of_inputs: list[Tensor | None] = [None] * (len(sources) - len(self.parameters))
                of_sources = [*of_inputs, *self.parameters]
                places = [None if p is None else averaged.places.get(p) for p in of_sources]

                def between(positions: list[int], grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
                    wait(device)
                    self.first = {p for i in positions if (p := of_sources[i]) is not None}
                    put = averaged_gradients.put(grads, [places[i] for i in positions])
                    self.first_is_there = memory.mark()
                    return put

                with _capture(memory) as self.backward:
                    with branch:
                        grads = gradients_in_two_parts(wanted, sources, upstream, cut.tensor, between)
                    self.grads = averaged_gradients.put(grads, places)
        self.outputs = [t.detach() for t in tensors]
        self.output_places = {t.untyped_storage().data_ptr() for t in tensors}

    def _copy(self, inputs: Sequence[Tensor]) -> None:
        for kept, new in zip(self.inputs, inputs, strict=True):
            kept.copy_(new)

    def keep_gradients(self) -> None:
        """Moves gradients that wait for the optimiser, or are being accumulated, out of the next replay's way."""
        averaged_gradients.keep(self.parameters, self.grads[len(self.grads) - len(self.parameters) :])

    def infer(self, inputs: Sequence[Tensor]) -> Any:
        """The result for these inputs, a copy."""
        if not self.inputs_stay:
            self._copy(inputs)
        self.forward.replay()
        return pytree.tree_unflatten([t.clone() for t in self.outputs], self.spec)

    def train(self, inputs: Sequence[Tensor]) -> tuple[Any, "weakref.ref[Hold]"]:
        """The result for these inputs, in the graph's memory, and what lives until its backward has been launched."""
        differentiated = [t for t in inputs if t.requires_grad]
        if not self.inputs_stay:
            self._copy(inputs)
        hold = Hold()
        outputs = _Replay.apply(self, hold, *differentiated, *self.parameters)
        return pytree.tree_unflatten(list(outputs), self.spec), weakref.ref(hold)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, recorded: RecordedCall, hold: Hold, *differentiated: Tensor):
        ctx.recorded, ctx.hold = recorded, hold
        recorded.forward.replay()
        return tuple(t.detach() for t in recorded.outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor):
        if ctx.hold is None:
            raise RuntimeError(
                "a training step that was recorded as a CUDA graph goes backward once only; set cuda_graphs.training "
                "= False of the network to go backward more often"
            )
        # Here autograd's thread runs. No other call uses the graph's memory before the hold is let go, at the end.
        recorded, hold, ctx.hold = ctx.recorded, ctx.hold, None
        for kept, grad in zip(recorded.grad_outputs, grads, strict=True):
            if kept is not None and grad is not None:
                kept.copy_(grad)
        recorded.backward.replay()
        recorded.averaged.replayed(recorded.first, recorded.first_is_there)
        del hold
        return None, None, *(None if g is None else g.detach() for g in recorded.grads)
