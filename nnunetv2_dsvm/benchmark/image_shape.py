"""The images and volumes that are measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nnunetv2_dsvm.architecture.vm_unet_sizes import strides_of
from nnunetv2_dsvm.planning.plan_strides import strides_of_plan

Plan = tuple[tuple[int, ...], ...]


def halved(times: int) -> Plan:
    """The strides that nnU-Net plans for a volume that it halves so many times along each axis."""
    return (1, 1, 1), *((2, 2, 2),) * times


@dataclass(frozen=True)
class ImageShape:
    """A batch of images, or of volumes, which have a depth and the strides that nnU-Net plans for them."""

    batch: int
    height: int
    width: int
    depth: int | None = None
    plan: Plan = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Height and width, of volumes with the depth before them."""
        return (self.height, self.width) if self.depth is None else (self.depth, self.height, self.width)

    def stages(self, wanted: Sequence[int]) -> list[int]:
        """Those of `wanted` that a VM-UNet has."""
        return [stage for stage in wanted if not self.plan or stage <= self.planned_stages]

    @property
    def planned_stages(self) -> int:
        """Of a VM-UNet for volumes; 0 for images, of which it has any number."""
        return len(strides_of_plan(self.plan)) - 1 if self.plan else 0

    def tokens(self, stage: int) -> tuple[int, ...]:
        """Sizes of stage 1, 2, …, rounded up as the network pads."""
        strides = strides_of_plan(self.plan) if self.plan else strides_of(stage)
        scales = map(math.prod, zip(*strides[: stage + 1], strict=True))
        return tuple(-(-size // scale) for size, scale in zip(self.sizes, scales, strict=True))

    def __str__(self) -> str:
        return f"batch {self.batch}, {'×'.join(map(str, self.sizes))}"
