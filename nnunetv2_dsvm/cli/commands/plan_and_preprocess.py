"""`nnUNetv2_dsvm plan_and_preprocess`: nnU-Net's fingerprint and preprocessing around `nnUNetv2_dsvm plan`."""

import argparse

from nnunetv2_dsvm.cli.commands.plan import (
    add_planning_arguments,
    check_planning_options,
    plan_and_show,
    print_training_command,
)
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.nnunet.listing import nnunet_passing_over_litter

DESCRIPTION = """\
nnUNetv2_plan_and_preprocess with `nnUNetv2_dsvm plan` in the place of its planning: nnU-Net's fingerprint, plans for
VM-UNet by the memory of the GPU, and nnU-Net's preprocessing of the configurations named by -c."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    add_planning_arguments(parser)
    parser.add_argument("--verify_dataset_integrity", action="store_true", help="check the raw dataset first")
    parser.add_argument("--clean", action="store_true", help="make the fingerprint anew, after the dataset has changed")
    parser.add_argument("--no_pp", action="store_true", help="stop after planning")
    parser.add_argument(
        "-c", dest="configurations", nargs="+", default=["2d"], metavar="NAME",
        help="configurations to preprocess (default: 2d)",
    )  # fmt: skip
    parser.add_argument(
        "-fpe", default="DatasetFingerprintExtractor", metavar="NAME", help="nnU-Net's fingerprint extractor class"
    )
    parser.add_argument("-npfp", type=int, default=8, metavar="N", help="processes of the fingerprint (default: 8)")
    parser.add_argument("-np", type=int, nargs="+", default=[8], metavar="N", help="of the preprocessing (default: 8)")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--no_pbar", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    check_planning_options(args)
    if len(args.np) not in (1, len(args.configurations)):
        raise UserError(
            f"-np has {len(args.np)} numbers for {len(args.configurations)} configurations: give one or each"
        )
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, preprocess

    from nnunetv2_dsvm.datasets.raw_labels import check_label_values
    from nnunetv2_dsvm.planning.api import check_nnunet_class

    check_nnunet_class(args.fpe, "-fpe", "experiment_planning")

    show = {"verbose": args.verbose, "show_progress_bar": not args.no_pbar}
    with nnunet_passing_over_litter():
        try:
            check_label_values(args.dataset_ids, workers=args.npfp)
            extract_fingerprints(
                args.dataset_ids, args.fpe, args.npfp, args.verify_dataset_integrity, args.clean, **show
            )  # fmt: skip
        except (RuntimeError, AssertionError, OSError) as error:  # the integrity check's are AssertionErrors
            raise UserError(f"{str(error) or type(error).__name__}. Nothing was planned") from error
        for dataset_id in args.dataset_ids:
            plan_and_show(dataset_id, args)
        if not args.no_pp:
            preprocess(args.dataset_ids, args.plans_name, args.configurations, args.np, **show)
    print("Next:")
    for dataset_id in args.dataset_ids:
        for configuration in args.configurations:
            print_training_command(dataset_id, configuration, args)
    return 0
