"""One of two ranks that train a tiny network together on the CPU: python ddp_rank.py RANK PORT NAN_IN_STEP.

nnU-Net's DDP is for GPUs. Only that is changed here: the backend is gloo, the device the CPU, and DDP is given no
device ids. Prints the state of the rank as JSON.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_module
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_dsvm.training import dsvm_trainer


class OnCPU:
    """Mixed into a trainer: nnU-Net's says GPU wherever there are ranks."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):  # noqa: B008
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.device, self.grad_scaler = torch.device("cpu"), None


class CPUTrainer(OnCPU, dsvm_trainer.nnUNetTrainerDSVM):
    nan_in_step = None

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):  # noqa: B008
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 3, 1
        self.steps = 0

    def train_step(self, batch):
        if self.steps == self.nan_in_step and self.local_rank == 1:
            batch["data"][:] = float("nan")
        self.steps += 1
        return super().train_step(batch)


def on_cpu(module, device_ids):
    return DistributedDataParallel(module)


def load_json(*path: str) -> Any:
    with open(os.path.join(*path)) as file:
        return json.load(file)


@contextmanager
def start_rank(rank: int, port: str) -> Iterator[None]:
    torch.set_num_threads(1)
    nnunet_module.DDP = dsvm_trainer.DistributedDataParallel = on_cpu
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    yield
    dist.destroy_process_group()


def main(rank: int, nan_in_step: int) -> None:
    CPUTrainer.nan_in_step = nan_in_step
    folder = os.path.join(os.environ["nnUNet_preprocessed"], "Dataset901_Tiny")
    plans, dataset_json = load_json(folder, "tinyPlans.json"), load_json(folder, "dataset.json")
    plans["continue_training"] = False
    # The Dice over the batch gathers all ranks, and so any NaN; without it each rank knows of its own loss only.
    plans["configurations"]["2d"]["batch_dice"] = nan_in_step < 0
    trainer = CPUTrainer(plans, "2d", 0, dataset_json)
    stopped = ""
    try:
        trainer.run_training()
    except RuntimeError as error:
        stopped = str(error)
    logging = trainer.logger.local_logger.my_fantastic_logging
    print(
        "RESULT "
        + json.dumps(
            {
                "stopped": stopped,
                "steps": trainer.steps,
                "weights": [p.double().sum().item() for p in trainer.bare_network().parameters()],
                "projections": [p.double().sum().item() for p in trainer.distillation.parameters()],
                "L_proj": logging["L_proj"],
                "own_loss": trainer.loss.mean_terms(),
            }
        )
    )


if __name__ == "__main__":
    with start_rank(int(sys.argv[1]), sys.argv[2]):
        main(int(sys.argv[1]), int(sys.argv[3]))
