"""Weights of a network of images for one of volumes.

A volume that is the same in every slice shall give what the slice gives (the idea of arXiv 1705.07750): where a layer
sums over the depth, weights are repeated along it and divided by its length, and where it makes depth, they are
repeated. Patch embedding, mergings and expandings then give exactly the slice's result, depthwise convolutions all but
in the first and last slice, which see zeros beyond.

For the scan's directions along the depth there is nothing to start from in an image. They get the weights of the
directions along the height, all of a direction together: both walk across the lines of the volume.
"""

import re
from collections.abc import Sequence

from torch import Tensor

from nnunetv2_dsvm.architecture.blocks.stem import halvings
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes, strides_of
from nnunetv2_dsvm.ops.scan_order import num_directions

SCAN = (".x_proj", ".dt_proj", ".dt_bias", ".A_log", ".D")
# Of an image: along its rows, along its columns (its height), and the two backwards. Of a volume: along the width, the
# height, the depth, and the three backwards.
DIRECTIONS_OF_IMAGE = (0, 1, 1, 2, 3, 3)


def inflated(name: str, weight: Tensor, volumes: VMUNetSizes) -> Tensor:
    """A weight of a VM-UNet of images for the one of volumes; itself where it is the same for both, or cannot be used.

    Args:
        name: of the weight in the network of volumes.
        weight: of the network of images.
        volumes: sizes of the network of volumes. Patches and neighbours must be as large in its slices as in an image.
    """
    if name.endswith(SCAN):
        return weight[list(DIRECTIONS_OF_IMAGE)] if len(weight) == num_directions(2) else weight
    step, of_image = _steps(name, volumes)
    if list(step[1:]) != of_image:
        return weight
    depth = step[0]
    if name.endswith((".projection.weight", ".conv.weight", ".convolution.weight")) and weight.ndim == 4:
        return weight.unsqueeze(2).expand(-1, -1, depth, -1, -1) / depth
    if ".mergings." in name:  # neighbours are ordered with the depth fastest
        factor = depth if name.endswith(".reduction.weight") else 1
        neighbours = weight.unflatten(-1, (of_image[0] * of_image[1], -1))
        return neighbours.repeat_interleave(depth, dim=-2).flatten(-2) / factor
    if name.endswith(".expand.weight"):  # and the parts of a voxel with the depth slowest
        return weight.repeat(depth, 1)
    return weight


def _steps(name: str, volumes: VMUNetSizes) -> tuple[Sequence[int], list[int]]:
    """What a layer changes the resolution by, or sees of it, in a volume and in an image."""
    if name.endswith((".conv.weight", ".convolution.weight")):
        return (3, 3, 3), [3, 3]
    stages = len(volumes.dims)
    if match := re.match(r"decoder\.final_expanding\.expandings\.(\d+)\.", name):  # one for each halving, coarse first
        of_volume, of_image = (list(reversed(halvings(of[1]))) for of in (volumes.strides, strides_of(stages)))
        index = int(match[1])
        return (of_volume[index], of_image[index]) if len(of_volume) == len(of_image) else (of_volume[index], [])
    match = re.match(r"(encoder\.mergings|decoder\.expandings)\.(\d+)\.", name)
    index = 1  # the patch embedding and the last expanding
    if match:
        index = 2 + int(match[2]) if match[1] == "encoder.mergings" else stages - int(match[2])
    return volumes.strides[index], strides_of(stages)[index]
