"""What the report reads and computes: results, metrics, comparisons."""

import json
import math
import os
import shutil

import numpy as np
import pytest
from helpers.places import DATA
from helpers.report_models import Drawn, dice_and_iou, make_model, shifted

from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.summary import Statistic
from nnunetv2_dsvm.nnunet.trained_model import TrainedModel, choose_folds, find_models
from nnunetv2_dsvm.reporting.curves import read_curves
from nnunetv2_dsvm.reporting.papers import PapersNumbers
from nnunetv2_dsvm.reporting.results import MEAN, read_results
from nnunetv2_dsvm.reporting.tables import comparison_of, tables_of_one


def numbers(dice: dict[str, float]) -> PapersNumbers:
    """Of one class, by case."""
    known = [value for value in dice.values() if not math.isnan(value)]
    summary = {"Dice": Statistic(np.mean(known), math.nan, len(known))}
    per_case = {name: {"lesion": {"Dice": value}} for name, value in dice.items()}
    return PapersNumbers(("Dice",), {"lesion": summary, MEAN: summary}, per_case, ())


def test_results_of_regions_with_ignored_pixels_from_nnunets_summaries(tmp_path):
    drawn = Drawn(tmp_path, "regions", cases=5)
    model = TrainedModel(make_model(drawn, "nnUNetTrainer", folds=2, epochs=2))
    assert model.labels == {"whole": (1, 2), "core": (2,)}
    results = read_results(model, ["0", "1"])
    assert [c.name for c in results.cases] == [drawn.case(i) for i in (0, 2, 4, 1, 3)]
    dice = {"whole": [], "core": []}
    for i in range(drawn.cases):
        truth = drawn.truth(i)
        prediction = np.where(truth == 3, 0, shifted(np.where(truth == 3, 0, truth), i))
        for name, values in dice.items():
            values.append(dice_and_iou(truth, prediction, model.labels[name])[0])
    for name, values in dice.items():
        assert results.summary[name]["Dice"] == pytest.approx((np.mean(values), np.std(values, ddof=1), 5))
    means = np.mean(list(dice.values()), axis=0)
    assert results.summary[MEAN]["Dice"] == pytest.approx((means.mean(), means.std(ddof=1), 5))


def test_a_class_that_is_nowhere_in_a_case_does_not_count(tmp_path):
    drawn = Drawn(tmp_path, cases=3)
    model = TrainedModel(make_model(drawn, "nnUNetTrainer", folds=1, epochs=2))
    file = model.validation_folder("0") / "summary.json"
    summary = json.loads(file.read_text())
    summary["metric_per_case"][0]["metrics"]["2"]["Dice"] = math.nan
    file.write_text(json.dumps(summary))
    results = read_results(model, ["0"])
    assert results.summary["left_kidney"]["Dice"].n == 2 and results.summary["liver"]["Dice"].n == 3
    assert results.cases[0].mean_dice == 1.0  # of the liver alone
    of_labels = [results.summary[name]["Dice"].mean for name in results.summary if name != "mean"]
    assert results.summary["mean"]["Dice"].mean == pytest.approx(np.mean(of_labels))  # nnU-Net's foreground mean


def test_our_own_metrics_are_preferred_and_the_cross_validations_most(tmp_path):
    drawn = Drawn(tmp_path, cases=4)
    model = TrainedModel(make_model(drawn, "nnUNetTrainer", folds=2, epochs=2, evaluated=True))
    results = read_results(model, ["0", "1"])
    assert results.metrics == ("Dice", "IoU", "HD95_mm", "NSD") and results.summary["liver"]["HD95_mm"].n == 4
    assert results.summary["liver"]["NSD"].n == 0 and math.isnan(results.summary["liver"]["NSD"].mean)

    together = model.folder / "crossval_results_folds_0_1"
    together.mkdir()
    contents = [json.loads((model.validation_folder(f) / "metrics_nnunet.json").read_text()) for f in "01"]
    contents[0]["per_case"] += contents[1]["per_case"]
    (together / "metrics_nnunet.json").write_text(json.dumps(contents[0]))
    results = read_results(model, ["0", "1"])
    assert results.summary["liver"]["Dice"] == (0.5, 0.25, 2)  # as that file says
    assert [(c.name, c.fold) for c in results.cases] == [(drawn.case(i), str(i % 2)) for i in (0, 2, 1, 3)]
    assert all(c.prediction is not None for c in results.cases)
    assert read_results(model, ["1"]).metrics == results.metrics

    (model.validation_folder("1") / "metrics_nnunet.json").unlink()
    (together / "metrics_nnunet.json").unlink()
    assert read_results(model, ["0", "1"]).metrics == ("Dice", "IoU")


def test_nsd_of_two_tolerances_is_not_mixed(tmp_path, monkeypatch, capsys):
    """Neither over the folds of a model, nor as a difference between models."""
    drawn = Drawn(tmp_path, cases=2)
    models = [TrainedModel(make_model(drawn, name, folds=2, epochs=1, evaluated=True)) for name in "ab"]
    file = models[1].validation_folder("1") / "metrics_nnunet.json"
    file.write_text(file.read_text().replace('"tolerance_mm": 2.0', '"tolerance_mm": 1.0'))
    with pytest.raises(UserError, match="NSD was measured for fold 0 at 2 mm, fold 1 at 1 mm: run .* --tolerance-mm"):
        read_results(models[1], ["0", "1"])
    command = ["report", *(str(model.folder) for model in models), "-o", str(tmp_path / "out")]
    assert main([*command, "-f", "1"]) == 1
    assert "NSD was measured for a at 2 mm, b at 1 mm" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.html").exists()
    assert read_results(models[1], ["1"]).tolerance_mm == 1


def test_metrics_of_version_0_1_0_stand_beside_those_of_now(tmp_path):
    """There the average symmetric surface distance is MSD_mm."""
    models = [tmp_path / f"{name}__smallPlans__2d" for name in ("then", "now")]
    files = [model / "crossval_results_folds_0_1" / "metrics_nnunet.json" for model in models]
    for model, file in zip(models, files, strict=True):
        shutil.copytree(DATA / "version_0_1_0" / "finished", model)
        file.touch()  # after the predictions
    old = files[0].read_text(encoding="utf-8")
    files[1].write_text(old.replace("MSD_mm", "ASSD_mm").replace("HD95 and MSD ", "HD95 and ASSD "), encoding="utf-8")
    then, now = (read_results(TrainedModel(model), ["0", "1"]) for model in models)
    assert "ASSD_mm" in now.metrics and then.metrics == now.metrics and then.notes == now.notes
    assert str(then.summary) == str(now.summary) and str(then.per_case) == str(now.per_case)  # with NaN
    (case, *_) = json.loads(old)["per_case"]
    defined = {label: values["MSD_mm"] for label, values in case["values"].items() if values["MSD_mm"] is not None}
    assert defined and all(then.per_case[case["case"]][label]["ASSD_mm"] == value for label, value in defined.items())
    table = comparison_of(["then", "now"], [then, now])
    (rows,) = (group["rows"] for group in table["groups"] if group["title"] == "ASSD (mm) ↓")
    assert {row["cells"][2]["text"] for row in rows} == {"+0.00", "–"}  # where it is undefined
    curves = read_curves(TrainedModel(models[0]), ["0", "1"])
    assert [len(of_fold["train_losses"]) for of_fold in curves.histories.values()] == [4, 4] and not curves.notes


def test_metrics_older_than_a_prediction_are_said_to_be(tmp_path):
    model = TrainedModel(make_model(Drawn(tmp_path, cases=2), "nnUNetTrainer", folds=1, epochs=2, evaluated=True))
    assert not any("newer" in note for note in read_results(model, ["0"]).notes)
    _, prediction = sorted(model.validation_folder("0").glob("*.nii.gz"))
    later = prediction.stat().st_mtime + 60
    os.utime(prediction, (later, later))
    assert any("predictions are newer" in note for note in read_results(model, ["0"]).notes)
    prediction.unlink()
    assert "The predictions of 1 of 2 measured cases are no longer there." in read_results(model, ["0"]).notes


def test_many_metrics_of_one_model_stand_below_each_other():
    metrics = tuple("abcdefghi")
    model = PapersNumbers(metrics, {MEAN: {m: Statistic(0.5, 0.1, 3) for m in metrics}}, {}, ())
    assert [table["heads"] for table in tables_of_one(model)] == [
        [f"{m} ↑" for m in part] for part in ("abcdef", "ghi")
    ]


def test_three_models_are_each_compared_with_the_first_on_common_cases():
    first = {"a": 0.9, "b": 0.8, "c": 0.7, "d": math.nan}
    second = {name: value - 0.1 for name, value in first.items()}
    third = {"a": 0.9, "b": math.nan, "c": 0.9, "e": 0.1}
    table = comparison_of(["one", "two", "three"], [numbers(of) for of in (first, second, third)], pooled=True)
    assert table["pairs"] == ["one − two", "one − three"] and table["only_class"] == "lesion"
    assert table["heads"] == ["mean", "95 % interval", "p", "p (Holm)"]
    (row,) = table["groups"][0]["rows"]
    # Cases a, b and c are common. p of three equal signs: 2 / 2**3; of one difference that is not 0: 1.
    expected = ["+0.100", "[+0.100, +0.100]", "0.25", "0.75", "-0.100", "[-0.200, +0.000]", "1", "1"]
    assert [cell["text"] for cell in row["cells"][3:]] == expected
    assert [cell["n"] for cell in row["cells"]][3:] == [None, None, None, None, 2, None, None, None]
    assert "over the 3 cases" in table["note"] and "differences are of single images" in table["note"]


def test_intervals_do_not_depend_on_the_order_of_the_cases():
    """A file for all folds has the cases by name, files for each fold do not."""
    first = dict(zip("abcdefgh", np.random.default_rng(0).random(8), strict=True))
    second = dict.fromkeys(first, 0.5)
    tables = [comparison_of(["one", "two"], [numbers(of), numbers(second)]) for of in (
        first, dict(reversed(first.items()))
    )]  # fmt: skip
    assert tables[0] == tables[1]


def test_models_without_a_common_case_have_no_difference():
    table = comparison_of(["one", "two"], [numbers({"a": 0.9}), numbers({"b": 0.8})])
    assert [cell["text"] for cell in table["groups"][0]["rows"][0]["cells"]] == ["0.900", "0.800", "–", "–", "–"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics_nnunet.json", '{"metrics": ["Dice"]}', "not hold what was expected .*nnUNetv2_dsvm evaluate again"),
        ("metrics_nnunet.json", '{"metrics": ["Dice"], "per_case": ["a"]}', "not hold what was expected"),
        ("summary.json", "{}", "not hold what was expected .*--val"),
        ("summary.json", "[]", "no JSON object"),
    ],
)
def test_metrics_of_another_form_are_refused(tmp_path, file, text, message):
    model = TrainedModel(make_model(Drawn(tmp_path, "RGB", cases=1), "a", folds=1, epochs=2))
    (model.validation_folder("0") / file).write_text(text)
    with pytest.raises(UserError, match=message):
        read_results(model, ["0"])


@pytest.mark.parametrize(
    ("file", "key"), [("plans.json", "dataset_name"), ("dataset.json", "file_ending"), ("dataset.json", "labels")]
)
def test_incomplete_descriptions_of_a_model_are_refused(tmp_path, file, key):
    folder = make_model(Drawn(tmp_path, "RGB", cases=1), "a", folds=1, epochs=2)
    content = json.loads((folder / file).read_text())
    del content[key]
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{file} lacks {key}"):
        find_models([folder], None, [], "", "")


def test_folds_in_common_are_the_default(tmp_path):
    drawn = Drawn(tmp_path, "RGB", cases=3)
    models = [TrainedModel(make_model(drawn, name, folds=n, epochs=1)) for name, n in (("a", 2), ("b", 3))]
    (models[0].folder / "fold_all").mkdir()
    assert choose_folds(models, None) == ["0", "1"]
    assert choose_folds([models[1]], ["02", "2"]) == ["2"]
