"""Plans that nnU-Net would mix: it names a model's folder after the plans, and each training replaces the plans there.

The file beside the folds describes them all; with another network, patch or normalisation in it, the folds that were
trained before no longer predict, or predict wrongly.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2.utilities.file_path_utilities import get_output_folder
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.json_files import read_json_object
from nnunetv2_dsvm.files.listing import visible_files
from nnunetv2_dsvm.nnunet.folders import unusable_folders
from nnunetv2_dsvm.nnunet.names import DATASET_JSON, OTHER_FILES_OF_A_DATASET, PLANS_JSON, fold_folders

# What a training may change without another prediction: of a configuration, and of its network's arguments.
_TRAINING_ONLY = {"batch_size", "batch_dice", "data_identifier", "median_image_size_in_voxels", "inherits_from"}
_ARGUMENTS_OF_TRAINING = {"drop_path_rate", "gradient_checkpointing", "scan_backend"}
_OF_ALL_CONFIGURATIONS = (
    "transpose_forward", "transpose_backward", "image_reader_writer", "label_manager",
    "foreground_intensity_properties_per_channel",
)  # fmt: skip
_OF_THE_DATASET = ("channel_names", "modality", "labels", "regions_class_order")
_LONGEST = 80  # characters of a value in a message


def check_plans_of_folder(
    trainer_name: str, plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> None:
    """Raises UserError unless this training can go into the folder that nnU-Net gives it.

    Refused are plans or a dataset.json unlike those of the trainings whose checkpoints are in the folder, and plans
    from a file of another name than theirs, unless trainings of the same file are there. Nothing is written, and
    nothing compared where nnU-Net's variables name no folders.

    Args:
        trainer_name: the trainer's class.
        plans: as nnU-Net read them from their file.
        configuration: of the plans.
        dataset_json: of the dataset.
    """
    if unusable_folders("preprocessed", "results"):
        return
    name, dataset = plans["plans_name"], plans["dataset_name"]
    folder = Path(get_output_folder(dataset, trainer_name, name, configuration))
    folds = sorted(path.name for path in fold_folders(folder) if _has_checkpoints(path))
    other = _differences(folder, plans, configuration, dataset_json) if folds else []
    file = _file_of_another_name(plans, Path(os.environ["nnUNet_preprocessed"], dataset))
    if file and not (folds and _whole(_read(folder / PLANS_JSON)) == _whole(plans)):
        raise UserError(
            f'{file} calls itself "{name}" inside (plans_name), and nnU-Net would put its results with those of the '
            f'plans {name}. Nothing was trained. Write "plans_name": "{file.stem}" into it, or make the copy with '
            f"nnUNetv2_dsvm copy-plans -d {dataset} -p {file.stem} -o NEW_NAME"
        )
    if other:
        more = f", and {len(other) - 3} more" if len(other) > 3 else ""
        raise UserError(
            f"The results folder {folder} belongs to another network: in its plans.json and dataset.json, with which "
            f"{', '.join(folds)} {'was' if len(folds) == 1 else 'were'} trained, {'; '.join(other[:3])}{more}. nnU-Net "
            "would replace them, and the earlier training could no longer be predicted with. Nothing was trained. Give "
            f"these plans a name of their own, nnUNetv2_dsvm copy-plans -d {dataset} -p {name} -o NEW_NAME, and train "
            "with -p NEW_NAME; or move the folder away"
        )


def _has_checkpoints(fold: Path) -> bool:
    """nnU-Net's own, or those that a newer training has set aside."""
    return any("checkpoint_" in path.name for path in visible_files(fold, ".pth"))


def _file_of_another_name(plans: Mapping[str, Any], folder: Path) -> Path | None:
    """The file that holds these plans, where the one that has their name does not."""
    names = [path for path in visible_files(folder, ".json") if path.stem not in OTHER_FILES_OF_A_DATASET]
    same = [path for path in names if _whole(_read(path)) == _whole(plans)]
    return same[0] if same and plans["plans_name"] not in [path.stem for path in same] else None


def _differences(
    folder: Path, plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> list[str]:
    """Which values are others in the folder's plans.json and dataset.json, in words; a missing file has no others."""
    stored, stored_dataset = _read(folder / PLANS_JSON), _read(folder / DATASET_JSON)
    different: list[str] = []
    if configuration in stored.get("configurations", {}):
        _compare(_of_prediction(stored, configuration), _of_prediction(plans, configuration), "", different)
    if stored_dataset:
        there, here = ({key: d[key] for key in _OF_THE_DATASET if key in d} for d in (stored_dataset, dataset_json))
        _compare(there, here, "", different)
        if there.get("regions_class_order"):  # of the labels' order, which is the network's outputs'
            _compare(list(there["labels"]), list(here["labels"]), "the order of labels", different)
    return different


def _of_prediction(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """The values on which a prediction depends."""
    resolved = dict(PlansManager(dict(plans)).get_configuration(configuration).configuration)
    chosen = {key: value for key, value in resolved.items() if key not in _TRAINING_ONLY}
    architecture = dict(chosen.get("architecture", {}))
    arguments = architecture.get("arch_kwargs", {})
    architecture["arch_kwargs"] = {k: v for k, v in arguments.items() if k not in _ARGUMENTS_OF_TRAINING}
    return {**chosen, "architecture": architecture, **{key: plans.get(key) for key in _OF_ALL_CONFIGURATIONS}}


def _compare(there: Any, here: Any, where: str, different: list[str]) -> None:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in {**there, **here}:
            _compare(there.get(key), here.get(key), f"{where}.{key}" if where else str(key), different)
    elif _comparable(there) != _comparable(here):
        different.append(f"{where} is {_short(there)} and not {_short(here)}")


def _whole(plans: Mapping[str, Any]) -> str:
    return _comparable({key: value for key, value in plans.items() if key != "continue_training"})


def _comparable(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)  # as text NaN, too, equals itself


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except UserError:
        return {}
