"""`nnUNetv2_dsvm quickstart`: the main job on real CT, from the download to a table and a picture to judge it by."""

import argparse
import shlex
import sys
from pathlib import Path

from nnunetv2_dsvm.cli.shared.interrupts import terminated_like_interrupted
from nnunetv2_dsvm.quickstart.run import CONFIGURATIONS, DEVICES, EPOCHS, FOLDS, quickstart

DEFAULT_OUTPUT = "nnUNetv2_dsvm_quickstart"

DESCRIPTION = """\
Trains a small DSVM-UNet with stock nnU-Net and tests it on a person it has not seen: fetches two CT scans (38 MB,
once), writes an nnU-Net dataset (train on slabs of one person, test on the other), and runs nnU-Net's own commands:
plan and preprocess, train, predict, evaluate. Each is printed before it runs. The output folder gets a table of Dice
per organ beside a trivial baseline (result.md, .csv, .json) and a picture (overlay.png).

Interrupted, the same command again goes on where it stopped. Your own nnUNet_raw, nnUNet_preprocessed and
nnUNet_results are not touched."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("--output", type=Path, default=Path(DEFAULT_OUTPUT), metavar="FOLDER",
                        help="where everything goes, nnU-Net's folders too (default: ./%(default)s)")  # fmt: skip
    parser.add_argument("-device", "--device", choices=DEVICES, default="cpu",
                        help="as nnU-Net names it (default: %(default)s)")  # fmt: skip
    parser.add_argument("--epochs", type=int, choices=EPOCHS, default=5, metavar="N",
                        help=f"one of {', '.join(map(str, EPOCHS))} (default: %(default)s)")  # fmt: skip
    parser.add_argument("--folds", choices=tuple(FOLDS), default="0",
                        help="'all': five folds, nnUNetv2_find_best_configuration, and prediction with the ensemble, "
                             "about five times as long (default: %(default)s)")  # fmt: skip
    parser.add_argument("--config", choices=CONFIGURATIONS, default="2d",
                        help="nnU-Net's configuration: slices, or volumes, which take longer (default: "
                             "%(default)s)")  # fmt: skip
    parser.add_argument("--synthetic", action="store_true",
                        help="use a generated phantom instead of CT: needs no network")  # fmt: skip
    parser.add_argument("--keep", action="store_true",
                        help="keep what can be recomputed too (preprocessed arrays, probabilities); without it they "
                             "are removed at the end, while data, plans, models and predictions stay")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    try:
        with terminated_like_interrupted():
            quickstart(
                args.output,
                device=args.device,
                epochs=args.epochs,
                folds=args.folds,
                configuration=args.config,
                synthetic=args.synthetic,
                keep=args.keep,
            )
    except KeyboardInterrupt:
        print(f"\nInterrupted. To go on where it stopped: {_this_command(args)}", file=sys.stderr)
        return 130
    return 0


def _this_command(args: argparse.Namespace) -> str:
    words = ["nnUNetv2_dsvm", "quickstart", "--output", str(args.output), "-device", args.device]
    words += ["--epochs", str(args.epochs), "--folds", args.folds, "--config", args.config]
    words += [flag for flag, given in (("--synthetic", args.synthetic), ("--keep", args.keep)) if given]
    return shlex.join(words)
