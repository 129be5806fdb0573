"""Every trainer that nnU-Net finds, of this package and of the user's folders."""

import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.autoregister import VARIABLE, listed_by_the_user
from nnunetv2_dsvm.diagnostics.finding import Finding, Severity
from nnunetv2_dsvm.diagnostics.folders import check_trainer_folders
from nnunetv2_dsvm.diagnostics.subprocess_probe import ProbeFailed, run_probe_file
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.host.versions import PACKAGE

PROBE = Path(__file__).with_name("trainer_list_probe.py")


@dataclass(frozen=True)
class ListedTrainer:
    """A trainer by the name that `-tr` takes.

    Attributes:
        place: the package's name for ours, else the folder in which nnU-Net found it.
        file: that holds the class.
        bases: names of the classes that it inherits from.
        summary: the first line of its own docstring, or nothing.
        short: network, dimensions, terms, optimiser and epochs; None of a class without our layers.
        hidden_by: the file of another class of this name, which nnU-Net takes.
        stopped_by: the broken module at which nnU-Net's look-up ends before it comes here.
    """

    name: str
    place: str
    file: str
    bases: list[str]
    summary: str
    short: dict[str, str] | None
    hidden_by: str | None = None
    stopped_by: str | None = None


@dataclass(frozen=True)
class BrokenModule:
    """A file that holds no trainer for nnU-Net, or one that cannot say what it is.

    Attributes:
        error: the first line of what was raised.
        stops: whether nnU-Net's look-up ends with this error, for all that it has not found before.
    """

    file: str
    error: str
    stops: bool


@dataclass(frozen=True)
class TrainerList:
    """What was found.

    Attributes:
        trainers: sorted by name within a place; ours first, then the places in the order of nnU-Net's look-up.
        broken: in the order of nnU-Net's look-up.
        folders: what is wrong with the folders that the user lists.
    """

    trainers: list[ListedTrainer]
    broken: list[BrokenModule]
    folders: list[Finding]

    def named(self, text: str) -> "TrainerList":
        """With those trainers only whose name contains a text, in upper or lower case."""
        return replace(self, trainers=[t for t in self.trainers if text.lower() in t.name.lower()])

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        folders = [{"detail": finding.detail, "advice": finding.advice} for finding in self.folders]
        return {**asdict(replace(self, folders=[])), "folders": folders}


def list_trainers() -> TrainerList:
    """Lets a fresh process import what nnU-Net would: its own folder, the user's of `nnUNet_extTrainer`, and ours.

    nnU-Net's own trainers are not listed. Others in nnU-Net's own folder are, unless it is installed as a source folder
    (`pip install -e`), where they cannot be told apart.

    Raises:
        UserError: nnU-Net cannot be imported, or a module ends the process.
    """
    listed = listed_by_the_user()
    folders = [os.path.abspath(entry) for entry in listed.split(os.pathsep) if entry.strip()]
    try:
        entries = run_probe_file(PROBE, variables={VARIABLE: os.pathsep.join(folders)})
    except ProbeFailed as failure:
        raise UserError(f"no list of trainers: {failure} (nnUNetv2_dsvm doctor looks at the installation)") from None
    wrong = [finding for finding in check_trainer_folders(listed) if finding.severity is not Severity.OK]
    return TrainerList(*_as_nnunet_finds_them(entries), wrong)


def _as_nnunet_finds_them(entries: list[dict[str, Any]]) -> tuple[list[ListedTrainer], list[BrokenModule]]:
    """The first of a name is taken, and a broken module ends every look-up that reaches it.

    Args:
        entries: of the probe, in the order of nnU-Net's look-up.
    """
    file_of: dict[str, str] = {}
    trainers: dict[tuple[str, str], ListedTrainer] = {}
    broken: dict[str, BrokenModule] = {}
    for entry in entries:
        name, file = entry.get("name"), entry["file"]
        if name is None:
            broken.setdefault(file, BrokenModule(file, entry["error"], entry["stops"]))
            continue
        first = file_of.setdefault(name, file)
        if entry["nnunets"] or (name, file) in trainers:
            continue  # not listed, or imported into another module too
        if entry["problem"]:
            broken[f"{file} {name}"] = BrokenModule(file, f"{name}: {entry['problem']}", stops=False)
        trainers[name, file] = ListedTrainer(
            name,
            PACKAGE if entry["package"] == PACKAGE else entry["folder"],
            file,
            entry["bases"],
            entry["summary"],
            entry["short"],
            hidden_by=first if first != file else None,
            stopped_by=next((module.file for module in broken.values() if module.stops), None),
        )
    places = [PACKAGE, *dict.fromkeys(trainer.place for trainer in trainers.values())]
    in_order = sorted(trainers.values(), key=lambda t: (places.index(t.place), _by_number(t.name)))
    return in_order, list(broken.values())


def _by_number(name: str) -> list[str | int]:
    """A key that sorts `_5epochs` before `_10epochs`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
