"""`nnUNetv2_dsvm copy-plans`: a copy of a dataset's plans under a name of its own, for a network of another size."""

import argparse

from nnunetv2_dsvm.cli.shared.arguments import positive
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.nnunet.folders import preprocessed_folder
from nnunetv2_dsvm.planning.plans_name import check_plans_name

DESCRIPTION = """\
Copies the plans of a dataset. nnU-Net names the results after the name inside the plans, so that a copy which still
calls itself by the old name would be trained into the old one's folder: here the name changes in both places. What is
preprocessed serves the copy too. Without further options everything else stays as it is; the copy can be edited."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("-d", required=True, metavar="ID", help="dataset, number or name")
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="the plans to copy (default: %(default)s)")
    parser.add_argument("-o", required=True, metavar="NAME", help="name of the copy, for -p of nnU-Net's commands")
    parser.add_argument("-c", default="2d", metavar="CONFIGURATION", help="which the options below change "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--preset", metavar="NAME", help="the network: small, base, large, wide, deep or huge")
    parser.add_argument("--dims", type=positive, nargs="+", metavar="N", help="or its channels, stage by stage")
    parser.add_argument("--encoder-depths", type=positive, nargs="+", metavar="N",
                        help="with --dims: blocks of each stage (default: 2)")  # fmt: skip
    parser.add_argument("--decoder-depths", type=positive, nargs="+", metavar="N",
                        help="with --dims: blocks of each stage, deepest first (default: 2, last 1)")  # fmt: skip
    parser.add_argument("--patch-size", type=positive, nargs="+", metavar="N",
                        help="in pixels or voxels, along each axis of the configuration")  # fmt: skip
    parser.add_argument("--batch-size", type=positive, metavar="N")


def run(args: argparse.Namespace) -> int:
    check_plans_name(args.o, "-o")
    folder = preprocessed_folder(args.d)
    network = _network(args)
    from nnunetv2_dsvm.planning.copied_plans import copy_plans, sizes_in_plans
    from nnunetv2_dsvm.planning.network_of_plans import trainer_for

    path = copy_plans(
        folder, args.p, args.o,
        configuration=args.c, network=network, patch_size=args.patch_size, batch_size=args.batch_size,
    )  # fmt: skip
    sizes = sizes_in_plans(path, args.c)
    if network is not None and len(sizes.dims) < len(network["dims"]):
        print(
            f"The network has the first {len(sizes.dims)} of {len(network['dims'])} stages: {args.p} lowers the "
            f"resolution of {args.c} no further"
        )
    print(f"Wrote {path}, with the preprocessed data of {args.p}. Next:")
    print(f"  nnUNetv2_train {args.d} {args.c} 0 -tr {trainer_for(sizes.fine_channels)} -p {args.o}")
    return 0


def _network(args: argparse.Namespace) -> dict | None:
    depths = args.encoder_depths is not None or args.decoder_depths is not None
    if args.preset is not None and (args.dims is not None or depths):
        raise UserError("--preset is a network with all its sizes: give it, or --dims with the depths")
    if args.dims is None and depths:
        raise UserError("--encoder-depths and --decoder-depths belong to --dims")
    if args.preset is not None:
        from nnunetv2_dsvm.architecture.vm_unet import PRESETS

        if args.preset not in PRESETS:
            raise UserError(f"unknown preset {args.preset!r}: choose one of {', '.join(PRESETS)}")
        return dict(PRESETS[args.preset])
    if args.dims is None:
        return None
    stages = len(args.dims)
    return {
        "dims": args.dims,
        "encoder_depths": args.encoder_depths or [2] * stages,
        "decoder_depths": args.decoder_depths or [2] * (stages - 1) + [1],
    }
