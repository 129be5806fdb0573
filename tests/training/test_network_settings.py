"""What a class states of its VM-UNet: trained, and found again by nnU-Net and by VMUNet.from_nnunet, in 2D and 3D."""

import copy
import math
import os
from pathlib import Path

import pytest
import torch
from helpers.short_trainers import (
    ShortDSVM,
    ShortDSVM_deepSupervision,
    ShortDSVM_UMambaBot,
    ShortRun,
    ShortVMUNet,
    checkpoint_of,
    predictor_of,
    train_one_epoch,
)
from helpers.tiny_dataset import make_tiny_dataset
from helpers.tiny_volumes import VOLUME, VOLUMES
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.errors import UserError, UserValueError
from nnunetv2_dsvm.planning.network_of_plans import build_vm_unet
from nnunetv2_dsvm.training import variants

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")

STRIDE, STEM, FULL = {"patch_embedding_stride": 2}, {"stem": "convolutions"}, {"full_resolution_channels": 6}
FINE = {"fine_channels": 4, "drop_path_rate": 0.1}
PLANNED = {"2d": (4, 4), VOLUME: (1, 4, 4)}  # patch embeddings


@pytest.fixture(scope="module")
def tiny_dataset(tmp_path_factory):
    """With volumes, of whose slices a patch is no multiple of the network's stride. Read only."""
    configuration = copy.deepcopy(VOLUMES[VOLUME])
    configuration["architecture"]["arch_kwargs"]["strides"][1] = list(PLANNED[VOLUME])
    return make_tiny_dataset(tmp_path_factory.mktemp("settings"), {VOLUME: configuration})


class NoScan(ShortRun, variants.nnUNetTrainerDSVM_noScan):
    """One epoch, under a name that nnU-Net finds when it predicts."""

    default_num_epochs = 1


NoScan.__name__ = variants.nnUNetTrainerDSVM_noScan.__name__


def with_settings(trainer_class, **settings):
    return type("Stated", (trainer_class,), settings)


@pytest.mark.parametrize("configuration", PLANNED)
@pytest.mark.parametrize(
    ("trainer_class", "settings"),
    [
        (ShortDSVM, STRIDE),
        (ShortVMUNet, STEM),
        (ShortVMUNet, FULL),
        (ShortDSVM_deepSupervision, {**STRIDE, **STEM, **FULL}),
        (ShortDSVM_deepSupervision, {**STRIDE, **STEM, **FULL, "scan": False}),
        (ShortDSVM_deepSupervision, FINE),
        (ShortVMUNet, {**STRIDE, **FINE}),
    ],
    ids=["stride", "stem", "full resolution", "all", "all without scan", "fine", "fine with stride"],
)
def test_settings_make_the_network_of_training_and_the_one_that_is_read_back(
    make, configuration, trainer_class, settings
):
    trainer = train_one_epoch(make(with_settings(trainer_class, **settings), configuration=configuration))
    network = trainer.network
    first = PLANNED[configuration]
    if "patch_embedding_stride" in settings:
        first = tuple(max(1, n // 2) for n in first)
    assert network.sizes.strides[1] == network.encoder_stages[0].stride == first
    expected = {name: value for name, value in settings.items() if name != "patch_embedding_stride"}
    assert {name: getattr(network.sizes, name) for name in expected} == expected
    assert checkpoint_of(trainer)["nnunetv2_dsvm"]["network_settings"] == settings
    log = next(Path(trainer.output_folder).glob("training_log_*.txt")).read_text()
    stated = ", ".join(f"{name} {value}" for name, value in settings.items())
    assert f"as the plans ask, but for the {stated} of the trainer" in log

    patch = trainer.configuration_manager.patch_size
    image = torch.randn(1, 1, *patch)
    read = VMUNet.from_nnunet(trainer.output_folder_base, 0)
    assert read.sizes == network.sizes
    with torch.no_grad():
        trainer.set_deep_supervision_enabled(False)
        torch.testing.assert_close(read(image), network.eval()(image))
    if trainer.enable_deep_supervision:  # the second of the heads is on the first stage
        scale = [math.ceil(n / step) / n for n, step in zip(patch, first, strict=True)]
        assert trainer._get_deep_supervision_scales()[:2] == [[1] * len(patch), scale]


@pytest.mark.parametrize("configuration", PLANNED)
def test_without_scan_nnunet_predicts_and_the_one_with_it_takes_no_weights(make, configuration):
    trainer = train_one_epoch(make(NoScan, configuration=configuration))
    names = checkpoint_of(trainer)["network_weights"].keys()
    of_the_scan = ("x_proj", "dt_proj", "dt_bias", "A_log", ".D")
    assert not [name for name in names if name.endswith(of_the_scan)]
    patch = trainer.configuration_manager.patch_size
    image = torch.randn(1, *([1] if len(patch) == 2 else []), *patch)
    predictor = predictor_of(trainer)
    predictor.use_gaussian = False
    logits = predictor.predict_logits_from_preprocessed_data(image)
    read = VMUNet.from_nnunet(trainer.output_folder_base, 0)
    with torch.no_grad():
        expected = read(image[None, :, 0])[0][:, None] if len(patch) == 2 else read(image[None])[0]
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=2e-3)  # kept in fp16

    other = train_one_epoch(make(ShortDSVM, run="other", configuration=configuration))
    for taker, giver, run in ((NoScan, other, "b"), (ShortDSVM, trainer, "c")):
        file = os.path.join(giver.output_folder, "checkpoint_final.pth")
        new = make(taker, run=run, continued=True, configuration=configuration)
        with pytest.raises(UserError, match="holds another network than this training's.*the trainer's class states"):
            new.load_checkpoint(file)
        with pytest.raises(AssertionError, match="is missing in the pretrained model weights"):
            load_pretrained_weights(new.network, file)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_embedding_stride": 1}, "trainer's patch_embedding_stride 1 give no VM-UNet.*at least 2, got 1"),
        ({"stem": "conv"}, "'patches' or 'convolutions', got 'conv'"),
        ({"stem": "convolutions", "patch_embedding_stride": 8}, "cannot lower a size by"),
        ({"full_resolution_channels": "many"}, "full_resolution_channels many give no VM-UNet"),
        ({"full_resolution_channels": True}, "a whole number from 0 to 4096, got True"),
        ({"full_resolution_channels": 8.0}, "a whole number from 0 to 4096, got 8.0"),
        ({"full_resolution_channels": 1}, "of one channel its norm makes a constant"),
        ({"scan": 0}, "scan must be True or False, got 0"),
        ({"fine_channels": 1}, "fine_channels 1: of one channel its norm makes a constant"),
        ({"fine_channels": -4}, "fine_channels must be a whole number from 0 to 4096, got -4"),
        ({"fine_channels": 8, "patch_embedding_stride": 8}, "fine_channels halves once or twice and cannot lower"),
        ({"fine_channels": 8, "stem": "convolutions"}, "fine_channels 8 takes the place of the stem"),
        ({"fine_channels": True}, "fine_channels must be a whole number from 0 to 4096, got True"),
        ({"drop_path_rate": 1.0}, "drop_path_rate in"),
    ],
    ids=str,
)
def test_settings_that_give_no_network_are_refused_before_a_folder_is_made(make, tmp_path, settings, message):
    with pytest.raises(UserValueError, match=message):
        make(with_settings(ShortDSVM, **settings))
    assert not (tmp_path / "a").exists()


def test_settings_of_a_vm_unet_are_refused_by_trainers_of_other_networks(make, tmp_path):
    with pytest.raises(
        UserValueError, match="states patch_embedding_stride 2, scan False.* of a VM-UNet, and trains U-M"
    ):
        make(with_settings(ShortDSVM_UMambaBot, **STRIDE, scan=False))
    assert not (tmp_path / "a").exists()


def test_settings_that_a_build_of_the_users_loses_are_refused(make):
    def build(plans_manager, configuration_manager, channels, classes, enable_deep_supervision=True):
        heads = {"deep_supervision": enable_deep_supervision, "auxiliary_heads": enable_deep_supervision}
        return build_vm_unet(configuration_manager, channels, classes, **heads)

    own = {"build_network_architecture": staticmethod(build)}
    make(with_settings(ShortDSVM, **own, patch_embedding_stride=4)).initialize()  # which the plans' network has
    for name, value in {"scan": False, **STRIDE}.items():
        trainer = make(with_settings(ShortDSVM, **own, **{name: value}), run=name)
        with pytest.raises(UserValueError, match=f"states {name} {value}, but its build_network_architecture gives"):
            trainer.initialize()


def test_a_setting_that_inference_would_not_see_is_refused(make):
    trainer = make(ShortDSVM)
    trainer.stem = "convolutions"
    with pytest.raises(UserValueError, match="stem = 'convolutions' in the body of the class"):
        trainer.initialize()
