"""The two datasets that the quickstart can run on, and the sizes that train on each in minutes with two CPU cores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.quickstart.phantom import write_phantom
from nnunetv2_dsvm.quickstart.totalsegmentator_example import slab_of, write_totalsegmentator_example


@dataclass(frozen=True)
class Sizes:
    """What trains in one of nnU-Net's configurations.

    Attributes:
        network: arguments of VMUNet beside the channels; in 3D without the strides, which are the plans'.
        largest_patch_size: along each axis, in pixels or voxels.
        batch_size: patches of a training step.
    """

    network: Mapping[str, Any]
    largest_patch_size: tuple[int, ...]
    batch_size: int


@dataclass(frozen=True)
class Data:
    """A dataset, and what trains on it.

    Attributes:
        dataset: its name for nnU-Net.
        test_case: whose image is segmented at the end, for the title.
        note: what the data are and what a result on them says.
        write: writes the raw dataset into a folder.
        group_of: a case's name to its group's; the cases of one group share a fold.
        sizes: by nnU-Net's configuration.
    """

    dataset: str
    test_case: str
    note: str
    write: Callable[[Path], None]
    group_of: Callable[[str], str]
    sizes: Mapping[str, Sizes]


_REAL_NETWORK = {
    "dims": [32, 64, 128, 256],
    "encoder_depths": [1, 1, 1, 1],
    "decoder_depths": [1, 1, 1, 1],
    "d_state": 4,
    "drop_path_rate": 0.0,
}
_PHANTOM_NETWORK = {
    "dims": [16, 32, 64],
    "encoder_depths": [1, 1, 1],
    "decoder_depths": [1, 1, 1],
    "d_state": 2,
    "drop_path_rate": 0.0,
}
REAL_CT = Data(
    dataset="Dataset900_DSVMQuickstart",
    test_case="a second person's CT",
    note="Trained on slabs of one person's CT without contrast agent, as it is and with a simulated agent; tested on "
    "another person's CT with contrast agent. The labels, the truth here, were made by a model and not corrected.",
    write=write_totalsegmentator_example,
    group_of=slab_of,
    sizes={
        "2d": Sizes(_REAL_NETWORK, (112, 128), batch_size=2),
        "3d_fullres": Sizes(_REAL_NETWORK, (8, 80, 96), batch_size=2),
    },
)
PHANTOM = Data(
    dataset="Dataset901_DSVMPhantom",
    test_case="a generated phantom",
    note="Trained and tested on generated phantoms, ellipsoids with the HU of organs: this shows that everything runs, "
    "and nothing about real images.",
    write=write_phantom,
    group_of=str,
    sizes={
        "2d": Sizes(_PHANTOM_NETWORK, (64, 64), batch_size=2),
        "3d_fullres": Sizes(_PHANTOM_NETWORK, (8, 48, 48), batch_size=2),
    },
)
