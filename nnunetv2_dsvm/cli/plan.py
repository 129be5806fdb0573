"""`nnUNetv2_dsvm plan`: nnU-Net's planning, with a 2D configuration for VM-UNet."""

import argparse
import os
import re
from pathlib import Path

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.places_to_write import check_folder_place
from nnunetv2_dsvm.files.text import by
from nnunetv2_dsvm.nnunet.folders import OTHER_FILES_OF_A_DATASET, check_folder_variables
from nnunetv2_dsvm.nnunet.listing import nnunet_passing_over_litter

_DEFAULT_GB = 8.0

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
        "-gpu_memory_target", type=float, metavar="GB",
        help=f"memory of the GPU in GB (10^9 bytes); it also chooses the network's size (default: {_DEFAULT_GB:g}; "
        "where there is no GPU, -preset small alone is planned for the CPU)",
    )  # fmt: skip
    parser.add_argument(
        "-preset", metavar="NAME",
        help="size of the network: small, base, large, wide, deep or huge (default: the largest for the target)",
    )  # fmt: skip
    parser.add_argument(
        "-precision", choices=("bfloat16", "float16"),
        help="what the GPU will train in: float16 for those without bf16, which then need a little more memory "
        "(default: as the GPU that is here, else bfloat16)",
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
    import torch

    from nnunetv2_dsvm.planning.planner import DSVMPlanner

    target, precision, for_cpu = _trained_on(args)
    for dataset_id in args.dataset_ids:
        try:
            planner = DSVMPlanner(
                dataset_id,
                target,
                args.preprocessor_name,
                args.plans_name,
                args.overwrite_target_spacing,
                preset=args.preset,
                precision=precision,
                for_cpu=for_cpu,
            )
            plan = planner.plan_experiment()["configurations"]["2d"]
        except FileNotFoundError as error:
            raise UserError(f"dataset {dataset_id}: {error}. A raw dataset has a dataset.json") from error
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"dataset {dataset_id}: {error}") from error
        needed = planner.memory_gb(plan["patch_size"], plan["batch_size"])
        on_gpu = f"about {needed:.1f} of {target:g} GB of a GPU, in {precision}"
        print(
            f"2d: VM-UNet, preset {planner.preset}, patch {by(plan['patch_size'])}, batch {plan['batch_size']}: "
            f"{'for a CPU, which trains in float32' if for_cpu else on_gpu}"
        )
        if for_cpu:
            print("There is no CUDA GPU here; -gpu_memory_target GB plans for one elsewhere.")
        elif not torch.cuda.is_available():
            alone = " alone" if args.preset == "small" else ""
            slower = "There is no CUDA GPU here. A CPU trains in float32 and far slower"
            print(f"{slower}: plan with -preset small{alone} for it.")
        print()


def _trained_on(args: argparse.Namespace) -> tuple[float, str, bool]:
    """(the memory target in GB, the number format on a GPU, whether the plans are for a CPU).

    Planning without a GPU is usual where the trainings run elsewhere. Only who asks for the size that is meant for
    CPUs, and names no GPU by its memory or number format, gets plans for one.
    """
    import torch

    from nnunetv2_dsvm.training.precision import trains_in_bf16

    gpu_here = torch.cuda.is_available()
    named = args.gpu_memory_target is not None or args.precision is not None
    lacks_bf16 = gpu_here and not trains_in_bf16(torch.device("cuda"))
    precision = args.precision or ("float16" if lacks_bf16 else "bfloat16")
    target = _DEFAULT_GB if args.gpu_memory_target is None else args.gpu_memory_target
    return target, precision, args.preset == "small" and not gpu_here and not named


def check_planning_options(args: argparse.Namespace) -> None:
    """What can be checked before anything is read or written.

    Raises:
        UserError: nnU-Net's variables are not set as they can be meant, or an option's value is none.
    """
    check_folder_variables("raw", "preprocessed")
    check_plans_name(args.plans_name, "-overwrite_plans_name")
    from nnunetv2_dsvm.planning.planner import check_size

    try:
        check_size(_DEFAULT_GB if args.gpu_memory_target is None else args.gpu_memory_target, args.preset)
    except ValueError as error:
        raise UserError(str(error)) from error
    preprocessed = Path(os.environ["nnUNet_preprocessed"])
    of_datasets = (path for i in args.dataset_ids for path in preprocessed.glob(f"Dataset{i:03d}_*"))
    for folder in (preprocessed, *of_datasets):
        files = ("dataset.json", f"{args.plans_name}.json") if folder != preprocessed else ()
        check_folder_place(folder, "let nnUNet_preprocessed name another folder", files)
    check_network_class(args.preprocessor_name, "-preprocessor_name", "preprocessing")


def check_plans_name(plans_name: str, option: str) -> None:
    """Raises UserError unless plans of this name, which the option gave, can be a file and part of a folder's name."""
    if not re.fullmatch(r"[^\W_]([\w.-]*[^\W_])?", plans_name) or "__" in plans_name:
        raise UserError(
            f"{option} {plans_name!r}: the plans become a file and part of a folder's name, which nnU-Net splits at "
            "__: letters, digits, '-', '.' and single '_' between them"
        )
    if plans_name.endswith(".json"):
        raise UserError(f"{option} {plans_name!r}: give the name without its ending, {plans_name[: -len('.json')]}")
    if plans_name in OTHER_FILES_OF_A_DATASET:
        raise UserError(f"{option} {plans_name!r}: {plans_name}.json is another file of nnU-Net's, beside the plans")


def check_network_class(name: str, option: str, package: str) -> None:
    """Raises UserError unless nnU-Net finds a class of this name below nnunetv2.`package`, where it looks for it."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = os.path.join(nnunetv2.__path__[0], *package.split("."))
    if recursive_find_python_class(folder, name, current_module=f"nnunetv2.{package}") is None:
        raise UserError(f"{option} {name}: nnU-Net has no such class in nnunetv2.{package}")


def print_training_commands(args: argparse.Namespace) -> None:
    for dataset_id in args.dataset_ids:
        print(f"  nnUNetv2_train {dataset_id} 2d 0 -tr nnUNetTrainerDSVM -p {args.plans_name}")
