"""The estimate of a training's GPU memory, beside trainings that were measured."""

import json
from dataclasses import replace

import pytest
from helpers.places import DATA

from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes
from nnunetv2_dsvm.planning.memory import CUDA_CONTEXT, GIGABYTE, largest_batch, training_memory
from nnunetv2_dsvm.planning.network_of_plans import with_strides_of

BASE = PRESETS["base"]
IMAGES = {"input_channels": 1, "num_classes": 3}
MEASURED = json.loads((DATA / "training_memory.json").read_text())
CONTEXT = 0.93e9  # measured on the same GPU, beside what torch reserved


def named(training):
    size = training.get("preset") or f"{training['dims'][0]}-{training['encoder_depths'][2]}"
    return f"{size}-{training['patch_size']}-{training['batch_size']}"


def images_and_sizes(training):
    """Of a row of MEASURED: the options of the estimate, and the sizes of the network."""
    options = {key: training[key] for key in ("input_channels", "num_classes", "precision")}
    if "preset" not in training:
        return options, VMUNetSizes(**{key: training[key] for key in ("dims", "encoder_depths", "decoder_depths")})
    preset = PRESETS[training["preset"]]
    return options, with_strides_of(preset, training["strides"]) if training["strides"] else preset


@pytest.mark.parametrize("training", MEASURED["fitted"] + MEASURED["unfitted"], ids=named)
def test_trainings_on_a_gpu_take_what_is_planned_and_at_most_15_percent_less(training):
    options, sizes = images_and_sizes(training)
    took = training["reserved"] + CONTEXT
    assert 1 <= training_memory(training["patch_size"], training["batch_size"], sizes, **options) / took < 1.15


@pytest.mark.parametrize("training", MEASURED["fitted"] + MEASURED["unfitted"], ids=named)
def test_the_planned_batch_of_a_measured_training_takes_no_more_than_its_target(training):
    """By what each image took of it: all of the training, when some are added, and four fifths, when some are left."""
    options, sizes = images_and_sizes(training)
    target = training["target_gb"] * GIGABYTE
    more = largest_batch(target, training["patch_size"], sizes, **options) / training["batch_size"] - 1
    took = training["reserved"] * (1 + (more if more > 0 else 0.8 * more)) + CONTEXT
    assert 0.78 * target < took <= target


@pytest.mark.parametrize("training", MEASURED["earlier_kernels"], ids=named)
def test_trainings_by_earlier_kernels_took_no_more_than_is_planned(training):
    """Of sizes, batches, classes and patches that were not measured again."""
    options, sizes = images_and_sizes(training)
    took = training["reserved"] + CONTEXT
    assert 1 <= training_memory(training["patch_size"], training["batch_size"], sizes, **options) / took < 1.15


def test_the_memory_estimate_grows_with_everything():
    least = training_memory((256, 256), 4, BASE, **IMAGES)
    more = [
        training_memory((256, 256), 5, BASE, **IMAGES),
        training_memory((256, 257), 4, BASE, **IMAGES),
        training_memory((256, 256), 4, BASE, **{**IMAGES, "num_classes": 4}),
        training_memory((256, 256), 4, replace(BASE, d_state=32), **IMAGES),
        training_memory((256, 256), 4, BASE, **IMAGES, precision="float16"),
        training_memory((256, 256), 4, PRESETS["large"], **IMAGES),
    ]
    assert min(more) > least
    assert largest_batch(least, (256, 256), BASE, **IMAGES) == 4
    assert largest_batch(GIGABYTE, (256, 256), BASE, **IMAGES) == 0


# What nnUNetTrainerDSVM and …_fine reserved in the study, MiB: batch, patch, strides, channels and classes.
STUDY = [
    (32, (56, 40), (), 1, 3, 1112, 1304),
    (4, (320, 384), (), 3, 2, 1712, 2580),
    (6, (256, 224), (), 1, 4, 1466, 2106),
    (4, (40, 56, 40), [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]], 1, 3, 1790, 2222),
]


@pytest.mark.parametrize(("batch", "patch", "strides", "channels", "classes", "took", "fine_took"), STUDY, ids=str)
def test_no_training_of_the_study_took_more_than_estimated(batch, patch, strides, channels, classes, took, fine_took):
    sizes = BASE.with_strides(strides) if strides else BASE
    options = {"input_channels": channels, "num_classes": classes}
    for of, mib in ((sizes, took), (replace(sizes, fine_channels=32), fine_took)):
        estimated = training_memory(patch, batch, of, **options) - CUDA_CONTEXT
        assert 1 <= estimated / (mib * 2**20) < 1.3  # fixed costs are a large part of such small ones
