"""From each layout, as downloaded, to tables and a report. The predictions are drawn: nothing is trained here.

ISIC 2018's official folders and Synapse's NIfTI files take the same way in test_examples.py, with a training.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers.dataset_miniatures import acdc, convert, isic_official, isic_seven_to_three, transunet
from helpers.drawn_predictions import predict, reader_of, train
from medpy.metric import binary

from nnunetv2_dsvm.cli.main import main

TRAINER, OTHER = "nnUNetTrainerDSVM", "nnUNetTrainerVMUNet"


class Layout(NamedTuple):
    """A download, and what must come of it.

    Args:
        protocol: the papers'.
        fold: the one that the papers train.
        validation, test: cases with ground truth.
    """

    make: Callable[[Path], Path]
    dataset: str
    folder: str
    protocol: str
    fold: str
    validation: int
    test: int


LAYOUTS = {
    "isic2017-official": Layout(
        lambda root: isic_official(root, 2017), "isic2017", "Dataset017_ISIC2017", "isic", "0", 2, 2
    ),
    "isic2018-vmunet-7-to-3": Layout(isic_seven_to_three, "isic2018", "Dataset017_ISIC2018", "isic", "0", 3, 0),
    "synapse-preprocessed": Layout(transunet, "synapse", "Dataset017_Synapse", "synapse", "all", 6, 2),
    "acdc": Layout(acdc, "acdc", "Dataset017_ACDC", "synapse", "0", 20, 40),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_from_a_download_to_a_report(folders, layout):
    assert convert(layout.dataset, layout.make(folders / "download"), "-d", 17) == 0
    raw = folders / "raw" / layout.folder
    validation = validation_cases(folders, raw, layout.fold)
    assert len(validation) == layout.validation
    model = train(raw, folders / "results", TRAINER, layout.fold, validation)

    # The validation set: the papers' protocol, and nnU-Net's.
    of_fold = ["-d", "17", "-tr", TRAINER, "-f", layout.fold, "-np", "1"]
    for protocol in (layout.protocol, "nnunet"):
        assert main(["evaluate", *of_fold, "--protocol", protocol]) == 0
    predictions = model / f"fold_{layout.fold}" / "validation"
    check_papers_numbers(read(predictions / f"metrics_{layout.protocol}.json"), layout.protocol, raw)
    ours, nnunets = read(predictions / "metrics_nnunet.json"), read(predictions / "summary.json")
    for label, value in ours["labels"].items():
        assert ours["summary"][label]["Dice"]["mean"] == pytest.approx(nnunets["mean"][str(value)]["Dice"], abs=1e-12)

    # The test set, where there is one with ground truth.
    test = sorted(path.name for path in (raw / "labelsTs").glob("*")) if (raw / "labelsTs").is_dir() else []
    assert len(test) == layout.test
    if test:
        ending = file_ending(raw)
        predicted = folders / "predicted"
        predict(raw, raw / "labelsTs", [name.removesuffix(ending) for name in test], predicted)
        for protocol in (layout.protocol, "nnunet"):
            assert main(["evaluate", str(raw / "labelsTs"), str(predicted), "-np", "1", "--protocol", protocol]) == 0
        metrics = read(predicted / f"metrics_{layout.protocol}.json")
        assert len(metrics["per_case"]) == layout.test
        check_papers_numbers(metrics, layout.protocol, raw)

    assert main(["report", "-d", "17", "-tr", TRAINER, "-f", layout.fold, "-o", str(folders / "report")]) == 0
    text = check_report(folders / "report", pictures=min(layout.validation, 3) + 1)
    mean = ours["summary"]["mean"]
    assert f"{mean['Dice']['mean']:.3f} ± {mean['Dice']['std']:.3f}" in text
    assert f"{mean['HD95_mm']['mean']:.2f} ± {mean['HD95_mm']['std']:.2f}" in text
    papers = read(predictions / f"metrics_{layout.protocol}.json")["summary"]["mean"]
    row = [of["mean"] for of in papers.values()]
    last = "lesion" if layout.protocol == "isic" else "mean"
    of_papers = text[text.index(f'id="{layout.protocol}"') : text.index('id="cases"')]
    shown = [
        float(value.split(" ")[0]) for value in re.findall("<td>([^<]+)", of_papers[of_papers.index(f">{last}<") :])
    ]
    assert shown == pytest.approx(row, abs=0.006)  # distances have two decimals


def test_two_models_side_by_side(folders):
    assert convert("isic2018", isic_seven_to_three(folders / "download", (5, 6)), "-d", 17, "--resize", 48) == 0
    raw = folders / "raw" / "Dataset017_ISIC2018"
    cases = validation_cases(folders, raw, "0")
    models = [train(raw, folders / "results", name, "0", cases, shift) for name, shift in ((TRAINER, 1), (OTHER, 2))]
    both = ["-d", "17", "-tr", TRAINER, OTHER, "-f", "0"]
    for protocol in ("isic", "nnunet"):
        assert main(["evaluate", *both, "-np", "1", "--protocol", protocol]) == 0
    first, second = (
        [
            case["values"]["lesion"]["Dice"]
            for case in read(model / "fold_0" / "validation/metrics_nnunet.json")["per_case"]
        ]
        for model in models
    )
    compared = read(models[0] / "fold_0" / "validation" / "comparison_nnunet.json")["paired_differences"]
    (dice,) = (row for row in compared if (row["label"], row["metric"]) == ("lesion", "Dice"))
    assert dice["mean_difference"] == pytest.approx(np.mean(first) - np.mean(second)) and dice["mean_difference"] > 0.01
    assert dice["p_value"] == pytest.approx(2 / 2**6)  # all six of one sign

    assert main(["report", *both, "-o", str(folders / "report")]) == 0
    text = check_report(folders / "report", pictures=3 + 2)
    rows = re.findall(r'<th scope="row">([^<]+) [↑↓]</th><td>([^<]+)</td><td>([^<]+)</td><td>([^<]+)</td>', text)
    assert len(rows) == 9 + 5, "nnU-Net's metrics, and those of the papers"
    spreads = (f"{np.mean(of):.3f} ± {np.std(of, ddof=1):.3f}" for of in (first, second))
    assert rows[0] == ("Dice", *spreads, f"{dice['mean_difference']:+.3f}")
    assert f"[{dice['ci95_low']:+.3f}, {dice['ci95_high']:+.3f}]" in text, "as evaluate wrote it"


def validation_cases(folders: Path, raw: Path, fold: str) -> list[str]:
    """As nnU-Net's trainers find them; the fold `all` is validated on what it was trained on."""
    if fold == "all":
        return sorted(path.name.removesuffix(file_ending(raw)) for path in (raw / "labelsTr").iterdir())
    return read(folders / "preprocessed" / raw.name / "splits_final.json")[int(fold)]["val"]


def check_papers_numbers(metrics: dict, protocol: str, raw: Path) -> None:
    """By medpy, from the files that the metrics name."""
    reader = reader_of(read(raw / "dataset.json"))
    pairs = [
        tuple(reader.read_seg(str(case[which]))[0][0] for which in ("prediction", "reference"))
        for case in metrics["per_case"]
    ]
    if protocol == "isic":
        pixels = [np.concatenate([pair[which].ravel() for pair in pairs]) > 0 for which in range(2)]
        found = {name: of["mean"] for name, of in metrics["summary"]["lesion"].items()}
        expected = {
            "mIoU": binary.jc(*pixels),
            "DSC": binary.dc(*pixels),
            "Acc": (pixels[0] == pixels[1]).mean(),
            "Spe": binary.specificity(*pixels),
            "Sen": binary.sensitivity(*pixels),
        }
        assert found == pytest.approx(expected, abs=1e-12)
        return
    for label, value in metrics["labels"].items():
        for metric, function in (("DSC", binary.dc), ("HD95_voxels", binary.hd95)):
            expected = np.mean([function(said == value, true == value) for said, true in pairs])
            assert metrics["summary"][label][metric]["mean"] == pytest.approx(expected, abs=1e-9), (label, metric)


def check_report(folder: Path, *, pictures: int) -> str:
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.count("<img") == len(list(folder.glob("report_*.png"))) == pictures
    assert "No picture" not in text and "L_proj" in text
    return text


def file_ending(raw: Path) -> str:
    return read(raw / "dataset.json")["file_ending"]


def read(file: Path):
    return json.loads(file.read_text(encoding="utf-8"))
