"""What the arguments of several subcommands have in common."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.nnunet.folder_values import fault_of_path

TRAINER, PLANS, CONFIGURATION = "nnUNetTrainerDSVM", "nnUNetPlans", "2d"  # where none is named


def positive(text: str) -> int:
    """A whole number from 1.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def add_model_arguments(
    parser: argparse.ArgumentParser, *, dataset: str, trainer: str, fold: str, several: bool = True
) -> None:
    """`-d -tr -p -c -f`: trained models by nnU-Net's names. An option that is not given is None.

    Args:
        dataset, trainer, fold: the help of `-d`, `-tr` and `-f`.
        several: of trainers and of folds; else there is one of each, and the fold must be named.
    """
    many: dict[str, Any] = {"nargs": "+"} if several else {}
    which = "with -d: the " if several else ""
    parser.add_argument("-d", metavar="ID", help=dataset)
    parser.add_argument("-tr", metavar="TRAINER", help=trainer, **many)
    parser.add_argument("-p", metavar="PLANS", help=f"{which}plans (default: {PLANS})")
    parser.add_argument("-c", metavar="CONFIGURATION", help=f"{which}configuration (default: {CONFIGURATION})")
    parser.add_argument("-f", metavar="FOLD", help=fold, required=not several, **many)


def check_paths(args: argparse.Namespace) -> None:
    """Paths that no shell has made ready, such as that of `--output=~/results`, which would become a folder named `~`.

    Raises:
        UserError: there is one among the arguments, and no file or folder of that name.
    """
    for value in vars(args).values():
        for path in value if isinstance(value, list) else [value]:
            if not isinstance(path, Path) or os.path.exists(path):
                continue
            if fault := fault_of_path(str(path)):
                raise UserError(f"a path on the command line {fault[0]}; {fault[1]}")


def check_options(args: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Options that would be ignored are an error of the user's.

    Args:
        names: of options that are None where they were not given, as `args` has them.
        why: goes on after the options in the message.

    Raises:
        UserError: some were given.
    """
    given = [name for name in names if getattr(args, name) is not None]
    if given:
        spelled = (f"-{name}" if len(name) < 3 else f"--{name.replace('_', '-')}" for name in given)  # -tr, --per-gpu
        raise UserError(f"{', '.join(spelled)} {why}")
