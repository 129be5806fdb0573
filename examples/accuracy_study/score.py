"""Measure every prediction that run_grid.py collected, and write what the tables and the figure are made of.

    python examples/accuracy_study/score.py RESULTS --to examples/accuracy_study/results/grid_1

Needs nnUNet_raw and nnUNet_preprocessed for the references. Writes scores.csv (Dice and HD95 of every training, by
label), curves.csv (every epoch), trainings.csv (settings, parameters, times, versions).
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from run_grid import DONE

from nnunetv2_dsvm.evaluation.case_result import EvaluatedCase
from nnunetv2_dsvm.evaluation.parallel import measure_sets
from nnunetv2_dsvm.evaluation.prediction_set import PredictionSet, reader
from nnunetv2_dsvm.evaluation.protocols import PROTOCOLS
from nnunetv2_dsvm.evaluation.summary import summarise
from nnunetv2_dsvm.evaluation.tables import as_csv, number, write_all
from nnunetv2_dsvm.files.listing import visible_files, visible_folders
from nnunetv2_dsvm.files.places_to_write import check_folder_place
from nnunetv2_dsvm.nnunet.folders import check_folder_variables
from nnunetv2_dsvm.nnunet.labels import read_labels

ENDING = ".nii.gz"
SCORES = ("dataset", "run", "seed", "part", "label", "Dice", "HD95_mm", "missed")
CURVES = ("dataset", "run", "seed", "epoch", "pseudo_dice", "training_loss", "seconds")
TRAININGS = (
    "dataset", "run", "seed", "trainer", "plans", "network", "batch_factor", "settings", "parameters",
    "parameters_of_the_distillation", "epoch_seconds", "seconds", "device", "python", "torch", "nnunetv2",
)  # fmt: skip
Key = tuple[str, str, Any, str]  # dataset, run, seed, "validation" or "test"


def predictions(results: Path, raw: Path) -> Iterator[tuple[Key, Path]]:
    """Folders with predictions: of finished trainings, and of what needs no training."""
    for done in sorted(results.glob(f"*/*/*/{DONE}")):
        training = json.loads(done.read_text(encoding="utf-8"))
        for part in ("validation", "test"):
            if visible_files(done.parent / part, ENDING):
                yield (training["dataset"], training["name"], training["seed"], part), done.parent / part
    for dataset in visible_folders(raw):
        for folder in visible_folders(dataset / "baselines"):
            yield (dataset.name, folder.name, None, "test"), folder


def prediction_set(key: Key, folder: Path, raw: Path, preprocessed: Path) -> PredictionSet:
    dataset, run, _, part = key
    references = preprocessed / dataset / "gt_segmentations" if part == "validation" else raw / dataset / "labelsTs"
    cases = tuple(EvaluatedCase(f.name[: -len(ENDING)], references / f.name, f) for f in visible_files(folder, ENDING))
    dataset_json = json.loads((preprocessed / dataset / "dataset.json").read_text(encoding="utf-8"))
    return PredictionSet(run, folder, cases, read_labels(dataset_json), reader(dataset_json, None, cases[0].reference))


def score(keys: Sequence[Key], sets: Sequence[PredictionSet], processes: int) -> list[list[Any]]:
    """Rows of SCORES. "missed": structures of a reference of which the prediction has nothing, so without a HD95."""
    protocol, rows = PROTOCOLS["nnunet"], []
    measured = measure_sets(sets, protocol=protocol.name, tolerance_mm=1.0, processes=processes, show_progress=True)
    for key, results in zip(keys, measured, strict=True):
        missed = {
            label: sum(r.counts[label].tp + r.counts[label].fp == 0 < r.counts[label].fn for r in results)
            for label in results[0].counts
        }
        missed["mean"] = sum(missed.values())
        for label, of in summarise(results, protocol, 1.0).items():
            rows.append([*key, label, number(of["Dice"].mean), number(of["HD95_mm"].mean), missed[label]])
    return rows


def curves(done: Path) -> list[list[Any]]:
    """Rows of CURVES for one training."""
    training, history = (
        json.loads((done.parent / name).read_text(encoding="utf-8")) for name in (DONE, "history.json")
    )
    values = zip(
        history["mean_fg_dice"],
        history["train_losses"],
        (
            end - start
            for start, end in zip(history["epoch_start_timestamps"], history["epoch_end_timestamps"], strict=True)
        ),
        strict=True,
    )
    key = [training["dataset"], training["name"], training["seed"]]
    return [[*key, epoch, *(round(value, 5) for value in of_epoch)] for epoch, of_epoch in enumerate(values)]


def facts(done: Path, epoch_seconds: Sequence[float]) -> list[Any]:
    """The row of TRAININGS of one training; its median epoch is without the first, which compiles kernels."""
    training, of_trainer = (
        json.loads((done.parent / name).read_text(encoding="utf-8")) for name in (DONE, "facts.json")
    )
    later = sorted(epoch_seconds[1:] or epoch_seconds)
    own = {
        **of_trainer,
        **training,
        "run": training["name"],
        "seconds": round(sum(training["seconds"].values())),
        "epoch_seconds": round(later[len(later) // 2], 2),
        "network": json.dumps(training["network"]),
        "settings": json.dumps(training["settings"]),
    }
    return [own[column] for column in TRAININGS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("-np", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    args = parser.parse_args()
    check_folder_variables("raw", "preprocessed")
    check_folder_place(args.to, "choose another folder with --to")
    raw, preprocessed = (Path(os.environ[name]) for name in ("nnUNet_raw", "nnUNet_preprocessed"))
    found = dict(predictions(args.results, raw))
    sets = [prediction_set(key, folder, raw, preprocessed) for key, folder in found.items()]
    of_epochs, of_trainings = [], []
    for done in sorted(args.results.glob(f"*/*/*/{DONE}")):
        rows = curves(done)
        of_epochs += rows
        of_trainings.append(facts(done, [row[-1] for row in rows]))
    tables = {
        "scores.csv": [SCORES, *score(list(found), sets, args.np)],
        "curves.csv": [CURVES, *of_epochs],
        "trainings.csv": [TRAININGS, *of_trainings],
    }
    write_all({args.to / name: as_csv(rows) for name, rows in tables.items()})
    print(f"{len(of_trainings)} trainings; wrote {', '.join(str(args.to / name) for name in tables)}")


if __name__ == "__main__":
    main()
