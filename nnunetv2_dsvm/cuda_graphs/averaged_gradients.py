"""DDP that averages gradients where a replayed backward leaves them, those of its first part while the second runs.

DDP copies each gradient into a bucket and the average back. After a backward that is one graph these launches, two a
parameter, hide behind nothing. Here the graph itself leaves all gradients in the buckets, by a few launches, and tells
by an event when those of its first part are there.
"""

from collections.abc import Collection, Mapping, Sequence, Set

import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel


class AveragedGradients:
    """Where DDP averages the gradients of a module's parameters, and when those of a replay are there.

    Attributes:
        places: the views of DDP's buckets, by parameters; empty without DDP.
    """

    def __init__(self) -> None:
        self.places: dict[Tensor, Tensor] = {}
        self._first: Set[Tensor] = set()
        self._event: torch.cuda.Event | None = None
        self._writes: Mapping[int, int] = {}
        self._stream: torch.cuda.Stream | None = None

    def __reduce__(self) -> tuple:
        return type(self), ()  # a copy of a module in DDP gets buckets of its own

    def replayed(self, first: Set[Tensor], event: "torch.cuda.Event | None") -> None:
        """Call it after a backward is replayed, which records `event` when the gradients of `first` are in place."""
        self._first, self._event = first, event
        self._writes = {} if event is None else {_memory(place): place._version for place in self.places.values()}

    def is_early(self, parameters: Collection[Tensor], bucket: Tensor) -> bool:
        """Whether the last replay's event tells when all gradients of a bucket, and nothing else, are in it.

        What is not that replay's gradient, DDP copies into the bucket or autograd adds there, and torch counts writes.
        """
        return self._writes.get(_memory(bucket)) == bucket._version and all(p in self._first for p in parameters)

    def average(self, _: None, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
        """DDP's hook: without one, it would divide each gradient by itself, also those that lie in the bucket."""
        group = distributed.group.WORLD  # not handed over: DDP with a group in its hook cannot be copied
        assert group is not None  # or there would be no DDP
        parameters, gradients = bucket.parameters(), bucket.buffer()
        self.places.update(zip(parameters, bucket.gradients(), strict=True))  # DDP makes other buckets after a step
        if distributed.get_backend(group) != "nccl":  # Gloo cannot average in every torch
            return default_hooks.allreduce_hook(group, bucket)
        if self._event is None or not self.is_early(parameters, gradients):
            return _average(gradients, group)
        self._stream = self._stream or torch.cuda.Stream(gradients.device)
        self._stream.wait_event(self._event)
        with torch.cuda.stream(self._stream):
            return _average(gradients, group)


def _memory(view: Tensor) -> int:
    return view.untyped_storage().data_ptr()


def _average(gradients: Tensor, group: distributed.ProcessGroup) -> torch.futures.Future[Tensor]:
    work = distributed.all_reduce(gradients, op=distributed.ReduceOp.AVG, group=group, async_op=True)
    assert work is not None  # this process is of the group
    return work.get_future().then(lambda done: done.value()[0])


def in_ddp(module: nn.Module) -> DistributedDataParallel:
    """`module` in DDP, on its own device; what its `cuda_graphs` records later leaves its gradients in DDP's buckets.

    The averages are those of DDP without it. `.grad` lies in the buckets: it is valid until the next backward, unless
    it is accumulated.
    """
    device = next(module.parameters()).device
    ids = None if device.type == "cpu" else [device]
    graphs = vars(module).get("cuda_graphs")  # not that of a network that torch.compile has wrapped
    if graphs is None:
        return DistributedDataParallel(module, device_ids=ids)
    wrapped = DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True)
    wrapped.register_comm_hook(None, graphs.averaged.average)
    return wrapped


def put(gradients: Sequence[Tensor | None], places: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Copies gradients to their places, together; those without a place stay where they are. Returns where each is."""
    pairs = [(p, g) for p, g in zip(places, gradients, strict=True) if p is not None and g is not None and p is not g]
    if pairs:
        torch._foreach_copy_([place for place, _ in pairs], [gradient for _, gradient in pairs])
    return [g if p is None or g is None else p for p, g in zip(places, gradients, strict=True)]


def keep(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Moves gradients that wait for the optimiser, or are being accumulated, out of the next replay's way."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and parameter.grad is not None and parameter.grad.data_ptr() == gradient.data_ptr():
            parameter.grad = parameter.grad.clone()
