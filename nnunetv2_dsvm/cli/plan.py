"""`nnUNetv2_dsvm plan`: nnU-Net's planning, with a 2D configuration for VM-UNet."""

import argparse
import os

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.nnunet_folders import OTHER_FILES_OF_A_DATASET, check_folder_variables
from nnunetv2_dsvm.nnunet_listing import nnunet_passing_over_litter

DESCRIPTION = """\
Plans a dataset for VM-UNet by the memory of the GPU: size of the network, patch and batch of the 2D configuration. All
else, the 3D configurations too, is nnU-Net's own planning. Train with -p nnUNetDSVMPlans. nnU-Net's fingerprint of the
dataset (nnUNetv2_extract_fingerprint) must be there; `nnUNetv2_dsvm plan_and_preprocess` does everything in one go."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    add_planning_arguments(parser)


def add_planning_arguments(parser: argparse.ArgumentParser) -> None:
    """nnU-Net's own options under its own names, and two of ours."""
    parser.add_argument("-d", dest="dataset_ids", nargs="+", type=int, required=True, metavar="ID", help="dataset IDs")
    parser.add_argument(
        "-gpu_memory_target", type=float, default=8.0, metavar="GB",
        help="memory of the GPU in GB (10^9 bytes); it also chooses the network's size (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "-preset", metavar="NAME",
        help="size of the network: small, base, large, wide, deep or huge (default: the largest for the target)",
    )  # fmt: skip
    parser.add_argument(
        "-precision", choices=("bfloat16", "float16"), default="bfloat16",
        help="float16 for GPUs without bf16, which then need a little more memory (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("-preprocessor_name", default="DefaultPreprocessor", metavar="NAME", help="nnU-Net's class")
    parser.add_argument(
        "-overwrite_target_spacing", type=float, nargs=3, metavar="MM", help="of nnU-Net's 3D configurations"
    )
    parser.add_argument(
        "-overwrite_plans_name", default="nnUNetDSVMPlans", metavar="NAME", dest="plans_name",
        help="name of the plans, for -p of nnU-Net's commands (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    check_planning_options(args)
    with nnunet_passing_over_litter():
        plan_datasets(args)
    print("Next:")
    for dataset_id in args.dataset_ids:
        print(f"  nnUNetv2_preprocess -d {dataset_id} -plans_name {args.plans_name} -c 2d")
    print_training_commands(args)
    return 0


def plan_datasets(args: argparse.Namespace) -> None:
    """Writes the plans of each dataset.

    Raises:
        UserError: a dataset or fingerprint is missing, or nothing fits into the memory.
    """
    from nnunetv2_dsvm.planning.planner import DSVMPlanner

    for dataset_id in args.dataset_ids:
        try:
            planner = DSVMPlanner(
                dataset_id,
                args.gpu_memory_target,
                args.preprocessor_name,
                args.plans_name,
                args.overwrite_target_spacing,
                preset=args.preset,
                precision=args.precision,
            )
            plan = planner.plan_experiment()["configurations"]["2d"]
        except FileNotFoundError as error:
            raise UserError(f"dataset {dataset_id}: {error}. A raw dataset has a dataset.json") from error
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"dataset {dataset_id}: {error}") from error
        height, width = plan["patch_size"]
        needed = planner.memory_gb(plan["patch_size"], plan["batch_size"])
        print(
            f"2d: VM-UNet, preset {planner.preset}, patch {height}×{width}, batch {plan['batch_size']}: "
            f"about {needed:.1f} of {args.gpu_memory_target:g} GB in {args.precision}\n"
        )


def check_planning_options(args: argparse.Namespace) -> None:
    """What can be checked before anything is read or written.

    Raises:
        UserError: nnU-Net's variables are not set as they can be meant, or an option's value is none.
    """
    check_folder_variables("raw", "preprocessed")
    refuse_plans_name(args.plans_name, "-overwrite_plans_name")
    from nnunetv2_dsvm.planning.planner import check_size

    try:
        check_size(args.gpu_memory_target, args.preset)
    except ValueError as error:
        raise UserError(str(error)) from error
    refuse_unknown_class(args.preprocessor_name, "-preprocessor_name", "preprocessing")


def refuse_plans_name(plans_name: str, option: str) -> None:
    """Raises UserError unless plans of this name, which the option gave, can be a file and part of a folder's name."""
    if not plans_name or "/" in plans_name or os.sep in plans_name or "__" in plans_name:
        raise UserError(
            f"{option} {plans_name!r}: the plans become a file and part of a folder's name, without / and without __"
        )
    if plans_name in OTHER_FILES_OF_A_DATASET:
        raise UserError(f"{option} {plans_name!r}: {plans_name}.json is another file of nnU-Net's, beside the plans")


def refuse_unknown_class(name: str, option: str, package: str) -> None:
    """Raises UserError unless nnU-Net finds a class of this name below nnunetv2.`package`, where it looks for it."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = os.path.join(nnunetv2.__path__[0], *package.split("."))
    if recursive_find_python_class(folder, name, current_module=f"nnunetv2.{package}") is None:
        raise UserError(f"{option} {name}: nnU-Net has no such class in nnunetv2.{package}")


def print_training_commands(args: argparse.Namespace) -> None:
    for dataset_id in args.dataset_ids:
        print(f"  nnUNetv2_train {dataset_id} 2d 0 -tr nnUNetTrainerDSVM -p {args.plans_name}")
