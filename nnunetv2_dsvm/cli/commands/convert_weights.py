"""`nnUNetv2_dsvm convert-weights`: pretrained weights as nnU-Net's -pretrained_weights takes them."""

import argparse
import sys
from pathlib import Path

from nnunetv2_dsvm.cli.shared.arguments import positive
from nnunetv2_dsvm.cli.shared.steps import shown_steps

# Those of architecture/vm_unet.py and planning/network_of_plans.py, which import torch.
PRESETS = ("small", "base", "large", "wide", "deep", "huge")
DEFAULT_PRESET = "base"
# Those of architecture/relatives/registry.py.
RELATIVES = (
    "VMUNetV2", "MSVMUNet", "SwinUMamba", "SwinUMambaD", "UMambaBot", "UMambaEnc", "LightMUNet", "ASPVMUNet",
)  # fmt: skip

DESCRIPTION = """\
Makes pretrained weights into a file for nnU-Net's -pretrained_weights, and reports what was loaded. It reads VMamba's
checkpoints (for a VM-UNet the first generation; the second where the shapes agree, which those with d_state 1 do not),
VM-UNet's, and nnU-Net's of our trainers; with --network those of another network of the family. Nothing of the file but
tensors and plain values is loaded.

  nnUNetv2_dsvm convert-weights vssmsmall_dp03_ckpt_epoch_238.pth -o vmamba.pth --input-channels 1
  nnUNetv2_train 27 2d 0 -tr nnUNetTrainerDSVM -pretrained_weights vmamba.pth
  nnUNetv2_dsvm convert-weights vssm1_tiny_0230s_ckpt_epoch_264.pth -o msvm.pth --network MSVMUNet --input-channels 1

The size of the network is that of --preset, or of the plans; the presets' "base" is what our trainers build from
nnU-Net's own plans. A patch embedding for another number of channels gets, in each, the sum over the file's channels
divided by their new number.

For a 3D configuration, --inflate makes weights of images into those of volumes: repeated along the depth, and divided
by its length where a layer sums over it; the scan's directions along the depth start as those along the height.

  nnUNetv2_dsvm convert-weights vssmsmall_dp03_ckpt_epoch_238.pth -o vmamba3d.pth --inflate -c 3d_fullres \\
      --plans nnUNet_preprocessed/Dataset027_ACDC/nnUNetPlans.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("file", type=Path, metavar="FILE", help="the checkpoint")
    parser.add_argument("-o", type=Path, required=True, metavar="OUT", help="the file to write")
    parser.add_argument("--network", choices=RELATIVES, help="the relative of VM-UNet that the weights are for "
                        "(default: a VM-UNet)")  # fmt: skip
    parser.add_argument("--input-channels", type=positive, metavar="N", help="channels of your images (default: those "
                        "of the dataset.json beside --plans, or the file's)")  # fmt: skip
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--preset", choices=PRESETS, help=f"size of the network (default: {DEFAULT_PRESET})")
    size.add_argument("--plans", type=Path, metavar="FILE", help="plans.json whose network it is for; a dataset.json "
                      "beside it gives the channels")  # fmt: skip
    parser.add_argument("-c", default="2d", metavar="CONFIGURATION", help="with --plans (default: %(default)s)")
    parser.add_argument("--fine-channels", type=positive, default=0, metavar="C", help="for nnUNetTrainerDSVM_fine and "
                        "nnUNetTrainerVMUNet_fine: 32, whatever the plans say")  # fmt: skip
    parser.add_argument("--decoder", choices=("auto", "encoder", "fresh"), default="auto",
                        help="start the decoder with the encoder's blocks, as VM-UNet does, or fresh (default: auto, "
                        "the file's own decoder, or the encoder's blocks where it has none)")  # fmt: skip
    parser.add_argument("--inflate", action="store_true", help="make weights of images into those of the 3D "
                        "configuration of --plans")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="write even if less than half of the encoder is loaded")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run(args: argparse.Namespace) -> int:
    from nnunetv2_dsvm.models.pretrained.api import convert_weights

    with shown_steps("nnunetv2_dsvm.models.pretrained", sys.stdout, "%(message)s"):
        converted = convert_weights(
            args.file,
            args.o,
            network=args.network,
            input_channels=args.input_channels,
            preset=args.preset,
            plans=args.plans,
            configuration=args.c,
            fine_channels=args.fine_channels,
            decoder=args.decoder,
            inflate=args.inflate,
            force=args.force,
            overwrite=args.overwrite,
        )
    print(f"Wrote {converted.file}: nnUNetv2_train … -pretrained_weights {converted.file}")
    return 0
