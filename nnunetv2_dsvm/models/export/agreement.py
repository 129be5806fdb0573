"""Whether an exported file computes what the network computes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.text import by, first_line

# Of the largest absolute logit. Both compute in fp32, in another order: 1e-6 to 1e-5 were seen.
TOLERANCE = 1e-4


def shapes_to_check(patch_size: Sequence[int], only_size: Sequence[int] | None = None) -> list[tuple[int, ...]]:
    """(batch, *sizes): the patch, odd sizes, and less than one token; of images three patches and odd ones too.

    Three patches of volumes would take minutes. A network for one size is given one and two images of it.
    """
    if only_size:
        return [(1, *only_size), (2, *only_size)]
    axes = len(patch_size)
    shapes = [(1, *patch_size), (2, *(5, 37, 65)[-axes:]), (1, *(1, 1, 3)[-axes:])]
    if axes == 2:
        height, width = patch_size
        shapes += [(3, height, width), (2, height + 1, width + 3)]
    return shapes


def largest_difference(
    network: SegmentationNetwork, exported: Callable[[Tensor], Tensor], shapes: Sequence[tuple[int, ...]], channels: int
) -> float:
    """The largest difference of logits, as a part of the largest absolute logit of the network, over all shapes.

    The images are noise with a standard deviation of 1, as nnU-Net's normalised images have.

    Raises:
        UserError: the file does not run, gives another shape or NaN, or differs by more than `TOLERANCE`.
    """
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for batch, *sizes in shapes:
        image = torch.randn(batch, channels, *sizes, generator=generator)
        with torch.inference_mode():
            expected = network(image)
        where = f"with {batch} image(s) of {by(sizes)} {'voxels' if len(sizes) == 3 else 'pixels'}"
        try:
            got = exported(image)
        except Exception as error:
            raise UserError(f"the exported file does not run {where}: {first_line(error)}. Nothing was kept") from error
        if got.shape != expected.shape:
            raise UserError(
                f"the exported file gives {tuple(got.shape)} instead of {tuple(expected.shape)} {where}. "
                "Nothing was kept"
            )
        difference = ((got - expected).abs().max() / expected.abs().max()).item()
        if not difference <= TOLERANCE:  # NaN is not
            raise UserError(
                f"the exported file disagrees with the network {where}: by {difference:.2g} of the largest logit, and "
                f"{TOLERANCE:g} is allowed. Nothing was kept"
            )
        largest = max(largest, difference)
    return largest
