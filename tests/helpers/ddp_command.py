"""`nnUNetv2_train` on two CPU ranks: nnU-Net's own code behind `-num_gpus 2`, with gloo instead of NCCL."""

import os
import signal

import torch
from nnunetv2.run import run_training
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_module
from torch import distributed as dist

from helpers.ddp_equality import OnCPU
from helpers.ddp_rank import without_device_ids
from helpers.short_trainers import ShortDSVM, without_pictures

KILL_RANK_1_AFTER = "KILL_RANK_1_AFTER"  # so many steps
_run_ddp = run_training.run_ddp


class CommandTrainer(OnCPU, ShortDSVM):
    """Found by nnU-Net, which asks for a GPU; its last rank kills itself where the environment says so."""

    def __init__(self, plans, configuration, fold, dataset_json, device=None):
        super().__init__(plans, configuration, fold, dataset_json, torch.device("cpu"))

    def train_step(self, batch):
        if self.local_rank == 1 and os.environ.get(KILL_RANK_1_AFTER) == str(len(self.losses)):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train_step(batch)

    def perform_actual_validation(self, save_probabilities=False):
        pass  # test_ddp.py shares it out


def run_ddp_on_cpu(rank, *arguments):
    """nnU-Net's `run_ddp` in the process of one rank."""
    torch.set_num_threads(1)
    run_training.setup_ddp = lambda rank, ranks: dist.init_process_group("gloo", rank=rank, world_size=ranks)
    torch.cuda.set_device = lambda device: None
    nnunet_module.DDP = without_device_ids
    with without_pictures():
        _run_ddp(rank, *arguments)
