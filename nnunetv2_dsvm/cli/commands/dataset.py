"""`nnUNetv2_dsvm dataset`: a downloaded dataset of the papers as an nnU-Net dataset."""

import argparse
import os
from pathlib import Path

from nnunetv2_dsvm.cli.shared.arguments import positive
from nnunetv2_dsvm.datasets.raw_folder import Contents, RawFolder
from nnunetv2_dsvm.nnunet.names import FINGERPRINT_JSON

DESCRIPTION = """\
Verifies a downloaded dataset, reports everything that is wrong with it at once, and writes it in nnU-Net's raw format
below nnUNet_raw, checked by nnU-Net. A published split goes into splits_final.json, which nnU-Net reads.
The same command again replaces what it wrote; a folder that it did not make, or that was changed, is refused."""

LAYOUTS = {
    "isic2017": ("ISIC2017", "the folder with ISIC-2017_Training_Data etc., or with train/ and val/ (VM-UNet's 7:3)"),
    "isic2018": ("ISIC2018", "the folder with ISIC2018_Task1-2_Training_Input etc., or with train/ and val/"),
    "synapse": ("Synapse", "the folder with img/ and label/, or with train_npz/, test_vol_h5/ and lists_Synapse/"),
    "acdc": ("ACDC", "the folder with training/ and, if it was downloaded, testing/"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    datasets = parser.add_subparsers(dest="dataset", metavar="{" + ",".join(LAYOUTS) + "}", required=True)
    for name, (title, layout) in LAYOUTS.items():
        dataset = datasets.add_parser(name, help=f"{title}: {layout}", description=DESCRIPTION,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        dataset.add_argument("source", type=Path, metavar="SOURCE", help=layout)
        dataset.add_argument("-d", dest="dataset_id", type=int, required=True, metavar="ID",
                             help="nnU-Net's dataset ID, 1 to 999")  # fmt: skip
        dataset.add_argument("-np", dest="workers", type=positive, default=min(8, os.cpu_count() or 1), metavar="N",
                             help="files worked on at a time (default: %(default)s)")  # fmt: skip
        if name.startswith("isic"):
            size = dataset.add_mutually_exclusive_group()
            size.add_argument("--resize", type=positive, metavar="N",
                              help="resize to N×N pixels (256 in the literature): images bilinearly, masks by the "
                                   "nearest neighbour")  # fmt: skip
            size.add_argument("--original-size", action="store_true", help="keep the size (default)")
            dataset.add_argument("--threshold-masks", action="store_true",
                                 help="take masks with grey values: from 128 on is lesion")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    title, _ = LAYOUTS[args.dataset]
    folder = RawFolder(args.dataset_id, title)  # refuses before the files are looked at, which takes long
    contents = _read(args)
    print("\n".join(contents.notes), flush=True)
    folder.write(contents, workers=args.workers)

    print(f"Wrote {folder.path}")
    if contents.folds:
        also = f" and {folder.preprocessed}" if folder.preprocessed else ""
        print(f"The split is fold 0, the only one, of splits_final.json in {folder.path}{also}")
    print("Next:")
    planned = folder.preprocessed and (folder.preprocessed / FINGERPRINT_JSON).exists()
    print(f"  nnUNetv2_plan_and_preprocess -d {args.dataset_id} -c 2d{' --clean' if planned else ''}")
    print(f"  nnUNetv2_train {args.dataset_id} 2d {contents.fold} -tr nnUNetTrainerDSVM")
    return 0


def _read(args: argparse.Namespace) -> Contents:
    source = args.source.absolute()
    if args.dataset.startswith("isic"):
        from nnunetv2_dsvm.datasets.isic import read_isic

        options = {"size": args.resize, "threshold_masks": args.threshold_masks, "workers": args.workers}
        return read_isic(source, int(args.dataset[-4:]), **options)
    if args.dataset == "synapse":
        from nnunetv2_dsvm.datasets.synapse import read_synapse

        return read_synapse(source, workers=args.workers)
    from nnunetv2_dsvm.datasets.acdc import read_acdc

    return read_acdc(source, workers=args.workers)
