"""Whether the label files of raw datasets hold labels: nnU-Net's reader reads NaN as background."""

from collections.abc import Sequence
from pathlib import Path

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.json_files import read_json_object
from nnunetv2_dsvm.host.workers import map_with_progress
from nnunetv2_dsvm.images.label_maps import read_label_map
from nnunetv2_dsvm.nnunet.names import DATASET_JSON


def check_label_values(dataset_ids: Sequence[int], *, workers: int) -> None:
    """Read every training label of the datasets below nnUNet_raw.

    Raises:
        UserError: names each file that holds values that are no labels, or cannot be read.
        RuntimeError, AssertionError, OSError: what nnU-Net raises where there is no such dataset.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
    from nnunetv2.paths import nnUNet_raw
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    for dataset_id in dataset_ids:
        raw = Path(nnUNet_raw, maybe_convert_to_dataset_name(dataset_id))
        dataset_json = read_json_object(raw / DATASET_JSON)
        cases = get_filenames_of_train_images_and_targets(str(raw), dataset_json)
        files = [Path(case["label"]) for case in cases.values()]
        if not files:
            raise UserError(f"{raw} holds no training cases, expected imagesTr and labelsTr")
        example = next(iter(cases.values()))["images"][0]
        reader = determine_reader_writer_from_dataset_json(dataset_json, example, verbose=False)()

        def wrong(file: Path, reader=reader) -> str | None:
            try:
                read_label_map(file, reader)
            except ValueError as error:
                return f"{file} {error}"
            return None

        found = map_with_progress(wrong, files, description="checking labels", workers=workers)
        if problems := [text for text in found if text]:
            count = f"{len(problems)} of {len(files)} label files of {raw.name} cannot be used:"
            raise UserError("\n  ".join([count, *problems]))
