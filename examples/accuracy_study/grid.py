"""What is trained: a grid file's runs, each with every dataset and every seed."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.quickstart.plans import write_reduced_plans

NNUNETS_PLANS = "nnUNetPlans"


@dataclass(frozen=True)
class Training:
    """One training.

    Args:
        name: the run's, in the grid file.
        dataset: `DatasetXXX_Name`.
        fold: a number, or "all".
        test: whether the test case is predicted after it.
        trainer: class name.
        network: arguments of VMUNet that differ from the preset "base"; None: what nnU-Net's plans give.
        batch_factor: of nnU-Net's planned batch.
        settings: attributes of the trainer.
    """

    name: str
    dataset: str
    seed: int
    fold: str
    test: bool
    trainer: str
    network: Mapping[str, Any] | None
    batch_factor: float
    settings: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where its results go, relative."""
        return Path(self.dataset) / self.name / f"seed_{self.seed}"

    @property
    def plans(self) -> str:
        """nnU-Net's plans, or the name of those with this network and batch."""
        if self.network is None and self.batch_factor == 1:
            return NNUNETS_PLANS
        content = json.dumps([self.network, self.batch_factor], sort_keys=True)
        return f"{NNUNETS_PLANS}_{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def read_grid(path: Path) -> list[Training]:
    """The trainings of a grid file, the first seed of all runs first.

    The file's "runs" say what differs from "defaults", of which "all" is for every trainer, "VM-UNet" for those of a
    VM-UNet, and "DSVM" for those with distillation. A run's "trainer" is the class's name between nnUNetTrainer and
    _study: "", "VMUNet", "DSVM", "DSVM_projection" or "DSVM_progressive".
    """
    grid = json.loads(path.read_text(encoding="utf-8"))
    trainings = []
    for name, own in grid["runs"].items():
        run = _merged(*_defaults(grid["defaults"], own["trainer"]), own)
        if not own["trainer"] and ("network" in run or "batch_factor" in run):
            raise ValueError(
                f"{path}: the run {name} is nnU-Net's own trainer, which takes nnU-Net's plans as they are"
            )
        trainings += [
            Training(
                name=name,
                dataset=dataset,
                seed=seed,
                fold=str(grid["fold"]),
                test=grid["test"],
                trainer=f"nnUNetTrainer{run['trainer']}_study",
                network=run.get("network"),
                batch_factor=run.get("batch_factor", 1),
                settings=run["settings"],
            )
            for seed in run.get("seeds", grid["seeds"])
            for dataset in grid["datasets"]
        ]
    return sorted(trainings, key=lambda training: training.seed)


def write_plans(training: Training, preprocessed: Path) -> None:
    """Write the plans of a training whose network or batch is not nnU-Net's own choice."""
    if training.plans == NNUNETS_PLANS:
        return
    folder = preprocessed / training.dataset
    planned = json.loads((folder / f"{NNUNETS_PLANS}.json").read_text(encoding="utf-8"))["configurations"]["2d"]
    write_reduced_plans(
        folder,
        training.plans,
        network={**PRESETS["base"], **(training.network or {})},
        largest_patch_size=planned["patch_size"],
        batch_size=round(training.batch_factor * planned["batch_size"]),
    )


def _defaults(defaults: Mapping[str, Mapping[str, Any]], trainer: str) -> Iterator[Mapping[str, Any]]:
    belongs = {"all": True, "VM-UNet": trainer != "", "DSVM": "DSVM" in trainer}
    return (defaults.get(family, {}) for family, member in belongs.items() if member)


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers before earlier ones; settings and networks one by one."""
    merged: dict[str, Any] = {"settings": {}}
    for layer in layers:
        for key, value in layer.items():
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return merged
