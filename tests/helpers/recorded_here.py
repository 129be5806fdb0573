"""A stand-in for CUDA graphs on a CPU: like them it has one input, one output and one memory for all who call."""

import time
import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nnunetv2_dsvm.cuda_graphs import CudaGraphs, averaged_gradients
from nnunetv2_dsvm.cuda_graphs.recorded_call import GraphMemory, Hold

PAUSE = 0.001  # seconds in which other threads may write where they should not


class RecordedHere:
    def __init__(self, function, x: Tensor, leaves: dict[Tensor, Tensor], places: dict[Tensor, Tensor]) -> None:
        self.function, self.leaves = function, leaves
        self.places = [places.get(parameter) for parameter in leaves]
        self.input = torch.empty_like(x)
        self.output: Tensor | None = None
        self.replays = 0
        self.output_places: set[int] = set()

    def replay(self, inputs: list[Tensor]) -> Tensor:
        self.replays += 1
        self.input.copy_(inputs[0])
        time.sleep(PAUSE)
        new = self.function(self.input)
        self.output = new if self.output is None else self.output
        self.output.data.copy_(new.data)
        time.sleep(PAUSE)
        return new

    def infer(self, inputs: list[Tensor]) -> Tensor:
        self.replay(inputs)
        return self.output.clone()

    def train(self, inputs: list[Tensor]):
        hold = Hold()
        return _Replayed.apply(self, hold, inputs, *self.leaves), weakref.ref(hold)

    def keep_gradients(self) -> None:
        averaged_gradients.keep(list(self.leaves), self.places)


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, recorded: RecordedHere, hold: Hold, inputs, *parameters):
        with torch.enable_grad():
            ctx.output = recorded.replay(inputs)
        ctx.recorded, ctx.hold = recorded, hold
        return ctx.output.detach()

    @staticmethod
    def backward(ctx, grad):
        grads = torch.autograd.grad(ctx.output, list(ctx.recorded.leaves.values()), grad, allow_unused=True)
        ctx.hold = None
        grads = averaged_gradients.put(grads, ctx.recorded.places)
        return None, None, None, *(None if g is None else g.detach() for g in grads)


class MemoryHere(GraphMemory):
    device_type = "cpu"
    while_recording: Callable[[], None] | None = None  # what another thread does meanwhile

    def __init__(self, device: torch.device) -> None:
        pass

    @staticmethod
    def current_stream(device: torch.device) -> None:
        return None

    @staticmethod
    def is_being_recorded() -> bool:
        return False

    def renew(self) -> None:
        pass

    def record(self, function, x, leaves, inputs_stay, averaged, cut) -> RecordedHere:
        recorded = RecordedHere(function, pytree.tree_flatten(x)[0][0], leaves, averaged.places)
        if type(self).while_recording is not None:
            type(self).while_recording()
        return recorded

    def wait(self, stream: None) -> None:
        pass

    def done(self, stream: None) -> None:
        pass


class GraphsHere(CudaGraphs):
    memory_type = MemoryHere
