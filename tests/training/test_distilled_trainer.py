"""nnUNetTrainerDistilled: nnU-Net's networks in 2D and 3D; and other trainers and networks with the distillation."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.ddp_equality import IGNORE
from helpers.quick_nnunet import threads_for_processes
from helpers.short_trainers import ShortDistilled, ShortNnUNet, ShortRun, assert_equal, checkpoint_of
from helpers.tiny_dataset import make_tiny_dataset
from helpers.unets import CASCADE_3D, CONFIGURATIONS, RESENC_3D, UNET_2D, UNET_3D
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch._dynamo.backends.registry import lookup_backend

from nnunetv2_dsvm.distillation import DualSelfDistillation
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.training import variants
from nnunetv2_dsvm.training.distilled_trainer import nnUNetTrainerDistilled
from nnunetv2_dsvm.training.layers.distilled import DistilledTraining
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


@pytest.fixture(scope="module")
def tiny_dataset(tmp_path_factory):
    """With nnU-Net's networks in the configurations of helpers/unets.py. Read only."""
    return make_tiny_dataset(tmp_path_factory.mktemp("unets"), CONFIGURATIONS)


class ShortTermsOff(ShortDistilled):
    lambda_projection = lambda_progressive = 0.0


class FoundAgain(ShortDistilled):
    """One epoch, under the name of a trainer that nnU-Net finds when it predicts."""

    default_num_epochs = 1


FoundAgain.__name__ = variants.nnUNetTrainerDistilled_1epochs.__name__


def seeded(make, trainer_class, configuration, **options):
    """A trainer that has trained, all random numbers drawn from one seed that the trainer does not know of."""
    trainer = make(trainer_class, configuration=configuration, **options)
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    trainer.run_training()
    return trainer


@pytest.mark.parametrize("configuration", [UNET_2D, UNET_3D, RESENC_3D])
def test_with_weights_of_0_it_is_nnunets_trainer_to_the_bit(make, configuration):
    ours = seeded(make, ShortTermsOff, configuration, run="ours")
    control = seeded(make, ShortNnUNet, configuration, run="control")
    assert len(ours.losses) == 6 and ours.losses == control.losses
    ours, control = checkpoint_of(ours), checkpoint_of(control)
    assert list(ours["network_weights"]) == list(control["network_weights"])
    assert_equal(ours["network_weights"], control["network_weights"])
    assert ours["logging"]["train_losses"] == control["logging"]["train_losses"]
    assert ours["logging"]["val_losses"] == control["logging"]["val_losses"]
    assert set(ours) - set(control) == {"nnunetv2_dsvm"}


@pytest.mark.parametrize("configuration", [UNET_2D, RESENC_3D])
def test_trains_and_continues_to_the_bit(make, monkeypatch, configuration):
    monkeypatch.setenv("NNUNETV2_DSVM_SEED", "7")
    straight = make(ShortDistilled, configuration=configuration, run="straight")
    straight.run_training()
    history = checkpoint_of(straight)["logging"]
    for key in ("segmentation_loss", "L_proj", "L_prog"):
        assert np.isfinite(history[key]).all() and len(set(history[key])) == 3
    assert all(a > b for a, b in zip(history["train_losses"], history["segmentation_loss"], strict=True))
    log = next(Path(straight.output_folder).glob("training_log_*.txt")).read_text()
    assert "distilled stages: encoder.stages.1 (6 channels, stride " in log
    first = make(type("Cut", (ShortDistilled,), {"cut_off_at": 2}), configuration=configuration, run="cut")
    with pytest.raises(KeyboardInterrupt):
        first.run_training()
    second = make(ShortDistilled, configuration=configuration, run="cut", continued=True)
    second.load_checkpoint(os.path.join(first.output_folder, "checkpoint_latest.pth"))
    second.run_training()
    assert straight.losses == first.losses + second.losses
    for key in ("network_weights", "optimizer_state", "nnunetv2_dsvm"):
        assert_equal(checkpoint_of(straight)[key], checkpoint_of(second)[key])


@pytest.mark.parametrize("configuration", [UNET_2D, UNET_3D])
def test_validates_and_predicts_under_its_name_and_nnunets(make, configuration):
    trainer = make(FoundAgain, configuration=configuration)
    trainer.run_training()
    trainer.inference_allowed_mirroring_axes = None
    with threads_for_processes():
        trainer.perform_actual_validation()
    (case,) = [path.name for path in Path(trainer.output_folder, "validation").glob("case_*.nii.gz")]
    image, *_ = trainer.dataloader_val.data_loader._data.load_case(case.removesuffix(".nii.gz"))
    image = torch.from_numpy(image[:])
    predicted = []
    for name in (FoundAgain.__name__, "nnUNetTrainer"):
        checkpoint = checkpoint_of(trainer) | {"trainer_name": name}
        torch.save(checkpoint, Path(trainer.output_folder, "checkpoint_renamed.pth"))
        predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, perform_everything_on_device=False)
        predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_renamed.pth")
        assert not predictor.network._forward_hooks
        predicted.append(predictor.predict_logits_from_preprocessed_data(image))
    assert torch.equal(*predicted) and predicted[0].isfinite().all()


def test_weights_pass_between_it_and_nnunets_trainer(make):
    ours, nnunets = (make(t, configuration=UNET_3D, run=t.__name__) for t in (ShortDistilled, ShortNnUNet))
    for giver, taker in (ours, nnunets), (nnunets, ours):
        giver.initialize() if not giver.was_initialized else None
        taker.initialize() if not taker.was_initialized else None
        for parameter in giver.network.parameters():
            torch.nn.init.uniform_(parameter)
        path = os.path.join(giver.output_folder, "checkpoint_best.pth")
        giver.save_checkpoint(path)
        load_pretrained_weights(taker.network, path)
        expected, got = giver.network.state_dict(), taker.network.state_dict()
        assert all(torch.equal(got[name], expected[name]) for name in expected if ".seg_layers." not in name)


def test_a_cascade_and_its_regions_and_ignored_voxels(make):
    labels = {
        "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
        "regions_class_order": [1, 2],
    }
    trainer = make(ShortDistilled, configuration=CASCADE_3D, labels=labels)
    trainer.initialize()
    trainer.network.train()
    assert trainer.num_input_channels == 3
    image, target = torch.randn(2, 3, 8, 16, 16), torch.zeros(2, 3, 8, 16, 16)
    target[:, -1] = 1
    targets = [target, target[..., ::2, ::2], target[..., ::2, ::4, ::4]]
    trainer.loss(trainer.network(image), targets).backward()
    assert trainer.loss.last_terms["projection"] == trainer.loss.last_terms["progressive"] == 0
    assert all(p.grad is not None and not p.grad.any() for p in trainer.distillation.parameters())
    target[:, -1, :4] = 0
    trainer.loss(trainer.network(image), targets).backward()
    assert trainer.loss.last_terms["projection"] > 0
    assert all(p.grad.isfinite().all() and p.grad.any() for p in trainer.distillation.parameters())


def gradients_of_a_step(trainer):
    """Of network and projections, as one vector: biases before a norm have gradients of rounding size.

    With pixels to ignore.
    """
    generator = torch.Generator().manual_seed(3)
    size = trainer.configuration_manager.patch_size
    image = torch.randn(2, 1, *size, generator=generator)
    target = torch.randint(0, 4, (2, 1, *size), generator=generator).float()
    scales = trainer._get_deep_supervision_scales()
    targets = [nn.functional.interpolate(target, scale_factor=scale, mode="nearest") for scale in scales]
    trainer.network.train()
    trainer.current_epoch = trainer.num_epochs
    trainer.loss(trainer.network(image), targets).backward()
    parameters = [p for module in trainer.trained_modules() for p in module.parameters()]
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def test_a_compiled_network_is_distilled_also_after_one_that_was_not(make, monkeypatch):
    """torch shares what it compiled between networks of a class and does not look whether hooks came to one."""
    compile_anything = torch.compile
    in_one_piece = {"backend": "eager", "fullgraph": True}
    monkeypatch.setattr(torch, "compile", lambda module, **options: compile_anything(module, **in_one_piece, **options))
    compiled = {"_do_i_compile": lambda self: True}
    control = make(type("Control", (ShortNnUNet,), compiled), configuration=UNET_2D)
    control.initialize()
    control.network.train()(torch.randn(2, 1, 32, 40))
    gradients = []
    for body in compiled, {}:
        torch.manual_seed(1)
        trainer = make(type("Ours", (ShortDistilled,), body), configuration=UNET_2D, labels=IGNORE)
        trainer.initialize()
        gradients.append(gradients_of_a_step(trainer))
        assert trainer.loss.last_terms["projection"] > 0
        assert isinstance(trainer.loss.distillation, torch._dynamo.OptimizedModule) == bool(body)
    assert isinstance(control.network, torch._dynamo.OptimizedModule)
    assert torch.dist(*gradients) <= 1e-5 * gradients[1].norm()


def test_where_nnunet_compiles_the_terms_are_compiled_once_and_train_the_same(make, monkeypatch):
    """Whatever the ramp of the epoch is, and with validation in between."""
    compile_anything, pieces = torch.compile, []

    def compile_in_one_piece(module, **options):
        terms = isinstance(module, DualSelfDistillation)

        def backend(graph, inputs):
            pieces.append(type(module))
            return lookup_backend("aot_eager" if terms else "eager")(graph, inputs)

        return compile_anything(module, backend=backend, fullgraph=True, **options)

    monkeypatch.setattr(torch, "compile", compile_in_one_piece)
    trained = []
    for run, compiles in (("eager", False), ("compiled", True)):
        body = {"_do_i_compile": lambda self, answer=compiles: answer, "ramp_fraction": 1.0}
        trained.append(seeded(make, type("Ours", (ShortDistilled,), body), UNET_2D, run=run))
    eager, compiled = trained
    assert pieces.count(DualSelfDistillation) == 1
    histories = [checkpoint_of(trainer)["logging"] for trainer in trained]
    assert len(set(histories[1]["distillation_ramp"])) == 3
    np.testing.assert_allclose(compiled.losses, eager.losses, rtol=1e-5)
    for term in ("segmentation_loss", "L_proj", "L_prog"):
        np.testing.assert_allclose(histories[1][term], histories[0][term], rtol=1e-5)
    for entry in (lambda c: c, lambda c: c["network_weights"], lambda c: c["nnunetv2_dsvm"]["projections"]):
        ours, theirs = (entry(checkpoint_of(trainer)) for trainer in (compiled, eager))
        assert list(ours) == list(theirs)
    larger = [
        [torch.randn(1, s.channels, *(96 // n for n in s.stride)) for s in side] for side in compiled.distilled_stages
    ]
    torch.testing.assert_close(compiled.loss.distillation(*larger), compiled.distillation(*larger), rtol=1e-5, atol=0)
    assert pieces.count(DualSelfDistillation) == 2


class TheirNetwork(nn.Module):
    """Of a user's: no deep supervision, a list of maps, and names of its own."""

    def __init__(self, input_channels, classes):
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(input_channels, 4, 3, 1, 1), nn.Conv2d(4, 6, 3, 2, 1)])
        self.up = nn.ConvTranspose2d(6, 4, 2, 2)
        self.head = nn.Conv2d(4, classes, 1)

    def forward(self, x):
        fine = self.down[0](x).relu()
        return self.head(self.up(self.down[1](fine).relu()) + fine)


class TheirTrainer(nnUNetTrainer):
    """Of a user's, who knows nothing of ours."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False

    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        return TheirNetwork(num_input_channels, num_output_channels)

    def set_deep_supervision_enabled(self, enabled):
        pass


NAMES = {"distillation_encoder": ("down.0", "down.1"), "distillation_decoder": ("up",)}


@pytest.mark.parametrize(
    "bases",
    [(DistilledTraining, TheirTrainer), (nnUNetTrainerDistilled, TheirTrainer), (TheirTrainer, nnUNetTrainerDistilled)],
    ids=["the layer", "in front", "behind"],
)
def test_a_users_trainer_and_network(make, bases):
    trainer = make(type("Mine", (ShortRun, *bases), {**NAMES, "default_num_epochs": 1}), configuration=UNET_2D)
    trainer.run_training()
    assert [[(s.channels, s.stride) for s in side] for side in trainer.distilled_stages] == [
        [(4, (1, 1)), (6, (2, 2))], [(4, (1, 1))]
    ]  # fmt: skip
    assert trainer.loss.last_terms.keys() == {"segmentation", "projection", "progressive"}
    assert list(checkpoint_of(trainer)["network_weights"]) == list(TheirNetwork(1, 3).state_dict())


@pytest.mark.parametrize(
    ("bases", "body", "message"),
    [
        ((TheirTrainer,), {}, "cannot distil .*TheirNetwork is not built like nnU-Net's.*distillation_encoder and"),
        ((TheirTrainer,), {**NAMES, "distillation_decoder": ("up", "nothing")}, "TheirNetwork has no module 'nothing'"),
        ((TheirTrainer,), {"distillation_encoder": ("down.0",)}, "but no distillation_decoder"),
        ((TheirTrainer,), {**NAMES, "distillation_encoder": "down.0"}, "is 'down.0', but must be the names"),
        ((TheirTrainer,), {**NAMES, "distillation_encoder": ("down.1",)}, "one stage on each side.*leave the term out"),
        ((nnUNetTrainerVMUNet,), NAMES, "passes on its features itself"),
    ],
)
def test_what_cannot_be_tapped_is_refused_before_anything_is_trained(make, bases, body, message):
    with pytest.raises(UserValueError, match=message):
        make(type("Mine", (DistilledTraining, *bases), body)).initialize()
