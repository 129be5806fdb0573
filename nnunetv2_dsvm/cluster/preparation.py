"""What a data set lacks before it can be trained on, plans, preprocessed cases, folds, and what makes it."""

import os
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_dsvm.cluster.request import CASCADE, Request
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.json_files import read_json_object, write_json
from nnunetv2_dsvm.files.listing import visible_files
from nnunetv2_dsvm.nnunet.names import FINGERPRINT_JSON, SPLITS_JSON

OURS = "nnUNetDSVMPlans"
# nnU-Net's planners by the plans that they write (its documentation/resenc_presets.md).
PLANNERS = {
    "nnUNetPlans": "ExperimentPlanner",
    "nnUNetResEncUNetMPlans": "nnUNetPlannerResEncM",
    "nnUNetResEncUNetLPlans": "nnUNetPlannerResEncL",
    "nnUNetResEncUNetXLPlans": "nnUNetPlannerResEncXL",
}
_IMAGES = (".b2nd", ".npz")  # as nnU-Net's data sets store a preprocessed case, beside the .pkl of its properties


def check_plans(request: Request) -> None:
    """Before anything is begun.

    Raises:
        UserError: plans are missing that no planner is known for, or have not the configurations that were asked for.
    """
    for dataset in request.datasets:
        for plans in request.plans:
            file = _preprocessed(dataset) / f"{plans}.json"
            if file.is_file():
                check_configurations(dataset, plans, request.configurations)
            elif plans != OURS and plans not in PLANNERS:
                known = ", ".join([*PLANNERS, OURS])
                raise UserError(f"there is no {file}: make these plans first; what can be made here is {known}")


def check_configurations(dataset: str, plans: str, configurations: Sequence[str]) -> None:
    """Raises UserError where plans lack a configuration, as nnU-Net's do of images for which it would not pay."""
    file = _preprocessed(dataset) / f"{plans}.json"
    there = read_json_object(file).get("configurations", {})
    if missing := [name for name in configurations if name not in there]:
        raise UserError(
            f"{file} has no configuration {', '.join(missing)}; it has {', '.join(there)}: name those with -c"
        )


def missing_commands(dataset: str, request: Request) -> list[list[str]]:
    """What is still to be run before the trainings, in this order; nothing where all is there.

    Raises:
        UserError: plans cannot be read.
    """
    number, commands, processes = dataset_number(dataset), [], processes_of_a_command()
    for plans in request.plans:
        with_data = [name for name in request.configurations if name != CASCADE] or list(request.configurations)
        if not (_preprocessed(dataset) / f"{plans}.json").is_file():
            command = ["nnUNetv2_plan_and_preprocess", "-d", number, "-pl", PLANNERS.get(plans, "")]
            if plans == OURS:
                command = ["nnUNetv2_dsvm", "plan_and_preprocess", "-d", number]
            commands.append(
                [*command, "-c", *with_data, "--verify_dataset_integrity", "-np", processes, "-npfp", processes]
            )
        elif lacking := [name for name in with_data if not _is_preprocessed(dataset, plans, name)]:
            commands.append(
                ["nnUNetv2_preprocess", "-d", number, "-plans_name", plans, "-c", *lacking, "-np", processes]
            )
    return commands


def has_splits(dataset: str) -> bool:
    return (_preprocessed(dataset) / SPLITS_JSON).is_file()


def write_splits(dataset: str, request: Request) -> None:
    """Writes nnU-Net's own five folds where there are none: trainings that begin together would each write the file.

    Raises:
        UserError: the cases are too few for five folds.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    identifier = _data_identifier(dataset, request.plans[0], request.configurations[0])
    cases = sorted(path.stem for path in visible_files(_preprocessed(dataset) / identifier, ".pkl"))
    try:
        splits = generate_crossval_split(cases, seed=12345, n_splits=5)
    except ValueError as error:
        raise UserError(
            f"{dataset} has {len(cases)} cases, which cannot be divided into five folds: {error}"
        ) from error
    write_json(_preprocessed(dataset) / SPLITS_JSON, splits, indent=4)


def _is_preprocessed(dataset: str, plans: str, configuration: str) -> bool:
    """nnU-Net trains on the cases that are preprocessed, however few: where some are missing, it was interrupted."""
    folder = _preprocessed(dataset)
    fingerprint = read_json_object(folder / FINGERPRINT_JSON) if (folder / FINGERPRINT_JSON).is_file() else {}
    properties = visible_files(folder / _data_identifier(dataset, plans, configuration), ".pkl")
    there = [path for path in properties if any(path.with_suffix(ending).is_file() for ending in _IMAGES)]
    return len(there) >= max(1, len(fingerprint.get("spacings", ())))


def _data_identifier(dataset: str, plans: str, configuration: str) -> str:
    """The folder of a configuration's preprocessed cases, which it may have from the one that it inherits from."""
    check_configurations(dataset, plans, [configuration])
    configurations = read_json_object(_preprocessed(dataset) / f"{plans}.json")["configurations"]
    while "data_identifier" not in configurations[configuration]:
        inherited = configurations[configuration].get("inherits_from")
        if inherited not in configurations:
            raise UserError(f"{plans}.json of {dataset}: the configuration {configuration} has no data_identifier")
        configuration = inherited
    return configurations[configuration]["data_identifier"]


def _preprocessed(dataset: str) -> Path:
    return Path(os.environ["nnUNet_preprocessed"]) / dataset


def dataset_number(dataset: str) -> str:
    """Of `DatasetXXX_Name`, without leading zeros."""
    return str(int(dataset[len("Dataset") : len("Dataset") + 3]))


def processes_of_a_command() -> str:
    """For `-np`: what nnUNet_def_n_proc says, or else the CPUs that are usable, at most nnU-Net's own eight."""
    return os.environ.get("nnUNet_def_n_proc") or str(min(8, usable_cpus()))


def usable_cpus() -> int:
    """CPUs that this process may run on; in a job of SLURM no more than its own, which it may not be bound to."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    of_job = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
    return min(here, int(of_job)) if of_job else here
