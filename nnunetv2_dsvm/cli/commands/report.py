"""`nnUNetv2_dsvm report`: training curves, metrics and pictures of cases of trained models, in one HTML file."""

import argparse
from pathlib import Path

from nnunetv2_dsvm.cli.shared.arguments import CONFIGURATION, PLANS, TRAINER, add_model_arguments, check_options
from nnunetv2_dsvm.cli.shared.steps import shown_steps


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
    add_model_arguments(
        parser,
        dataset="dataset, number or name",
        trainer=f"with -d: one model each (default: {TRAINER})",
        fold="folds, numbers or all (default: those that every model has)",
    )
    parser.add_argument(
        "-o", type=Path, required=True, metavar="OUT_FOLDER", help="where report.html and its pictures go"
    )


def run(args: argparse.Namespace) -> int:
    from nnunetv2_dsvm.files.places_to_write import check_folder_place
    from nnunetv2_dsvm.nnunet.folders import check_folder_variables
    from nnunetv2_dsvm.nnunet.trained_model import find_models
    from nnunetv2_dsvm.reporting.api import REPORT, report

    if args.d is None:
        check_options(args, ("tr", "p", "c"), "belong to -d ID; a MODEL_FOLDER names trainer, plans and configuration")
    check_folder_variables()
    check_folder_place(args.o, "choose another folder with -o", (REPORT,))
    models = find_models(args.models, args.d, args.tr or [TRAINER], args.p or PLANS, args.c or CONFIGURATION)
    with shown_steps("nnunetv2_dsvm.reporting"):
        written = report([model.folder for model in models], args.o, folds=args.f)
    print(f"{written.html} ({len(written.pictures)} pictures beside it)")
    return 0
