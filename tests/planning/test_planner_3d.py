"""DSVMPlanner's 3D configurations: patches, batches, strides and memory of volumes."""

import json
import math
import os

import numpy as np
import pytest
import torch
from helpers.tiny_dataset import write_raw_dataset
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

import nnunetv2_dsvm
from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.planning.memory import CUDA_CONTEXT, training_memory
from nnunetv2_dsvm.planning.network_of_plans import sizes_in
from nnunetv2_dsvm.planning.plan_strides import strides_of_plan
from nnunetv2_dsvm.planning.planner import DSVMPlanner

BASE = PRESETS["base"]
IMAGES = {"input_channels": 1, "num_classes": 3}
GIB = 2**30
# Spacing in mm, patch, batch of nnU-Net's plans, and the GiB of a step that a model of time and memory estimated from
# 2D's, before there was a network: LiTS and BraTS, BTCV, ACDC at 5 and at 10 mm, Hippocampus. In 2D the same model had
# 5.2 GiB measured for 12 images of 512x512.
ESTIMATED = [
    ((1, 1, 1), (128, 128, 128), 2, 3.1),
    ((3, 0.76, 0.76), (48, 192, 192), 2, 4.4),
    ((5, 1.56, 1.56), (20, 256, 224), 4, 5.0),
    ((10, 1.56, 1.56), (10, 256, 224), 7, 7.0),
    ((1, 1, 1), (40, 56, 40), 9, 2.4),
]


def sizes_for(spacing, patch):
    return BASE.with_strides(strides_of_plan(get_pool_and_conv_props(spacing, patch, 4, 999999)[1]))


@pytest.mark.parametrize(("spacing", "patch", "batch", "gib"), ESTIMATED, ids=str)
def test_the_memory_of_volumes_grows_from_that_of_images_as_estimated(spacing, patch, batch, gib):
    """The planner's estimate is of whole trainings, the table's of bare steps: their ratio is the same within 30 %."""
    in_2d = (training_memory((512, 512), 12, BASE, **IMAGES) - CUDA_CONTEXT) / (5.2 * GIB)
    in_3d = (training_memory(patch, batch, sizes_for(spacing, patch), **IMAGES) - CUDA_CONTEXT) / (gib * GIB)
    assert 0.7 < in_3d / in_2d < 1.3


def test_a_slab_takes_what_its_image_takes_or_more():
    """Strides of 1 along the first axis: the same tokens and features, in six directions instead of four."""
    flat = BASE.with_strides([[1, *step] for step in BASE.strides])
    image, slab = (training_memory(p, 8, s, **IMAGES) for p, s in (((256, 256), BASE), ((1, 256, 256), flat)))
    assert 1 < slab / image < 1.5


@pytest.fixture
def plan(copied_dataset, monkeypatch):
    """plan(spacing_mm, median shape, voxels of the dataset, **options): the planner, and its configuration."""
    for name, value in {**copied_dataset.environment, "nnUNet_n_proc_DA": "1"}.items():
        monkeypatch.setenv(name, value)
    # nnU-Net's own plan, which ours replaces in part, costs seconds
    monkeypatch.setattr(DSVMPlanner, "static_estimate_VRAM_usage", staticmethod(lambda *arguments: 1e6))

    def of(spacing, shape, voxels=1e12, **options):
        planner = DSVMPlanner(copied_dataset.name, **options)
        return planner, planner.get_plans_for_configuration(np.array(spacing), np.array(shape), "data", voxels, {})

    return of


VOLUMES = [
    ((1.0, 1.0, 1.0), (482, 512, 512)),
    ((3.0, 0.76, 0.76), (150, 512, 512)),
    ((5.0, 1.56, 1.56), (20, 256, 224)),
    ((10.0, 1.56, 1.56), (10, 250, 220)),
    ((1.0, 1.0, 1.0), (36, 50, 35)),
]


FINER = {"patch_embedding_stride": 2}


@pytest.mark.parametrize(
    ("spacing", "shape", "target_gb", "options"),
    [
        *((*volume, 8, {}) for volume in VOLUMES),
        (*VOLUMES[0], 4, {}),
        (*VOLUMES[1], 24, {}),
        (*VOLUMES[1], 8, FINER),
        (*VOLUMES[4], 8, FINER),
        (*VOLUMES[0], 8, {"fine_channels": 32}),
        (*VOLUMES[3], 8, {"fine_channels": 32}),
    ],
    ids=str,
)
def test_patch_and_batch_fill_the_target_and_not_more(plan, spacing, shape, target_gb, options):
    planner, planned = plan(spacing, shape, gpu_memory_target_in_gb=target_gb, **options)
    patch, batch = planned["patch_size"], planned["batch_size"]
    sizes = sizes_in(planned["architecture"]["arch_kwargs"])
    assert planner.memory_gb(patch, batch, sizes) <= target_gb
    assert batch >= 2 and planner.memory_gb(patch, batch + 1, sizes) > target_gb
    # Strides are those that follow from nnU-Net's network for this patch, which they divide; no axis is much too long.
    _, strides, _, padded, divisor = get_pool_and_conv_props(spacing, patch, 4, 999999)
    expected = strides_of_plan(strides)
    if "patch_embedding_stride" in options:
        finer = {(2, 4, 4): [1, 2, 2], (2, 2, 2): [2, 2, 2]}
        expected[1] = finer[tuple(expected[1])]
    assert [list(s) for s in sizes.strides] == expected and list(padded) == patch
    assert all(p - d < s for p, d, s in zip(patch, divisor, shape, strict=True))
    assert sizes.dims == planner.sizes.dims[: len(sizes.strides) - 1]
    # Only what does not fit is shortened.
    if patch != list(get_pool_and_conv_props(spacing, np.minimum(shape, _largest(spacing)), 4, 999999)[3]):
        assert batch == 2


def _largest(spacing):
    per_mm = 1 / np.array(spacing)
    return np.round(per_mm * (256**3 / per_mm.prod()) ** (1 / 3))


def test_a_batch_of_volumes_covers_no_more_than_a_twentieth_of_the_dataset(plan):
    _, planned = plan((1.0, 1.0, 1.0), (36, 50, 35), voxels=4 * 20 * 40 * 56 * 40)
    assert planned["batch_size"] == 4


def test_volumes_that_do_not_fit_are_refused(plan):
    with pytest.raises(ValueError, match=r"2 images of 16×16×16 .* more than the target of 1 GB: raise"):
        plan((1.0, 1.0, 1.0), (200, 200, 200), gpu_memory_target_in_gb=1)


def test_a_preset_of_fewer_stages_takes_the_first_strides(plan, monkeypatch):
    monkeypatch.setitem(PRESETS, "small", VMUNetSizes((8, 16), (1, 1), (1, 1), d_state=2))
    _, planned = plan((1.0, 1.0, 1.0), (64, 64, 64), preset="small")
    assert planned["architecture"]["arch_kwargs"]["strides"] == [[1, 1, 1], [4, 4, 4], [2, 2, 2]]


def test_a_step_on_a_cpu_is_small_in_3d(plan):
    _, planned = plan((1.0, 1.0, 1.0), (300, 300, 300), preset="small", for_cpu=True)
    assert planned["batch_size"] * math.prod(planned["patch_size"]) <= 2 * 64**3
    assert math.prod(planned["patch_size"]) > 40**3


@pytest.fixture
def volumes(new_dataset, monkeypatch):
    """A dataset whose fingerprint is that of large volumes, of which nnU-Net plans a cascade."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    monkeypatch.setattr(DSVMPlanner, "static_estimate_VRAM_usage", staticmethod(lambda *arguments: 1e6))
    write_raw_dataset(new_dataset)
    new_dataset.preprocessed.mkdir(parents=True)
    fingerprint = {
        "spacings": [[1.0, 1.0, 1.0]] * 5,
        "shapes_after_crop": [[300, 320, 320]] * 5,
        "foreground_intensity_properties_per_channel": {
            "0": dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0)
        },
        "median_relative_size_after_cropping": 1.0,
    }
    (new_dataset.preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    return new_dataset


def test_a_cascade_is_planned_and_said(volumes, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    planned = nnunetv2_dsvm.plan(901, gpu_memory_target_gb=6, preset="base")
    configurations = json.loads(planned.file.read_text())["configurations"]
    assert list(planned.configurations) == ["2d", "3d_lowres", "3d_fullres"]
    assert configurations["3d_cascade_fullres"] == {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    low, full = (configurations[name] for name in ("3d_lowres", "3d_fullres"))
    assert low["next_stage"] == "3d_cascade_fullres" and min(low["spacing"]) > max(full["spacing"])
    for name in ("3d_lowres", "3d_fullres"):
        assert configurations[name]["architecture"]["network_class_name"].endswith("VMUNet")
        assert planned.configurations[name].patch_size == tuple(configurations[name]["patch_size"])
        assert 4 < planned.configurations[name].memory_gb <= 6
    assert planned.patch_size == planned.configurations["2d"].patch_size and len(planned.patch_size) == 2

    assert main(["plan", "-d", "901", "-gpu_memory_target", "6", "-preset", "base"]) == 0
    printed = capsys.readouterr().out
    size = "×".join(map(str, full["patch_size"]))
    memory = f"about {planned.configurations['3d_fullres'].memory_gb:.1f} of 6 GB"
    assert f"3d_fullres: VM-UNet, preset base, patch {size}, batch {full['batch_size']}: {memory}" in printed
    assert "nnUNetv2_train 901 3d_fullres 0 -tr nnUNetTrainerDSVM -p nnUNetDSVMPlans" in printed


def test_trainings_without_loading_processes_are_planned(volumes, monkeypatch):
    """nnU-Net's estimate gives torch as many threads as there are loading processes."""
    found = []
    estimate = staticmethod(lambda *arguments: found.append(os.environ["nnUNet_n_proc_DA"]) or 1e6)
    monkeypatch.setattr(DSVMPlanner, "static_estimate_VRAM_usage", estimate)
    for processes in ("0", "3"):
        monkeypatch.setenv("nnUNet_n_proc_DA", processes)
        nnunetv2_dsvm.plan(901, preset="small")
        assert os.environ["nnUNet_n_proc_DA"] == processes
    assert set(found) == {"1", "3"}


def test_volumes_smaller_than_a_network_s_step_are_refused(volumes):
    file = volumes.preprocessed / "dataset_fingerprint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "shapes_after_crop": [[6, 7, 7]] * 5}))
    with pytest.raises(UserError, match="lower the resolution nowhere"):
        nnunetv2_dsvm.plan(901)
