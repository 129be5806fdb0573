"""What somebody with nothing but the exported file has to know to use it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nnunetv2_dsvm.files.text import by
from nnunetv2_dsvm.models.trained_network import TrainedNetwork
from nnunetv2_dsvm.version import __version__

KEY = "nnunetv2_dsvm.json"
AXIS_NAMES = ("depth", "height", "width")  # of volumes; images have the last two
NOT_INSIDE = (
    "reading and orienting images, cropping, resampling, normalisation, sliding window, mirroring, averaging of folds, "
    "softmax or sigmoid, resampling back"
)


def describe(trained: TrainedNetwork) -> dict[str, Any]:
    """The file's metadata, in JSON's types; sizes and spacings in the order of the image's axes (slices, rows,
    columns).

    `channels` are the input's, in their order: an image channel has nnU-Net's normalisation scheme and the intensities
    of the training images' foreground that the scheme may need; a channel of a cascade's previous stage is 1 in the
    pixels of `of_label`. `only_size` is null, or the one size of images that can be given. `labels` are
    dataset.json's; `output` says what the logits' channels are.
    """
    configuration, labels = trained.configuration, trained.labels
    axes = AXIS_NAMES[-trained.network.axes :]
    intensities = trained.plans.foreground_intensity_properties_per_channel
    # nnU-Net's keys were "modality" before they were "channel_names".
    names = trained.dataset_json.get("channel_names") or trained.dataset_json["modality"]
    channels: list[dict[str, Any]] = [
        {
            "name": name,
            "normalization": configuration.normalization_schemes[i],
            "inside_foreground_only": configuration.use_mask_for_norm[i],
            "foreground_intensities": intensities[str(i)],
        }
        for i, name in enumerate(names.values())
    ]
    if configuration.previous_stage_name is not None:
        channels += [
            {"of_label": int(label), "of_configuration": configuration.previous_stage_name}
            for label in labels.foreground_labels
        ]
    return {
        "made_by": f"nnunetv2_dsvm {__version__}, torch {torch.__version__}",
        "dataset": trained.plans.dataset_name,
        "trainer": trained.trainer,
        "plans": trained.plans.plans_name,
        "configuration": trained.configuration_name,
        "fold": trained.fold,
        "checkpoint": trained.checkpoint,
        "input": _input(trained, axes),
        "only_size": trained.network.only_size and list(trained.network.only_size),
        "channels": channels,
        "patch_size": [int(size) for size in configuration.patch_size],
        "spacing_mm": [float(spacing) for spacing in configuration.spacing],
        "transpose_forward": [int(axis) for axis in trained.plans.transpose_forward],
        "output": _output(trained, axes),
        "labels": trained.dataset_json["labels"],
        "mirroring_axes": [int(axis) for axis in trained.mirroring_axes],
        "not_inside": NOT_INSIDE,
    }


def _input(trained: TrainedNetwork, axes: Sequence[str]) -> str:
    image, size = f"float32 image (batch, channels, {', '.join(axes)}), any batch", trained.network.only_size
    if size is None:
        return f"{image}, {', '.join(axes[:-1])} and {axes[-1]} of at least 1"
    return f"{image}, {by(size)} {', '.join(axes)} and no others"


def _output(trained: TrainedNetwork, axes: Sequence[str]) -> str:
    labels, logits = trained.labels, f"logits (batch, classes, {', '.join(axes)}): "
    if labels.has_regions:
        regions = [[int(label) for label in np.atleast_1d(region)] for region in labels.foreground_regions]
        order = trained.dataset_json["regions_class_order"]
        return (
            f"{logits}one per region, of the labels {regions} in this order; sigmoid; the values {order} are written "
            "one after the other where the region's probability is above 0.5"
        )
    values = [int(label) for label in labels.all_labels]
    return f"{logits}one per label, {values} in this order; softmax, or the largest"
