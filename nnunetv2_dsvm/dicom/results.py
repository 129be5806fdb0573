"""What a prediction leaves in its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

LABELS, SEGMENTATION, STRUCTURES = "segmentation.nii.gz", "segmentation.dcm", "structures.dcm"
VOLUMES_JSON, VOLUMES_CSV, OVERLAY = "volumes.json", "volumes.csv", "overlay.png"
FILES = {"nifti": LABELS, "seg": SEGMENTATION, "rtstruct": STRUCTURES}  # by the output that is asked for
ALL_FILES = (*FILES.values(), VOLUMES_JSON, VOLUMES_CSV, OVERLAY)
DEFAULT_OUTPUTS = ("nifti", "seg")


@dataclass(frozen=True)
class DicomPrediction:
    """What was written.

    Attributes:
        files: in the output folder.
        volumes: of each label: its name, values in the label map, voxels, and millilitres (None of a still).
        notes: sentences on what differs from what one might expect.
    """

    files: tuple[Path, ...]
    volumes: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
