"""The command `nnUNetv2_dsvm`: one parser, and the subcommand's module imported only when it is asked for."""

import argparse
import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from nnunetv2_dsvm.cli.shared.arguments import check_paths
from nnunetv2_dsvm.errors import Refusal
from nnunetv2_dsvm.version import __version__

# name -> what it does. Each is a module of `commands` (a hyphen is an underscore there, and may be one on the command
# line) with `add_arguments(parser)` and `run(args) -> int`, which parses, calls a function of another room, and shows.
SUBCOMMANDS = {
    "quickstart": "train, predict and evaluate a small DSVM-UNet on real CT, start to end, in minutes on a CPU",
    "doctor": "check that this machine can train: versions, devices, scan backends, nnU-Net's folders",
    "trainers": "list the trainers for -tr that nnU-Net finds, of this package and of your folders",
    "dataset": "turn a downloaded ISIC, Synapse or ACDC into an nnU-Net dataset, verified, with the papers' split",
    "plan": "plan a dataset for VM-UNet by the memory of the GPU: network, patch and batch",
    "plan_and_preprocess": "the same with nnU-Net's fingerprint before and its preprocessing after it",
    "copy-plans": "copy a dataset's plans under a name of their own, for a network of another size",
    "convert-weights": "turn VMamba's or VM-UNet's published weights into a file for nnU-Net's -pretrained_weights",
    "cross_validate": "folds × trainers × configurations in one call, on all GPUs of a machine or on SLURM",
    "evaluate": "metrics of predictions or of a cross-validation, by nnU-Net's protocol or the papers'; compare models",
    "report": "one HTML file on trained models: training curves, metrics, the best, median and worst cases",
    "export": "write a trained network as one file, torch.export or ONNX, that runs without this package",
    "predict_dicom": "segment a DICOM series with a trained model: DICOM SEG, RTSTRUCT, NIfTI, volumes, a picture",
    "benchmark": "measure speed and memory of the scan backends and of the network",
}

# A file that may not be read or written, a full disk, a read-only one: nothing that a traceback would explain.
OF_THE_SYSTEM = (errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EROFS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: arguments without the program's name; by default those of the process.

    Returns:
        The exit status: 0, 1 after a `Refusal` or where the system refuses a file (shown as one message), 130 after
        Ctrl-C, or the subcommand's own.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 is no reason to stop
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_dsvm",
        description="DSVM-UNet for nnU-Net: try it, report on trained models, check the installation, measure it.",
    )
    parser.add_argument("--version", action="version", version=f"nnunetv2_dsvm {__version__}")
    subparsers = parser.add_subparsers(dest="subcommand", metavar="subcommand", required=True)
    requested = next((argument for argument in argv if not argument.startswith("-")), "")
    if known := _known(requested):
        argv[argv.index(requested)] = requested = known
    for name, summary in SUBCOMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == requested:
            _module(name).add_arguments(subparser)

    args = parser.parse_args(argv)
    try:
        check_paths(args)
        return _module(args.subcommand).run(args)
    except Refusal as error:
        print(f"\nnnUNetv2_dsvm {args.subcommand}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in OF_THE_SYSTEM:
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        print(f"\nnnUNetv2_dsvm {args.subcommand}: {place}{error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nnnUNetv2_dsvm {args.subcommand}: interrupted", file=sys.stderr)
        return 130


def _known(name: str) -> str | None:
    """The subcommand that a name means, whichever of `-` and `_` stands in it; None where there is none."""
    return next((known for known in SUBCOMMANDS if known.replace("-", "_") == name.replace("-", "_")), None)


def _module(name: str) -> ModuleType:
    return import_module(f"nnunetv2_dsvm.cli.commands.{name.replace('-', '_')}")


if __name__ == "__main__":
    sys.exit(main())
