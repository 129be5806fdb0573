"""`nnUNetv2_dsvm evaluate` start to end: a folder, a cross-validation, PNGs, several models, and what it refuses."""

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.evaluation_files import (
    LABELS,
    SPACING_MM,
    DyingReader,
    blobs,
    dataset_json,
    plans_json,
    write_folders,
    write_json,
    write_volume,
)
from helpers.examples_in_docstrings import run_example
from medpy.metric import binary
from scipy.stats import bootstrap, wilcoxon
from skimage import io

import nnunetv2_dsvm
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.parallel import measure_sets
from nnunetv2_dsvm.evaluation.prediction_set import from_folders

CASES = {f"case_{i}": (blobs(i), blobs(i + 100)) for i in range(3)}
DATASET, TRAINER, OTHER = "Dataset905_Mini", "nnUNetTrainerDSVM", "nnUNetTrainerVMUNet"


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments)])


def read(folder, stem="metrics_nnunet"):
    return json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))


def refused(capsys, *arguments):
    assert evaluate(*arguments) == 1
    return capsys.readouterr().err


def test_a_folder(tmp_path, capsys):
    reference, prediction = write_folders(tmp_path, CASES)
    summary_json = write_json(prediction / "summary.json", {"nnU-Net's": "own"})
    before = summary_json.read_bytes()
    assert evaluate(reference, prediction, "-np", 2, "--tolerance-mm", 2) == 0

    written = read(prediction)
    assert {"protocol", "labels", "metrics", "tolerance_mm", "per_case", "summary", "rule_for_empty_masks",
            "versions"} <= set(written)  # fmt: skip
    assert (written["protocol"], written["tolerance_mm"]) == ("nnunet", 2.0)
    assert written["labels"] == {"organ": 1, "vessel": 2}
    for case in written["per_case"]:
        truth, said = CASES[case["case"]]
        assert case["reference"] == str(reference / f"{case['case']}.nii.gz")
        assert case["prediction"] == str(prediction / f"{case['case']}.nii.gz")
        for name, label in written["labels"].items():
            expected = binary.hd95(said == label, truth == label, voxelspacing=SPACING_MM)
            assert case["values"][name]["HD95_mm"] == pytest.approx(expected, abs=1e-5)  # spacing: single precision
            assert list(case["values"][name]) == written["metrics"]
    assert set(written["summary"]) == {"organ", "vessel", "mean"}

    with open(prediction / "metrics_nnunet.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["case"], r["label"]) for r in rows[:2]] == [("case_0", "organ"), ("case_0", "vessel")]
    assert float(rows[0]["Dice"]) == written["per_case"][0]["values"]["organ"]["Dice"]
    assert [r["case"] for r in rows[6:]] == ["mean"] * 3 + ["std"] * 3 + ["n"] * 3
    assert summary_json.read_bytes() == before
    assert "organ" in capsys.readouterr().out


def test_the_mean_row_is_the_mean_of_the_labels_and_the_deviation_over_the_cases(tmp_path):
    reference, prediction = write_folders(tmp_path, CASES)
    assert evaluate(reference, prediction, "-np", 1, "-o", tmp_path / "out") == 0
    assert not list(prediction.glob("metrics*"))
    written = read(tmp_path / "out")
    dice = np.array([[of["Dice"] for of in case["values"].values()] for case in written["per_case"]])
    mean = written["summary"]["mean"]["Dice"]
    assert mean["mean"] == pytest.approx(dice.mean()) and mean["n"] == 3
    assert mean["std"] == pytest.approx(dice.mean(axis=1).std(ddof=1))


def test_synapse_and_nnunet_metrics_lie_beside_each_other(tmp_path):
    reference, prediction = write_folders(tmp_path, CASES)
    for protocol in ("synapse", "nnunet"):
        assert evaluate(reference, prediction, "-np", 1, "--protocol", protocol) == 0
    truth, said = CASES["case_0"]
    found = read(prediction, "metrics_synapse")["per_case"][0]["values"]["organ"]
    assert found["HD95_voxels"] == pytest.approx(binary.hd95(said == 1, truth == 1), abs=1e-9)
    assert read(prediction)["protocol"] == "nnunet"


def write_pngs(root, images):
    for name, (reference, prediction) in images.items():
        for folder, image in (("reference", reference), ("prediction", prediction)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            io.imsave(root / folder / f"{name}.png", image.astype(np.uint8), check_contrast=False)
    write_json(root / "prediction" / "dataset.json", dataset_json({"background": 0, "lesion": 1}, ".png"))
    return root / "reference", root / "prediction"


def test_pngs_are_two_dimensional_and_may_differ_in_size(tmp_path):
    images = {"a": (blobs(1, (40, 30), 1), blobs(2, (40, 30), 1)), "b": (blobs(3, (25, 35), 1), blobs(4, (25, 35), 1))}
    reference, prediction = write_pngs(tmp_path, images)
    for protocol in ("nnunet", "isic"):
        assert evaluate(reference, prediction, "-np", 1, "--protocol", protocol) == 0
    for case in read(prediction)["per_case"]:
        truth, said = images[case["case"]]
        assert case["values"]["lesion"]["HD95_mm"] == pytest.approx(binary.hd95(said > 0, truth > 0), abs=1e-9)
    truth, said = (np.concatenate([np.ravel(image[i]) for image in images.values()]) > 0 for i in range(2))
    isic = read(prediction, "metrics_isic")
    assert isic["metrics"] == ["mIoU", "DSC", "Acc", "Spe", "Sen"]
    assert isic["summary"]["lesion"]["mIoU"] == {"mean": pytest.approx(binary.jc(said, truth)), "std": None, "n": 2}


def test_a_coloured_png_is_no_segmentation(tmp_path, capsys):
    reference, prediction = write_pngs(tmp_path, {"a": (blobs(1, (40, 30), 1), np.zeros((40, 30, 3)))})
    assert "a.png has 3 channels" in refused(capsys, reference, prediction, "-np", 1)


def test_undefined_values_are_null_and_left_out_of_means(tmp_path, capsys):
    cases = {**CASES, "no_vessel": (np.minimum(blobs(1), 1), np.minimum(blobs(2), 1))}
    reference, prediction = write_folders(tmp_path, cases)
    assert evaluate(reference, prediction, "-np", 1) == 0
    written = read(prediction)
    assert written["per_case"][-1]["values"]["vessel"]["Dice"] is None
    assert written["summary"]["vessel"]["HD95_mm"]["n"] == 3
    assert "[3]" in capsys.readouterr().out


def test_several_models_are_compared_on_the_same_cases(tmp_path, capsys):
    cases = {f"case_{i}": (blobs(i), blobs(i + 100)) for i in range(6)}
    better = {name: (truth, np.where(truth == 1, truth, said)) for name, (truth, said) in cases.items()}
    reference, first = write_folders(tmp_path, cases, name="first")
    _, second = write_folders(tmp_path, better, name="second")
    out = tmp_path / "out"
    assert evaluate(reference, first, second, "-np", 1, "-o", out) == 0
    a, b = (
        np.array([case["values"]["organ"]["Dice"] for case in read(out / name)["per_case"]])
        for name in ("first", "second")
    )
    comparison = read(out, "comparison_nnunet")
    assert comparison["models"] == ["first", "second"]
    (organ,) = (d for d in comparison["paired_differences"] if (d["label"], d["metric"]) == ("organ", "Dice"))
    assert (a < b).all()  # the first is the worse one: the difference is negative
    assert organ["difference"] == "first − second" and organ["mean_difference"] == pytest.approx((a - b).mean())
    assert organ["median_difference"] == pytest.approx(np.median(a - b))
    assert organ["p_value"] == pytest.approx(wilcoxon(b, a).pvalue) == pytest.approx(2 / 2**6)  # all six of one sign
    expected = bootstrap([a - b], np.mean, method="percentile", n_resamples=20_000).confidence_interval
    assert (organ["ci95_low"], organ["ci95_high"]) == pytest.approx(tuple(expected), abs=0.1 * (a - b).std())
    assert organ["p_value_holm"] == organ["p_value"]  # one pair
    table = (out / "comparison_nnunet.csv").read_text(encoding="utf-8")
    assert table.startswith("first,second,label,metric,n,mean_difference,ci95_low,ci95_high,")
    row = next(csv.DictReader(table.splitlines()))
    assert (row["difference"], float(row["ci95_high"])) == ("first − second", organ["ci95_high"])
    shown = capsys.readouterr().out
    block = shown[shown.index("\nfirst − second\n") :]
    row = next(line.split() for line in block.splitlines() if line.split()[:2] == ["organ", "Dice"])
    numbers = [f"{organ[key]:+.4f}" for key in ("mean_difference", "ci95_low", "ci95_high")]
    assert row[2:] == ["6", numbers[0], f"[{numbers[1]},", f"{numbers[2]}]", "0.031"]
    assert "the first model minus the second" in shown


def test_three_models_are_corrected_for_their_three_pairs(tmp_path, capsys):
    cases = {f"case_{i}": (blobs(i), blobs(i + 100)) for i in range(5)}
    folders = []
    for k in range(3):
        said = {name: (truth, np.roll(said, k, axis=2)) for name, (truth, said) in cases.items()}
        reference, folder = write_folders(tmp_path, said, name=f"model_{k}")
        folders.append(folder)
    assert evaluate(reference, *folders, "-np", 1, "-o", tmp_path / "out") == 0
    differences = read(tmp_path / "out", "comparison_nnunet")["paired_differences"]
    dice = [d for d in differences if (d["label"], d["metric"]) == ("organ", "Dice")]
    assert [d["difference"] for d in dice] == ["model_0 − model_1", "model_0 − model_2", "model_1 − model_2"]
    first, second, third = sorted((d["p_value"], d["p_value_holm"]) for d in dice)
    assert first[1] == pytest.approx(min(1, 3 * first[0]))
    assert second[1] == pytest.approx(max(first[1], min(1, 2 * second[0])))
    assert third[1] == pytest.approx(max(second[1], third[0]))
    assert "p (Holm)" in capsys.readouterr().out


def test_one_class_has_no_mean_that_repeats_it(tmp_path, capsys):
    """What people read leaves it out; JSON keeps it, so that a script finds it whatever the number of labels."""
    cases = {f"case_{i}": (blobs(i, number_of_labels=1), blobs(i + 9, number_of_labels=1)) for i in range(3)}
    labels = {"background": 0, "lesion": 1}
    reference, first = write_folders(tmp_path, cases, name="first", labels=labels)
    _, second = write_folders(tmp_path, cases, name="second", labels=labels)
    for protocol in ("nnunet", "isic"):
        assert evaluate(reference, first, second, "-np", 1, "-o", tmp_path / "out", "--protocol", protocol) == 0
        rows = [line.split()[0] for line in capsys.readouterr().out.split("\n\n")[1].splitlines()[1:]]
        assert rows == ["label", "lesion"]
        for file in (tmp_path / "out").rglob(f"*_{protocol}.csv"):
            assert "mean" not in {row.get("label") for row in csv.DictReader(file.read_text().splitlines())}
        for file in (tmp_path / "out").rglob(f"metrics_{protocol}.json"):
            summary = json.loads(file.read_text())["summary"]
            assert summary["mean"] == summary["lesion"]


def test_models_with_other_labels_are_not_compared(tmp_path, capsys):
    reference, first = write_folders(tmp_path, CASES, name="first")
    _, second = write_folders(tmp_path, CASES, name="second", labels={**LABELS, "third": 3})
    message = refused(capsys, reference, first, second, "-np", 1)
    assert "first and second cannot be compared" in message and "third" in message


def test_a_worker_that_dies_is_reported(tmp_path):
    reference, prediction = write_folders(tmp_path, CASES)
    (found,), problems = from_folders(reference, [prediction])
    dying = dataclasses.replace(found, reader_class=DyingReader)
    with pytest.raises(UserError, match="use fewer with -np"):
        measure_sets([dying], protocol="nnunet", tolerance_mm=1.0, processes=2, problems=problems)


def test_equal_models_have_no_p_value(tmp_path):
    reference, first = write_folders(tmp_path, CASES, name="first")
    _, second = write_folders(tmp_path, CASES, name="second")
    assert evaluate(reference, first, second, "-np", 1) == 0
    differences = read(first, "comparison_nnunet")["paired_differences"]
    assert {(d["mean_difference"], d["p_value"]) for d in differences} == {(0.0, None)}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Two trained models of two folds with two cases each, in nnU-Net's folders."""
    folders = {name: tmp_path / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for name, folder in folders.items():
        monkeypatch.setenv(name, str(folder))
    cases = {f"case_{i}": (blobs(i), blobs(i + 100)) for i in range(4)}
    splits = [{"train": ["case_2", "case_3"], "val": ["case_0", "case_1"]},
              {"train": ["case_0", "case_1"], "val": ["case_2", "case_3"]}]  # fmt: skip
    write_json(folders["nnUNet_preprocessed"] / DATASET / "splits_final.json", splits)
    for case, (reference, _) in cases.items():
        write_volume(folders["nnUNet_preprocessed"] / DATASET / "gt_segmentations" / f"{case}.nii.gz", reference)
    for trainer in (TRAINER, OTHER):
        model = folders["nnUNet_results"] / DATASET / f"{trainer}__nnUNetPlans__2d"
        write_json(model / "dataset.json", dataset_json())
        write_json(model / "plans.json", plans_json())
        for fold, split in enumerate(splits):
            for case in split["val"]:
                write_volume(model / f"fold_{fold}" / "validation" / f"{case}.nii.gz", cases[case][1])
            write_json(model / f"fold_{fold}" / "validation" / "summary.json", {})
    return folders["nnUNet_results"] / DATASET, cases


def test_a_cross_validation(trained):
    results, cases = trained
    model = results / f"{TRAINER}__nnUNetPlans__2d"
    assert evaluate("-d", 905, "-tr", TRAINER, "-p", "nnUNetPlans", "-c", "2d", "-f", 0, 1, "-np", 1) == 0
    written = read(model / "crossval_results_folds_0_1")
    assert [case["case"] for case in written["per_case"]] == sorted(cases)
    for case in written["per_case"]:
        truth, said = cases[case["case"]]
        assert case["values"]["vessel"]["Dice"] == pytest.approx(binary.dc(said == 2, truth == 2))
    assert evaluate("-d", DATASET, "-tr", TRAINER, "-f", 1, "-np", 1) == 0
    assert [case["case"] for case in read(model / "fold_1" / "validation")["per_case"]] == ["case_2", "case_3"]


def test_the_folds_are_by_default_those_of_the_splits_else_nnunets_five(trained, tmp_path, capsys):
    results, cases = trained
    assert evaluate("-d", 905, "-tr", TRAINER, "-np", 1) == 0
    together = results / f"{TRAINER}__nnUNetPlans__2d" / "crossval_results_folds_0_1"
    assert len(read(together)["per_case"]) == len(cases)
    (tmp_path / "nnUNet_preprocessed" / DATASET / "splits_final.json").unlink()
    assert "nnUNetv2_train 905 2d 4 " in refused(capsys, "-d", 905, "-tr", TRAINER, "-np", 1)


def test_two_trainers_are_compared(trained):
    results, _ = trained
    assert evaluate("-d", 905, "-tr", TRAINER, OTHER, "-f", 0, 1, "-np", 1) == 0
    folder = results / f"{TRAINER}__nnUNetPlans__2d" / "crossval_results_folds_0_1"
    assert read(folder, "comparison_nnunet")["models"] == [TRAINER, OTHER]


def written(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*_nnunet.*")}


def test_a_call_writes_what_the_command_writes_and_prints_nothing(tmp_path, monkeypatch, capsys):
    reference, first = write_folders(tmp_path, {name: (truth, truth) for name, (truth, _) in CASES.items()})
    _, second = write_folders(tmp_path, CASES, name="second")
    monkeypatch.chdir(tmp_path)
    run_example(nnunetv2_dsvm.evaluate)
    assert read(first)["tolerance_mm"] == 2
    assert evaluate(reference, first, second, "-np", 1, "-o", tmp_path / "by_command") == 0
    capsys.readouterr()
    evaluation = nnunetv2_dsvm.evaluate(reference, [first, second], processes=1, output=tmp_path / "by_call")
    assert capsys.readouterr() == ("", "")
    expected = written(tmp_path / "by_command")
    assert written(tmp_path / "by_call") == expected and len(expected) == len(evaluation.files) == 6
    assert {path.relative_to(tmp_path / "by_call") for path in evaluation.files} == set(expected)
    (difference, *_) = evaluation.differences
    assert (difference.first, difference.second) == ("prediction", "second") and difference.mean_difference > 0


def test_a_call_measures_a_cross_validation(trained):
    results, _ = trained
    run_example(nnunetv2_dsvm.evaluate_cross_validation)
    folder = results / f"{TRAINER}__nnUNetPlans__2d" / "crossval_results_folds_0_1"
    by_call = written(folder)
    for path in by_call:
        (folder / path).unlink()
    assert evaluate("-d", 905, "-tr", TRAINER, "-f", 0, 1, "-np", 1) == 0
    assert written(folder) == by_call and len(by_call) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "dice"}, "unknown protocol 'dice': choose one of nnunet, isic, synapse"),
        ({"tolerance_mm": -1}, "millimetres from 0, got -1"),
        ({"protocol": "isic", "tolerance_mm": 2}, "the protocol isic does not have"),
    ],
)
def test_a_call_names_what_cannot_be_meant(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        nnunetv2_dsvm.evaluate(tmp_path, [tmp_path], **options)


def test_what_is_not_trained_is_named(trained, capsys):
    message = refused(capsys, "-d", 905, "-tr", TRAINER, "nnUNetTrainerNone", "-np", 1, "-f", *"01234")
    for fold in (2, 3, 4):
        command = f"nnUNetv2_train 905 2d {fold} -tr {TRAINER} -p nnUNetPlans"
        assert f"fold {fold} of {TRAINER}__nnUNetPlans__2d was never trained; train it with {command}\n" in message
    assert "--c" not in message
    assert "has a validation of fold 0, 1: name them with -f" in message
    assert "no trained model" in message and OTHER in message
    assert "no dataset 77" in refused(capsys, "-d", 77, "-tr", TRAINER)


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ([], "was never trained; train it with {}"),
        (["training_log_2026_1_1_10_00_00.txt"], "was begun but has left no checkpoint; train it again with {}"),
        (["checkpoint_best.pth", "checkpoint_latest.pth"],
         "is not trained to its end (checkpoint_latest.pth); finish it with {} --c"),
        (["checkpoint_best.pth", "checkpoint_final.pth"], "has no finished validation; make it with {} --val"),
    ],
)  # fmt: skip
def test_what_a_fold_lacks_is_said_with_the_command_that_makes_it(trained, tmp_path, capsys, left, said):
    results, _ = trained
    fold = results / f"{TRAINER}__nnUNetPlans__2d" / "fold_2"
    fold.mkdir()
    for name in left:
        (fold / name).write_text("")
    command = f"nnUNetv2_train {{}} 2d 2 -tr {TRAINER} -p nnUNetPlans"
    expected = f"fold 2 of {TRAINER}__nnUNetPlans__2d {said}"
    message = refused(capsys, "-d", 905, "-tr", TRAINER, "-np", 1, "-f", *"012")
    assert f"{expected.format(command.format(905))}\n" in message
    assert main(["report", "-d", "905", "-tr", TRAINER, "-f", "2", "-o", str(tmp_path / "report")]) == 1
    assert expected.format(command.format(DATASET)) in capsys.readouterr().err


def test_a_fold_with_missing_or_alien_cases_is_refused(trained, capsys):
    results, _cases = trained
    validation = results / f"{TRAINER}__nnUNetPlans__2d" / "fold_0" / "validation"
    (validation / "case_1.nii.gz").rename(validation / "case_3.nii.gz")
    message = refused(capsys, "-d", 905, "-tr", TRAINER, "-f", 0, 1, "-np", 1)
    assert f"{validation / 'case_1.nii.gz'} is missing" in message
    assert "case_3.nii.gz is not of fold 0" in message and "has left no checkpoint" in message
    assert not list(results.rglob("metrics_*"))
    (validation.parent / "checkpoint_final.pth").touch()
    message = refused(capsys, "-d", 905, "-tr", TRAINER, "-f", 0, "-np", 1)
    assert "fold 0 of" in message and f"nnUNetv2_train 905 2d 0 -tr {TRAINER} -p nnUNetPlans --val" in message


def test_all_problems_are_named_at_once_and_nothing_is_written(tmp_path, capsys):
    reference, prediction = write_folders(tmp_path, {f"case_{i}": (blobs(i), blobs(i + 50)) for i in range(6)})
    (prediction / "case_0.nii.gz").unlink()
    write_volume(prediction / "case_1.nii.gz", blobs(1, (6, 20, 23)))
    write_volume(prediction / "case_2.nii.gz", blobs(2), (2.5, 0.8, 0.9))
    write_volume(prediction / "case_3.nii.gz", blobs(3) + 7)
    (prediction / "case_4.nii.gz").write_bytes(b"no image")
    write_volume(prediction / "surplus.nii.gz", blobs(2))
    before = sorted(prediction.iterdir())
    message = refused(capsys, reference, prediction, "-np", 1)
    assert "6 problems" in message
    for part in ("case_0.nii.gz is missing", "surplus.nii.gz has no reference", "It has 23×20×6 voxels",
                 "its reference has 22×20×6 voxels", "of 0.9×0.8×2.5 mm", "of 0.7×0.8×2.5 mm",
                 "case_3.nii.gz holds 7, 8, 9", "case_4.nii.gz cannot be read"):  # fmt: skip
        assert part in message, part
    assert sorted(prediction.iterdir()) == before


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_label_maps_that_were_cut_off_are_not_measured(tmp_path, capsys, ending):
    """ITK, nnU-Net's reader, takes zeros for what is missing, without a word."""
    cases = {"a": (blobs(1), blobs(2)), "b": (blobs(3), blobs(4))}
    reference, prediction = write_folders(tmp_path, cases, file_ending=ending)
    for path in (*reference.glob("*.nii.gz"), *prediction.glob("*.nii.gz")):
        other = path.with_name(path.name.replace(".nii.gz", ending))
        sitk.WriteImage(sitk.ReadImage(str(path)), str(other))
    for path in (reference / f"a{ending}", prediction / f"b{ending}"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    message = refused(capsys, reference, prediction, "-np", 1)
    assert "2 problems" in message
    for path in (reference / f"a{ending}", prediction / f"b{ending}"):
        assert f"{path} cannot be read: " in message


def test_the_ignore_label_is_unknown_in_a_prediction_only(tmp_path, capsys):
    marked = blobs(1)
    marked[0] = 3
    labels = {**LABELS, "ignore": 3}
    reference, prediction = write_folders(tmp_path, {"a": (marked, blobs(2)), "b": (blobs(3), marked)}, labels=labels)
    message = refused(capsys, reference, prediction, "-np", 1)
    assert "1 problem," in message and f"{prediction / 'b.nii.gz'} holds 3" in message


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["reference"], "name a folder of references"),
        (["reference", "nowhere"], "no such folder"),
        (["reference", "prediction", "-tr", TRAINER], "-tr belong to -d"),
        (["-d", "905"], "needs -tr"),
        (["-d", "905", "-tr", TRAINER, "-f", "0", "0"], "named twice: 0"),
        (["reference", "prediction", "prediction"], "named twice"),
        (["reference", "prediction", "--protocol", "isic", "--tolerance-mm", "2"], "the protocol isic does not have"),
        (["prediction", "reference"], "no dataset.json in reference"),
    ],
)
def test_wrong_arguments(tmp_path, capsys, monkeypatch, arguments, part):
    write_folders(tmp_path, {"a": (blobs(1), blobs(2))})
    monkeypatch.chdir(tmp_path)
    assert part in refused(capsys, *arguments)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    reference, prediction = write_folders(tmp_path, {"a": (blobs(1), blobs(2))})
    (tmp_path / "file").write_text("")
    message = refused(capsys, reference, prediction, "-np", 1, "-o", tmp_path / "file")
    assert "cannot write into" in message and "cases" not in message  # said before anything is measured


def test_a_disk_that_fills_up_leaves_older_metrics(tmp_path, capsys, monkeypatch):
    reference, prediction = write_folders(tmp_path, {"a": (blobs(1), blobs(2))})
    old = write_json(prediction / "metrics_nnunet.json", {"old": 1})
    write_text = Path.write_text

    def fails(self, text, **options):
        if ".csv" in self.name:
            raise OSError(28, "No space left on device")
        return write_text(self, text, **options)

    monkeypatch.setattr(Path, "write_text", fails)
    assert "No space left" in refused(capsys, reference, prediction, "-np", 1)
    assert json.loads(old.read_text()) == {"old": 1} and not list(prediction.glob(".*"))


def test_a_slab_of_one_slice_is_measured_in_two_dimensions(tmp_path):
    truth, said = blobs(1, (1, 30, 40), 1), blobs(2, (1, 30, 40), 1)
    reference, prediction = write_folders(tmp_path, {"a": (truth, said)}, labels={"background": 0, "organ": 1})
    assert evaluate(reference, prediction, "-np", 1) == 0
    found = read(prediction)["per_case"][0]["values"]["organ"]["HD95_mm"]
    expected = binary.hd95(said[0] > 0, truth[0] > 0, voxelspacing=SPACING_MM[1:])
    assert math.isclose(found, expected, abs_tol=1e-5)
