"""Three ways of measuring a segmentation: nnU-Net's, and those behind the numbers published for ISIC and Synapse.

They differ in the aggregation, in the unit of a distance and in what an empty mask counts, so that their numbers must
never be mixed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nnunetv2_dsvm.evaluation.confusion import Counts
from nnunetv2_dsvm.evaluation.surface import SurfaceDistances

ProtocolName = Literal["nnunet", "isic", "synapse"]
# Of one label in one image. The distances are None where the protocol needs none.
Measure = Callable[[Counts, SurfaceDistances | None, float], list[float]]


@dataclass(frozen=True)
class Protocol:
    """One way of measuring.

    Args:
        name: as on the command line.
        definitions: the metrics' names and what they are.
        measure: `(counts, distances, tolerance) -> values` in the order of `definitions`.
        needs_distances: whether `measure` looks at surfaces.
        in_voxels: distances ignore the spacing.
        pooled: the summary is measured on the counts of all images together instead of averaged over the cases.
        rule_for_empty_masks: in words, for readers of a table.
    """

    name: str
    definitions: dict[str, str]
    measure: Measure
    needs_distances: bool
    in_voxels: bool
    pooled: bool
    rule_for_empty_masks: str

    @property
    def metrics(self) -> list[str]:
        return list(self.definitions)


def _nnunet(counts: Counts, distances: SurfaceDistances | None, tolerance_mm: float) -> list[float]:
    assert distances is not None  # needs_distances
    return [
        counts.dice(), counts.iou(), counts.precision(), counts.sensitivity(), counts.specificity(), counts.accuracy(),
        distances.hd95(), distances.assd(), distances.nsd(tolerance_mm),
    ]  # fmt: skip


def _isic(counts: Counts, distances: SurfaceDistances | None, tolerance: float) -> list[float]:
    """As VM-UNet's test on ISIC prints them; its mIoU is the foreground's IoU, and an undefined ratio is 0."""
    ratios = [counts.iou(), counts.dice(), counts.accuracy(), counts.specificity(), counts.sensitivity()]
    return [0.0 if math.isnan(value) else value for value in ratios]


def _synapse(counts: Counts, distances: SurfaceDistances | None, tolerance: float) -> list[float]:
    """As TransUNet's `calculate_metric_percase`, which VM-UNet took over."""
    if counts.tp + counts.fp == 0:
        return [0.0, 0.0]
    if counts.tp + counts.fn == 0:
        return [1.0, 0.0]
    assert distances is not None  # needs_distances
    return [counts.dice(), distances.hd95()]


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="nnunet",
            definitions={
                "Dice": "2 TP / (2 TP + FP + FN)",
                "IoU": "TP / (TP + FP + FN)",
                "precision": "TP / (TP + FP)",
                "sensitivity": "TP / (TP + FN)",
                "specificity": "TN / (TN + FP)",
                "accuracy": "(TP + TN) / all",
                "HD95_mm": "95th percentile of the distances from each surface voxel to the other surface, both "
                "directions together, in mm",
                "ASSD_mm": "mean of these distances, in mm",
                "NSD": "part of both surfaces' voxels that is within the tolerance of the other surface",
            },
            measure=_nnunet,
            needs_distances=True,
            in_voxels=False,
            pooled=False,
            rule_for_empty_masks="A ratio whose denominator is 0 is undefined (null): Dice, IoU and NSD where "
            "reference and prediction are both empty, precision where the prediction is, sensitivity where the "
            "reference is. Where only one is empty, Dice, IoU and NSD are 0. HD95 and ASSD are undefined where either "
            "is empty. Undefined values are left out of means; n counts the others.",
        ),
        Protocol(
            name="isic",
            definitions={
                "mIoU": "TP / (TP + FP + FN) of the foreground",
                "DSC": "2 TP / (2 TP + FP + FN)",
                "Acc": "(TP + TN) / all",
                "Spe": "TN / (TN + FP)",
                "Sen": "TP / (TP + FN)",
            },
            measure=_isic,
            needs_distances=False,
            in_voxels=False,
            pooled=True,
            rule_for_empty_masks="The summary comes from one confusion matrix over the pixels of all images, so that "
            "an image without foreground needs no rule there. A ratio whose denominator is 0 is 0, as in VM-UNet, also "
            "for single images.",
        ),
        Protocol(
            name="synapse",
            definitions={
                "DSC": "2 TP / (2 TP + FP + FN) of the volume",
                "HD95_voxels": "95th percentile of the distances from each surface voxel to the other surface, both "
                "directions together, in voxels: the spacing is not used",
            },
            measure=_synapse,
            needs_distances=True,
            in_voxels=True,
            pooled=False,
            rule_for_empty_masks="As in TransUNet: a prediction without reference counts as DSC 1 and HD95 0; an empty "
            "prediction as DSC 0 and HD95 0, also where the reference is empty.",
        ),
    )
}  # fmt: skip
