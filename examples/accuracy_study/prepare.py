"""Unpack, preprocess and plan the study's data sets, with their folds.

    python examples/accuracy_study/prepare.py --from FOLDER

FOLDER holds the raw data sets, as folders or as .tar files whose names begin so; without it they lie in nnUNet_raw.
Needs nnUNet_raw and nnUNet_preprocessed. What is there already is left alone. The folds are those of `splits/`: 0 to 4
as they are; 5 to 9, 10 to 14 and 15 to 19 validate on the same cases and train on 10, 25 and 50 % of the patients.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from plan import PLAN, Plan, patient_of
from scripts import status_of

from nnunetv2_dsvm.cluster.preparation import PLANNERS, dataset_number, missing_commands
from nnunetv2_dsvm.cluster.request import Request
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.prediction_set import case_names, file_ending
from nnunetv2_dsvm.files.atomic_write import replaced_folder
from nnunetv2_dsvm.files.json_files import read_json_object, write_json
from nnunetv2_dsvm.files.listing import visible_files
from nnunetv2_dsvm.nnunet.commands import runnable
from nnunetv2_dsvm.nnunet.folders import check_folder_variables
from nnunetv2_dsvm.nnunet.names import DATASET_JSON, FINGERPRINT_JSON, SPLITS_JSON, TRAINING_LABELS

SPLITS = Path(__file__).parent / "splits"
SHARES = (0.1, 0.25, 0.5)
SEED = 23
Fold = dict[str, list[str]]


def folds_of(validation: Sequence[Sequence[str]]) -> list[Fold]:
    """The five folds, then five for each share of the labels: a larger share holds the smaller ones.

    Args:
        validation: the validation cases of each fold, together all cases.
    """
    cases = sorted(case for fold in validation for case in fold)
    whole = [{"train": [case for case in cases if case not in fold], "val": sorted(fold)} for fold in validation]
    folds = list(whole)
    for share in SHARES:
        for number, fold in enumerate(whole):
            patients = sorted({patient_of(case) for case in fold["train"]})
            random.Random(SEED + number).shuffle(patients)
            taken = set(patients[: max(1, round(share * len(patients)))])
            folds.append({"train": [case for case in fold["train"] if patient_of(case) in taken], "val": fold["val"]})
    return folds


def unpack(dataset: str, source: Path, raw: Path) -> None:
    """Puts a data set from a folder, or from all .tar files that begin with its name, into nnUNet_raw."""
    place = raw / dataset
    if place.is_dir():
        return
    folder = source / dataset
    archives = [path for path in visible_files(source, ".tar") if path.name.startswith(dataset)]
    if not folder.is_dir() and not archives:
        raise UserError(f"{source} has neither {dataset} nor {dataset}*.tar: the README says where to get it")
    with replaced_folder(place) as partial:
        if folder.is_dir():
            shutil.copytree(folder, partial, dirs_exist_ok=True)
        for archive in archives if not folder.is_dir() else ():
            with tarfile.open(archive) as tar:
                tar.extractall(partial.parent, filter="data")  # partial has the data set's name


def check_cases(dataset: str, raw: Path, validation: Sequence[Sequence[str]]) -> None:
    """Raises UserError unless the data set has the cases of the folds."""
    folder = raw / dataset
    if not folder.is_dir():
        raise UserError(f"there is no {folder}: name the folder with the data sets by --from")
    there = set(case_names(folder / TRAINING_LABELS, file_ending(read_json_object(folder / DATASET_JSON))))
    if different := sorted(there ^ {case for fold in validation for case in fold}):
        raise UserError(
            f"{folder} has other cases than the folds: {', '.join(different[:5])} and {len(different)} in all"
        )


def prepare(dataset: str, plan: Plan, run: Callable[..., None]) -> None:
    """Preprocesses a data set, once for all plans, and writes the study's plans and folds.

    Args:
        run: does a command.
    """
    folder = Path(os.environ["nnUNet_preprocessed"]) / dataset
    number, configurations = dataset_number(dataset), plan.configurations(dataset)
    sources = list(plan.copies.values())
    if not (folder / FINGERPRINT_JSON).is_file():
        run("nnUNetv2_extract_fingerprint", "-d", number, "-np", os.environ["nnUNet_def_n_proc"])
    for source in sources:
        if not (folder / f"{source}.json").is_file():
            run("nnUNetv2_plan_experiment", "-d", number, "-pl", PLANNERS[source])
    request = Request((dataset,), tuple(sources), tuple(configurations), (), ())
    while commands := missing_commands(dataset, request):  # one at a time: plans share what is preprocessed
        run(*commands[0])
    validation = json.loads((SPLITS / f"{dataset}.json").read_text(encoding="utf-8"))
    write_json(folder / SPLITS_JSON, folds_of(validation), indent=1)
    for name, source in plan.copies.items():  # last: run.py takes a data set that has them as prepared
        write_study_plans(folder, source, name, plan.datasets[dataset]["batch"])


def write_study_plans(folder: Path, source: str, name: str, batches: dict[str, int]) -> None:
    """The plans with the study's batch in each configuration; they take the place of earlier ones."""
    plans = read_json_object(folder / f"{source}.json")
    plans["plans_name"] = name
    for configuration, batch in batches.items():
        plans["configurations"][configuration]["batch_size"] = batch
    write_json(folder / f"{name}.json", plans, indent=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", type=Path, dest="source", metavar="FOLDER", help="with the raw data sets")
    parser.add_argument("-d", nargs="+", metavar="DATASET", help="by name (default: all)")
    args = parser.parse_args()
    check_folder_variables("raw", "preprocessed")
    plan, raw = Plan.read(PLAN), Path(os.environ["nnUNet_raw"])
    datasets = args.d or list(plan.datasets)
    raw.mkdir(parents=True, exist_ok=True)
    for dataset in datasets:
        if args.source:
            unpack(dataset, args.source, raw)
        check_cases(dataset, raw, json.loads((SPLITS / f"{dataset}.json").read_text(encoding="utf-8")))
    os.environ.setdefault("nnUNet_def_n_proc", str(max(1, (os.cpu_count() or 1) // len(datasets))))
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    def run(name: str, *arguments: str) -> None:
        subprocess.run(runnable([name, *arguments]), check=True)

    with ThreadPoolExecutor(len(datasets)) as executor:
        for _ in executor.map(lambda dataset: prepare(dataset, plan, run), datasets):
            pass


if __name__ == "__main__":
    sys.exit(status_of(main))
