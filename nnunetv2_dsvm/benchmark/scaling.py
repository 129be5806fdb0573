"""A network's training step on several GPUs of one machine, by DDP as nnU-Net trains with it."""

import os
import socket
from dataclasses import dataclass, replace
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.multiprocessing.spawn import ProcessException
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_dsvm import cuda_graphs
from nnunetv2_dsvm.benchmark.cases.network import NetworkCase
from nnunetv2_dsvm.benchmark.measuring.timing import Effort, Timing, time_training
from nnunetv2_dsvm.cuda_graphs.averaged_gradients import in_ddp
from nnunetv2_dsvm.ops.testing import WrongResult
from nnunetv2_dsvm.training.guards.distributed import parameters_that_differ


@dataclass(frozen=True)
class ScalingTimes:
    """Forward and whole step of the slowest rank; `alone`: the same, by all ranks at once, without any all-reduce."""

    forward: Timing
    training: Timing
    alone_forward: Timing
    alone_training: Timing


def rank_counts(device: torch.device) -> list[int]:
    """2, 4, 8, …: the numbers of GPUs that are here, beyond one."""
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    return [2**power for power in range(1, count.bit_length()) if 2**power <= count]


def measure_scaling(case: NetworkCase, ranks: int, repeats: int) -> ScalingTimes:
    """Times the steps of `ranks` processes (NCCL on GPUs, gloo on a CPU) that share the images of `case`.

    Raises:
        WrongResult: the ranks no longer have the same weights after the steps.
        ValueError: the batch cannot be divided.
        torch.OutOfMemoryError, RuntimeError: a process failed.
    """
    if case.batch % ranks:
        raise ValueError(f"a batch of {case.batch} cannot be shared by {ranks} GPUs")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers = multiprocessing.get_context("spawn").SimpleQueue()
    share = replace(case, batch=case.batch // ranks)
    try:
        multiprocessing.spawn(time_rank, (ranks, port, share, repeats, answers), nprocs=ranks, join=True)
    except ProcessException as failure:
        kind = torch.OutOfMemoryError if "OutOfMemoryError" in str(failure) else RuntimeError
        raise kind(str(failure)) from failure
    gathered = [answers.get() for _ in range(ranks)]
    count, first = gathered[0][1]
    if count:
        raise WrongResult(f"{count} parameters differ between {ranks} GPUs, the first being {first}")
    return max((times for times, _ in gathered), key=lambda times: times.training.median)


def time_rank(rank: int, ranks: int, port: int, case: NetworkCase, repeats: int, answers: "SimpleQueue[Any]") -> None:
    """One process: puts its times, how many parameters differ between the ranks, and the first one's name."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    cuda = case.device == "cuda"
    if cuda:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    dist.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=ranks)
    try:
        modules: list[DistributedDataParallel] = []

        def wrapped(module: nn.Module) -> nn.Module:
            modules.append(in_ddp(module))
            return modules[-1]

        # As many steps on every rank, or one would wait for ever.
        effort = Effort(2 * cuda_graphs.CALLS_BEFORE + 2 if cuda else 1, repeats, repeats, 0.0, 0.0)
        device = torch.device(case.device, rank) if cuda else torch.device(case.device)
        # In turns, and the ranks together: without all-reduces a rank could run on while the other is slow.
        work = {"ddp": case.build(wrapped, seed=rank), "alone": case.build(seed=rank)}
        times = time_training(work, device, effort)
        differing = parameters_that_differ(m.module for m in modules)
        first = differing[0] if differing else ""
        answers.put((ScalingTimes(*times["ddp"], *times["alone"]), (len(differing), first)))
        dist.barrier()
    finally:
        dist.destroy_process_group()
