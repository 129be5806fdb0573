"""`nnUNetv2_dsvm predict_dicom`: a DICOM series in, its segmentation as NIfTI, DICOM SEG and RTSTRUCT out."""

import argparse
from pathlib import Path

from nnunetv2_dsvm.cli.shared.steps import shown_steps
from nnunetv2_dsvm.dicom.results import DEFAULT_OUTPUTS, FILES, DicomPrediction
from nnunetv2_dsvm.files.text import aligned
from nnunetv2_dsvm.nnunet.names import FINAL

DEVICES = ("cuda", "cpu", "mps")

DESCRIPTION = """\
Segments one series of CT, MR or colour stills with a trained model, of any trainer, by nnU-Net's own prediction. Writes
the labels in the scan's geometry, as NIfTI, DICOM SEG or RTSTRUCT, with a table of volumes and a picture.

Refused, with the slices that are to blame: missing and double slices, several acquisitions in one series, localizers,
unequal spacing, a tilted gantry (or --resample), another modality or number of channels than the model's.

Not a medical device: for research."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("-i", type=Path, required=True, metavar="STUDY",
                        help="folder of a series or a study, a zip of one, a DICOMDIR, or a DICOM file")  # fmt: skip
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where the results go")
    parser.add_argument("-m", type=Path, required=True, metavar="MODEL",
                        help="folder of a trained model, or the zip of nnUNetv2_export_model_to_zip")  # fmt: skip
    parser.add_argument("-f", nargs="+", metavar="FOLD",
                        help="folds that predict together (default: all that are there)")  # fmt: skip
    parser.add_argument("-chk", metavar="CHECKPOINT", default=FINAL, help=f"default: {FINAL}")
    parser.add_argument("--output", nargs="+", choices=tuple(FILES), default=list(DEFAULT_OUTPUTS), metavar="FORMAT",
                        help=f"some of {', '.join(FILES)} (default: {' '.join(DEFAULT_OUTPUTS)})")  # fmt: skip
    parser.add_argument("--series", metavar="NUMBER_OR_UID", help="which series, where several can be segmented")
    parser.add_argument("--terminology", type=Path, metavar="FILE",
                        help='JSON with codes: {"label": {"type": [value, scheme, meaning]}}')  # fmt: skip
    parser.add_argument("--resample", action="store_true", help="straighten the slices of a tilted gantry")
    parser.add_argument("--keep-identity", action="store_true",
                        help="name the patient in volumes.json, and show UIDs and descriptions of series")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace earlier results in FOLDER")
    parser.add_argument("-device", "--device", choices=DEVICES, default="cuda",
                        help="as nnU-Net names it (default: %(default)s)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from nnunetv2_dsvm.dicom.api import predict_dicom

    with shown_steps("nnunetv2_dsvm.dicom", form="%(message)s"):
        prediction = predict_dicom(
            args.i,
            args.o,
            args.m,
            folds=args.f,
            checkpoint=args.chk,
            outputs=args.output,
            series=args.series,
            terminology=args.terminology,
            resample=args.resample,
            keep_identity=args.keep_identity,
            overwrite=args.overwrite,
            device=args.device,
            show_progress=True,
        )
    print(_as_text(prediction))
    for path in prediction.files:
        print(f"Wrote {path}")
    return 0


def _as_text(prediction: DicomPrediction) -> str:
    rows = [["label", "voxels", "ml"]]
    for volume in prediction.volumes:
        ml = "" if volume["volume_ml"] is None else f"{volume['volume_ml']:.2f}"
        rows.append([volume["label"], str(volume["voxels"]), ml])
    return "\n".join([aligned(rows), *prediction.notes])
