"""The network of a trained nnU-Net model folder, with its weights, and what it was trained for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager, determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.listing import visible_files
from nnunetv2_dsvm.models.checkpoint import Checkpoint, read_checkpoint
from nnunetv2_dsvm.nnunet.names import DATASET_JSON, FINAL, PLANS_JSON, fold_folder, folds_of_model
from nnunetv2_dsvm.planning.network_of_plans import build_vm_unet
from nnunetv2_dsvm.planning.network_settings import with_settings
from nnunetv2_dsvm.planning.relative_of_plans import build_relative
from nnunetv2_dsvm.training.checkpoints.compatibility import difference

_FIRST_LAYER, _HEADS = "encoder.patch_embedding.", "decoder.seg_layers."
_NEEDED = ("network_weights", "init_args", "trainer_name")


@dataclass(frozen=True)
class TrainedNetwork:
    """A network in evaluation mode, and the plans, labels and checkpoint that it comes from."""

    network: SegmentationNetwork
    plans: PlansManager
    configuration: ConfigurationManager
    configuration_name: str
    dataset_json: dict[str, Any]
    trainer: str
    fold: str
    checkpoint: str
    mirroring_axes: tuple[int, ...]  # of the image, that the trainer allows at inference

    @property
    def labels(self) -> LabelManager:
        return self.plans.get_label_manager(self.dataset_json)


def load_trained_network(
    model_folder: str | Path,
    fold: int | str,
    checkpoint: str = FINAL,
    device: torch.device | str = "cpu",
) -> TrainedNetwork:
    """Builds the network of a trained model and loads its weights; needs neither nnU-Net's variables nor the trainer.

    The network is the one that our trainers build from the plans (`planning.network_of_plans`) and the settings of
    their class, which the checkpoint holds (`planning.network_settings`); of a relative, whose name the checkpoint
    holds, `planning.relative_of_plans`. It has the channels that nnU-Net counts (those of a cascade's previous stage
    too), the classes that it predicts, and the auxiliary heads of deep supervision where the checkpoint has them,
    switched off.

    Args:
        model_folder: `TRAINER__PLANS__CONFIGURATION` with plans.json, dataset.json and fold_X; any name will do.
        fold: a number or `"all"`. Each fold is a network of its own; nnU-Net averages the probabilities of several.
        checkpoint: file in the fold's folder.
        device: where the network goes.

    Raises:
        UserError: something is missing (the message names what is there), the checkpoint is broken or holds more than
            tensors, numbers and plain values, or it is of another network.
    """
    folder = Path(model_folder)
    file = _checkpoint_file(folder, str(fold), checkpoint)
    plans, dataset_json = (_read_json(folder / name) for name in (PLANS_JSON, DATASET_JSON))
    stored = _read_checkpoint(file)
    weights = stored.weights
    relative = stored.own.get("network")
    if relative not in RELATIVES and not any(key.startswith(_FIRST_LAYER) for key in weights):
        raise UserError(
            f"{file} was trained by {stored.trainer} and is not of the VM-UNet or another network of this package. "
            "nnU-Net's own commands predict with it (nnUNetv2_predict) and pass it on (nnUNetv2_export_model_to_zip)"
        )
    title = RELATIVES[relative].title if relative in RELATIVES else "VM-UNet"
    try:
        name = stored.init_args["configuration"]
        manager = PlansManager(plans)
        configuration = manager.get_configuration(name)
        with torch.device("meta"):  # the weights are the checkpoint's, so none are drawn
            network = _build(
                relative,
                weights,
                with_settings(configuration, stored.own.get("network_settings") or {}),
                determine_num_input_channels(manager, configuration, dataset_json),
                manager.get_label_manager(dataset_json).num_segmentation_heads,
            )
    except (ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        # sizes in the plans that do not fit together, or files that lack what nnU-Net writes into them
        raise UserError(
            f"{folder}, trained by {stored.trainer}: its checkpoint, plans.json and dataset.json give no "
            f"{title}: {error if isinstance(error, ValueError) else repr(error)}"
        ) from error
    if other := difference(weights, network.state_dict()):
        raise UserError(
            f"{file} was trained by {stored.trainer} and is not of the {title} that this package's trainers "
            f"build from {folder / PLANS_JSON}: {other}. Only the networks of this package's trainers are read here"
        )
    network = network.to_empty(device=device)
    network.load_state_dict(weights)
    return TrainedNetwork(
        network=network.eval(),
        plans=manager,
        configuration=configuration,
        configuration_name=name,
        dataset_json=dataset_json,
        trainer=stored.trainer,
        fold=str(fold),
        checkpoint=checkpoint,
        mirroring_axes=stored.mirroring_axes,
    )


def _build(
    relative: Any, weights: Mapping[str, Any], configuration: ConfigurationManager, channels: int, classes: int
) -> SegmentationNetwork:
    """Without deep supervision; with the auxiliary heads whose weights are there."""
    levels = {key.removeprefix(_HEADS).partition(".")[0] for key in weights if key.startswith(_HEADS)}
    if relative not in RELATIVES:
        heads = {"deep_supervision": False, "auxiliary_heads": len(levels) > 1}
        return build_vm_unet(configuration, channels, classes, **heads)
    for auxiliary_heads in (False, True):  # a network may need more heads than one without deep supervision
        heads = {"deep_supervision": False, "auxiliary_heads": auxiliary_heads}
        network = build_relative(relative, configuration, channels, classes, **heads)
        built = network.get_submodule("decoder.seg_layers")
        if sum(1 for _ in built.children()) == len(levels):
            break
    return network


def _checkpoint_file(folder: Path, fold: str, checkpoint: str) -> Path:
    missing = [name for name in (PLANS_JSON, DATASET_JSON) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is not the folder of a trained model: it has no {' and no '.join(missing)}")
    file = fold_folder(folder, fold) / checkpoint
    if not file.parent.is_dir():
        raise UserError(f"{folder} has no fold {fold}; it has {', '.join(folds_of_model(folder)) or 'none'}")
    if not file.is_file():
        present = [path.name for path in visible_files(file.parent, ".pth")]
        raise UserError(f"{file.parent} has no {checkpoint}; it has {', '.join(present) or 'no checkpoint'}")
    return file


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return load_json(str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _read_checkpoint(file: Path) -> Checkpoint:
    stored = read_checkpoint(file)
    lacking = [key for key in _NEEDED if key not in stored.entries]
    if lacking:
        raise UserError(f"{file} is not a checkpoint of an nnU-Net training: it has no {', '.join(lacking)}")
    bad = [name for name, value in stored.weights.items() if not value.isfinite().all()]
    if bad:
        raise UserError(f"{file} is damaged: {bad[0]} and {len(bad) - 1} other tensors hold NaN or infinite values")
    return stored
