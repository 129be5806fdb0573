"""The same steps in one process with the whole batch, and in each of two ranks with half of it (see ddp_rank.py).

Everything is in fp64, nnU-Net's Dice too: Adam makes much of the rounding of small gradients.
"""

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from nnunetv2.training.loss import dice
from torch import Tensor

from helpers.tiny_dataset import NETWORK, PLANS
from helpers.tiny_relatives import ONE_LAYER, TINY
from helpers.unets import unet_architecture
from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES, class_path
from nnunetv2_dsvm.training import distilled_trainer, dsvm_trainer, variants, vm_unet_trainer

BATCH, STEPS, PATCH, VOLUME = 4, 3, (32, 40), (8, 16, 24)
IGNORE = {"labels": {"background": 0, "one": 1, "two": 2, "ignore": 3}}
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": [1, 2]}


@dataclass(frozen=True)
class Case:
    """A trainer, nnU-Net's batch_dice, and changes of the trainer's class, of the network and of the dataset.json."""

    trainer: type
    batch_dice: bool
    changes: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    compiled: bool = False  # the ranks' network and Dice; the one process is as always
    unet: bool = False  # nnU-Net's PlainConvUNet in the place of the VM-UNet
    volumes: bool = False  # in the place of images
    relative: str = ""  # another network of the package, of which `network` are all arguments


IN_3D = {"strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]}  # of NETWORK, which has three stages
WITHOUT_BIAS = {"conv_bias": False}  # before a norm its gradient is rounding, and no two are equal


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
    "deep_supervision-compiled": Case(
        variants.nnUNetTrainerDSVM_deepSupervision,
        True,
        network={"dims": [8, 16], "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
        compiled=True,
    ),
    "deep_supervision-control": Case(variants.nnUNetTrainerVMUNet_deepSupervision, True),
    "no_scan": Case(variants.nnUNetTrainerDSVM_noScan, True),
    "fine": Case(variants.nnUNetTrainerDSVM_fine, True),
    "gradient_checkpointing": Case(dsvm_trainer.nnUNetTrainerDSVM, True, network={"gradient_checkpointing": True}),
    "ignore": Case(dsvm_trainer.nnUNetTrainerDSVM, True, labels=IGNORE),
    "ignore-kl": Case(variants.nnUNetTrainerDSVM_kl, False, labels=IGNORE),
    "ignore-regions": Case(variants.nnUNetTrainerDSVM_deepSupervision, True, labels=REGIONS),
    "volumes": Case(dsvm_trainer.nnUNetTrainerDSVM, True, network=IN_3D, volumes=True),
    "volumes-deep_supervision-ignore-regions": Case(
        variants.nnUNetTrainerDSVM_deepSupervision, True, network=IN_3D, labels=REGIONS, volumes=True
    ),
    "u_mamba": Case(variants.nnUNetTrainerDSVM_UMambaEnc, True, network=TINY["UMambaEnc"], relative="UMambaEnc"),
    "batch_norm": Case(variants.nnUNetTrainerDSVM_ASPVMUNet, True, network=ONE_LAYER, relative="ASPVMUNet"),
    "unet": Case(distilled_trainer.nnUNetTrainerDistilled, True, network=WITHOUT_BIAS, unet=True),
    "unet-projection-compiled-ignore": Case(
        variants.nnUNetTrainerDistilled_projection, True, network=WITHOUT_BIAS, labels=IGNORE, compiled=True, unet=True
    ),
    "unet-progressive-ignore": Case(
        variants.nnUNetTrainerDistilled_progressive, False, network=WITHOUT_BIAS, labels=IGNORE, unet=True
    ),
}


class OnCPU:
    """Mixed into a trainer: where there are ranks, nnU-Net takes GPUs."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.device, self.grad_scaler = torch.device("cpu"), None


def tiny_plans(network: dict[str, Any] | None = None, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tiny dataset's plans, with another network and other changes of the configuration 2d, and dataset.json."""
    both = []
    for name in (f"{PLANS}.json", "dataset.json"):
        with open(os.path.join(os.environ["nnUNet_preprocessed"], "Dataset901_Tiny", name)) as file:
            both.append(json.load(file))
    both[0]["continue_training"] = False
    both[0]["configurations"]["2d"].update(changes)
    both[0]["configurations"]["2d"]["architecture"]["arch_kwargs"].update(network or {})
    return both[0], both[1]


def batch(case: Case, step: int, part: slice, scales: list[list[float]] | None) -> dict[str, Any]:
    """A part of the batch of a step, in nnU-Net's form; with an ignore label its first half is labelled less.

    `scales` are the trainer's of deep supervision, by which the targets get smaller; None: without.
    """
    generator = torch.Generator().manual_seed(step)
    size = VOLUME if case.volumes else PATCH
    data = torch.randn(BATCH, 1, *size, generator=generator)
    target = torch.randint(0, 3, (BATCH, 1, *size), generator=generator)
    if case.labels:
        target[: BATCH // 2, ..., 4:] = 3
        target[BATCH // 2 :, ..., 3 * size[-1] // 4 :] = 3
    if case.labels is REGIONS:
        target = torch.cat([target == 1, target == 2, target == 3], dim=1)
    data, target = data[part], target[part]
    every = [tuple(slice(None, None, round(1 / share)) for share in scale) for scale in scales or ()]
    return {"data": data, "target": [target[(..., *part)] for part in every] if scales else target}


def make_trainer(case: Case, rank: int | None) -> Any:
    network = case.network if case.unet else {**NETWORK, "drop_path_rate": 0.0, **case.network}
    architecture = {"architecture": unet_architecture(2)} if case.unet else {}
    if case.relative:
        path = class_path(RELATIVES[case.relative].network)
        entry = {"network_class_name": path, "arch_kwargs": case.network, "_kw_requires_import": []}
        network, architecture = {}, {"architecture": entry}
    if case.volumes:
        architecture["patch_size"] = VOLUME
    plans, dataset_json = tiny_plans(network, batch_size=BATCH, batch_dice=case.batch_dice, **architecture)
    compiled = case.compiled and rank is not None
    changes = {**case.changes, **({"_do_i_compile": lambda self: True} if compiled else {})}
    trainer_class = type(case.trainer.__name__, (OnCPU, case.trainer), changes)
    trainer = trainer_class(plans, "2d", 0, {**dataset_json, **case.labels}, device=torch.device("cpu"))
    trainer.initialize()
    segmentation = getattr(trainer.loss, "segmentation_loss", trainer.loss)
    if trainer.enable_deep_supervision:
        if not case.compiled:
            # The smallest output counts 0 in one process; with DDP nnU-Net gives it 1e-6, unless it compiles.
            segmentation.weight_factors = (2 / 3, 1 / 3, 1e-6)
        segmentation = segmentation.loss
    if case.labels:
        segmentation.weight_ce = 0  # nnU-Net's cross entropy is each rank's mean over its own labelled pixels
    return trainer


def record(case: Case, rank: int | None) -> list[dict[str, dict[str, Tensor]]]:
    """Of each step: loss and terms, and the gradients (clipped) and weights of network and projections after it."""
    torch.manual_seed(rank or 0)  # all ranks start from rank 0's weights
    trainer = make_trainer(case, rank)
    share = BATCH if rank is None else trainer.batch_size
    part = slice((rank or 0) * share, (rank or 0) * share + share)
    trainer.network.train()
    steps = []
    for step in range(STEPS):
        scales = trainer._get_deep_supervision_scales()
        loss = float(trainer.train_step(batch(case, step, part, scales))["loss"])
        modules = dict(zip(("network", "projections"), trainer.trained_modules(), strict=False))
        named = {f"{m}.{n}": p for m, module in modules.items() for n, p in module.named_parameters()}
        terms = {"loss": loss, **trainer.loss_terms_of_last_step()}
        steps.append(
            {
                "losses": {name: torch.tensor(value) for name, value in terms.items()},
                "gradients": {n: p.grad.clone() for n, p in named.items() if p.grad is not None},
                "weights": {n: p.detach().clone() for n, p in named.items() if p.grad is not None},
            }
        )
    return steps


class _TorchWithoutFP32:
    """torch for a module that asks for fp32 by name."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextmanager
def _fp64_and_plain_compiling():
    """New tensors are fp64; torch.compile differentiates as always, but generates no code, which takes a minute."""
    before, compile_anything = torch.get_default_dtype(), torch.compile
    torch.set_default_dtype(torch.float64)
    with (
        mock.patch.object(dice, "torch", _TorchWithoutFP32()),
        mock.patch.object(torch, "compile", lambda m, **options: compile_anything(m, backend="aot_eager", **options)),
    ):
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def records(rank: int | None) -> dict[str, list[dict[str, dict[str, Tensor]]]]:
    """`record` of every case, by its name; in a process that has no ranks, `rank` is None."""
    with _fp64_and_plain_compiling():
        return {name: record(case, rank) for name, case in CASES.items()}
