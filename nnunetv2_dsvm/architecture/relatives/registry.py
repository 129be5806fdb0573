"""The relatives by name: what is built, from what, and how it is trained. A new one is a file and an entry here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunetv2_dsvm.architecture.relatives.recipe import Recipe
from nnunetv2_dsvm.architecture.relatives.vm_unet_v2 import VMUNetV2
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork

ArgumentsOfPlans = Callable[[Mapping[str, Any], Sequence[int]], Mapping[str, Any]]


@dataclass(frozen=True)
class Relative:
    """What is known of a network besides its text.

    Attributes:
        network: its class, called as `network(input_channels, num_classes, deep_supervision=…, auxiliary_heads=…,
            **arguments)`; it states its stages, which are what the distillation takes.
        title: its name in sentences.
        paper: arXiv's number.
        recipe: of training.
        dimensions: of the images it can be built for.
        of_plans: for a network that is built of the U-Net in nnU-Net's plans: its arguments, from the plans'
            `arch_kwargs` and patch size. None: it has one published size.
    """

    network: type[SegmentationNetwork]
    title: str
    paper: str
    recipe: Recipe
    dimensions: tuple[int, ...] = (2,)
    of_plans: ArgumentsOfPlans | None = None


RELATIVES: dict[str, Relative] = {
    "VMUNetV2": Relative(VMUNetV2, "VM-UNet V2", "2403.09157", Recipe()),
}


def class_path(network: type[SegmentationNetwork]) -> str:
    """The name that plans give to a network."""
    return f"{network.__module__}.{network.__qualname__}"
