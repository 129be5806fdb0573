"""What a cross-validation compares: data sets, plans, configurations, trainers, seeds and folds."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from nnunetv2_dsvm.errors import UserError, check_choice, check_several
from nnunetv2_dsvm.files.listing import visible_files, visible_folders
from nnunetv2_dsvm.nnunet.folders import check_folder_variables
from nnunetv2_dsvm.nnunet.folds import folds_of_splits, named_folds
from nnunetv2_dsvm.nnunet.names import dataset_name, model_name

NNUNETS_FOLDS = ("0", "1", "2", "3", "4")
DEVICES = ("cuda", "cpu", "mps")
CASCADE, BEFORE_CASCADE = "3d_cascade_fullres", "3d_lowres"
PROTOCOLS = ("isic", "synapse")


class Model(NamedTuple):
    """A trainer with plans and a configuration, on a data set and, of several seeds, with one of them."""

    dataset: str
    trainer: str
    plans: str
    configuration: str
    seed: int | None

    @property
    def folder_name(self) -> str:
        """`TRAINER__PLANS__CONFIGURATION`."""
        return model_name(self.trainer, self.plans, self.configuration)


@dataclass(frozen=True)
class Request:
    """What is trained and compared.

    Args:
        datasets: `DatasetXXX_Name`.
        plans, configurations, trainers: by nnU-Net's names; each of them with each of the others.
        folds: numbers, ascending, or `all`.
        seeds: of NNUNETV2_DSVM_SEED, a results folder each; none: one training a fold, as the environment says.
        device: as nnU-Net names it.
        gpus_per_job: GPUs of one training.
        protocols: of a paper, measured beside nnU-Net's metrics.
        predicted: the data sets with images to predict in `imagesTs`.
    """

    datasets: tuple[str, ...]
    plans: tuple[str, ...]
    configurations: tuple[str, ...]
    trainers: tuple[str, ...]
    folds: tuple[str, ...]
    seeds: tuple[int, ...] = ()
    device: str = "cuda"
    gpus_per_job: int = 1
    protocols: tuple[str, ...] = ()
    predicted: tuple[str, ...] = ()

    def models(self, dataset: str, seed: int | None) -> list[Model]:
        """Those of a data set and a seed, in the order in which they were asked for."""
        asked = product(self.plans, self.configurations, self.trainers)
        return [Model(dataset, trainer, plans, configuration, seed) for plans, configuration, trainer in asked]

    @property
    def ensembles(self) -> bool:
        """Whether nnU-Net tries pairs of models, for which it needs the probabilities of all validations."""
        return len(self.folds) > 1 and len(self.models("", None)) > 1

    def groups(self) -> Iterator[tuple[str, int | None]]:
        """Each data set with each seed, or with None where no seed was asked for."""
        yield from product(self.datasets, self.seeds or (None,))

    def as_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Request":
        """Raises TypeError, KeyError: of another form."""
        stored = {field.name: content[field.name] for field in fields(cls)}
        values: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in stored.items()}
        return cls(**values)


def checked_request(
    datasets: Sequence[str | int],
    configurations: Sequence[str],
    trainers: Sequence[str],
    *,
    plans: Sequence[str],
    folds: Sequence[str | int] | None,
    seeds: Sequence[int],
    device: str,
    gpus_per_job: int,
    protocols: Sequence[str],
) -> Request:
    """A request that can be begun.

    Args:
        datasets: numbers or names, below nnUNet_raw or nnUNet_preprocessed.
        folds: None: those of splits_final.json, nnU-Net's five without it.

    Raises:
        UserError: nnU-Net's variables are not set, a data set is not there, or something is named twice or wrongly.
    """
    check_folder_variables("raw", "preprocessed", "results")
    several = {"datasets": datasets, "configurations": configurations, "trainers": trainers, "plans": plans}
    for name, values in several.items():
        check_several(name, values)
    names = [_whole_name(str(dataset)) for dataset in datasets]
    chosen = _folds_of_all(names) if folds is None else named_folds(folds)
    for name, values in {**several, "datasets": names, "folds": chosen, "seeds": seeds, "protocols": protocols}.items():
        if repeated := [str(value) for value in dict.fromkeys(values) if list(values).count(value) > 1]:
            raise UserError(f"{name} named twice: {', '.join(repeated)}")
    for dataset in names:
        there = folds_of_dataset(dataset)
        if beyond := [fold for fold in chosen if fold != "all" and fold not in there]:
            raise UserError(
                f"{dataset} has no fold {', '.join(beyond)}, its folds are {', '.join(there)}: beyond them nnU-Net "
                "validates on cases drawn at random, which other folds are validated on too"
            )
    if wrong := [seed for seed in seeds if seed < 0]:
        raise UserError(f"seeds are integers from 0, got {wrong[0]}")
    check_choice("device", device, DEVICES)
    for protocol in protocols:
        check_choice("protocol", protocol, PROTOCOLS)
    if gpus_per_job < 1 or (gpus_per_job > 1 and device != "cuda"):
        raise UserError(f"{gpus_per_job} GPUs a training with -device {device}: expected 1, or more with cuda")
    if CASCADE in configurations and BEFORE_CASCADE not in configurations:
        raise UserError(f"{CASCADE} reads what {BEFORE_CASCADE} predicts in all folds: name both with -c")
    return Request(
        datasets=tuple(names),
        plans=tuple(plans),
        configurations=tuple(configurations),
        trainers=tuple(trainers),
        folds=tuple(chosen),
        seeds=tuple(seeds),
        device=device,
        gpus_per_job=gpus_per_job,
        protocols=tuple(protocols),
        predicted=tuple(name for name in names if visible_files(_folder("raw") / name / "imagesTs")),
    )


def _folds_of_all(datasets: Sequence[str]) -> list[str]:
    found = {dataset: folds_of_dataset(dataset) for dataset in datasets}
    first, *others = found.values()
    if any(folds != first for folds in others):
        each = "; ".join(f"{dataset}: {', '.join(folds)}" for dataset, folds in found.items())
        raise UserError(f"the data sets have not the same folds ({each}): name some that all have with -f")
    return first


def folds_of_dataset(dataset: str) -> list[str]:
    """Those of splits_final.json, or else nnU-Net's five."""
    return folds_of_splits(dataset) or list(NNUNETS_FOLDS)


def _folder(kind: str) -> Path:
    return Path(os.environ[f"nnUNet_{kind}"])


def _whole_name(dataset: str) -> str:
    begin = dataset_name(int(dataset), "") if dataset.isdecimal() else dataset
    places = [_folder("raw"), _folder("preprocessed")]
    found = {path.name for place in places for path in visible_folders(place, begin)}
    found = found if dataset.isdecimal() else found & {dataset}
    if len(found) != 1:
        several = f"several data sets {dataset} ({', '.join(sorted(found))})" if found else f"no data set {dataset}"
        raise UserError(f"there is {several} in {places[0]} and {places[1]}")
    return found.pop()
