"""`nnUNetv2_dsvm export`: a trained network as one file that runs without this package."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Writes the network of one fold as a torch.export program (.pt2, runs with torch alone) or an ONNX model, for "
        "any batch and image size. The file is run and compared with the network before it stays. Inside is the "
        "network only, in fp32, from a normalised image to logits: no preprocessing, sliding window, mirroring, "
        "softmax or averaging of folds; what these need to know lies in the file as nnunetv2_dsvm.json. The GPU "
        "kernels cannot be exported: the file scans in plain operators, slower than this package on a GPU."
    )
    parser.add_argument(
        "models", nargs="*", type=Path, metavar="MODEL_FOLDER",
        help="folder TRAINER__PLANS__CONFIGURATION of a trained model; or name it by the options -d to -c",
    )  # fmt: skip
    parser.add_argument("-d", metavar="ID", help="dataset, number or name")
    parser.add_argument(
        "-tr", metavar="TRAINER", default="nnUNetTrainerDSVM", help="trainer (default: nnUNetTrainerDSVM)"
    )
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help="plans (default: nnUNetPlans)")
    parser.add_argument("-c", metavar="CONFIGURATION", default="2d", help="configuration (default: 2d)")
    parser.add_argument("-f", metavar="FOLD", required=True, help="fold, a number or all; one file each")
    parser.add_argument(
        "-chk", metavar="CHECKPOINT", default="checkpoint_final.pth", help="default: checkpoint_final.pth"
    )
    parser.add_argument("-o", type=Path, required=True, metavar="FILE", help="ends in .pt2 or .onnx")
    parser.add_argument(
        "--format", choices=("torch-export", "onnx"), default="torch-export",
        help="default: torch-export; onnx needs pip install 'nnunetv2_dsvm[export]'",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")


def run(args: argparse.Namespace) -> int:
    from nnunetv2_dsvm.errors import UserError
    from nnunetv2_dsvm.models.export.agreement import TOLERANCE
    from nnunetv2_dsvm.models.export.metadata import NOT_INSIDE
    from nnunetv2_dsvm.models.export.write import check_place, write_portable_model
    from nnunetv2_dsvm.models.trained_network import load_trained_network
    from nnunetv2_dsvm.nnunet.trained_model import find_models

    check_place(args.o, args.format, args.overwrite)
    if len(args.models) > 1:
        raise UserError(f"one model makes one file, and {len(args.models)} model folders were given")
    if len(args.models) == 1 and args.d is None:
        folder = args.models[0]  # of any name, as a copied one may have
    else:
        folder = find_models(args.models, args.d, [args.tr], args.p, args.c)[0].folder
    trained = load_trained_network(folder, args.f, args.chk)
    difference = write_portable_model(
        trained, args.o, args.format, overwrite=args.overwrite,
        say=lambda text: print(f"{text} …", file=sys.stderr, flush=True),
    )  # fmt: skip
    size = args.o.stat().st_size / 2**20
    print(f"{args.o} ({size:.1f} MiB; logits within {difference:.1g} of the network's largest, allowed {TOLERANCE:g})")
    print(f"It takes normalised images and gives logits. Not inside: {NOT_INSIDE}.")
    return 0
