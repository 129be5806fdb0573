"""`nnUNetv2_dsvm evaluate`: metrics of predictions, or of a cross-validation, and the comparison of models."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_dsvm.cli.shared.arguments import CONFIGURATION, PLANS, add_model_arguments, check_options, positive
from nnunetv2_dsvm.errors import UserError

if TYPE_CHECKING:
    from nnunetv2_dsvm.evaluation.api import Evaluation

PROTOCOL_NAMES = ("nnunet", "isic", "synapse")

DESCRIPTION = """\
Measures predictions against references, per case and per class, with mean and standard deviation. Several prediction
folders or trainers are compared on the same cases, each minus those named after it. The protocols:

  nnunet   Dice, IoU, precision, sensitivity, specificity, accuracy, HD95 and ASSD (mean surface distance) in mm, NSD
  isic     mIoU, DSC, Acc, Spe, Sen of all pixels of the set together, as in VM-UNet on ISIC
  synapse  DSC and HD95 in voxels per volume, as in TransUNet and VM-UNet on Synapse

A prediction must lie on its reference's grid: the same size, spacing, origin and direction, but for rounding.

Writes metrics_<protocol>.json and .csv beside the predictions; nnU-Net's summary.json stays as it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.usage = (
        "nnUNetv2_dsvm evaluate REFERENCE_FOLDER PREDICTION_FOLDER [PREDICTION_FOLDER ...] [options]\n"
        "       nnUNetv2_dsvm evaluate -d ID -tr TRAINER [TRAINER ...] [-p PLANS] [-c 2d] [-f 0 1 2 3 4] [options]"
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="references, then predictions")
    parser.add_argument("-djfile", type=Path, metavar="FILE", help="dataset.json (default: beside the predictions)")
    parser.add_argument("-pfile", type=Path, metavar="FILE", help="plans.json (default: beside the predictions)")
    add_model_arguments(
        parser,
        dataset="dataset whose trained models' cross-validation is measured",
        trainer="with -d: the trainers",
        fold="with -d: the folds (default: those of splits_final.json)",
    )
    parser.add_argument("--protocol", choices=PROTOCOL_NAMES, default="nnunet", help="default: %(default)s")
    parser.add_argument("--tolerance-mm", type=_tolerance, metavar="MM",
                        help="of the NSD, which the protocol nnunet has (default: 1)")  # fmt: skip
    parser.add_argument("--resample", action="store_true",
                        help="bring predictions on other grids onto their references': nearest neighbour, background "
                             "outside")  # fmt: skip
    parser.add_argument("-np", type=positive, metavar="N", help="processes (default: as nnU-Net, at most the cores)")
    parser.add_argument("-o", type=Path, metavar="FOLDER", help="write there; a folder per model if there are several")


def run(args: argparse.Namespace) -> int:
    from nnunetv2_dsvm.evaluation.api import evaluate, evaluate_cross_validation

    _check_way(args)
    how: dict[str, Any] = {
        "protocol": args.protocol,
        "tolerance_mm": args.tolerance_mm,
        "resample": args.resample,
        "processes": args.np,
        "output": args.o,
        "show_progress": True,
    }
    if args.d is None:
        evaluation = evaluate(args.folders[0], args.folders[1:], dataset_json=args.djfile, plans=args.pfile, **how)
    else:
        evaluation = evaluate_cross_validation(
            args.d, args.tr, plans=args.p or PLANS, configuration=args.c or CONFIGURATION, folds=args.f, **how
        )
    print(f"\n{_as_text(evaluation)}")
    for path in evaluation.files:
        print(f"Wrote {path}")
    return 0


def _check_way(args: argparse.Namespace) -> None:
    if args.d is None:
        check_options(args, ("tr", "p", "c", "f"), "belong to -d ID, the cross-validation of trained models")
        if len(args.folders) < 2:
            raise UserError("name a folder of references and one or more of predictions, or -d ID -tr TRAINER")
    elif args.folders or args.djfile or args.pfile:
        raise UserError("with -d ID, the folders, dataset.json and plans.json are the trained model's: name none")
    elif not args.tr:
        raise UserError(f"-d {args.d} needs -tr TRAINER, e.g. -tr nnUNetTrainerDSVM")


def _as_text(evaluation: "Evaluation") -> str:
    from nnunetv2_dsvm.evaluation.comparison import comparison_table, note
    from nnunetv2_dsvm.evaluation.tables import resampled_cases, summary_table

    protocol, parts = evaluation.protocol, []
    for model in evaluation.models:
        cases = len(model.results)
        heading = f"{model.name}, {cases} cases, protocol {protocol.name}"
        parts.append(f"{heading}\n{summary_table(model.summary, protocol)}")
        if moved := resampled_cases(model.results):
            of_all = f"{len(moved)} of {cases} predictions"
            parts.append(f"{model.name}: {of_all} resampled onto the reference's grid: {', '.join(moved)}")
    if evaluation.differences:
        parts.append(f"{comparison_table(evaluation.differences)}\n{note(protocol)}")
    parts.append(protocol.rule_for_empty_masks)
    if protocol.needs_distances and not protocol.in_voxels:
        tolerance = f"NSD at {evaluation.tolerance_mm:g} mm."
        parts[-1] += f"\n{tolerance} Formats without spacing, such as PNG, have 1 mm per pixel."
    return "\n\n".join(parts)


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected millimetres from 0, got {text}")
    return value
