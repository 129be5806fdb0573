"""The settings of a training that a class states in its body, as `num_epochs = 2` or `default_num_epochs = 2`.

nnU-Net sets them in its trainer's `__init__` only, where a value in a class body is lost without a word.
"""

import dis
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from types import CodeType
from typing import Any

import numpy as np
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.training.layers.overrides import is_value, names_in

_COUNTS = ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "save_every")
_NUMBERS = ("initial_lr", "weight_decay", "oversample_foreground_percent")
_SWITCHES = ("enable_deep_supervision", "probabilistic_oversampling", "disable_checkpointing")
SETTINGS = (*_COUNTS, *_NUMBERS, *_SWITCHES)
OF_THE_PLANS = ("batch_size", "patch_size")
_SET_BY_NNUNET = {i.argval for i in dis.get_instructions(nnUNetTrainer.__init__) if i.opname == "STORE_ATTR"}


@dataclass(frozen=True)
class ClassSetting:
    """A value in the body of a class."""

    name: str  # the trainer's attribute
    spelling: str  # in the body
    value: Any
    owner: type


def spellings(name: str) -> tuple[str, ...]:
    """The names under which a class body may state a setting."""
    short = ("default_deep_supervision",) if name == "enable_deep_supervision" else ()
    return (name, f"default_{name}", *short)


def class_settings(trainer: type, gives_way: Callable[[type], bool]) -> dict[str, ClassSetting]:
    """Each setting that the class or one of its bases states, by its name: the first in Python's resolution order.

    Args:
        trainer: the class.
        gives_way: whether what this base states is a default, behind what any other base states.
    """
    found = {}
    for name in SETTINGS:
        stated = list(_stated(trainer, name))
        firm = [setting for setting in stated if not gives_way(setting.owner)]
        if stated:
            found[name] = (firm or stated)[0]
    return found


def check_class_settings(trainer: type, gives_way: Callable[[type], bool]) -> None:
    """Raises UserValueError where a class body states something that cannot be a setting, or that the plans decide."""
    for setting in class_settings(trainer, gives_way).values():
        if expected := _expected(setting):
            raise UserValueError(
                f"{setting.owner.__name__}.{setting.spelling} is {setting.value!r}, but must be {expected}"
            )
    for name in OF_THE_PLANS:
        for setting in _stated(trainer, name):
            raise UserValueError(
                f"{setting.owner.__name__}.{setting.spelling} = {setting.value!r} has no effect: nnU-Net reads {name} "
                "from the plans. Change it in a copy of the plans (nnUNetv2_dsvm copy-plans)"
            )
    for name in sorted(_SET_BY_NNUNET.difference(SETTINGS)):
        for setting in _stated(trainer, name):
            if is_value(setting.value) and not _set_in_an_init(trainer, setting):
                raise UserValueError(
                    f"{setting.owner.__name__}.{setting.spelling} = {setting.value!r} has no effect: nnU-Net's "
                    f"__init__ sets {name} anew. Assign it in an __init__, after super().__init__"
                )


def value_in_init(trainer: type, name: str, value: Any, code: CodeType, gives_way: Callable[[type], bool]) -> Any:
    """What the assignment of a setting gives: where an `__init__` behind the class that states it assigns, the stated.

    Args:
        trainer: the class of the trainer.
        name: of the setting.
        value: that is assigned.
        code: that assigns it.
        gives_way: as of `class_settings`.
    """
    setting = class_settings(trainer, gives_way).get(name)
    mro = trainer.__mro__
    assigns = next((c for c in mro if "__init__" in vars(c) and code in names_in(c, "__init__")), None)
    if setting is None or assigns is None or code.co_name != "__init__":
        return value
    is_behind = not gives_way(setting.owner) and mro.index(setting.owner) < mro.index(assigns)
    return setting.value if is_behind or assigns is nnUNetTrainer else value


def _set_in_an_init(trainer: type, setting: ClassSetting) -> bool:
    """Whether an `__init__` of the class that states it, or of one in front, assigns it."""
    front = trainer.__mro__[: trainer.__mro__.index(setting.owner) + 1]
    inits = (names for c in front if "__init__" in vars(c) for names in names_in(c, "__init__").values())
    return any(setting.name in names for names in inits)


def _stated(trainer: type, name: str) -> Iterator[ClassSetting]:
    for owner in trainer.__mro__:
        for spelling in spellings(name):
            if spelling in vars(owner):
                yield ClassSetting(name, spelling, vars(owner)[spelling], owner)


def _expected(setting: ClassSetting) -> str:
    """What the value should have been, in words; empty where it is."""
    value, is_switch = setting.value, isinstance(setting.value, (bool, np.bool_))
    if setting.name in _SWITCHES:
        return "" if is_switch else "True or False"
    number = float(value) if isinstance(value, Real) and not is_switch else float("nan")
    if setting.name in _COUNTS:
        return "" if isinstance(value, Integral) and number > 0 else "a whole number of at least 1"
    if setting.name == "oversample_foreground_percent":
        return "" if 0 <= number <= 1 else "a number from 0 to 1"
    return "" if 0 <= number < float("inf") else "a number of at least 0"
