"""A trained model to predict with: its folder, or the zip that nnU-Net exports, read without running a pickle."""

import contextlib
import inspect
import io
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.checksums import sha256_of
from nnunetv2_dsvm.files.json_files import read_json_object
from nnunetv2_dsvm.files.listing import is_litter
from nnunetv2_dsvm.files.text import first_line
from nnunetv2_dsvm.models.checkpoint import Checkpoint, read_checkpoint
from nnunetv2_dsvm.nnunet.folds import named_folds
from nnunetv2_dsvm.nnunet.labels import Labels, read_labels
from nnunetv2_dsvm.nnunet.names import DATASET_JSON, PLANS_JSON, fold_folder, folds_of_model, names_a_model
from nnunetv2_dsvm.training.checkpoints.compatibility import difference

_NATURAL = "NaturalImage2DIO"  # nnU-Net's reader of PNG and the like
_READS_VOLUMES = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")  # of nnU-Net's readers, and written by ITK


@dataclass(frozen=True)
class Model:
    """A trained model's files.

    Attributes:
        place: as it was named: the folder, or a zip.
        folder: with `plans.json`, `dataset.json` and `fold_X`.
        folds: that predict together.
        checkpoint: file in their folders.
    """

    place: Path
    folder: Path
    folds: Sequence[str]
    checkpoint: str

    @cached_property
    def plans(self) -> dict[str, Any]:
        return read_json_object(self.folder / PLANS_JSON)

    @cached_property
    def dataset_json(self) -> dict[str, Any]:
        return read_json_object(self.folder / DATASET_JSON)

    @property
    def channel_names(self) -> list[str]:
        names = self.dataset_json.get("channel_names") or self.dataset_json.get("modality")  # nnU-Net reads both
        if not isinstance(names, dict):
            raise UserError(f"dataset.json of {self.place} names no channels: restore the file")
        return [str(name) for name in names.values()]

    @property
    def labels(self) -> Labels:
        return read_labels(self.dataset_json)

    @property
    def file_ending(self) -> str:
        return str(self.dataset_json.get("file_ending", ".nii.gz"))

    @property
    def reads_natural_images(self) -> bool:
        return self.plans.get("image_reader_writer") == _NATURAL

    @property
    def reads_volumes(self) -> bool:
        return not self.reads_natural_images and self.file_ending.lower() in _READS_VOLUMES

    @property
    def checkpoints(self) -> list[Path]:
        return [fold_folder(self.folder, fold) / self.checkpoint for fold in self.folds]

    @cached_property
    def stored(self) -> list[Checkpoint]:
        """Of each fold.

        Raises:
            UserError: one is broken, asks for code to be run, is none of an nnU-Net training, or differs from the first
                in its trainer or configuration.
        """
        found = [read_checkpoint(file) for file in self.checkpoints]
        for file, of in zip(self.checkpoints, found, strict=True):
            if lacking := [key for key in ("network_weights", "init_args", "trainer_name") if key not in of.entries]:
                raise UserError(f"{file} is not a checkpoint of an nnU-Net training: it has no {', '.join(lacking)}")
            if (of.trainer, _configuration(of)) != (found[0].trainer, _configuration(found[0])):
                raise UserError(f"{file} is of another trainer or configuration than {self.checkpoints[0]}")
        return found

    @property
    def trainer(self) -> str:
        return self.stored[0].trainer

    @property
    def configuration(self) -> str:
        return _configuration(self.stored[0])

    @cached_property
    def checksums(self) -> list[str]:
        """SHA-256 of each fold's checkpoint."""
        return [sha256_of(file) for file in self.checkpoints]


def open_model(place: Path, folds: Sequence[str | int] | None, checkpoint: str, workspace: Path) -> Model:
    """
    Args:
        place: the folder of a trained model, or a zip of `nnUNetv2_export_model_to_zip` with one.
        folds: numbers, or `all`; None for the numbered ones that are there, else `all`.
        checkpoint: file in each fold's folder.
        workspace: an empty folder, into which a zip's files go.

    Raises:
        UserError: there is no such model, or it lacks a fold or a checkpoint.
    """
    packed = place.is_file() and zipfile.is_zipfile(place)
    folder = _unpacked(place, checkpoint, workspace) if packed else place
    missing = [name for name in (PLANS_JSON, DATASET_JSON) if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{place} is not a trained model: it has no {' and no '.join(missing)}; expected a folder "
            "TRAINER__PLANS__CONFIGURATION or the zip of nnUNetv2_export_model_to_zip"
        )
    present = [fold for fold in folds_of_model(folder) if (fold_folder(folder, fold) / checkpoint).is_file()]
    asked = named_folds(folds) if folds is not None else [f for f in present if f.isdigit()] or present
    lacking = [fold for fold in asked if fold not in present]
    if lacking or not asked:
        has = f"it is there in fold {', '.join(present)}" if present else "no fold has it"
        raise UserError(f"{place} has no {checkpoint} in fold {', '.join(lacking) or 'any'}; {has}: name those with -f")
    return Model(place, folder, asked, checkpoint)


def load_predictor(model: Model, device: torch.device, *, show_progress: bool) -> nnUNetPredictor:
    """nnU-Net's predictor with the weights of all folds, whichever trainer they are of.

    nnU-Net's own loading would run what a checkpoint's pickle asks for.

    Args:
        show_progress: whether nnU-Net's sliding window shows its bar.

    Raises:
        UserError: as `Model.stored`; or the trainer is not found, a checkpoint is of another network than it builds, or
            the model is the second stage of a cascade.
    """
    plans = PlansManager(model.plans)
    configuration = plans.get_configuration(model.configuration)
    if configuration.previous_stage_name is not None:
        raise UserError(
            f"{model.place} is the second stage of a cascade and needs the prediction of "
            f"{configuration.previous_stage_name}: name a model of one stage with -m"
        )
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net tells where it looks
        try:
            trainer = recursive_find_trainer_class_by_name(model.trainer)
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"the trainer {model.trainer} of {model.place} is not found: install its package, or name its "
                "folder in the variable nnUNet_extTrainer"
            ) from error
        heads = plans.get_label_manager(model.dataset_json).num_segmentation_heads
        sizes = (determine_num_input_channels(plans, configuration, model.dataset_json), heads)
        build: Any = trainer.build_network_architecture
        if "plans_manager" in inspect.signature(build).parameters:
            network = build(plans, configuration, *sizes, enable_deep_supervision=False)
        else:  # as older trainers have it
            network = build(
                configuration.network_arch_class_name, configuration.network_arch_init_kwargs,
                configuration.network_arch_init_kwargs_req_import, *sizes, enable_deep_supervision=False,
            )  # fmt: skip
        for file, of in zip(model.checkpoints, model.stored, strict=True):
            if other := difference(of.weights, network.state_dict()):
                raise UserError(f"{file} does not fit the network that {of.trainer} builds: {other}")
        predictor = nnUNetPredictor(device=device, allow_tqdm=show_progress)
        predictor.manual_initialization(
            network, plans, configuration, [dict(of.weights) for of in model.stored], model.dataset_json, model.trainer,
            model.stored[0].mirroring_axes or None,
        )  # fmt: skip
    return predictor


def _configuration(checkpoint: Checkpoint) -> str:
    return str(checkpoint.init_args.get("configuration"))


def _unpacked(archive: Path, checkpoint: str, folder: Path) -> Path:
    """The one model of a zip: its description and checkpoints, no other file, under names that are not the zip's."""
    with zipfile.ZipFile(archive) as packed:
        members = {PurePosixPath(name): name for name in packed.namelist()}
        models = sorted(
            {path.parent for path in members if path.name == PLANS_JSON and names_a_model(Path(path.parent))}
        )
        if len(models) != 1:
            has = ", ".join(model.name for model in models) or "none"
            raise UserError(
                f"{archive} holds {len(models)} trained models ({has}), expected one: unpack it and name a model's "
                "folder with -m, or export one configuration"
            )
        try:
            for path, name in members.items():
                inside = path.relative_to(models[0]) if path.is_relative_to(models[0]) else None
                if inside is None or ".." in inside.parts or any(map(is_litter, inside.parts)):
                    continue
                if str(inside) in (PLANS_JSON, DATASET_JSON) or (len(inside.parts) == 2 and path.name == checkpoint):
                    (folder / inside).parent.mkdir(exist_ok=True)
                    with packed.open(name) as source, open(folder / inside, "wb") as target:
                        shutil.copyfileobj(source, target)
        except (zipfile.BadZipFile, RuntimeError) as error:
            raise UserError(f"{archive} cannot be unpacked: {first_line(error)}") from error
    return folder
