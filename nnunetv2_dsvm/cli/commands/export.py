"""`nnUNetv2_dsvm export`: a trained network as one file that runs without this package."""

import argparse
from pathlib import Path

from nnunetv2_dsvm.cli.shared.arguments import CONFIGURATION, PLANS, TRAINER, add_model_arguments
from nnunetv2_dsvm.cli.shared.steps import shown_steps
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.nnunet.names import FINAL


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
    add_model_arguments(
        parser,
        dataset="dataset, number or name",
        trainer=f"trainer (default: {TRAINER})",
        fold="fold, a number or all; one file each",
        several=False,
    )
    parser.add_argument("-chk", metavar="CHECKPOINT", default=FINAL, help=f"default: {FINAL}")
    parser.add_argument("-o", type=Path, required=True, metavar="FILE", help="ends in .pt2 or .onnx")
    parser.add_argument(
        "--format", choices=("torch-export", "onnx"), default="torch-export",
        help="default: torch-export; onnx needs pip install 'nnunetv2_dsvm[export]'",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")


def run(args: argparse.Namespace) -> int:
    from nnunetv2_dsvm.models.export.api import export
    from nnunetv2_dsvm.models.export.write import check_place

    check_place(args.o, args.format, args.overwrite)
    with shown_steps("nnunetv2_dsvm.models.export"):
        exported = export(
            _folder(args), args.o, fold=args.f, format=args.format, checkpoint=args.chk, overwrite=args.overwrite
        )
    size = exported.file.stat().st_size / 2**20
    within = f"within {exported.difference:.1g} of the network's largest, allowed {exported.allowed_difference:g}"
    print(f"{exported.file} ({size:.1f} MiB; logits {within})")
    print(f"It takes normalised images and gives logits. Not inside: {exported.not_inside}.")
    return 0


def _folder(args: argparse.Namespace) -> Path:
    from nnunetv2_dsvm.nnunet.trained_model import find_models

    if len(args.models) > 1:
        raise UserError(f"one model makes one file, and {len(args.models)} model folders were given")
    if len(args.models) == 1 and args.d is None:
        return args.models[0]  # of any name, as a copied one may have
    found = find_models(args.models, args.d, [args.tr or TRAINER], args.p or PLANS, args.c or CONFIGURATION)
    return found[0].folder
