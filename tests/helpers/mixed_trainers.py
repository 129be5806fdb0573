"""nnU-Net's variants and a user's own classes, to be mixed into the trainers."""

import copy
import importlib

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def nnunets(module: str, name: str) -> type:
    return getattr(importlib.import_module(f"nnunetv2.training.nnUNetTrainer.variants.{module}"), name)


EPOCHS_250 = nnunets("training_length.nnUNetTrainer_Xepochs", "nnUNetTrainer_250epochs")


class Thousand(nnUNetTrainer):
    """Sets what nnU-Net's own trainer has anyway."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 1000


def batch(deep_supervision: bool = False):
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(0, 3, (2, 1, 32, 40), generator=generator)
    targets = [target[..., ::step, ::step] for step in (1, 4, 8)]
    return {
        "data": torch.randn(2, 1, 32, 40, generator=generator), "target": targets if deep_supervision else target
    }  # fmt: skip


def trains_everything(trainer) -> None:
    """One step changes the network and the projections, and the loss has all its terms."""
    modules = trainer.trained_modules()
    before = [copy.deepcopy(module.state_dict()) for module in modules]
    trainer.on_train_epoch_start()
    for group in trainer.optimizer.param_groups:
        group["lr"] = max(group["lr"], 1e-3)  # a warm-up may begin with 0
    assert np.isfinite(trainer.train_step(batch(trainer.enable_deep_supervision))["loss"])
    for module, old in zip(modules, before, strict=True):
        changed = [not torch.equal(value, old[name]) for name, value in module.state_dict().items()]
        assert np.mean(changed) > 0.8
    assert set(trainer.loss_terms_of_last_step()) == {"segmentation_loss", "L_proj", "L_prog"}


class Scaled(torch.nn.Module):
    """A user's loss, of logits and target."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, output, target):
        assert isinstance(output, torch.Tensor)
        return 3 * self.loss(output, target)


class OwnHooks:
    """What nnU-Net's maintainers tell users to override, without super() where nnU-Net itself has none."""

    def _build_loss(self):
        return Scaled(super()._build_loss())

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.network.parameters(), 0.01, momentum=0.9)
        return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1000)

    def on_train_epoch_start(self):  # nnU-Net's, without its log
        self.network.train()
        self.lr_scheduler.step(self.current_epoch)
        self.logger.log("lrs", 0.01, self.current_epoch)


class Theirs(OwnHooks, nnUNetTrainer):
    """A trainer of a user that knows nothing of ours."""
