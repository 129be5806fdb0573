"""One of two ranks that train together on the CPU: python ddp_rank.py RANK PORT FOLDER, which gets rank_RANK.pt.

nnU-Net's DDP is for GPUs. Only that is changed here: the backend is gloo, the device the CPU, DDP is given no device
ids, and batch norms are made here; and the processes that write predictions are forked.
"""

import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_module
from torch import distributed as dist
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

from helpers import ddp_graphs
from helpers.ddp_equality import OnCPU, records, tiny_plans
from helpers.short_trainers import ShortDSVM, without_pictures
from nnunetv2_dsvm.architecture.unwrapping import unwrap_model


class CPUTrainer(OnCPU, ShortDSVM):
    """Remembers what it drew; one rank's images can become NaN, or its weights drift away from the other's."""

    nan_in_step = None
    drifts = False

    def train_step(self, batch):
        self.drawn.append(batch["data"].double().sum().item())
        if len(self.drawn) - 1 == self.nan_in_step and self.local_rank == 1:
            batch["data"][:] = float("nan")
        result = super().train_step(batch)
        if self.drifts and self.local_rank == 1:
            next(self.distillation.parameters()).data[0].mul_(1 + 1e-6)
        return result


def train(folder: str, run: str, *, batch_dice: bool = True, continued: bool = False, **changes: Any) -> Any:
    """A trainer after its run, which `changes` of its class may have ended early; `stopped` holds an error's sentence.

    Without the Dice over the batch, which gathers all ranks and so any NaN, each rank knows of its own loss only.
    """
    os.environ["nnUNet_results"] = os.path.join(folder, run)
    plans, dataset_json = tiny_plans(batch_dice=batch_dice)
    plans["continue_training"] = continued
    trainer = type("CPUTrainer", (CPUTrainer,), changes)(plans, "2d", 0, dataset_json)
    trainer.drawn, trainer.stopped = [], ""
    if continued:
        trainer.load_checkpoint(os.path.join(trainer.output_folder, "checkpoint_latest.pth"))
    try:
        trainer.run_training()
    except KeyboardInterrupt:
        dist.barrier()  # or the other rank would continue from a checkpoint that is not written yet
    except RuntimeError as error:
        trainer.stopped = str(error)
    return trainer


def state(trainer: Any) -> dict[str, Any]:
    return {
        "stopped": trainer.stopped,
        "drawn": trainer.drawn,
        "losses": trainer.losses,
        "weights": unwrap_model(trainer.network).state_dict(),
        "projections": trainer.distillation.state_dict(),
        "L_proj": trainer.logger.local_logger.my_fantastic_logging["L_proj"],
        "own_terms": trainer.loss.mean_terms(),
        "files": sorted(os.listdir(trainer.output_folder)),
    }


def record_collectives() -> list[str]:
    """From here on, the names of the collectives that Python calls; DDP's own are called by torch."""
    called = []

    def recorded(name, original):
        def call(*arguments, **keywords):
            called.append(name)
            return original(*arguments, **keywords)

        return call

    for name in ("all_reduce", "all_gather", "all_gather_object", "barrier", "broadcast"):
        setattr(dist, name, recorded(name, getattr(dist, name)))
    return called


def without_device_ids(module, device_ids):
    return DistributedDataParallel(module)


class SyncedBatchNorm(torch.nn.BatchNorm2d):
    """What torch's SyncBatchNorm, which is for GPUs, computes in a training step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        axes, ranks = (0, 2, 3), dist.get_world_size()
        mean, square = (all_reduce(t.mean(axes)) / ranks for t in (x, x.square()))
        variance, count = square - mean.square(), ranks * x.numel() // x.shape[1]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul((self.bias - mean * scale)[:, None, None], x, scale[:, None, None])


def with_synced_batch_norms(network: torch.nn.Module) -> torch.nn.Module:
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.__class__ = SyncedBatchNorm
    return network


def main(rank: int, port: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.nn.SyncBatchNorm.convert_sync_batchnorm = with_synced_batch_norms
    nnunet_module.DDP = without_device_ids
    fork = multiprocessing.get_context("fork")
    nnunet_module.multiprocessing.get_context = lambda method: fork
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    results: dict[str, Any] = {"equality": records(rank)}
    results["graphs"] = ddp_graphs.steps(rank)
    results["collectives"] = record_collectives()
    os.environ["NNUNETV2_DSVM_SEED"] = "3"
    with without_pictures():
        straight = train(folder, "straight")
        results["straight"] = state(straight)
        results["cut"] = state(train(folder, "cut", cut_off_at=2))
        results["continued"] = state(train(folder, "cut", continued=True))
        results["nan"] = state(train(folder, "nan", batch_dice=False, nan_in_step=1))
        results["drift"] = state(train(folder, "drift", drifts=True))
    straight.fold = "all"
    straight.perform_actual_validation()
    torch.save(results, Path(folder) / f"rank_{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
