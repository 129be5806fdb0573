"""The trainers with a few steps, for tests that train inside pytest's own process, and what is asked of their files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from helpers.tiny_dataset import NETWORK
from helpers.tiny_relatives import TINY
from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES, class_path
from nnunetv2_dsvm.training import variants
from nnunetv2_dsvm.training.distilled_trainer import nnUNetTrainerDistilled
from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM
from nnunetv2_dsvm.training.layers import distilled
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet


class ShortRun:
    """Three epochs of two steps, a checkpoint after each epoch; can be cut off at the start of an epoch."""

    default_num_epochs = 3
    cut_off_at = None

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.default_num_epochs
        self.num_iterations_per_epoch = 2
        self.num_val_iterations_per_epoch = 1
        self.save_every = 1
        self.losses = []

    def on_epoch_start(self):
        if self.current_epoch == self.cut_off_at:
            raise KeyboardInterrupt
        super().on_epoch_start()

    def train_step(self, batch):
        result = super().train_step(batch)
        self.losses.append(float(result["loss"]))
        return result


class ShortDSVM(ShortRun, nnUNetTrainerDSVM):
    pass


class ShortDSVM_kl(ShortRun, variants.nnUNetTrainerDSVM_kl):
    pass


class ShortDSVM_projection(ShortRun, variants.nnUNetTrainerDSVM_projection):
    pass


class ShortDSVM_deepSupervision(ShortRun, variants.nnUNetTrainerDSVM_deepSupervision):
    pass


class ShortVMUNet(ShortRun, nnUNetTrainerVMUNet):
    pass


class ShortVMUNet_deepSupervision(ShortRun, variants.nnUNetTrainerVMUNet_deepSupervision):
    pass


class ShortDistilled(ShortRun, nnUNetTrainerDistilled):
    """nnU-Net's network with the distillation."""


class ShortNnUNet(ShortRun, nnUNetTrainer):
    """nnU-Net's own trainer and network."""


def short_relative(name):
    """The trainer of a relative with the distillation."""
    trainer = getattr(variants, f"nnUNetTrainerDSVM_{name}")
    return type(f"ShortDSVM_{name}", (ShortRun, trainer), {"__module__": __name__})


SHORT_RELATIVES = [short_relative(name) for name in RELATIVES if name in TINY]
ShortDSVM_UMambaBot = short_relative("UMambaBot")  # by a name, which nnU-Net finds


def with_deep_supervision(trainer_class):
    return type(f"{trainer_class.__name__}_deepSupervision", (trainer_class,), {"default_deep_supervision": True})


def tiny_architecture(trainer_class):
    """Changes of the plans' configuration with which a relative is tiny; none for other trainers."""
    name = getattr(trainer_class, "relative", None)
    if name is None:
        return {}
    path = class_path(RELATIVES[name].network)
    architecture = {"network_class_name": path, "arch_kwargs": TINY[name], "_kw_requires_import": []}
    return {"architecture": architecture}


class ShortBestFirst(ShortDSVM):
    """Predicts label 1 everywhere after its first epoch, which is the best, and background after the others."""

    def on_train_epoch_end(self, train_outputs):
        bias = self.network.decoder.seg_layers[0].bias.data
        bias.zero_()[int(self.current_epoch == 0)] = 100
        super().on_train_epoch_end(train_outputs)


class FoundAgain(ShortDSVM):
    """One epoch, under the name of a trainer that nnU-Net finds when it predicts; two steps show in its predictions."""

    default_num_epochs = 1

    def initialize(self):
        super().initialize()
        self.network.decoder.seg_layers[0].weight.data *= 5


FoundAgain.__name__ = variants.nnUNetTrainerDSVM_1epochs.__name__

SHORT = [ShortDSVM, ShortDSVM_kl, ShortDSVM_projection, ShortDSVM_deepSupervision, ShortVMUNet]


@contextmanager
def without_pictures() -> Iterator[None]:
    """Drawing takes longer than training here."""
    with (
        mock.patch.object(LocalLogger, "plot_progress_png", lambda *arguments: None),
        mock.patch.object(distilled, "plot_distillation_progress", lambda *arguments: None),
    ):
        yield


def train_one_epoch(trainer):
    trainer.num_epochs = 1
    trainer.run_training()
    assert len(trainer.losses) == trainer.num_iterations_per_epoch and np.isfinite(trainer.losses).all()
    return trainer


def predictor_of(trainer, folds=(0,), mirroring=False):
    """nnU-Net's predictor, from the folder of a trained `FoundAgain`."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=mirroring, perform_everything_on_device=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, folds)
    return predictor


def probabilities_by_hand(trainer, images):
    """What the trained network makes of normalised images (channels, z, y, x), slice by slice."""
    network = VMUNet(len(images), trainer.label_manager.num_segmentation_heads, **NETWORK).eval()
    network.load_state_dict(checkpoint_of(trainer)["network_weights"])
    with torch.inference_mode():
        logits = network(torch.from_numpy(np.stack(images, axis=1))).transpose(0, 1)
    return (logits.sigmoid() if trainer.label_manager.has_regions else logits.softmax(0)).numpy()


def z_score(image):
    return (image - image.mean()) / image.std()


def checkpoint_of(trainer, name="checkpoint_final.pth"):
    return torch.load(os.path.join(trainer.output_folder, name), weights_only=False)


def assert_equal(a, b):
    """Equal to the bit, through dictionaries, lists and tensors."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def build(trainer_class, plans, **keywords):
    """The network of 2d in these plans, of one channel and three classes, as nnU-Net asks a trainer for it."""
    manager = PlansManager(plans)
    arguments = manager, manager.get_configuration("2d"), 1, 3
    return trainer_class.build_network_architecture(*arguments, enable_deep_supervision=False, **keywords)
