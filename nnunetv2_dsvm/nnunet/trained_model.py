"""Trained models as nnU-Net leaves them on the disk: which folds there are, what was predicted, where images lie."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.json_files import read_json_object
from nnunetv2_dsvm.files.listing import visible_folders
from nnunetv2_dsvm.nnunet.folders import folder_of_models, ground_truth_folders, nnunet_folder
from nnunetv2_dsvm.nnunet.folds import folds_of_splits, named_folds
from nnunetv2_dsvm.nnunet.labels import read_labels
from nnunetv2_dsvm.nnunet.names import (
    DATASET_JSON,
    PLANS_JSON,
    TRAINING_IMAGES,
    fold_folder,
    folder_of_metrics,
    folds_of_model,
    model_name,
    names_a_model,
    validation_folder,
)
from nnunetv2_dsvm.nnunet.unfinished_folds import what_a_fold_lacks


@dataclass(frozen=True)
class TrainedModel:
    """A folder `DatasetXXX_Name/TRAINER__PLANS__CONFIGURATION` with `plans.json`, `dataset.json` and `fold_X`."""

    folder: Path

    @property
    def dataset(self) -> str:
        return self.plans["dataset_name"]

    @property
    def trainer(self) -> str:
        return self._parts[0]

    @property
    def plans_name(self) -> str:
        return self._parts[1]

    @property
    def configuration(self) -> str:
        return self._parts[2]

    @property
    def _parts(self) -> list[str]:
        return self.folder.name.split("__")

    @cached_property
    def plans(self) -> dict[str, Any]:
        return read_json_object(self.folder / PLANS_JSON)

    @property
    def dimensions(self) -> int:
        """Axes of the patches that it was trained on: 2 or 3; 2 where the plans do not say."""
        configurations = self.plans.get("configurations", {})
        planned = configurations.get(self.configuration, {})
        while "patch_size" not in planned and "inherits_from" in planned:
            planned = configurations[planned["inherits_from"]]
        return len(planned["patch_size"]) if "patch_size" in planned else 2

    @cached_property
    def dataset_json(self) -> dict[str, Any]:
        return read_json_object(self.folder / DATASET_JSON)

    @property
    def labels(self) -> dict[str, tuple[int, ...]]:
        """The label values of each evaluated class, by its name: without background and ignored pixels."""
        return dict(read_labels(self.dataset_json).foreground)

    @property
    def folds(self) -> list[str]:
        """The folds that have a folder, numbers first."""
        return folds_of_model(self.folder)

    def fold_folder(self, fold: str) -> Path:
        return fold_folder(self.folder, fold)

    def validation_folder(self, fold: str) -> Path:
        return validation_folder(self.folder, fold)

    def metrics_folder(self, folds: Sequence[str]) -> Path:
        """Where `nnUNetv2_dsvm evaluate` writes the metrics of these folds."""
        return folder_of_metrics(self.folder, folds)

    def reader(self) -> Any:
        """nnU-Net's reader of this dataset's images and label maps."""
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        return PlansManager(self.plans).image_reader_writer_class()

    def image_files(self, case: str) -> list[Path]:
        """The channels of a training image in nnUNet_raw, in their order; none where they are not there."""
        raw = nnunet_folder("raw")
        if raw is None:
            return []
        folder = raw / self.dataset
        description = folder / DATASET_JSON
        listed = read_json_object(description).get("dataset") if description.is_file() else None
        if listed:
            names = [os.path.expandvars(name) for name in listed.get(case, {}).get("images", [])]
            files = [folder / name for name in names]
            return files if all(file.is_file() for file in files) else []
        pattern = re.compile(re.escape(case) + r"_\d{4}" + re.escape(self.dataset_json["file_ending"]))
        images = folder / TRAINING_IMAGES
        return sorted(path for path in images.iterdir() if pattern.fullmatch(path.name)) if images.is_dir() else []

    def reference_file(self, case: str, recorded: str | None) -> Path | None:
        """The ground truth of a training case: the recorded file if it is there, else nnU-Net's raw or its copy."""
        name = case + self.dataset_json["file_ending"]
        candidates = [Path(recorded)] if recorded else []
        candidates += [folder / name for folder in ground_truth_folders(self.dataset)]
        return next((path for path in candidates if path.is_file()), None)


def find_models(
    folders: Sequence[Path], dataset: str | None, trainers: Sequence[str], plans: str, configuration: str
) -> list[TrainedModel]:
    """The models that were asked for, by their folders or by nnU-Net's names.

    Args:
        folders: model folders; if there are none, the names below are looked up in nnUNet_results.
        dataset: number or name.
        trainers: one model each.

    Raises:
        UserError: a model is not there, the models are of different datasets, or neither way was used.
    """
    if bool(folders) == bool(dataset):
        raise UserError("give either model folders, or -d with -tr, -p and -c")
    if dataset:
        parent = folder_of_models(dataset)
        folders = [parent / model_name(trainer, plans, configuration) for trainer in trainers]
    models = []
    for folder in dict.fromkeys(Path(os.path.abspath(folder)) for folder in folders):
        if not (folder / PLANS_JSON).is_file() or not names_a_model(folder):
            models_there = [path for path in visible_folders(folder.parent) if names_a_model(path)]
            beside = [path.name for path in models_there if (path / PLANS_JSON).is_file()]
            found = f"Beside it are: {', '.join(beside)}." if beside else "There is no model beside it either."
            raise UserError(
                f"{folder} is not a trained model: expected a folder TRAINER__PLANS__CONFIGURATION with plans.json "
                f"and fold_X in it. {found}"
            )
        models.append(TrainedModel(folder))
        _refuse_incomplete(models[-1])
    datasets = sorted({model.dataset for model in models})
    if len(datasets) > 1:
        raise UserError(f"the models were trained on different datasets ({', '.join(datasets)}): make a report of each")
    return models


def _refuse_incomplete(model: TrainedModel) -> None:
    needed = {
        PLANS_JSON: (model.plans, ("dataset_name", "image_reader_writer")),
        DATASET_JSON: (model.dataset_json, ("labels", "file_ending")),
    }
    for file, (content, keys) in needed.items():
        missing = [key for key in keys if key not in content]
        if missing:
            raise UserError(f"{model.folder / file} lacks {', '.join(missing)}, which nnU-Net writes: restore the file")


def choose_folds(models: Sequence[TrainedModel], asked: Sequence[str | int] | None) -> list[str]:
    """The folds to report on: those asked for, or else those that every model has.

    Of the latter only those of splits_final.json, if there are any: a fold beyond it validates on cases of the others.
    Else only numbers, if there are any.

    Raises:
        UserError: a model lacks a fold that was asked for, the models have none in common, or `all` is not alone.
    """
    if asked is not None:
        named = named_folds(asked)
        for model in models:
            missing = [fold for fold in named if fold not in model.folds]
            if missing:
                has = f"{model.folder} has no fold {', '.join(missing)}; it has {', '.join(model.folds) or 'none'}"
                sentences = [what_a_fold_lacks(model.folder, fold, model.dataset) for fold in missing]
                raise UserError("\n  ".join([f"{has}: name those with -f, or:", *sentences]))
        return [fold for fold in models[0].folds if fold in named]  # numbers ascending, as evaluate names its folder
    common = [fold for fold in models[0].folds if all(fold in model.folds for model in models)]
    numbers = [fold for fold in common if fold.isdigit()]
    in_splits = folds_of_splits(models[0].dataset)
    folds = [fold for fold in numbers if in_splits is None or fold in in_splits] or numbers or common
    if not folds:
        has = "; ".join(f"{model.folder.name}: {', '.join(model.folds) or 'none'}" for model in models)
        raise UserError(f"there is no trained fold that all models have ({has})")
    return folds
