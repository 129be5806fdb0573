"""The base of all layers: what they add to nnU-Net's trainer, as hooks that chain by `super()`."""

import inspect
import io
from abc import ABCMeta
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import distributed as dist
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_dsvm.training.checkpoint_files import KEY, write_checkpoint
from nnunetv2_dsvm.training.layers.class_settings import (
    SETTINGS,
    ClassSetting,
    check_class_settings,
    class_settings,
    overrides_it,
    spellings,
)
from nnunetv2_dsvm.training.layers.overrides import cuts_off, hidden_behind, names_in

if TYPE_CHECKING:
    _Trainer = nnUNetTrainer
else:
    _Trainer = object

_MUST_CHAIN = ("__init__", "initialize", "on_train_epoch_end", "save_checkpoint", "load_checkpoint")
_ARGUMENTS = {"plans", "configuration", "fold", "dataset_json", "device"}  # which nnU-Net passes, and keeps by name


class _MakesTrainers(ABCMeta):
    """Looks at a class before its trainer is made, and after the last `__init__` lets its body speak."""

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        for hook in _MUST_CHAIN:
            cls.refuse_where_cut_off(hook, "what it adds there")
        trainer = super().__call__(*arguments, **keywords)
        for setting in cls._class_settings().values():
            if not is_layer(setting.owner) and not overrides_it(cls, setting):
                setattr(trainer, setting.name, setting.value)
        return trainer


class TrainerHooks(_Trainer, metaclass=_MakesTrainers):
    """What every layer can rely on, with nothing in it: a layer overrides a hook and calls `super()`.

    Settings in a class body (`num_epochs = 2`, or `default_num_epochs = 2`) count as if nnU-Net's `__init__` had set
    them, and an `__init__` of a variant that is mixed in overrides them as it would override nnU-Net's. Where both
    speak, Python's method resolution order decides. What a layer states itself is a default: it gives way to any other
    class, in front of the layers or behind them.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  (nnU-Net's own signature)
    ):
        self._class_settings_applied = False
        self.preflight(PlansManager(plans).get_configuration(configuration), device)
        super().__init__(plans, configuration, fold, dataset_json, device)
        # Bases behind the layers have had their __init__ by now. What stands in front of them states the last word.
        mro = type(self).__mro__
        for setting in self._class_settings().values():
            if mro.index(setting.owner) < mro.index(TrainerHooks) and not is_layer(setting.owner):
                setattr(self, setting.name, setting.value)

    def preflight(self, planned: ConfigurationManager, device: torch.device) -> None:
        """Refuses what cannot be trained, before nnU-Net creates a folder.

        Raises:
            ValueError, RuntimeError: with the reason and what to do.
        """
        check_class_settings(type(self), is_layer)
        if others := sorted(inspect.signature(self.__init__).parameters.keys() ^ _ARGUMENTS):
            raise ValueError(
                f"{type(self).__name__}.__init__ must take plans, configuration, fold, dataset_json and device, under "
                f"these names and no others, as nnU-Net's does: {', '.join(others)} differ"
            )
        if saves := self.mixed_in_behind(TrainerHooks, "save_checkpoint"):
            if any(names_in(saves, "save_checkpoint")):
                raise ValueError(
                    f"{saves.__name__}.save_checkpoint stands behind this package's, which writes the file itself, and "
                    f"would get no file name: name {saves.__name__} in front of this package's trainer in the bases"
                )
        spelled = {spelling for name in SETTINGS for spelling in spellings(name)}
        for owner, name, first in hidden_behind(type(self), nnUNetTrainer, is_layer):
            if name not in spelled:
                raise ValueError(
                    f"{owner.__name__}.{name} would be ignored: {first.__name__} stands in front and has its own. "
                    f"Name {owner.__name__} in front of this package's trainer in the bases of {type(self).__name__}"
                )
        if self.mixed_in_behind(TrainerHooks, "__init__"):
            self.refuse_where_cut_off("print_to_log_file", "its default settings")

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        # nnU-Net's __init__ ends with this call, and the bodies of its variants' follow: the moment to set defaults.
        self._apply_class_settings()
        super().print_to_log_file(*args, also_print_to_console=also_print_to_console, add_timestamp=add_timestamp)

    @classmethod
    def _class_settings(cls) -> dict[str, ClassSetting]:
        return class_settings(cls, is_layer)

    def _apply_class_settings(self) -> None:
        if not self._class_settings_applied:
            self._class_settings_applied = True
            for setting in self._class_settings().values():
                setattr(self, setting.name, setting.value)

    @classmethod
    def mixed_in_behind(cls, layer: type, hook: str) -> type | None:
        """The class behind a layer whose `hook` the layer's own would hide, nnU-Net's trainer itself apart."""
        behind = cls.__mro__[cls.__mro__.index(layer) + 1 :]
        return next((c for c in behind if hook in vars(c) and c is not nnUNetTrainer and not is_layer(c)), None)

    @classmethod
    def refuse_where_cut_off(cls, hook: str, loss: str) -> None:
        """Raises ValueError, naming the loss, where a class in front overrides a hook without calling `super()`."""
        if owner := cuts_off(cls, TrainerHooks, hook, is_layer):
            raise ValueError(
                f"{owner.__name__}.{hook} does not call super().{hook}, so that {cls.__name__} would lose {loss}. "
                f"Call it, or name {owner.__name__} behind this package's trainer in the bases"
            )

    def bare_network(self) -> Any:
        """The network without the wrappers of DDP and torch.compile."""
        network = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def trained_modules(self) -> list[nn.Module]:
        """What the optimiser trains, the network first."""
        return [self.bare_network()]

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
        stored = torch.load(filename_or_checkpoint, map_location="cpu", weights_only=False, mmap=True)
        self.restore_own_entry(stored.get(KEY, {}))


def is_layer(base: type) -> bool:
    """Whether a class is one of the layers, as opposed to a trainer, a variant or a user's own mixin."""
    return issubclass(base, TrainerHooks) and not issubclass(base, nnUNetTrainer)
