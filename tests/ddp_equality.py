"""The same steps in one process with the whole batch, and in each of two ranks with half of it.

`python ddp_equality.py RANK PORT FILE` is one rank (on the CPU, see ddp_rank.py); `records()` of a process that has no
ranks is the one process. Everything is in fp64, so that what differs is no rounding.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from ddp_rank import OnCPU, load_json, start_rank
from tiny_dataset import NETWORK, PLANS
from torch import Tensor

from nnunetv2_dsvm.training import dsvm_trainer, variants, vm_unet_trainer

BATCH, STEPS, PATCH = 4, 3, (32, 40)
IGNORE = {"labels": {"background": 0, "one": 1, "two": 2, "ignore": 3}}
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": [1, 2]}


@dataclass(frozen=True)
class Case:
    """A trainer, the changes of its class, of the plans' network and of the dataset.json, and batch_dice."""

    trainer: type
    batch_dice: bool
    changes: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)


CASES = {
    "mse": Case(dsvm_trainer.nnUNetTrainerDSVM, True),
    "mse-no_batch_dice": Case(dsvm_trainer.nnUNetTrainerDSVM, False),
    "mse-clipped": Case(dsvm_trainer.nnUNetTrainerDSVM, True, changes={"lambda_progressive": 1e4}),
    "kl": Case(variants.nnUNetTrainerDSVM_kl, True),
    "kl-no_batch_dice": Case(variants.nnUNetTrainerDSVM_kl, False),
    "projection": Case(variants.nnUNetTrainerDSVM_projection, True),
    "progressive": Case(variants.nnUNetTrainerDSVM_progressive, False),
    "control": Case(vm_unet_trainer.nnUNetTrainerVMUNet, True),
    "deep_supervision": Case(variants.nnUNetTrainerDSVM_deepSupervision, True),
    "deep_supervision-no_batch_dice": Case(variants.nnUNetTrainerDSVM_deepSupervision, False),
    "deep_supervision-control": Case(variants.nnUNetTrainerVMUNet_deepSupervision, True),
    "gradient_checkpointing": Case(dsvm_trainer.nnUNetTrainerDSVM, True, network={"gradient_checkpointing": True}),
    "ignore": Case(dsvm_trainer.nnUNetTrainerDSVM, True, labels=IGNORE),
    "ignore-regions": Case(variants.nnUNetTrainerDSVM_deepSupervision, True, labels=REGIONS),
    "ignore-kl": Case(variants.nnUNetTrainerDSVM_kl, False, labels=IGNORE),
}


def batch(case: Case, step: int, part: slice, deep_supervision: bool) -> dict[str, Any]:
    """A part of the batch of a step, in nnU-Net's form; with an ignore label the first half of it is labelled less."""
    generator = torch.Generator().manual_seed(step)
    data = torch.randn(BATCH, 1, *PATCH, generator=generator)
    target = torch.randint(0, 3, (BATCH, 1, *PATCH), generator=generator)
    if case.labels:
        target[: BATCH // 2, ..., 4:] = 3
        target[BATCH // 2 :, ..., 30:] = 3
    if case.labels is REGIONS:
        target = torch.cat([target == 1, target == 2, target == 3], dim=1)
    data, target = data[part], target[part]
    return {"data": data, "target": [target[..., ::s, ::s] for s in (1, 4, 8)] if deep_supervision else target}


def make_trainer(case: Case) -> Any:
    folder = os.path.join(os.environ["nnUNet_preprocessed"], "Dataset901_Tiny")
    plans = load_json(folder, f"{PLANS}.json")
    plans["continue_training"] = False
    configuration = plans["configurations"]["2d"]
    configuration.update(batch_size=BATCH, batch_dice=case.batch_dice)
    configuration["architecture"]["arch_kwargs"] = {**NETWORK, "drop_path_rate": 0.0, **case.network}
    dataset_json = {**load_json(folder, "dataset.json"), **case.labels}
    trainer_class = type(case.trainer.__name__, (OnCPU, case.trainer), dict(case.changes))
    trainer = trainer_class(plans, "2d", 0, dataset_json, device=torch.device("cpu"))
    trainer.initialize()
    segmentation = getattr(trainer.loss, "segmentation_loss", trainer.loss)
    if trainer.enable_deep_supervision:
        # nnU-Net gives the smallest output 1e-6 with DDP and 0 without.
        segmentation.weight_factors = (2 / 3, 1 / 3, 1e-6)
        segmentation = segmentation.loss
    if case.labels:
        segmentation.weight_ce = 0  # nnU-Net's cross entropy is each rank's mean over its own labelled pixels
    return trainer


def record(case: Case, rank: int | None) -> dict[str, Any]:
    """Loss, terms, gradients (clipped) and projections after each step."""
    torch.manual_seed(rank or 0)  # the ranks start from rank 0's weights
    trainer = make_trainer(case)
    share = BATCH if rank is None else trainer.batch_size
    part = slice((rank or 0) * share, (rank or 0) * share + share)
    trainer.network.train()
    trainer.lr_scheduler.step(0)
    steps = []
    for step in range(STEPS):
        loss = float(trainer.train_step(batch(case, step, part, trainer.enable_deep_supervision))["loss"])
        modules = {"network": trainer.bare_network()}
        if trainer.distillation is not None:
            modules["projections"] = trainer.distillation
        named = {f"{m}.{n}": p for m, module in modules.items() for n, p in module.named_parameters()}
        steps.append(
            {
                "loss": {"loss": torch.tensor(loss)},
                "terms": {n: torch.tensor(value) for n, value in trainer.loss_terms_of_last_step().items()},
                "gradients": {n: p.grad.clone() for n, p in named.items()},
                "weights": {n: p.detach().clone() for n, p in named.items()},
            }
        )
    return steps


@contextmanager
def fp64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def records(rank: int | None = None) -> dict[str, list[dict[str, dict[str, Tensor]]]]:
    with fp64():
        return {name: record(case, rank) for name, case in CASES.items()}


if __name__ == "__main__":
    rank, port, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    with start_rank(rank, port):
        torch.save(records(rank), file)
