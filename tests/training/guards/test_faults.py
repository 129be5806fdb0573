"""What happens when things go wrong in a training: a clear sentence, and the files stay as they were."""

import os
import resource
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.short_trainers import ShortDSVM, ShortVMUNet, checkpoint_of
from helpers.tiny_dataset import NETWORK
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.files.atomic_write import UNFINISHED

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


@pytest.fixture
def saved(make):
    """A trainer that has just saved checkpoint_latest.pth, and the file's path and bytes."""
    trainer = make(ShortDSVM)
    trainer.initialize()
    path = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(path))
    return trainer, path, path.read_bytes()


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_leaves_the_old_checkpoint(saved):
    """The kernel refuses every file of more than half a checkpoint: the write fails in its middle."""
    trainer, path, before = saved
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limit[1]))
    try:
        with pytest.raises(OSError, match=f"{path} could not be written.*MiB are free.*is as it was.*continue.*--c"):
            trainer.save_checkpoint(str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(("checkpoint", UNFINISHED))] == [path.name]


def test_what_a_killed_run_left_half_written_is_removed(saved, make):
    _, path, before = saved
    (path.parent / f"{UNFINISHED}x").mkdir()
    half = path.parent / f"{UNFINISHED}x" / path.name, Path(f"{path}.tmp")  # the latter of version 0.1.0
    for file in half:
        file.write_bytes(before[: len(before) // 2])
    trainer = make(ShortDSVM, continued=True)
    trainer.load_checkpoint(str(path))
    trainer.num_epochs = 2
    trainer.run_training()
    assert not any(file.exists() for file in half) and not list(path.parent.glob(f"{UNFINISHED}*"))


def test_results_that_cannot_be_made_are_refused(make, tmp_path):
    (tmp_path / "a").write_text("a file where a folder should be")
    with pytest.raises(RuntimeError, match="nnUNet_results is .*a', which cannot be a folder: .* is a file; set it to"):
        make(ShortDSVM)


def test_a_read_only_results_folder_is_refused_before_training(make, monkeypatch):
    def read_only(**keywords):
        raise OSError(30, "Read-only file system", keywords["dir"])

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", read_only)
    with pytest.raises(RuntimeError, match="fold_0 cannot be written: Read-only file system. Nothing was trained"):
        make(ShortDSVM)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_checkpoint_is_named_with_the_others(saved, make, share):
    _, path, before = saved
    best = path.with_name("checkpoint_best.pth")
    best.write_bytes(before)
    path.write_bytes(before[: int(len(before) * share)])
    reader = make(ShortDSVM)
    with pytest.raises(
        RuntimeError, match=r"checkpoint_latest.pth \(\d+ bytes\) cannot be read.*lie checkpoint_best.pth"
    ):
        reader.load_checkpoint(str(path))
    assert (reader.current_epoch, best.read_bytes()) == (0, before)


@pytest.mark.parametrize("foreign", [[1, 2], {"state_dict": {}}], ids=["list", "other-framework"])
def test_a_foreign_checkpoint_is_refused(saved, make, foreign):
    _, path, _ = saved
    torch.save(foreign, path)
    with pytest.raises(RuntimeError, match="not a checkpoint of an nnU-Net training: it has no network_weights"):
        make(ShortDSVM).load_checkpoint(str(path))


@pytest.mark.parametrize("as_dictionary", [False, True], ids=["file", "dictionary"])
def test_a_checkpoint_may_be_a_dictionary_as_nnunets_signature_says(saved, make, as_dictionary):
    _, path, _ = saved
    content = torch.load(path, weights_only=False)
    content["network_weights"] = {name: value + 1 for name, value in content["network_weights"].items()}
    content["current_epoch"] = 2
    torch.save(content, path)
    reader = make(ShortDSVM)
    reader.load_checkpoint(content if as_dictionary else str(path))
    for name, value in reader.network.state_dict().items():
        assert torch.equal(value, content["network_weights"][name]), name
    for name, value in reader.distillation.state_dict().items():
        assert torch.equal(value, content["nnunetv2_dsvm"]["projections"][name]), name
    assert reader.current_epoch == 2
    assert not list(path.parent.glob(f"{UNFINISHED}*"))


def test_a_dictionary_that_is_no_checkpoint_is_refused(saved, make):
    with pytest.raises(RuntimeError, match="the dictionary is not a checkpoint .* it has no network_weights"):
        make(ShortDSVM).load_checkpoint({"state_dict": {}})


@pytest.mark.parametrize("trainer_class", [ShortDSVM, ShortVMUNet], ids=lambda c: c.__name__)
def test_weights_of_another_size_are_refused_and_nothing_changes(saved, make, trainer_class):
    _, path, before = saved
    larger = {**NETWORK, "dims": [16, 32, 64]}
    name = f"{VMUNet.__module__}.VMUNet"
    architecture = {"network_class_name": name, "arch_kwargs": larger, "_kw_requires_import": []}
    reader = make(trainer_class, architecture=architecture)
    reader.initialize()
    weights = {name: value.clone() for name, value in reader.network.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"another network.*is 8x1x4x4 there and 16x1x4x4 here.*Nothing was changed"):
        reader.load_checkpoint(str(path))
    assert all(torch.equal(value, weights[name]) for name, value in reader.network.state_dict().items())
    assert (reader.current_epoch, path.read_bytes()) == (0, before)


def test_a_checkpoint_written_before_its_epoch_was_known_as_best_becomes_the_best(make):
    """A run killed between checkpoint_latest and checkpoint_best: the continued one writes the latter."""

    class KilledBeforeBest(ShortDSVM):
        def save_checkpoint(self, filename):
            if filename.endswith("best.pth"):
                raise KeyboardInterrupt
            super().save_checkpoint(filename)

    KilledBeforeBest.__name__ = "ShortDSVM"
    killed = make(KilledBeforeBest)
    with pytest.raises(KeyboardInterrupt):
        killed.run_training()
    reader = make(ShortDSVM, continued=True)
    reader.load_checkpoint(os.path.join(reader.output_folder, "checkpoint_latest.pth"))
    best = checkpoint_of(reader, "checkpoint_best.pth")
    assert best["current_epoch"] == reader.current_epoch == 1
    assert best["_best_ema"] == reader._best_ema == best["logging"]["ema_fg_dice"][-1]


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_the_case_with_the_bad_image_is_named(make, value):
    trainer = make(ShortDSVM)
    trainer.initialize()
    batch = {"data": torch.randn(2, 1, 32, 40), "target": torch.zeros(2, 1, 32, 40), "keys": ["case_7", "case_8"]}
    batch["data"][1, 0, 3, 4] = value
    trainer.network.train()
    with pytest.raises(RuntimeError, match="loss became nan.*the images of case_8 hold NaN or infinite"):
        trainer.train_step(batch)
    trainer.network.eval()
    with pytest.raises(RuntimeError, match="validation is not finite.*the images of case_8 hold"), torch.no_grad():
        trainer.validation_step(batch)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_prediction_of_a_bad_image_stops(value):
    network = VMUNet(2, 3, **NETWORK).eval()
    image = torch.zeros(1, 2, 16, 16)
    image[0, 1, 3, 4] = value
    with torch.inference_mode(), pytest.raises(ValueError, match="1 of 512 pixels, in channel 1.*named last"):
        network(image)
    with torch.inference_mode(), pytest.raises(ValueError, match="NaN or infinite though the image is finite"):
        network(torch.full((1, 2, 16, 16), 3e38))  # every pixel is finite, what the network makes of them is not


@pytest.fixture
def overflowing_in_float16() -> VMUNet:
    """Fine in float32 on images of 16 bit; compiled, because its logits then become infinite, as they do on a GPU."""
    network = VMUNet(1, 3, **NETWORK).eval()
    network.encoder.patch_embedding.projection.weight.data *= 4
    return torch.compile(network, backend="eager")


def test_one_tile_whose_logits_overflow_stops_nnunets_prediction(overflowing_in_float16):
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.configuration_manager = SimpleNamespace(patch_size=(32, 32))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=3)
    predictor.allowed_mirroring_axes = (0, 1)
    predictor.network = overflowing_in_float16
    image = torch.rand(1, 2, 32, 80)
    image[:, 1, :, 60:] *= 2**16
    with torch.autocast("cpu", torch.float16), pytest.raises(RuntimeError, match="inf in predicted"):
        predictor.predict_sliding_window_return_logits(image)


def test_a_validation_whose_logits_overflow_stops(make, monkeypatch):
    trainer = make(ShortDSVM)
    trainer.initialize()
    monkeypatch.setattr(trainer.network, "forward", lambda x: torch.full((2, 3, *x.shape[2:]), torch.inf))
    batch = {"data": torch.zeros(2, 1, 32, 40), "target": torch.zeros(2, 1, 32, 40)}
    with pytest.raises(RuntimeError, match="Training stopped in epoch 0: the validation loss became nan"):
        trainer.validation_step(batch)


def test_a_final_validation_whose_logits_overflow_is_repeated_in_float32(make, monkeypatch, capsys):
    precisions = []

    def overflowing(*_):
        precisions.append(os.environ.get("NNUNETV2_DSVM_PRECISION"))
        if not precisions[-1] == "float32":
            raise RuntimeError("Encountered inf in predicted array. Aborting...")

    trainer = make(ShortDSVM)
    trainer.initialize()
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", overflowing)
    monkeypatch.delenv("NNUNETV2_DSVM_PRECISION", raising=False)
    trainer.perform_actual_validation()
    assert precisions == [None, "float32"] and "NNUNETV2_DSVM_PRECISION" not in os.environ
    assert "repeated in float32" in capsys.readouterr().out
    monkeypatch.setenv("NNUNETV2_DSVM_PRECISION", "bfloat16")  # the user's own word
    with pytest.raises(RuntimeError, match=r"stopped.*range of bfloat16.*NNUNETV2_DSVM_PRECISION=float32.*--val"):
        trainer.perform_actual_validation()
    assert os.environ["NNUNETV2_DSVM_PRECISION"] == "bfloat16"
    monkeypatch.delenv("NNUNETV2_DSVM_PRECISION")
    trainer.network = torch.nn.Identity()  # another's network, which does not know the variable
    with pytest.raises(RuntimeError, match=r"stopped.*range of float16.*--val -device cpu"):
        trainer.perform_actual_validation()


def test_an_all_background_fold_and_constant_images_train(make):
    class Empty(ShortDSVM):
        """Every patch is constant and has no label; nothing else is predicted, so that every Dice is 0/0."""

        def train_step(self, batch):
            return super().train_step(emptied(batch))

        def validation_step(self, batch):
            self.network.decoder.seg_layers[0].bias.data[0] = 100
            return super().validation_step(emptied(batch))

    def emptied(batch):
        return {**batch, "data": torch.zeros_like(batch["data"]), "target": torch.zeros_like(batch["target"])}

    trainer = make(Empty)
    trainer.run_training()
    checkpoint = checkpoint_of(trainer)
    assert np.isfinite(trainer.losses).all() and np.isnan(checkpoint["logging"]["mean_fg_dice"]).all()
    assert checkpoint["logging"]["ema_fg_dice"] == [0.0, 0.0, 0.0]  # finite: a later, better epoch can be the best
    assert all(value.isfinite().all() for value in checkpoint["network_weights"].values())


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory. Tried to allocate 2.00 GiB on private pool."),
    ],
    ids=["cuda", "mps"],
)
def test_out_of_gpu_memory_says_which_patch_and_batch_and_what_to_lower(make, monkeypatch, error):
    trainer = make(ShortDSVM)
    trainer.initialize()

    def full(*arguments):
        raise error

    monkeypatch.setattr(trainer.network, "forward", full)
    batch = {"data": torch.zeros(2, 1, 32, 40), "target": torch.zeros(2, 1, 32, 40)}
    sentence = (
        r"during {} with a patch of 32×40 pixels and a batch of 2.*tinyPlans.*lower \"batch_size\" of the "
        r"configuration 2d.*\"patch_size\".*Tried to allocate 2.00 GiB"
    )
    with pytest.raises(torch.OutOfMemoryError, match=sentence.format("training")):
        trainer.train_step(batch)
    with pytest.raises(torch.OutOfMemoryError, match=sentence.format("validation")):
        trainer.validation_step(batch)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(tiny_dataset, make, monkeypatch, tmp_path, device):
    module = torch.cuda if device == "cuda" else torch.backends.mps
    monkeypatch.setattr(module, "is_available", lambda: False)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "a"))
    plans = {**tiny_dataset.load_plans(), "continue_training": False}
    with pytest.raises(RuntimeError, match=f"-device {device}: torch .* finds no usable .*-device cpu"):
        ShortDSVM(plans, "2d", 0, tiny_dataset.load_dataset_json(), device=torch.device(device))
    assert not (tmp_path / "a").exists()
