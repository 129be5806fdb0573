"""DDP whose graphs (stand-ins, on the CPU) leave gradients in its buckets, against DDP without graphs."""

import copy
from contextlib import nullcontext

import torch
from torch.nn.parallel import DistributedDataParallel

from helpers.recorded_here import GraphsHere
from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.cuda_graphs import CALLS_BEFORE, CudaGraphs
from nnunetv2_dsvm.cuda_graphs.averaged_gradients import in_ddp

SIZES = {"dims": (8, 16), "encoder_depths": (1, 1), "decoder_depths": (1, 1), "d_state": 2, "drop_path_rate": 0.0}
REPLAYED, EAGER = 32, 48  # sizes of images
# What each step's gradients are made of: images' sizes on both ranks, whether DDP averages, what becomes of the
# gradients before it: they go, become zeros, or stay.
STEPS = {
    "replayed": ((REPLAYED, REPLAYED), True, "none"),
    "again": ((REPLAYED, REPLAYED), True, "none"),
    "added to": ((REPLAYED, REPLAYED), True, "kept"),
    "zeros": ((REPLAYED, REPLAYED), True, "zeros"),
    "one rank eager": ((REPLAYED, EAGER), True, "none"),
    "added to, the other rank eager": ((EAGER, REPLAYED), True, "kept"),
    "not averaged": ((REPLAYED, REPLAYED), False, "none"),
    "added to and averaged": ((REPLAYED, EAGER), True, "kept"),
    "replayed after all": ((REPLAYED, REPLAYED), True, "none"),
}


def _step(network: DistributedDataParallel, size: int, averaged: bool, before: str, seed: int) -> list[torch.Tensor]:
    if before != "kept":
        network.zero_grad(set_to_none=before == "none")
    image = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(seed))
    with nullcontext() if averaged else network.no_sync():
        network(image).square().mean().backward()
    return [p.grad.clone() for p in network.parameters()]


def steps(rank: int) -> dict[str, tuple[list[torch.Tensor], list[torch.Tensor], int]]:
    """Of each step: the gradients, those without graphs, and how often DDP's only bucket was written into."""
    torch.manual_seed(0)
    network = VMUNet(1, 2, **SIZES)
    plain = copy.deepcopy(network)
    plain.cuda_graphs = CudaGraphs(inference=False)
    network.cuda_graphs = GraphsHere(training=True)
    ours, theirs = in_ddp(network), DistributedDataParallel(plain)
    for _ in range(CALLS_BEFORE):
        _step(ours, REPLAYED, True, "none", rank)
    (bucket,) = {place._base for place in network.cuda_graphs.averaged.places.values()}
    records = {}
    for seed, (name, (sizes, averaged, before)) in enumerate(STEPS.items()):
        replays = [graph.replays for graph in network.cuda_graphs.graphs]
        before_step = bucket._version  # which all views of it share
        found, expected = (_step(n, sizes[rank], averaged, before, 2 * seed + rank) for n in (ours, theirs))
        assert ([graph.replays for graph in network.cuda_graphs.graphs] != replays) == (sizes[rank] == REPLAYED), name
        records[name] = found, expected, bucket._version - before_step
    copied = copy.deepcopy(ours)  # as for an average of the weights
    records["of a copy"] = (*(_step(n, REPLAYED, True, "none", 100 + rank) for n in (copied, theirs)), 0)
    return records
