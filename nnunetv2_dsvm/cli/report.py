"""`nnUNetv2_dsvm report`: training curves, metrics and pictures of cases of trained models, in one HTML file."""

import argparse
import sys
from pathlib import Path

from nnunetv2_dsvm.cli.arguments import check_options
from nnunetv2_dsvm.files.places_to_write import check_folder_place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Writes OUT_FOLDER/report.html on a trained model, or on several side by side: training curves, metrics of the "
        "validation cases, and the best, median and worst of them as pictures; of several models also the differences, "
        "the first minus each of the others. The file needs no network. Run "
        "nnUNetv2_dsvm evaluate first, and the report has its metrics too, also a paper's; otherwise it has "
        "nnU-Net's Dice and IoU."
    )
    parser.add_argument(
        "models", nargs="*", type=Path, metavar="MODEL_FOLDER",
        help="folder TRAINER__PLANS__CONFIGURATION of a trained model; or name the models by the options -d to -c",
    )  # fmt: skip
    parser.add_argument("-d", metavar="ID", help="dataset, number or name")
    parser.add_argument(
        "-tr", nargs="+", metavar="TRAINER", help="with -d: one model each (default: nnUNetTrainerDSVM)"
    )
    parser.add_argument("-p", metavar="PLANS", help="with -d: the plans (default: nnUNetPlans)")
    parser.add_argument("-c", metavar="CONFIGURATION", help="with -d: the configuration (default: 2d)")
    parser.add_argument(
        "-f", nargs="+", metavar="FOLD", help="folds, numbers or all (default: those that every model has)"
    )
    parser.add_argument(
        "-o", type=Path, required=True, metavar="OUT_FOLDER", help="where report.html and its pictures go"
    )


def run(args: argparse.Namespace) -> int:
    from nnunetv2_dsvm.nnunet.folders import check_folder_variables
    from nnunetv2_dsvm.nnunet.trained_model import choose_folds, find_models
    from nnunetv2_dsvm.reporting.build import write_report

    if args.d is None:
        check_options(args, ("tr", "p", "c"), "belong to -d ID; a MODEL_FOLDER names trainer, plans and configuration")
    check_folder_variables()  # images and ground truth are looked up in them
    check_folder_place(args.o, "choose another folder with -o", ("report.html",))
    trainers = args.tr or ["nnUNetTrainerDSVM"]
    models = find_models(args.models, args.d, trainers, args.p or "nnUNetPlans", args.c or "2d")
    folds = choose_folds(models, args.f)
    files = write_report(models, folds, args.o, lambda text: print(f"{text} …", file=sys.stderr, flush=True))
    print(f"{files[0]} ({len(files) - 1} pictures beside it)")
    return 0
