"""Colin27's T1 and AAL's regions as an nnU-Net dataset: train on slices of the left hemisphere, test on the right one.

Both files lie in Debian's package mricron-data (`ch2.nii.gz`, `aal.nii.gz`), on one grid of 1 mm. One person, one scan
(a mean of 27), labelled by hand.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_dsvm.datasets.raw_cases import Case, merge_labels, write_dataset

# AAL's label numbers (odd: left, even: right, 109 to 116: the vermis on the midline), grouped by the first digits of
# AAL's own codes (2xxx frontal, 3001 insula, 40xx cingulate, 41xx and 42xx hippocampus, parahippocampal gyrus and
# amygdala, 5xxx occipital with the fusiform gyrus, 6xxx parietal, 7xxx, 8xxx, 9xxx).
REGIONS = {
    "frontal": range(1, 29),
    "parietal": range(57, 71),
    "temporal": range(79, 91),
    "occipital": range(43, 57),
    "insula_and_cingulate": range(29, 37),
    "medial_temporal": range(37, 43),
    "deep_grey": range(71, 79),
    "cerebellum": range(91, 117),
}

# Sagittal slices, counted from the left side. The training hemisphere is cut into five blocks, from the temporal lobe's
# outer face to the midline, with 4 mm left out between two blocks. The test hemisphere is their mirror image.
MIDLINE = 90
TEST_CASE = "right_hemisphere"
BLOCKS = ((14, 26), (30, 42), (46, 58), (62, 74), (78, 90))
TEST_SLICES = (2 * MIDLINE - BLOCKS[-1][1] + 1, 2 * MIDLINE - BLOCKS[0][0] + 1)


def write_colin27(templates: Path, folder: Path) -> None:
    """Write the dataset to `folder`, `…/DatasetXXX_Name`.

    Args:
        templates: the folder with `ch2.nii.gz` and `aal.nii.gz`.
    """
    image, label = read_colin27(templates)
    first, last = BLOCKS[0][0], BLOCKS[-1][1]
    image = standardised(image, sitk.GetArrayViewFromImage(image)[first:last])
    write_dataset(
        folder,
        training=_training_cases(image, label),
        test=[Case(TEST_CASE, *(slices(volume, TEST_SLICES) for volume in (image, label)))],
        label_names=REGIONS,
        description="Blocks of sagittal slices of Colin27's left hemisphere to train on, the right one to test on; "
        "eight groups of AAL's regions",
        reference="Debian's package mricron-data: ch2.nii.gz, aal.nii.gz",
        channel="noNorm",  # one scan has one scale of intensities; nnU-Net would standardise each block by itself
        pixel_type=sitk.sitkFloat32,
    )


def read_colin27(templates: Path) -> tuple[sitk.Image, sitk.Image]:
    """The T1 and its eight regions, the third axis from the left to the right, so that a 2D slice is a sagittal one."""
    image, label = (
        sitk.PermuteAxes(sitk.ReadImage(str(templates / name)), (1, 2, 0)) for name in ("ch2.nii.gz", "aal.nii.gz")
    )
    return image, merge_labels(label, REGIONS)


def _training_cases(image: sitk.Image, label: sitk.Image) -> Iterator[Case]:
    for number, block in enumerate(BLOCKS):
        yield Case(f"left_block{number}", slices(image, block), slices(label, block))


def slices(volume: sitk.Image, block: tuple[int, int]) -> sitk.Image:
    """The slices from block[0] to block[1] - 1 along the third axis."""
    return volume[:, :, block[0] : block[1]]


def standardised(image: sitk.Image, sample: np.ndarray) -> sitk.Image:
    """Mean 0 and standard deviation 1 over `sample`, fp32."""
    return (sitk.Cast(image, sitk.sitkFloat32) - float(sample.mean())) / float(sample.std())


def write_mirrored_label(templates: Path, folder: Path) -> None:
    """Write what copying the training hemisphere's labels across the midline gives for the test case."""
    _, label = read_colin27(templates)
    left, right = (slices(label, block) for block in ((BLOCKS[0][0], BLOCKS[-1][1]), TEST_SLICES))
    mirrored = sitk.GetImageFromArray(sitk.GetArrayFromImage(left)[::-1])
    mirrored.CopyInformation(right)
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(mirrored, str(folder / f"{TEST_CASE}.nii.gz"), True)
