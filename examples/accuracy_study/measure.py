"""A finished training as rows of the CSV files: its cases measured, its curves, what it took."""

import datetime
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from plan import Training
from results import COLUMNS
from study_run import PER_GPU, step_of

from nnunetv2_dsvm.cluster.run_folder import model_folder
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.case_result import measure_case
from nnunetv2_dsvm.evaluation.cross_validation import from_cross_validation
from nnunetv2_dsvm.evaluation.protocols import PROTOCOLS
from nnunetv2_dsvm.evaluation.segmentations import read_pair
from nnunetv2_dsvm.evaluation.summary import statistic
from nnunetv2_dsvm.reporting.curves import read_curves

FACTS = "facts.json"  # of the study's trainers
UNMIRRORED = "unmirrored"  # their folder with the validation without mirroring, laid out as nnU-Net's of a fold
TOLERANCE_MM = 1.0  # of the NSD, which is not looked at


def measured(training: Training, *, in_voxels: bool) -> list[list[Any]]:
    """Rows of cases.csv, for nnUNet_results of the training's seed."""
    (predictions,), problems = from_cross_validation(
        training.dataset, [training.trainer], plans=training.plans, configuration=training.configuration,
        folds=[training.fold],
    )  # fmt: skip
    protocol, rows = replace(PROTOCOLS["nnunet"], in_voxels=in_voxels), []
    for case in predictions.cases:
        validation = case.prediction.parent
        unmirrored = validation.parent / UNMIRRORED / validation.name / case.prediction.name
        found = []
        for one in (replace(case, prediction=unmirrored), case):
            pair, wrong = read_pair(one.reference, one.prediction, predictions.reader_class, predictions.labels)
            problems += wrong
            if pair is not None:
                found.append(measure_case(one, pair, predictions.labels, protocol, TOLERANCE_MM).values)
        if len(found) == 2:
            rows += [
                [training.name, case.name, label, *(cell for of in found for cell in scores(of[label]))]
                for label in found[0]
            ]
    if problems:
        raise UserError("\n  ".join(["not all cases can be measured:", *problems]))
    return rows


def scores(of_label: Mapping[str, float]) -> list[float | None]:
    """Dice and HD95 as cells."""
    return [shown(of_label["Dice"], 5), shown(of_label["HD95_mm"], 3)]


def mean_dice(cases: Sequence[Sequence[Any]], column: str) -> float:
    """Mean over the labels of the mean over the cases."""
    place = COLUMNS["cases.csv"].index(column)
    of_labels = (
        statistic(math.nan if row[place] is None else row[place] for row in cases if row[2] == label).mean
        for label in dict.fromkeys(row[2] for row in cases)
    )
    return round(statistic(of_labels).mean, 5)


def shown(value: float, digits: int) -> float | None:
    return None if math.isnan(value) else round(value, digits)


def outcome(training: Training, *, in_voxels: bool, wall_seconds: float | None) -> dict[str, list[list[Any]]]:
    """Rows for each of the CSV files.

    Args:
        wall_seconds: from the process's begin to the end of both validations; None of a training that was interrupted.

    Raises:
        UserError: files are missing, or the training had another length than planned.
    """
    model, fold = model_folder(step_of(training).model), str(training.fold)
    curves = read_curves(model, [fold])
    history, seconds = curves.histories[fold], curves.epoch_seconds[fold]
    if len(history["train_losses"]) != training.epochs:
        raise UserError(
            f"{training.name} had {len(history['train_losses'])} epochs, but the plan says {training.epochs}: correct "
            "its trainer or the plan"
        )
    os.environ["nnUNet_results"] = str(model.folder.parent.parent)
    cases = measured(training, in_voxels=in_voxels)
    facts = json.loads((model.fold_folder(fold) / FACTS).read_text(encoding="utf-8"))
    row = {
        **training._asdict(),
        **facts,
        "training": training.name,
        "dice": mean_dice(cases, "Dice"),
        "dice_mirrored": mean_dice(cases, "Dice_mirrored"),
        "epoch_seconds": round(median(seconds[1:] or seconds), 3),  # the first one compiles
        "hours": round(sum(seconds) / 3600, 4),
        "wall_seconds": None if wall_seconds is None else round(wall_seconds),
        "trainings_per_gpu": os.environ.get(PER_GPU, "1"),
        "day": datetime.date.today().isoformat(),
    }
    series = zip(history["mean_fg_dice"], history["train_losses"], history["val_losses"], seconds, strict=True)
    return {
        "cases.csv": cases,
        "curves.csv": [
            [training.name, epoch, *(shown(value, 4) for value in values), shown(of_epoch, 2)]
            for epoch, (*values, of_epoch) in enumerate(series)
        ],
        "trainings.csv": [[row[column] for column in COLUMNS["trainings.csv"]]],
    }
