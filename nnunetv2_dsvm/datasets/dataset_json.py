"""nnU-Net's `dataset.json`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from nnunetv2_dsvm.files.json_files import write_json
from nnunetv2_dsvm.files.listing import visible_files
from nnunetv2_dsvm.nnunet.names import DATASET_JSON, TRAINING_LABELS
from nnunetv2_dsvm.version import __version__


def write_dataset_json(
    folder: Path,
    *,
    description: str,
    reference: str,
    channels: Sequence[str],
    labels: Iterable[str],
    file_ending: str,
    reader: str,
) -> None:
    """Write `dataset.json`; `numTraining` is the number of files in `labelsTr`.

    Args:
        channels: names of the channels; they decide nnU-Net's normalisation.
        labels: names of the labels 1, 2, …; 0 is the background.
        reader: nnU-Net's class that reads the files.
    """
    content = {
        "name": folder.name,
        "description": description,
        "reference": reference,
        "converted_by": f"nnunetv2_dsvm {__version__}",
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": {"background": 0, **{name: number for number, name in enumerate(labels, start=1)}},
        "numTraining": len(visible_files(folder / TRAINING_LABELS, file_ending)),
        "file_ending": file_ending,
        "overwrite_image_reader_writer": reader,
    }
    write_json(folder / DATASET_JSON, content, indent=2)
