"""Imports all modules in which `nnUNetv2_train` looks for a trainer, in its order. Its program's argument: RESULT_FILE.

Nothing here may register the trainers by itself, as an import of this package would: what a fresh process finds is
asked.
"""

import importlib
import importlib.metadata
import inspect
import json
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

Entry = dict[str, Any]  # a trainer, or what is wrong with a file


def find_all() -> list[Entry]:
    """Every trainer that a module holds, as often as one does, and every module that is broken."""
    import nnunetv2
    import torch  # noqa: F401  # which registers, before the variable is read
    from nnunetv2.paths import nnUNet_extTrainer
    from nnunetv2.utilities.find_class_by_name import (
        temporarily_cleanup_imports_from_path,
        temporarily_extend_syspath,
    )

    nnunets, nnunets_files = nnunetv2.__path__[0], files_of_nnunet()
    places = [(nnunets, os.path.join(nnunets, "training", "nnUNetTrainer"), "nnunetv2.training.nnUNetTrainer.")]
    listed = nnUNet_extTrainer.get().split(os.pathsep) if nnUNet_extTrainer.is_set() else []
    places += [(folder, folder, "") for folder in listed if folder.strip() and os.path.exists(folder)]
    entries: list[Entry] = []
    for base, folder, package in places:
        # nnU-Net's own modules stay imported, as in its look-up: the trainers of other folders inherit from them.
        with temporarily_extend_syspath(base):
            if package:
                entries += entries_of(folder, package, nnunets_files)
            else:
                with temporarily_cleanup_imports_from_path(base):
                    entries += entries_of(folder, package, nnunets_files)
    return entries


def entries_of(folder: str, package: str, nnunets_files: set[str]) -> list[Entry]:
    """Those of a folder's modules.

    Args:
        folder: that nnU-Net looks through.
        package: what comes before its modules' names, with a dot at the end.
        nnunets_files: whose trainers are nnU-Net's.
    """
    entries: list[Entry] = []
    for name, file in modules(folder, package):
        # What is left to read where the process ends without a traceback.
        print(f"the process ended while it imported {file}", file=sys.stderr, flush=True)
        try:
            module = importlib.import_module(name)
        except BaseException as error:  # whatever a user's module raises, also to end the process
            passed_over = isinstance(error, ModuleNotFoundError) and error.name == name
            entries.append({"file": file, "error": in_a_line(error), "stops": not passed_over})
            continue
        taken = getattr(module, "__file__", None) or "the built-in one"
        if os.path.realpath(taken) != os.path.realpath(file):
            error_text = f"is not read: Python has another module {name}, {taken}"
            entries.append({"file": file, "error": error_text, "stops": False})
        for trainer in trainers(module):
            entry = described(trainer, file)
            entries.append({"folder": folder, "nnunets": os.path.realpath(entry["file"]) in nnunets_files, **entry})
    return entries


def modules(folder: str, package: str) -> Iterator[tuple[str, str]]:
    """Names and files. nnU-Net looks at the modules of a folder, then into its packages, but at no `__init__`."""
    found = list(pkgutil.iter_modules([folder]))
    for finder, name, is_package in found:
        if not is_package:
            spec = finder.find_spec(name, None)
            yield package + name, spec.origin if spec and spec.origin else os.path.join(folder, name)
    for _, name, is_package in found:
        if is_package:
            yield from modules(os.path.join(folder, name), f"{package}{name}.")


def trainers(module: ModuleType) -> list[type]:
    """The trainers among a module's names that can be chosen, imported ones too."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    return [
        value
        for name, value in list(vars(module).items())
        if isinstance(value, type)
        and issubclass(value, nnUNetTrainer)
        and name == value.__name__
        and not name.startswith("_")
        and not inspect.isabstract(value)
    ]


def described(trainer: type, file: str) -> Entry:
    """A trainer as an entry.

    Args:
        trainer: the class.
        file: of the module in which it was found, for a class whose own is not known.
    """
    try:
        short, problem = trainer.in_short() if hasattr(trainer, "in_short") else None, None
    except Exception as error:
        short, problem = None, in_a_line(error)
    return {
        "name": trainer.__name__,
        "package": trainer.__module__.partition(".")[0],
        "file": getattr(sys.modules.get(trainer.__module__), "__file__", None) or file,
        "bases": [base.__name__ for base in trainer.__bases__],
        "summary": next(iter(inspect.cleandoc(vars(trainer).get("__doc__") or "").splitlines()), ""),
        "short": short,
        "problem": problem,
    }


def files_of_nnunet() -> set[str]:
    """What was installed with nnU-Net; where its source folder is what is installed, all that lies there."""
    import nnunetv2

    recorded = {os.path.realpath(str(file.locate())) for file in importlib.metadata.files("nnunetv2") or ()}
    here = os.path.realpath(nnunetv2.__path__[0])
    if os.path.join(here, "__init__.py") in recorded:
        return recorded
    return {os.path.realpath(file) for file in map(str, Path(here).rglob("*.py"))}


def in_a_line(error: BaseException) -> str:
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(find_all()), encoding="utf-8")
