"""`nnUNetv2_dsvm plan`: nnU-Net's planning, with configurations for VM-UNet."""

import argparse
from typing import TYPE_CHECKING, Any

from nnunetv2_dsvm.files.text import by
from nnunetv2_dsvm.nnunet.folders import check_folder_variables

if TYPE_CHECKING:
    from nnunetv2_dsvm.planning.api import PlannedDataset

DESCRIPTION = """\
Plans a dataset for VM-UNet by the memory of the GPU: size of the network, patch and batch of the configurations 2d,
3d_fullres and 3d_lowres. All else is nnU-Net's own planning. Train with -p nnUNetDSVMPlans. nnU-Net's fingerprint of
the dataset (nnUNetv2_extract_fingerprint) must be there; `nnUNetv2_dsvm plan_and_preprocess` does all in one go."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    add_planning_arguments(parser)


def add_planning_arguments(parser: argparse.ArgumentParser) -> None:
    """nnU-Net's own options under its own names, and four of ours."""
    parser.add_argument("-d", dest="dataset_ids", nargs="+", type=int, required=True, metavar="ID", help="dataset IDs")
    parser.add_argument(
        "-gpu_memory_target", type=float, metavar="GB",
        help="memory of the GPU in GB (10^9 bytes); it also chooses the network's size (default: 8; "
        "where there is no GPU, -preset small alone is planned for the CPU)",
    )  # fmt: skip
    parser.add_argument(
        "-preset", metavar="NAME",
        help="size of the network: small, base, large, wide, deep or huge (default: the largest for the target)",
    )  # fmt: skip
    parser.add_argument(
        "-precision", choices=("bfloat16", "float16"),
        help="what the GPU will train in: float16 for those without bf16, which then need about a quarter more memory "
        "(default: as the GPU that is here, else bfloat16)",
    )  # fmt: skip
    parser.add_argument(
        "-patch_embedding_stride", type=int, metavar="N",
        help="how much smaller than the image the network's first stage is: 2 for small structures, with about four "
        "times the memory for each image (default: the published one, 4 in 2D and by nnU-Net's plan in 3D)",
    )  # fmt: skip
    parser.add_argument(
        "-fine_channels", type=int, default=0, metavar="C",
        help="convolutional stages in the place of the patch embedding, with so many channels at full size: 32 for "
        "nnUNetTrainerDSVM_fine (default: 0, none)",
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
    planned = {dataset_id: plan_and_show(dataset_id, args) for dataset_id in args.dataset_ids}
    print("Next:")
    for dataset_id, configurations in planned.items():
        for configuration in configurations:
            print(f"  nnUNetv2_preprocess -d {dataset_id} -plans_name {args.plans_name} -c {configuration}")
            print_training_command(dataset_id, configuration, args)
    return 0


def check_planning_options(args: argparse.Namespace) -> None:
    """What can be checked before anything is read or written.

    Raises:
        UserError: nnU-Net's variables are not set as they can be meant, or an option's value is none.
    """
    check_folder_variables("raw", "preprocessed")  # before nnU-Net is imported, which speaks of them in its own way
    from nnunetv2_dsvm.planning.api import check_plan_arguments

    check_plan_arguments(args.dataset_ids, **_checked_options(args))


def plan_and_show(dataset_id: int, args: argparse.Namespace) -> list[str]:
    """Plans a dataset, prints what was planned, and returns the configurations that most train.

    Raises:
        UserError: the dataset or its fingerprint is missing, or nothing fits into the memory.
    """
    from nnunetv2_dsvm.planning.api import plan

    planned = plan(
        dataset_id,
        precision=args.precision,
        overwrite_target_spacing=args.overwrite_target_spacing,
        **_checked_options(args),
    )
    print(f"{planned.said}{_as_text(planned, args)}\n")
    return [name for name in ("2d", "3d_fullres") if name in planned.configurations]


def print_training_command(dataset_id: int, configuration: str, args: argparse.Namespace) -> None:
    from nnunetv2_dsvm.planning.network_of_plans import trainer_for

    trainer = trainer_for(args.fine_channels)
    print(f"  nnUNetv2_train {dataset_id} {configuration} 0 -tr {trainer} -p {args.plans_name}")


def _checked_options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "gpu_memory_target_gb": args.gpu_memory_target,
        "preset": args.preset,
        "preprocessor_name": args.preprocessor_name,
        "plans_name": args.plans_name,
        "patch_embedding_stride": args.patch_embedding_stride,
        "fine_channels": args.fine_channels,
    }


def _as_text(planned: "PlannedDataset", args: argparse.Namespace) -> str:
    import torch

    text, fine = "", f"fine_channels {args.fine_channels}, " if args.fine_channels else ""
    for name, configuration in planned.configurations.items():
        on_gpu = f"about {configuration.memory_gb:.1f} of {planned.target_gb:g} GB of a GPU, in {planned.precision}"
        text += (
            f"{name}: VM-UNet, preset {planned.preset}, {fine}patch {by(configuration.patch_size)}, batch "
            f"{configuration.batch_size}: {'for a CPU, which trains in float32' if planned.for_cpu else on_gpu}\n"
        )
    if planned.for_cpu:
        return f"{text}There is no CUDA GPU here; -gpu_memory_target GB plans for one elsewhere.\n"
    if torch.cuda.is_available():
        return text
    alone = " alone" if args.preset == "small" else ""
    slower = "There is no CUDA GPU here. A CPU trains in float32 and far slower"
    return f"{text}{slower}: plan with -preset small{alone} for it.\n"
