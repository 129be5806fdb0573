"""What TransUNet (arXiv 2102.04306, github.com/Beckschen/TransUNet) made of BTCV: eight organs, 18 and 12 volumes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from nnunetv2_dsvm.datasets.dataset_json import write_dataset_json
from nnunetv2_dsvm.host.workers import map_with_progress

Volume = TypeVar("Volume")

# BTCV's labels 1 to 13.
BTCV_LABELS = (
    "spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior_vena_cava", "portal_and_splenic_vein", "pancreas", "right_adrenal_gland", "left_adrenal_gland",
)  # fmt: skip
# TransUNet's labels 1 to 8, in the order of its tables.
ORGANS = ("aorta", "gallbladder", "left_kidney", "right_kidney", "liver", "pancreas", "spleen", "stomach")
TEST_CASES = ("0001", "0002", "0003", "0004", "0008", "0022", "0025", "0029", "0032", "0035", "0036", "0038")
CASES = tuple(f"{number:04d}" for number in (*range(1, 11), *range(21, 41)))  # with public labels
REFERENCE = "https://www.synapse.org/#!Synapse:syn3193805 (registration; no redistribution)"


def write_volumes(
    folder: Path,
    write: Callable[[Volume], None],
    volumes: Sequence[Volume],
    *,
    description: str,
    channel: str,
    workers: int,
) -> None:
    """Makes nnU-Net's four folders of images and labels, calls `write` for each volume, and writes `dataset.json`."""
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / name).mkdir()
    map_with_progress(write, volumes, description="writing", workers=workers)
    write_dataset_json(
        folder,
        description=description,
        reference=REFERENCE,
        channels=(channel,),
        labels=ORGANS,
        file_ending=".nii.gz",
        reader="SimpleITKIO",
    )
