"""Two people's CT scans from TotalSegmentator's test files as an nnU-Net dataset: train on one, test on the other.

The scans and their labels lie in the source distribution of TotalSegmentator (Apache-2.0). A model made the labels,
nobody corrected them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import SimpleITK as sitk

from nnunetv2_dsvm.datasets.raw_cases import Case, label_on_grid, merge_labels, to_lps, write_dataset
from nnunetv2_dsvm.quickstart.contrast_phase import contrast_phases
from nnunetv2_dsvm.quickstart.source_archive import SourceArchive, extract, fetch

ARCHIVE = SourceArchive(
    "totalsegmentator", "2.18.0", "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03"
)
REFERENCE_FILES = "tests/reference_files"
PATIENT_A = ("example_ct.nii.gz", "example_seg_fast_force_split.nii.gz")
PATIENT_B = ("example_ct_dicom", "example_seg_dicom.nii.gz")

# TotalSegmentator's class numbers (task "total", version 2). These are present in both patients. Left out: stomach and
# bowel, whose contents differ from meal to meal, which one person's scan cannot teach.
ORGANS = {
    "liver": [5],
    "spleen": [1],
    "aorta": [52],
    "vertebrae": range(26, 51),
    "spinal_cord": [79],
    "back_muscles": [86, 87],
    "rib_cage": range(92, 118),  # ribs, sternum, costal cartilages
}

# Patient A is cut into slabs of axial slices (3 mm; first, last + 1), bottom to top: pseudo-cases, so that five folds
# exist. Neighbouring slices are nearly copies of each other; the slices between two slabs are left out, so that a
# fold's validation slab is at least 24 mm from what it trained on. The upper slabs lie where patient B's slices do.
SLABS = ((40, 46), (54, 60), (68, 76), (84, 94), (102, 112))
GUARD_SLICES = 8
# A was scanned without a contrast agent, B with one: each slab comes as it is and with so many simulated phases.
SIMULATED_PHASES = (1, 1, 2, 5, 5)


def slab_of(case_name: str) -> str:
    """The slab that a training case shows: cases of one slab, with more or less contrast, must share a fold."""
    return case_name.rpartition("_")[0]


def write_totalsegmentator_example(folder: Path) -> None:
    """Fetch the scans (38 MB, cached) and write them to `folder`, `…/DatasetXXX_Name`.

    Raises:
        UserError: the archive could not be fetched; the message says what to do without a network.
    """
    archive = fetch(ARCHIVE)
    with TemporaryDirectory(prefix="nnunetv2_dsvm-") as temporary:
        wanted = tuple(f"{REFERENCE_FILES}/{name}" for name in (*PATIENT_A, *PATIENT_B))
        extract(archive, lambda path: path.startswith(wanted), Path(temporary))
        files = Path(temporary) / REFERENCE_FILES
        write_dataset(
            folder,
            training=_training_cases(*(files / name for name in PATIENT_A)),
            test=[read_patient("patientB", *(files / name for name in PATIENT_B))],
            label_names=ORGANS,
            description="Slabs of one person's CT, with simulated contrast agent too, to train on; another person's CT "
            "to test on; labels made by a model",
            reference=f"{ARCHIVE.file_name}, {REFERENCE_FILES}; Apache-2.0",
        )


def _training_cases(image_path: Path, label_path: Path) -> Iterator[Case]:
    patient = read_patient("patientA", image_path, label_path)
    classes = label_on_grid(sitk.ReadImage(str(label_path)), patient.image)
    for number, (phase, image) in enumerate(contrast_phases(patient.image, classes, max(SIMULATED_PHASES))):
        cases = slabs(Case(patient.name, image, patient.label), SLABS, GUARD_SLICES)
        for slab, simulated in zip(cases, SIMULATED_PHASES, strict=True):
            if number <= simulated:
                yield Case(f"{slab.name}_{phase}", slab.image, slab.label)


def read_patient(name: str, image_path: Path, label_path: Path) -> Case:
    """A CT scan (a file, or a folder with one DICOM series) and its merged labels, both in LPS on the scan's grid."""
    if image_path.is_dir():
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(image_path)))
        image = reader.Execute()
    else:
        image = sitk.ReadImage(str(image_path))
    image = to_lps(image)
    return Case(name, image, merge_labels(label_on_grid(sitk.ReadImage(str(label_path)), image), ORGANS))


def slabs(case: Case, ranges: Sequence[tuple[int, int]], guard_slices: int) -> Iterator[Case]:
    """Cut a case along its third axis into cases of their own.

    Args:
        ranges: first slice and last slice + 1 of each slab, in ascending order.
        guard_slices: slices that must lie between two neighbouring slabs.

    Raises:
        ValueError: slabs outside of the image or closer than the guard.
    """
    depth = case.image.GetSize()[2]
    previous_stop = -guard_slices
    for number, (start, stop) in enumerate(ranges):
        if start - previous_stop < guard_slices or not start < stop <= depth:
            raise ValueError(
                f"slab {number} = slices {start} to {stop - 1} of {depth}: expected at least {guard_slices} slices "
                f"after the slab before it (which ends with {previous_stop - 1}) and within the image"
            )
        previous_stop = stop
        yield Case(f"{case.name}_slab{number}", case.image[:, :, start:stop], case.label[:, :, start:stop])
