"""DDP that averages gradients where a replayed backward leaves them.

DDP copies each gradient into a bucket and the average back. After a backward that is one graph these launches, two a
parameter, hide behind nothing. Here the graph itself ends with all gradients in the buckets, by a few launches.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel


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
    wrapped.register_comm_hook((wrapped.process_group, graphs.gradient_places), _average)
    return wrapped


def _average(
    state: tuple[distributed.ProcessGroup, dict[Tensor, Tensor]], bucket: distributed.GradBucket
) -> torch.futures.Future[Tensor]:
    """A hook, because DDP alone would divide each gradient by itself, also one that lies in its bucket."""
    group, places = state
    places.update(zip(bucket.parameters(), bucket.gradients(), strict=True))  # DDP makes other buckets after a step
    if distributed.get_backend(group) != "nccl":  # Gloo cannot average in every torch
        return default_hooks.allreduce_hook(group, bucket)
    work = distributed.all_reduce(bucket.buffer(), op=distributed.ReduceOp.AVG, group=group, async_op=True)
    assert work is not None  # this process is of the group
    return work.get_future().then(lambda done: done.value()[0])


def put(gradients: Sequence[Tensor | None], places: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Copies gradients to their places, together; those without a place stay where they are. Returns where each is."""
    pairs = [(p, g) for p, g in zip(places, gradients, strict=True) if p is not None and g is not None]
    if pairs:
        torch._foreach_copy_([place for place, _ in pairs], [gradient for _, gradient in pairs])
    return [g if p is None or g is None else p for p, g in zip(places, gradients, strict=True)]


def keep(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Moves gradients that wait for the optimiser, or are being accumulated, out of the next replay's way."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and parameter.grad is not None and parameter.grad.data_ptr() == gradient.data_ptr():
            parameter.grad = parameter.grad.clone()
