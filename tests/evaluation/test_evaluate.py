"""`nnUNetv2_dsvm evaluate` of folders of predictions."""

import csv
import json
import math

import numpy as np
import pytest
from helpers.evaluate_command import CASES, evaluate, read, refused, written
from helpers.evaluation_files import LABELS, SPACING_MM, blobs, dataset_json, write_folders, write_json
from helpers.examples_in_docstrings import run_example
from medpy.metric import binary
from scipy.stats import bootstrap, wilcoxon
from skimage import io

import nnunetv2_dsvm


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


def test_equal_models_have_no_p_value(tmp_path):
    reference, first = write_folders(tmp_path, CASES, name="first")
    _, second = write_folders(tmp_path, CASES, name="second")
    assert evaluate(reference, first, second, "-np", 1) == 0
    differences = read(first, "comparison_nnunet")["paired_differences"]
    assert {(d["mean_difference"], d["p_value"]) for d in differences} == {(0.0, None)}


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


def test_a_slab_of_one_slice_is_measured_in_two_dimensions(tmp_path):
    truth, said = blobs(1, (1, 30, 40), 1), blobs(2, (1, 30, 40), 1)
    reference, prediction = write_folders(tmp_path, {"a": (truth, said)}, labels={"background": 0, "organ": 1})
    assert evaluate(reference, prediction, "-np", 1) == 0
    found = read(prediction)["per_case"][0]["values"]["organ"]["HD95_mm"]
    expected = binary.hd95(said[0] > 0, truth[0] > 0, voxelspacing=SPACING_MM[1:])
    assert math.isclose(found, expected, abs_tol=1e-5)
