"""How much there is of each label."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_dsvm.files.atomic_write import write_text
from nnunetv2_dsvm.files.json_files import write_json


@dataclass(frozen=True)
class Volume:
    """Of a label or region.

    Attributes:
        label: its name in dataset.json.
        values: in the label map.
        voxels: that it has.
        volume_ml: None of a still, which has no depth.
    """

    label: str
    values: tuple[int, ...]
    voxels: int
    volume_ml: float | None


def measure(
    labels: np.ndarray, foreground: Mapping[str, tuple[int, ...]], spacing_mm: Sequence[float] | None
) -> list[Volume]:
    """
    Args:
        labels: of voxels `(z, y, x)`.
        foreground: label values by name.
        spacing_mm: of the voxels along their three axes; None of a still.
    """
    counts = np.bincount(labels.ravel())
    found = []
    for name, values in foreground.items():
        voxels = int(sum(counts[value] for value in values if value < len(counts)))
        volume_ml = None if spacing_mm is None else voxels * float(np.prod(spacing_mm)) / 1000
        found.append(Volume(name, values, voxels, volume_ml))
    return found


def write_volumes(json_file: Path, csv_file: Path, volumes: Sequence[Volume], about: Mapping[str, Any]) -> None:
    """
    Args:
        about: what was segmented by what, for the JSON.
    """
    write_json(json_file, {**about, "labels": [asdict(volume) for volume in volumes]}, indent=2)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "values", "voxels", "volume_ml"])
    for volume in volumes:
        ml = "" if volume.volume_ml is None else f"{volume.volume_ml:.6g}"
        writer.writerow([volume.label, " ".join(map(str, volume.values)), volume.voxels, ml])
    write_text(csv_file, text.getvalue())
