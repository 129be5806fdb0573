"""What the quickstart shows at its end: baselines, nnU-Net's evaluation of all, a table, a picture."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from nnunetv2_dsvm.datasets.nifti_pairs import check_pair
from nnunetv2_dsvm.datasets.problems import Problems
from nnunetv2_dsvm.datasets.raw_cases import Case
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.prediction_set import case_names
from nnunetv2_dsvm.evaluation.segmentations import read_pair
from nnunetv2_dsvm.files.json_files import read_json_object
from nnunetv2_dsvm.files.listing import visible_files
from nnunetv2_dsvm.nnunet.labels import read_labels
from nnunetv2_dsvm.nnunet.names import DATASET_JSON
from nnunetv2_dsvm.nnunet.project import NnUNetProject
from nnunetv2_dsvm.quickstart.baseline import Box, CopiedSlice, body_boxes, copy_best_slice, copy_most_similar_slice
from nnunetv2_dsvm.quickstart.overlay import write_overlay
from nnunetv2_dsvm.quickstart.result_table import DiceColumn, read_dice, write_table

SIMILAR, BEST = "copied slice", "best copied slice"
BASELINES = {SIMILAR: copy_most_similar_slice, BEST: copy_best_slice}


def write_baselines(raw: Path, folder: Path) -> None:
    """Segment the test case by each baseline into `folder/<baseline>/`, and note in `chosen.json` what they copied."""
    training, test = read_cases(raw, "Tr"), read_test_case(raw)
    chosen = {}
    for title, copy in BASELINES.items():
        copied: CopiedSlice = copy(training, test)
        baseline_folder = folder / title.replace(" ", "_")
        baseline_folder.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(copied.segmentation, str(baseline_folder / f"{test.name}.nii.gz"), True)
        chosen[title] = f"slice {copied.slice_index + 1} of {copied.case_name}"
        print(f"{title}: {chosen[title]}", flush=True)
    (folder / "chosen.json").write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")


def evaluate(project: NnUNetProject, prediction: Path, baselines: Path) -> None:
    """nnU-Net's evaluation of the prediction and of the baselines: a `summary.json` in each folder.

    Raises:
        UserError: a segmentation cannot be compared with the truth, which nnU-Net's evaluation does not look at.
    """
    truth = project.raw / "labelsTs"
    for folder in (prediction, *(baselines / title.replace(" ", "_") for title in BASELINES)):
        check_comparable_cases(truth, folder, project.raw / DATASET_JSON)
        project.evaluate(truth, folder)


def check_comparable_cases(truth: Path, predictions: Path, dataset_json: Path) -> None:
    """
    Raises:
        UserError: a prediction is missing, lies on another grid than its truth, or one of them holds no labels.
    """
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    labels = read_labels(read_json_object(dataset_json))
    problems = []
    for case in case_names(truth, ".nii.gz"):
        _, wrong = read_pair(truth / f"{case}.nii.gz", predictions / f"{case}.nii.gz", SimpleITKIO, labels)
        problems += wrong
    if problems:
        raise UserError("\n  ".join(["these cannot be compared:", *problems]))


def write_result(
    project: NnUNetProject, prediction: Path, baselines: Path, *, title: str, note: str, details: Mapping[str, Any]
) -> str:
    """Write result.md, .csv, .json and overlay.png into the project's folder.

    Args:
        note: what the data are.
        details: for the JSON file.

    Returns:
        The Markdown text.
    """
    labels = json.loads((project.raw / DATASET_JSON).read_text(encoding="utf-8"))["labels"]
    labels.pop("background")
    chosen = json.loads((baselines / "chosen.json").read_text(encoding="utf-8"))
    columns = [DiceColumn("DSVM-UNet", read_dice(prediction / "summary.json", labels))]
    for baseline in BASELINES:
        columns.append(DiceColumn(baseline, read_dice(baselines / baseline.replace(" ", "_") / "summary.json", labels)))
    notes = [
        note,
        f"{SIMILAR}: the baseline without learning. The labels of one training slice ({chosen[SIMILAR]}), the one "
        "whose image is most similar to the test slices, stretched onto the body in each of them.",
        f"{BEST}: the same with the training slice that gives the highest mean Dice ({chosen[BEST]}), chosen by "
        "looking at the answer: copying one slice cannot reach more.",
    ]
    text = write_table(project.folder, title=title, columns=columns, notes=notes, details=details)

    test = read_test_case(project.raw)
    image = sitk.GetArrayFromImage(test.image)
    spacing = test.image.GetSpacing()
    write_overlay(
        project.folder / "overlay.png",
        image=image,
        columns={
            "ground truth": sitk.GetArrayFromImage(test.label),
            f"DSVM-UNet, mean Dice {columns[0].mean:.2f}": sitk.GetArrayFromImage(
                sitk.ReadImage(str(prediction / f"{test.name}.nii.gz"))
            ),
        },
        label_names=list(labels),
        spacing_mm=(spacing[1], spacing[0]),
        crop=Box.around(body_boxes(image, spacing[1])),
        title=title,
    )
    return text


def read_test_case(raw: Path) -> Case:
    (test,) = read_cases(raw, "Ts")
    return test


def read_cases(raw: Path, part: str) -> list[Case]:
    """The cases of a raw dataset with one channel; `part` is `Tr` or `Ts`.

    Raises:
        UserError: an image and its labels lie on different grids, or one of them holds what it should not.
    """
    cases, problems = [], Problems(raw)
    known = read_labels(read_json_object(raw / DATASET_JSON)).known
    for label_path in visible_files(raw / f"labels{part}", ".nii.gz"):
        name = label_path.name[: -len(".nii.gz")]
        image_path = raw / f"images{part}" / f"{name}_0000.nii.gz"
        problems.add_all(check_pair(image_path, label_path, known))
        problems.raise_if_any()
        cases.append(Case(name, *(sitk.ReadImage(str(path)) for path in (image_path, label_path))))
    return cases
