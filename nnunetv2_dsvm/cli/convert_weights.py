"""`nnUNetv2_dsvm convert-weights`: pretrained weights as nnU-Net's -pretrained_weights takes them."""

import argparse
import json
from pathlib import Path

from nnunetv2_dsvm.cli.arguments import positive
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.places_to_write import check_file_place
from nnunetv2_dsvm.nnunet.names import DATASET_JSON

# Those of architecture/vm_unet.py and training/network.py, which import torch.
PRESETS = ("small", "base", "large", "wide", "deep", "huge")
DEFAULT_PRESET = "base"

DESCRIPTION = """\
Makes pretrained weights into a file for nnU-Net's -pretrained_weights, and reports what was loaded. It reads VMamba's
checkpoints (the first generation; the second where the shapes agree, which those with d_state 1 do not), VM-UNet's,
and nnU-Net's of our trainers. Nothing of the file but tensors and plain values is loaded.

  nnUNetv2_dsvm convert-weights vssmsmall_dp03_ckpt_epoch_238.pth -o vmamba.pth --input-channels 1
  nnUNetv2_train 27 2d 0 -tr nnUNetTrainerDSVM -pretrained_weights vmamba.pth

The size of the network is that of --preset, or of the plans; the presets' "base" is what our trainers build from
nnU-Net's own plans. A patch embedding for another number of channels gets, in each, the sum over the file's channels
divided by their new number."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("file", type=Path, metavar="FILE", help="the checkpoint")
    parser.add_argument("-o", type=Path, required=True, metavar="OUT", help="the file to write")
    parser.add_argument("--input-channels", type=positive, metavar="N", help="channels of your images (default: those "
                        "of the dataset.json beside --plans, or the file's)")  # fmt: skip
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--preset", choices=PRESETS, help=f"size of the network (default: {DEFAULT_PRESET})")
    size.add_argument("--plans", type=Path, metavar="FILE", help="plans.json whose network it is for; a dataset.json "
                      "beside it gives the channels")  # fmt: skip
    parser.add_argument("-c", default="2d", metavar="CONFIGURATION", help="with --plans (default: %(default)s)")
    parser.add_argument("--decoder", choices=("auto", "encoder", "fresh"), default="auto",
                        help="start the decoder with the encoder's blocks, as VM-UNet does, or fresh (default: auto, "
                        "the file's own decoder, or the encoder's blocks where it has none)")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="write even if less than half of the encoder is loaded")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run(args: argparse.Namespace) -> int:
    _refuse_output(args.file, args.o, args.overwrite)

    from nnunetv2_dsvm.models.pretrained.fitting import check_enough_fits, fit
    from nnunetv2_dsvm.models.pretrained.load_report import load_report
    from nnunetv2_dsvm.models.pretrained.reading import read_pretrained
    from nnunetv2_dsvm.models.pretrained.writing import origin, write_weights

    pretrained = read_pretrained(args.file)
    network = _network(args, pretrained.sizes["input_channels"])
    fitted = fit(pretrained, network, args.decoder)
    print(load_report(pretrained, fitted, network, args.decoder))
    check_enough_fits(pretrained, fitted, network, args.force)
    write_weights(fitted, origin(pretrained, fitted, network, args.decoder), args.o)
    print(f"Wrote {args.o}: nnUNetv2_train … -pretrained_weights {args.o}")
    return 0


def _refuse_output(file: Path, output: Path, overwrite: bool) -> None:
    check_file_place(output, "name a file in a folder that exists with -o")
    if output.exists() and output.resolve() == file.resolve():
        raise UserError(f"-o {output} is the file to be read; name another one")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists; choose another place with -o, or --overwrite")


def _network(args: argparse.Namespace, channels_of_file: int):
    """A freshly initialised network, the same in every call."""
    import torch

    from nnunetv2_dsvm.architecture.vm_unet import VMUNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if args.plans is None:
            preset = args.preset or DEFAULT_PRESET
            return VMUNet.from_preset(preset, args.input_channels or channels_of_file, num_classes=1)
        return _planned_network(args.plans, args.c, args.input_channels)


def _planned_network(file: Path, configuration: str, channels: int | None):
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunetv2_dsvm.planning.network_of_plans import build_vm_unet

    dataset_json = file.with_name(DATASET_JSON)
    try:
        plans = PlansManager(json.loads(file.read_text(encoding="utf-8")))
        planned = plans.get_configuration(configuration)
        if channels is None:
            if not dataset_json.is_file():
                raise UserError(f"there is no dataset.json beside {file}: name the channels with --input-channels")
            channels = determine_num_input_channels(plans, planned, json.loads(dataset_json.read_text("utf-8")))
        return build_vm_unet(planned, channels, num_classes=1, deep_supervision=False, auxiliary_heads=False)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} gives no network for the configuration {configuration}: {error}") from error
