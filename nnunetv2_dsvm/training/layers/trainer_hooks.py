"""The base of all layers: what they add to nnU-Net's trainer, as hooks that chain by `super()`."""

import inspect
import io
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import distributed as dist
from torch import nn

from nnunetv2_dsvm.architecture.unwrapping import unwrap_model
from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.training.checkpoints.files import KEY, write_checkpoint
from nnunetv2_dsvm.training.layers.class_settings import (
    NNUNETS,
    SETTINGS,
    ClassSetting,
    check_class_settings,
    class_settings,
    setting_in_short,
    spellings,
    value_in_init,
)
from nnunetv2_dsvm.training.layers.overrides import cuts_off, hidden_behind, names_in

if TYPE_CHECKING:  # a layer is a mixin: nnU-Net's trainer stands behind all of them
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as _Trainer
else:
    _Trainer = object

_MUST_CHAIN = ("__init__", "initialize", "on_train_epoch_end", "save_checkpoint", "load_checkpoint")
_ARGUMENTS = {"plans", "configuration", "fold", "dataset_json", "device"}  # which nnU-Net passes, and keeps by name


class TrainerHooks(_Trainer):
    """What every layer can rely on, with nothing in it: a layer overrides a hook and calls `super()`.

    Settings in a class body (`num_epochs = 2`, or `default_num_epochs = 2`) count as if they stood in an `__init__` of
    that class: between them and the `__init__` of a variant that is mixed in, Python's method resolution order decides.
    What a layer states itself is a default: it gives way to any other class, in front of the layers or behind them.
    """

    def __new__(cls, *arguments: Any, **keywords: Any):
        for hook in _MUST_CHAIN:
            cls.check_not_cut_off(hook, "what it adds there")
        return super().__new__(cls)

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),
    ):
        self.preflight(PlansManager(plans).get_configuration(configuration), device)
        super().__init__(plans, configuration, fold, dataset_json, device)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SETTINGS:
            # An __init__ assigns when it is reached, and knows nothing of the bodies of the classes in front of it.
            value = value_in_init(type(self), name, value, sys._getframe(1).f_code, is_layer)
        super().__setattr__(name, value)

    def preflight(self, planned: ConfigurationManager, device: torch.device) -> None:
        """Refuses what cannot be trained, before nnU-Net creates a folder.

        Raises:
            UserValueError, UserError: with the reason and what to do.
        """
        check_class_settings(type(self), is_layer)
        signature = inspect.signature(self.__init__)  # type: ignore[misc]  # read, not called
        if others := sorted(signature.parameters.keys() ^ _ARGUMENTS):
            raise UserValueError(
                f"{type(self).__name__}.__init__ must take plans, configuration, fold, dataset_json and device, under "
                f"these names and no others, as nnU-Net's does: {', '.join(others)} differ"
            )
        saves = self.mixed_in_behind(TrainerHooks, "save_checkpoint")
        if saves is not None and any(names_in(saves, "save_checkpoint").values()):
            raise UserValueError(
                f"{saves.__name__}.save_checkpoint stands behind this package's, which writes the file itself, and "
                f"would get no file name: name {saves.__name__} in front of this package's trainer in the bases"
            )
        spelled = {spelling for name in SETTINGS for spelling in spellings(name)}
        for owner, name, first in hidden_behind(type(self), nnUNetTrainer, is_layer):
            if name not in spelled:
                raise UserValueError(
                    f"{owner.__name__}.{name} would be ignored: {first.__name__} stands in front and has its own. "
                    f"Name {owner.__name__} in front of this package's trainer in the bases of {type(self).__name__}"
                )

    @classmethod
    def _class_settings(cls) -> dict[str, ClassSetting]:
        return class_settings(cls, is_layer)

    @classmethod
    def mixed_in_behind(cls, layer: type, hook: str) -> type | None:
        """The class behind a layer whose `hook` the layer's own would hide, nnU-Net's trainer itself apart."""
        behind = cls.__mro__[cls.__mro__.index(layer) + 1 :]
        return next((c for c in behind if hook in vars(c) and c is not nnUNetTrainer and not is_layer(c)), None)

    @classmethod
    def check_not_cut_off(cls, hook: str, loss: str) -> None:
        """Raises ValueError, naming the loss, where a class in front overrides a hook without calling `super()`."""
        if owner := cuts_off(cls, TrainerHooks, hook, is_layer):
            if owner is nnUNetTrainer:  # Python's order, where a variant of nnU-Net's is named in front of bare layers
                layer = next(base.__name__ for base in cls.__mro__ if is_layer(base))
                raise UserValueError(
                    f"in {cls.__name__} nnU-Net's trainer stands in front of this package's layers, which would add "
                    f"nothing: make a trainer of them first (class Trainer({layer}, nnUNetTrainer)), and name that "
                    "behind the class to be mixed in"
                )
            raise UserValueError(
                f"{owner.__name__}.{hook} does not call super().{hook}, so that {cls.__name__} would lose {loss}. "
                f"Call it, or name {owner.__name__} behind this package's trainer in the bases"
            )

    @classmethod
    def in_short(cls) -> dict[str, str]:
        """What the class trains, as far as it says without plans: network, dimensions, terms, optimiser, epochs.

        The terms are those beside the segmentation's; the dimensions of a network of neither nnU-Net nor this package
        are not known and empty.
        """
        network = cls._whose("build_network_architecture")
        return {
            "network": "of the plans" if network == NNUNETS else network,
            "dimensions": "2D, 3D" if network == NNUNETS else "",
            "terms": "",
            "optimiser": cls._whose("configure_optimizers"),
            "epochs": setting_in_short(cls, "num_epochs", is_layer),
        }

    @classmethod
    def _whose(cls, hook: str) -> str:
        """Of the classes that are no layers, the one whose `hook` is reached first."""
        owner = next(c for c in cls.__mro__ if hook in vars(c) and not is_layer(c))
        return NNUNETS if owner is nnUNetTrainer else f"{owner.__name__}'s"

    def trained_modules(self) -> list[nn.Module]:
        """What the optimiser trains, the network first."""
        return [unwrap_model(self.network)]

    def is_deterministic(self) -> bool:
        """Whether the training asks torch for deterministic algorithms."""
        return False

    def of_all_ranks(self, value: Any) -> list[Any]:
        """The value that each rank of DDP gives, in their order."""
        if not self.is_ddp:
            return [value]
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, value)
        return gathered

    def loss_terms_of_last_step(self) -> dict[str, float]:
        """The terms that made up the loss of the last step, where there is more than one."""
        return {}

    def own_checkpoint_entry(self) -> dict[str, Any]:
        """What a checkpoint holds beyond nnU-Net's own entries."""
        return {}

    def restore_own_entry(self, entry: Mapping[str, Any]) -> None:
        """Takes back what `own_checkpoint_entry` gave, after nnU-Net has loaded its part of the checkpoint."""

    def save_checkpoint(self, filename: str) -> None:
        in_memory = io.BytesIO()
        super().save_checkpoint(in_memory)
        if in_memory.tell():  # nothing on the other ranks of DDP, nor with --disable_checkpointing
            write_checkpoint(in_memory, self.own_checkpoint_entry(), filename)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        super().load_checkpoint(filename_or_checkpoint)
        stored = filename_or_checkpoint
        if not isinstance(stored, Mapping):
            stored = torch.load(stored, map_location="cpu", weights_only=False, mmap=True)
        self.restore_own_entry(stored.get(KEY, {}))


def is_layer(base: type) -> bool:
    """Whether a class is one of the layers, as opposed to a trainer, a variant or a user's own mixin."""
    return issubclass(base, TrainerHooks) and not issubclass(base, nnUNetTrainer)
