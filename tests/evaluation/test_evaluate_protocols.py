"""The three protocols against independent computations: nnU-Net's own evaluation, medpy, and the formulas."""

import itertools
import json
import math

import numpy as np
import pytest
from helpers.evaluation_files import LABELS, SPACING_MM, blobs, write_folders
from medpy.metric import binary
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.evaluation.case_result import EvaluatedCase, measure_case
from nnunetv2_dsvm.evaluation.protocols import PROTOCOLS
from nnunetv2_dsvm.evaluation.segmentations import Pair
from nnunetv2_dsvm.evaluation.summary import summarise
from nnunetv2_dsvm.nnunet.labels import Labels, read_labels

ONE = Labels({"organ": (1,)}, None, (0, 1))
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": [3]}


def measure(reference, prediction, protocol, labels=ONE, spacing_mm=SPACING_MM, tolerance_mm=1.0):
    pair = Pair(np.asarray(reference, np.uint16), np.asarray(prediction, np.uint16), spacing_mm)
    return measure_case(EvaluatedCase("case", None, None), pair, labels, PROTOCOLS[protocol], tolerance_mm)


def values(*args, **kwargs):
    return measure(*args, **kwargs).values["organ"]


def transunet_rule(prediction, reference):
    """Of one class in one volume, as published: Dice and HD95 in voxels."""
    if prediction.any() and reference.any():
        return binary.dc(prediction, reference), binary.hd95(prediction, reference)
    return (1, 0) if prediction.any() else (0, 0)


def degenerate_masks():
    shape = (4, 7, 6)
    empty, full, point, corner, plane = (np.zeros(shape, bool) for _ in range(5))
    full[:], point[2, 3, 3], corner[0, 0, 0], plane[:, 2] = True, True, True, True
    noise = np.random.default_rng(3).random(shape) < 0.4
    return {"empty": empty, "full": full, "point": point, "corner": corner, "plane": plane, "noise": noise}


@pytest.mark.parametrize("reference, prediction", list(itertools.product(degenerate_masks(), repeat=2)), ids="-".join)
def test_synapse_is_medpy_with_transunets_rule_on_degenerate_masks(reference, prediction):
    masks = degenerate_masks()
    found = values(masks[reference], masks[prediction], "synapse")
    assert list(found.values()) == pytest.approx(transunet_rule(masks[prediction], masks[reference]), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_synapse_is_medpy_on_random_labels(seed):
    labels = Labels({name: (i,) for i, name in enumerate("abcde", 1)}, None, tuple(range(6)))
    reference, prediction = (blobs(2 * seed + i, (8, 24, 22), number_of_labels=4 + i) for i in range(2))
    found = measure(reference, prediction, "synapse", labels).values
    for name, (label,) in labels.foreground.items():
        expected = transunet_rule(prediction == label, reference == label)
        assert list(found[name].values()) == pytest.approx(expected, abs=1e-9)


def test_isic_is_one_confusion_matrix_over_all_pixels():
    images = [(blobs(i, (16, 17), 1), blobs(i + 50, (16, 17), 1)) for i in range(3)]
    images.append((np.zeros((30, 20)), blobs(7, (30, 20), 1)))  # nothing there, and another size
    results = [measure(*image, "isic") for image in images]
    truth, said = (np.concatenate([np.ravel(image[i]) for image in images]) for i in range(2))
    tp, fp = (truth * said).sum(), ((1 - truth) * said).sum()
    fn, tn = (truth * (1 - said)).sum(), ((1 - truth) * (1 - said)).sum()
    expected = {
        "mIoU": tp / (tp + fp + fn), "DSC": 2 * tp / (2 * tp + fp + fn), "Acc": (truth == said).mean(),
        "Spe": tn / (tn + fp), "Sen": tp / (tp + fn),
    }  # fmt: skip
    summary = summarise(results, PROTOCOLS["isic"], 1.0)
    assert {name: s.mean for name, s in summary["organ"].items()} == pytest.approx(expected)
    assert {s.n for s in summary["organ"].values()} == {4} and all(math.isnan(s.std) for s in summary["organ"].values())


def test_isic_without_any_foreground_is_zero_where_undefined():
    nothing = measure(np.zeros((4, 4)), np.zeros((4, 4)), "isic")
    expected = {"mIoU": 0, "DSC": 0, "Acc": 1, "Spe": 1, "Sen": 0}
    assert nothing.values["organ"] == expected
    assert {k: s.mean for k, s in summarise([nothing], PROTOCOLS["isic"], 1)["organ"].items()} == expected


def test_nnunet_rule_for_empty_masks():
    empty, mask = np.zeros((4, 6, 6)), np.zeros((4, 6, 6))
    mask[1:3, 2:4, 2:4] = 1
    undefined = {name for name, value in values(empty, empty, "nnunet").items() if math.isnan(value)}
    assert undefined == {"Dice", "IoU", "precision", "sensitivity", "HD95_mm", "ASSD_mm", "NSD"}
    for reference, prediction, ratio in ((mask, empty, "precision"), (empty, mask, "sensitivity")):
        found = values(reference, prediction, "nnunet")
        assert found["Dice"] == found["IoU"] == found["NSD"] == 0
        assert {name for name, value in found.items() if math.isnan(value)} == {ratio, "HD95_mm", "ASSD_mm"}


@pytest.mark.parametrize(
    "labels, order",
    [(LABELS, None), ({**LABELS, "ignore": 3}, None), (REGIONS, [1, 2, 3]), ({**REGIONS, "ignore": 4}, [1, 2, 3])],
    ids=["labels", "ignore label", "regions", "regions and ignore label"],
)
def test_nnunet_agrees_with_nnunets_own_summary(tmp_path, capsys, labels, order):
    number = 3 if order else 2
    cases = {f"case_{i}": [blobs(10 * i + j, number_of_labels=number) for j in range(2)] for i in range(2)}
    cases["no_vessel"] = [np.minimum(blobs(5), 1), np.minimum(blobs(6), 1)]  # NaN for nnU-Net
    if "ignore" in labels:
        for reference, _ in cases.values():
            reference[2:4, 5:15] = labels["ignore"]
    more = {"regions_class_order": order} if order else {}
    reference, prediction = write_folders(tmp_path, cases, labels=labels, **more)
    assert main(["evaluate", str(reference), str(prediction), "-np", "1"]) == 0
    written = json.loads((prediction / "metrics_nnunet.json").read_text())

    foreground = {name: value for name, value in labels.items() if name not in ("background", "ignore")}
    assert written["labels"] == {n: v[0] if v == [3] else v for n, v in foreground.items()}
    keys = {name: tuple(value) if isinstance(value, list) else value for name, value in foreground.items()}
    own = [
        compute_metrics(
            str(reference / f"{case}.nii.gz"), str(prediction / f"{case}.nii.gz"), SimpleITKIO(), list(keys.values()),
            labels.get("ignore"),
        )["metrics"]
        for case in sorted(cases)
    ]  # fmt: skip
    assert [of["case"] for of in written["per_case"]] == sorted(cases)
    for name, key in keys.items():
        for metric in ("Dice", "IoU"):
            expected = [of[key][metric] for of in own]
            found = [of["values"][name][metric] for of in written["per_case"]]
            assert [math.nan if v is None else v for v in found] == pytest.approx(expected, abs=1e-6, nan_ok=True)
            statistic = written["summary"][name][metric]
            assert statistic["mean"] == pytest.approx(np.nanmean(expected), abs=1e-6)
            assert statistic["std"] == pytest.approx(np.nanstd(expected, ddof=1), abs=1e-6)
            assert statistic["n"] == np.count_nonzero(~np.isnan(expected))
    foreground_mean = np.mean([np.nanmean([of[key]["Dice"] for of in own]) for key in keys.values()])
    assert written["summary"]["mean"]["Dice"]["mean"] == pytest.approx(foreground_mean, abs=1e-6)


def test_nnunet_ratios_and_distances_in_millimetres():
    reference, prediction = blobs(1, (8, 24, 22), 1), blobs(2, (8, 24, 22), 1)
    found = values(reference, prediction, "nnunet")
    a, b = reference > 0, prediction > 0
    assert found["precision"] == pytest.approx(binary.precision(b, a))
    assert found["sensitivity"] == pytest.approx(binary.sensitivity(b, a))
    assert found["specificity"] == pytest.approx(binary.specificity(b, a))
    assert found["accuracy"] == pytest.approx((a == b).mean())
    assert found["IoU"] == pytest.approx(binary.jc(b, a))
    assert found["HD95_mm"] == pytest.approx(binary.hd95(b, a, voxelspacing=SPACING_MM), abs=1e-6)
    assert found["ASSD_mm"] == pytest.approx(binary.assd(b, a, voxelspacing=SPACING_MM), abs=1e-6)


def test_labels_of_a_region_dataset():
    labels = read_labels({"labels": {**REGIONS, "ignore": 4}})
    assert labels.as_in_json() == {"whole": [1, 2, 3], "core": [2, 3], "active": 3}
    assert (labels.ignore, labels.known) == (4, (0, 1, 2, 3, 4))
