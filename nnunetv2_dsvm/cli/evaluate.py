"""`nnUNetv2_dsvm evaluate`: metrics of predictions, or of a cross-validation, and the comparison of models."""

import argparse
import os
from pathlib import Path

from nnunetv2_dsvm.cli.arguments import check_options, positive
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.places_to_write import check_folder_place

PROTOCOLS = ("nnunet", "isic", "synapse")

_ELSEWHERE = "choose another folder with -o"

DESCRIPTION = """\
Measures predictions against references, per case and per class, with mean and standard deviation. Several prediction
folders or trainers are compared on the same cases, each minus those named after it. The protocols:

  nnunet   Dice, IoU, precision, sensitivity, specificity, accuracy, HD95 and mean surface distance in mm, NSD
  isic     mIoU, DSC, Acc, Spe, Sen of all pixels of the set together, as in VM-UNet on ISIC
  synapse  DSC and HD95 in voxels per volume, as in TransUNet and VM-UNet on Synapse

A prediction must lie on its reference's grid: the same size, spacing, origin and direction, but for rounding.

Writes metrics_<protocol>.json and .csv beside the predictions; nnU-Net's summary.json stays as it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.usage = (
        "nnUNetv2_dsvm evaluate REFERENCE_FOLDER PREDICTION_FOLDER [PREDICTION_FOLDER ...] [options]\n"
        "       nnUNetv2_dsvm evaluate -d ID -tr TRAINER [TRAINER ...] [-p PLANS] [-c 2d] [-f 0 1 2 3 4] [options]"
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="references, then predictions")
    parser.add_argument("-djfile", type=Path, metavar="FILE", help="dataset.json (default: beside the predictions)")
    parser.add_argument("-pfile", type=Path, metavar="FILE", help="plans.json (default: beside the predictions)")
    parser.add_argument("-d", metavar="ID", help="dataset whose trained models' cross-validation is measured")
    parser.add_argument("-tr", nargs="+", metavar="TRAINER", help="with -d: the trainers")
    parser.add_argument("-p", metavar="PLANS", help="with -d: the plans (default: nnUNetPlans)")
    parser.add_argument("-c", metavar="CONFIGURATION", help="with -d: the configuration (default: 2d)")
    parser.add_argument(
        "-f", nargs="+", metavar="FOLD", help="with -d: the folds (default: those of splits_final.json)"
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, default="nnunet", help="default: %(default)s")
    parser.add_argument("--tolerance-mm", type=_tolerance, metavar="MM",
                        help="of the NSD, which the protocol nnunet has (default: 1)")  # fmt: skip
    parser.add_argument("--resample", action="store_true",
                        help="bring predictions on other grids onto their references': nearest neighbour, background "
                             "outside")  # fmt: skip
    parser.add_argument("-np", type=positive, metavar="N", help="processes (default: as nnU-Net, at most the cores)")
    parser.add_argument("-o", type=Path, metavar="FOLDER", help="write there; a folder per model if there are several")


def run(args: argparse.Namespace) -> int:
    from nnunetv2_dsvm.evaluation.comparison import (
        check_comparable,
        compare,
        comparison_csv,
        comparison_json,
        comparison_table,
        note,
    )
    from nnunetv2_dsvm.evaluation.parallel import measure_sets
    from nnunetv2_dsvm.evaluation.protocols import PROTOCOLS as BY_NAME
    from nnunetv2_dsvm.evaluation.summary import summarise
    from nnunetv2_dsvm.evaluation.tables import metrics_csv, metrics_json, resampled_cases, summary_table, write_all

    protocol, tolerance = BY_NAME[args.protocol], 1.0 if args.tolerance_mm is None else args.tolerance_mm
    if args.tolerance_mm is not None and "NSD" not in protocol.metrics:
        raise UserError(f"--tolerance-mm is that of the NSD, which the protocol {protocol.name} does not have")
    if args.o:
        check_folder_place(args.o, _ELSEWHERE)
    sets, problems = _prediction_sets(args)
    folders = [_output(args.o, s.model, len(sets)) or s.folder for s in sets]
    if len(set(folders)) < len(folders):
        raise UserError(f"two of the models would be written into one folder below {args.o}: name them one by one")
    compared = [f"comparison_{protocol.name}"] if len(sets) > 1 else []
    for folder, names in [*((f, [f"metrics_{protocol.name}"]) for f in folders), (args.o or folders[0], compared)]:
        check_folder_place(folder, _ELSEWHERE, tuple(name + end for name in names for end in (".json", ".csv")))
    if not problems:
        check_comparable(sets)
    processes = args.np or _processes()
    measured = measure_sets(
        sets,
        protocol=args.protocol,
        tolerance_mm=tolerance,
        processes=processes,
        problems=problems,
        resample=args.resample,
    )
    contents, tables = {}, []
    for s, folder, results in zip(sets, folders, measured, strict=True):
        summary = summarise(results, protocol, tolerance)
        json_file = folder / f"metrics_{protocol.name}.json"
        contents[json_file] = metrics_json(results, summary, s.labels, protocol, tolerance)
        contents[json_file.with_suffix(".csv")] = metrics_csv(results, summary, protocol)
        tables.append(f"{s.model}, {len(results)} cases, protocol {protocol.name}\n{summary_table(summary, protocol)}")
        if moved := resampled_cases(results):
            of_all = f"{len(moved)} of {len(results)} predictions"
            tables.append(f"{s.model}: {of_all} resampled onto the reference's grid: {', '.join(moved)}")
    if len(sets) > 1:
        models = {s.model: [r.values for r in results] for s, results in zip(sets, measured, strict=True)}
        differences = compare(models, protocol.metrics)
        json_file = (args.o or sets[0].folder) / f"comparison_{protocol.name}.json"
        contents[json_file] = comparison_json(differences, list(models), protocol)
        contents[json_file.with_suffix(".csv")] = comparison_csv(differences)
        tables.append(f"{comparison_table(differences)}\n{note(protocol)}")
    write_all(contents)
    print("\n" + "\n\n".join(tables) + f"\n\n{protocol.rule_for_empty_masks}")
    if protocol.needs_distances and not protocol.in_voxels:
        print(f"NSD at {tolerance:g} mm. Formats without spacing, such as PNG, have 1 mm per pixel.")
    for path in contents:
        print(f"Wrote {path}")
    return 0


def _prediction_sets(args: argparse.Namespace):
    if args.d is None:
        check_options(args, ("tr", "p", "c", "f"), "belong to -d ID, the cross-validation of trained models")
        if len(args.folders) < 2:
            raise UserError("name a folder of references and one or more of predictions, or -d ID -tr TRAINER")
        from nnunetv2_dsvm.evaluation.prediction_set import from_folders

        return from_folders(args.folders[0], args.folders[1:], dataset_json=args.djfile, plans=args.pfile)
    if args.folders or args.djfile or args.pfile:
        raise UserError("with -d ID, the folders, dataset.json and plans.json are the trained model's: name none")
    if not args.tr:
        raise UserError(f"-d {args.d} needs -tr TRAINER, e.g. -tr nnUNetTrainerDSVM")
    from nnunetv2_dsvm.evaluation.cross_validation import from_cross_validation
    from nnunetv2_dsvm.nnunet.folders import check_folder_variables

    check_folder_variables()
    return from_cross_validation(
        args.d, args.tr, plans=args.p or "nnUNetPlans", configuration=args.c or "2d", folds=args.f
    )


def _output(folder: Path | None, model: str, number_of_models: int) -> Path | None:
    return folder / model.replace("/", "_") if folder and number_of_models > 1 else folder


def _processes() -> int:
    from nnunetv2.configuration import default_num_processes

    return min(default_num_processes, os.cpu_count() or 1)


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected millimetres from 0, got {text}")
    return value
