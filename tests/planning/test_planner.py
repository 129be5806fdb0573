"""DSVMPlanner: its patches, batches and networks, and nnU-Net's commands on its plans."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers.dataset_miniatures import threads_for_processes
from helpers.examples_in_docstrings import run_example
from helpers.litter import scatter
from helpers.tiny_dataset import SHAPE
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

import nnunetv2_dsvm
from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.planning.memory import CUDA_CONTEXT, GIGABYTE, largest_batch
from nnunetv2_dsvm.planning.planner import PLANS_NAME, PRESET_FROM_GB, DSVMPlanner, preset_for

BASE = PRESETS["base"]
IMAGES = {"input_channels": 1, "num_classes": 3}
DATA = ["-d", "901"]
OPTIONS = ["-preset", "small", "-npfp", 1, "-np", 1, "--no_pbar"]


@pytest.fixture
def plan(copied_dataset, monkeypatch):
    """plan(spacing_mm, median shape, voxels of the dataset, **options): the 2D configuration of such a dataset."""
    for name, value in {**copied_dataset.environment, "nnUNet_n_proc_DA": "1"}.items():
        monkeypatch.setenv(name, value)
    # nnU-Net's own 2D plan, which ours replaces in part, costs seconds
    monkeypatch.setattr(DSVMPlanner, "static_estimate_VRAM_usage", staticmethod(lambda *arguments: 1e6))

    def of(spacing=(1.0, 1.0), shape=(512, 512), voxels=1e12, **options):
        planner = DSVMPlanner(copied_dataset.name, **options)
        spacing, shape = np.array(spacing), np.array(shape)
        return planner, planner.get_plans_for_configuration(spacing, shape, "data", voxels, {})

    return of


def test_a_preset_for_every_target():
    assert [preset_for(gb) for gb in (4, 8, 11.9, 12, 24, 40, 79, 80, 160)] == [
        "base", "base", "base", "large", "wide", "deep", "deep", "huge", "huge",
    ]  # fmt: skip


@pytest.mark.parametrize("target_gb", sorted(gb for gb in PRESET_FROM_GB if gb))
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_batch_fills_the_target_and_not_more(plan, target_gb, precision):
    planner, planned = plan(gpu_memory_target_in_gb=target_gb, precision=precision)
    assert planned["patch_size"] == [512, 512]
    assert planner.memory_gb([512, 512], planned["batch_size"]) <= target_gb
    assert planner.memory_gb([512, 512], planned["batch_size"] + 1) > target_gb
    assert planned["batch_size"] >= 8 or (target_gb, precision) in [(8, "float16"), (12, "float16")]


@pytest.mark.parametrize("shape", [(40, 48), (512, 333), (100, 1000), (3000, 2000), (5, 5000), (31, 33)])
def test_patches_are_multiples_of_the_stride_and_no_larger_than_needed(plan, shape):
    planner, planned = plan(shape=shape)
    patch, batch = planned["patch_size"], planned["batch_size"]
    assert all(p % 32 == 0 and p - 32 < s for p, s in zip(patch, shape, strict=True))
    assert batch >= 2 and planner.memory_gb(patch, batch) <= 8


def test_a_patch_that_has_to_shrink_keeps_the_shape_of_the_image(plan):
    planner, planned = plan(shape=(3000, 2000), gpu_memory_target_in_gb=4)
    height, width = planned["patch_size"]
    assert planned["batch_size"] == 2 and height * width < 2048**2
    assert height / width == pytest.approx(1.5, abs=0.1)
    assert planner.memory_gb([height + 32, width + 32], 2) > 4


def test_a_finer_patch_embedding_is_planned_with_what_it_takes(plan):
    """Four times the tokens of the published one, and a patch that the finer network divides."""
    planner, planned = plan(shape=(200, 333), patch_embedding_stride=2)
    assert planned["architecture"]["arch_kwargs"]["strides"] == [[1, 1], *[[2, 2]] * 4]
    patch, batch = planned["patch_size"], planned["batch_size"]
    assert patch == [208, 336]  # of 16, where the published stride is 32
    assert planner.memory_gb(patch, batch) <= 8 < planner.memory_gb(patch, batch + 1)
    published, _ = plan(shape=(200, 333))
    each = [p.memory_gb(patch, 3) - p.memory_gb(patch, 2) for p in (planner, published)]
    assert 2.5 < each[0] / each[1] < 4.5 and planner.memory_gb(patch, 2) > published.memory_gb(patch, 2)


def test_fine_stages_are_planned_with_what_they_take(plan):
    """The numbers are those of the study's trainings, which reserved so much more than without."""
    planner, planned = plan(shape=(320, 384), fine_channels=32)
    assert planned["architecture"]["arch_kwargs"]["fine_channels"] == 32
    patch, batch = planned["patch_size"], planned["batch_size"]
    assert patch == [320, 384] and planner.memory_gb(patch, batch) <= 8 < planner.memory_gb(patch, batch + 1)
    published, without = plan(shape=(320, 384))
    assert "fine_channels" not in without["architecture"]["arch_kwargs"] and without["batch_size"] > batch
    took = 4 * 320 * 384 * (43.5 * (32 + 64 / 4) + 10 * 96 / 16 - 6.635 * 96 / 4) / GIGABYTE
    more = planner.memory_gb(patch, 4) / 1.10 - published.memory_gb(patch, 4) / 1.06
    assert more == pytest.approx(took + CUDA_CONTEXT / GIGABYTE * (1 / 1.10 - 1 / 1.06), rel=0.01)
    fewer = [replace(planner.sizes, fine_channels=channels) for channels in (0, 2, 4, 16, 32, 64)]
    needed = [planner.memory_gb(patch, 4, sizes) for sizes in fewer]
    assert needed == sorted(needed)
    _, both = plan(shape=(200, 333), fine_channels=16, patch_embedding_stride=2)
    assert both["architecture"]["arch_kwargs"]["strides"][1] == [2, 2] and both["patch_size"] == [208, 336]


def test_plans_say_which_of_their_configurations_are_earlier_ones(plan, copied_dataset, capsys):
    path = copied_dataset.preprocessed / f"{PLANS_NAME}.json"
    assert main(["plan", *DATA, "-preset", "small", "-fine_channels", "32"]) == 0
    first = capsys.readouterr().out
    assert f"Plans were saved to {path}\n" in first and "preset small, fine_channels 32, patch" in first
    assert f"-tr nnUNetTrainerDSVM_fine -p {PLANS_NAME}" in first
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_lowres"] = plans["configurations"]["2d"]
    path.write_text(json.dumps(plans))
    assert main(["plan", *DATA, "-preset", "small"]) == 0
    second = capsys.readouterr().out
    assert f"{path}, which keeps its earlier 3d_lowres\n" in second and "3d_lowres: VM-UNet" not in second
    configurations = json.loads(path.read_text())["configurations"]
    assert configurations["3d_lowres"] == plans["configurations"]["2d"] != configurations["2d"]


def test_a_step_with_fine_stages_takes_a_cpu_no_longer(plan):
    plain, fine = (plan(shape=(256, 224), preset="small", for_cpu=True, fine_channels=c)[1] for c in (0, 32))
    assert plain["patch_size"] == fine["patch_size"] and plain["batch_size"] == 8 and fine["batch_size"] == 3


def test_spacing_shapes_the_first_patch_as_in_nnunet(plan):
    _, planned = plan(spacing=(1.0, 2.0), shape=(9000, 9000), gpu_memory_target_in_gb=80, preset="small")
    height, width = planned["patch_size"]
    assert height / width == pytest.approx(2, abs=0.05) and height * width == pytest.approx(2048**2, rel=0.05)


def test_a_batch_covers_no_more_than_a_twentieth_of_the_dataset(plan):
    _, planned = plan(voxels=3 * 20 * 512 * 512)
    assert planned["batch_size"] == 3
    assert plan(voxels=512 * 512)[1]["batch_size"] == 2


def test_everything_else_is_nnunets(plan):
    _, planned = plan()
    assert planned["normalization_schemes"] == ["ZScoreNormalization"] and planned["data_identifier"] == "data"
    assert planned["resampling_fn_data"] == "resample_data_or_seg_to_shape"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-preset", "giant"], "unknown preset 'giant'"),
        (["-gpu_memory_target", "0.5"], "more than the target of 0.5 GB: raise -gpu_memory_target"),
        (["-gpu_memory_target", "0.5", "-preset", "small"], "raise -gpu_memory_target\n"),
        (["-patch_embedding_stride", "1"], "patch_embedding_stride must be a whole number of at least 2, got 1"),
        (["-fine_channels", "-8"], "fine_channels must be a whole number from 0 to 4096, got -8"),
        (["-fine_channels", "1" + "0" * 30], "fine_channels must be a whole number from 0 to 4096, got 10"),
        (["-gpu_memory_target", "1.2", "-fine_channels", "3000"], "'base' and fine_channels 3000 with 2 images"),
        (
            ["-gpu_memory_target", "1.2", "-fine_channels", "3000"],
            "raise -gpu_memory_target, plan fewer -fine_channels",
        ),
        (["-fine_channels", "1"], "fine_channels 1: of one channel its norm makes a constant"),
        (["-fine_channels", "8", "-patch_embedding_stride", "8"], "halves once or twice and cannot lower a size by"),
        (["-gpu_memory_target", "0"], "above 0 GB, got 0"),
        (["-gpu_memory_target", "inf"], "above 0 GB, got inf"),
        (["-gpu_memory_target", "nan"], "above 0 GB, got nan"),
        (["-overwrite_plans_name", "a/b"], "'a/b': the plans become a file"),
        (["-overwrite_plans_name", "a__b"], "'a__b': the plans become a file"),
        (["-preprocessor_name", "Nope"], "-preprocessor_name Nope: nnU-Net has no such class"),
    ],
)
def test_plans_that_cannot_be_made_are_refused_and_nothing_is_written(plan, copied_dataset, capsys, arguments, message):
    before = sorted(copied_dataset.preprocessed.iterdir())
    assert main(["plan", "-d", "901", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert sorted(copied_dataset.preprocessed.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-np", 1, 2], "-np has 2 numbers for 1 configurations"),
        (["-fpe", "Nope"], "-fpe Nope: nnU-Net has no such"),
        (["-fine_channels", "-3"], "preprocess: fine_channels must be a whole number from 0 to 4096, got -3"),
        (["-patch_embedding_stride", "1"], "preprocess: patch_embedding_stride must be a whole number of at least 2"),
        (["-preset", "giant"], "unknown preset 'giant'"),
        (["-gpu_memory_target", "nan"], "above 0 GB, got nan"),
        (["-overwrite_plans_name", "a/b"], "'a/b': the plans become a file"),
        (["-preprocessor_name", "Nope"], "-preprocessor_name Nope: nnU-Net has no such class"),
    ],
)
def test_options_of_the_preprocessing_are_checked_first(plan, copied_dataset, capsys, arguments, message):
    (copied_dataset.preprocessed / "dataset_fingerprint.json").unlink()  # it would be made anew first
    before = sorted(copied_dataset.preprocessed.iterdir())
    assert main(["plan_and_preprocess", "-d", "901", *map(str, arguments)]) == 1
    assert message in capsys.readouterr().err
    assert sorted(copied_dataset.preprocessed.iterdir()) == before


def test_what_the_integrity_check_finds_is_said(plan, copied_dataset, capsys):
    next((copied_dataset.raw / "labelsTr").iterdir()).unlink()
    command = ["plan_and_preprocess", "-d", "901", "--verify_dataset_integrity", "--clean", *map(str, OPTIONS)]
    with threads_for_processes():
        assert main(command) == 1
    assert "Nothing was planned" in capsys.readouterr().err
    assert not (copied_dataset.preprocessed / f"{PLANS_NAME}.json").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-preset", "small"], "for a CPU, which trains in float32\nThere is no CUDA GPU here; -gpu_memory_target GB"),
        (["-preset", "small", "-gpu_memory_target", 8], "of 8 GB of a GPU, in bfloat16\nThere is no CUDA GPU"),
        (
            ["-preset", "small", "-precision", "float16"],
            "in float16\nThere is no CUDA GPU here. A CPU trains in "
            "float32 and far slower: plan with -preset small alone",
        ),
        ([], "of 8 GB of a GPU, in bfloat16\nThere is no CUDA GPU here. A CPU trains in float32 and far slower"),
    ],
    ids=str,
)
def test_without_a_gpu_the_sentence_is_true_and_values_are_plain(plan, capsys, monkeypatch, options, sentence):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["plan", "-d", "901", *map(str, options)]) == 0
    printed = capsys.readouterr().out
    assert sentence in printed
    assert "Plans were saved to" in printed and "'spacing': [" in printed
    assert "np." not in printed and "array(" not in printed


@pytest.mark.parametrize(
    ("shape", "for_cpu", "batch"), [((64, 64), True, 8), ((512, 512), True, 2), ((64, 64), False, 1000)], ids=str
)
def test_a_step_on_a_cpu_is_small(plan, shape, for_cpu, batch):
    planned = plan(shape=shape, preset="small", for_cpu=for_cpu)[1]
    assert planned["batch_size"] == batch if for_cpu else planned["batch_size"] > batch


def test_channels_and_classes_of_the_dataset_count(plan, copied_dataset):
    """The memory of 61 classes, as measured on a GPU: 16 images of 256x256 took 7.80 GB."""
    file = copied_dataset.raw / "dataset.json"
    content = json.loads(file.read_text())

    def batch(channels, labels):
        names = {"channel_names": {str(i): "MRI" for i in range(channels)}, "labels": {str(i): i for i in labels}}
        file.write_text(json.dumps({**content, **names}))
        shutil.copy(file, copied_dataset.preprocessed / "dataset.json")
        return plan(shape=(256, 256))[1]["batch_size"]

    few, many = batch(1, range(3)), batch(1, range(61))
    assert many == 16 and few > 30
    assert batch(40, range(3)) <= few
    expected = largest_batch(8 * GIGABYTE, (256, 256), BASE, **{**IMAGES, "num_classes": 61})
    assert many == expected


def test_a_call_writes_the_commands_plans_and_prints_nothing(plan, copied_dataset, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run_example(nnunetv2_dsvm.plan)
    capsys.readouterr()
    planned = nnunetv2_dsvm.plan(901, preset="small", plans_name="byCall")
    assert capsys.readouterr() == ("", "") and planned.for_cpu and "2d: {" in planned.said
    assert main(["plan", "-d", "901", "-preset", "small", "-overwrite_plans_name", "byCommand"]) == 0
    shown = capsys.readouterr().out
    size = "×".join(map(str, planned.patch_size))
    assert f"2d: VM-UNet, preset small, patch {size}, batch {planned.batch_size}: for a CPU" in shown
    by_call, by_command = (
        json.loads((copied_dataset.preprocessed / f"{name}.json").read_text()) for name in ("byCall", "byCommand")
    )
    assert planned.file == copied_dataset.preprocessed / "byCall.json"
    as_text = json.dumps(by_call).replace("byCall", "byCommand")
    assert json.loads(as_text) == by_command and by_command["configurations"]["2d"]["batch_size"] == planned.batch_size


def test_a_call_names_a_precision_that_there_is_not():
    with pytest.raises(UserError, match="unknown precision 'bf16': choose one of bfloat16, float16"):
        nnunetv2_dsvm.plan(901, precision="bf16")


def test_plans_that_are_there_keep_other_configurations_and_survive_a_full_disk(plan, copied_dataset, monkeypatch):
    file = copied_dataset.preprocessed / f"{PLANS_NAME}.json"
    file.write_text(json.dumps({"configurations": {"2d": {"batch_size": 2}, "mine": {"inherits_from": "2d"}}}))
    planner = plan()[0]
    planner.save_plans({"configurations": {"2d": {"batch_size": np.int64(3)}}})
    saved = file.read_text()
    assert json.loads(saved) == {"configurations": {"2d": {"batch_size": 3}, "mine": {"inherits_from": "2d"}}}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        planner.save_plans({"configurations": {}})
    assert file.read_text() == saved and not list(file.parent.glob(".*"))


def test_missing_folders_datasets_and_fingerprints_are_named(plan, copied_dataset, monkeypatch, capsys):
    (copied_dataset.preprocessed / "dataset_fingerprint.json").unlink()
    assert main(["plan", "-d", "901"]) == 1
    assert "nnUNetv2_extract_fingerprint" in capsys.readouterr().err
    assert main(["plan", "-d", "77"]) == 1
    assert "77" in capsys.readouterr().err
    monkeypatch.delenv("nnUNet_raw")
    assert main(["plan_and_preprocess", "-d", "901"]) == 1
    assert "nnUNet_raw is not set" in capsys.readouterr().err


@pytest.fixture
def planned_dataset(copied_dataset):
    """The tiny dataset with plans by `nnUNetv2_dsvm plan_and_preprocess`, which passes over litter in the raw data."""
    litter = scatter(copied_dataset.raw)
    options = [*OPTIONS, "--verify_dataset_integrity"]
    printed = copied_dataset.command_here("nnUNetv2_dsvm", "plan_and_preprocess", *DATA, *options, nnUNet_n_proc_DA="1")
    for path in litter:
        path.unlink()
    data = copied_dataset.preprocessed / f"{PLANS_NAME}_2d"
    assert sorted(path.stem for path in data.glob("*.pkl")) == [f"case_{i:03d}" for i in range(5)]
    assert f"nnUNetv2_train 901 2d 0 -tr nnUNetTrainerDSVM -p {PLANS_NAME}" in printed
    return copied_dataset


@pytest.mark.usefixtures("one_thread", "no_pictures", "one_epoch")
def test_nnunets_commands_work_on_the_plans(planned_dataset, tmp_path):
    dataset, trainer = planned_dataset, "ShortDSVM"
    log = dataset.train_here(trainer, plans=PLANS_NAME)
    small = PRESETS["small"]
    assert f"network: VMUNet with dims {list(small['dims'])}" in log and "as the plans ask" in log

    model = ["-d", "901", "-c", "2d", "-tr", trainer, "-p", PLANS_NAME]
    predict = ["-i", dataset.raw / "imagesTs", "-f", 0, "-device", "cpu", "-npp", 0, "-nps", 0, "-o"]
    dataset.command_here("nnUNetv2_predict", *model, *predict, tmp_path / "here")
    archive = tmp_path / "model.zip"
    (dataset.results / f"{trainer}__{PLANS_NAME}__2d" / "fold_0" / "progress.png").touch()  # nnU-Net packs it
    dataset.command_here("nnUNetv2_export_model_to_zip", *model, "-o", archive, "-f", 0)
    elsewhere = tmp_path / "elsewhere"
    dataset.command_here("nnUNetv2_install_pretrained_model_from_zip", archive, nnUNet_results=str(elsewhere))
    dataset.command_here("nnUNetv2_predict", *model, *predict, tmp_path / "there", nnUNet_results=str(elsewhere))
    here, there = (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name / "case_005.nii.gz"))) for name in
                   ("here", "there"))  # fmt: skip
    assert here.shape == SHAPE and np.array_equal(here, there)


@pytest.mark.usefixtures("one_thread", "no_pictures", "one_epoch")
def test_nnunets_own_trainer_trains_the_network_of_the_plans(planned_dataset, tmp_path):
    dataset = planned_dataset
    dataset.train_here("ShortNnUNet", plans=PLANS_NAME)
    results = dataset.results / f"ShortNnUNet__{PLANS_NAME}__2d"
    weights = torch.load(results / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert "decoder.seg_layers.3.weight" in weights and "encoder.stages.3.blocks.0.ss2d.A_log" in weights
    assert (results / "fold_0" / "validation" / "summary.json").is_file()  # by a network built for inference


def test_preprocessing_and_moving_plans_by_nnunet(planned_dataset):
    dataset = planned_dataset
    dataset.command_here(
        "nnUNetv2_preprocess", *DATA, "-plans_name", PLANS_NAME, "-c", "2d", "-np", 1, "--no_pbar"
    )  # fmt: skip
    target = dataset.raw.parent / "Dataset902_Other"
    target.symlink_to(dataset.raw)
    (dataset.preprocessed.parent / target.name).mkdir()
    shutil.copy(dataset.raw / "dataset.json", dataset.preprocessed.parent / target.name)
    move = ["-s", 901, "-t", 902, "-sp", PLANS_NAME, "-tp", "nnUNetDSVMPlansFrom901"]
    dataset.command_here("nnUNetv2_move_plans_between_datasets", *move)
    moved = json.loads((dataset.preprocessed.parent / target.name / "nnUNetDSVMPlansFrom901.json").read_text())
    original = json.loads((dataset.preprocessed / f"{PLANS_NAME}.json").read_text())
    assert moved["configurations"]["2d"]["architecture"] == original["configurations"]["2d"]["architecture"]
    dataset.command_here(
        "nnUNetv2_preprocess", "-d", 902, "-plans_name", "nnUNetDSVMPlansFrom901", "-c", "2d", "-np", 1, "--no_pbar"
    )  # fmt: skip
    assert (dataset.preprocessed.parent / target.name / "nnUNetDSVMPlansFrom901_2d").is_dir()


def test_the_planner_that_plans_name_need_not_be_found(planned_dataset):
    plans = PlansManager(str(planned_dataset.preprocessed / f"{PLANS_NAME}.json"))
    assert plans.experiment_planner_name == "DSVMPlanner"
    assert plans.experiment_planner_class is None  # nnU-Net looks in its own package only; nothing of it asks
