"""What a prediction leaves in its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.errors import UserError

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


def check_free(folder: Path, *, overwrite: bool) -> None:
    """That results can take their places in a folder.

    Args:
        overwrite: whether files of earlier results may be replaced.

    Raises:
        UserError: there are some and they may not be, or something else than a file lies there.
    """
    present = [name for name in ALL_FILES if (folder / name).exists()]
    if present and not overwrite:
        raise UserError(
            f"{folder} holds {', '.join(present)} already: choose another folder with -o, or add --overwrite"
        )
    if others := [name for name in present if not (folder / name).is_file()]:
        raise UserError(f"{folder} holds {', '.join(others)}, which is no file: choose another folder with -o")
