"""What the report reads, chooses and draws."""

import json
import math
import os
import shutil

import matplotlib.image
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from helpers.places import DATA
from helpers.report_models import Drawn, dice_and_iou, make_model, shifted
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.summary import Statistic
from nnunetv2_dsvm.nnunet.trained_model import TrainedModel, choose_folds, find_models
from nnunetv2_dsvm.reporting.case_picture import write_case_picture
from nnunetv2_dsvm.reporting.case_slices import colours_of_classes, read_case_slices
from nnunetv2_dsvm.reporting.curves import limits, number_of_parameters, read_curves, shown_duration
from nnunetv2_dsvm.reporting.curves_picture import write_curves
from nnunetv2_dsvm.reporting.display import displayed, planes_of, slice_to_show
from nnunetv2_dsvm.reporting.illustrations import case_illustrations, notable_cases
from nnunetv2_dsvm.reporting.papers import PapersNumbers
from nnunetv2_dsvm.reporting.results import MEAN, ValidationCase, read_results
from nnunetv2_dsvm.reporting.tables import comparison_of, tables_of_one


def case(name: str, *dice: float) -> ValidationCase:
    return ValidationCase(name, None, None, None, {str(i): {"Dice": value} for i, value in enumerate(dice)})


def test_best_median_and_worst_by_mean_dice_over_what_is_defined():
    nan = math.nan
    cases = [case("a", 0.5), case("b", 0.9, nan), case("c", 0.1, 0.3), case("d", 0.8, 0.8), case("empty", nan)]
    assert {rank: c.name for rank, c in notable_cases(cases).items()} == {"best": "b", "median": "a", "worst": "c"}


@pytest.mark.parametrize(
    "count, ranks", [(0, []), (1, ["best"]), (2, ["best", "worst"]), (3, ["best", "median", "worst"])]
)
def test_no_case_is_shown_twice(count, ranks):
    chosen = notable_cases([case(f"{i}", 0.5) for i in range(count)])
    assert list(chosen) == ranks and len({c.name for c in chosen.values()}) == len(ranks)


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


def test_logged_values_that_are_no_numbers_leave_gaps(tmp_path):
    model = TrainedModel(make_model(Drawn(tmp_path, "RGB", cases=1), "a", folds=1, epochs=2))
    logging = {"train_losses": ["x", 10**400, 0.5], "val_losses": "no list", "epoch_start_timestamps": [None, 1.0],
               "epoch_end_timestamps": [2.0, 3.0]}  # fmt: skip
    torch.save({"logging": logging}, model.fold_folder("0") / "checkpoint_final.pth")
    curves = read_curves(model, ["0"])
    assert curves.values(curves.panels[0]) == [0.5] and curves.epoch_seconds["0"] == [2.0]


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


def numbers(dice: dict[str, float]) -> PapersNumbers:
    """Of one class, by case."""
    known = [value for value in dice.values() if not math.isnan(value)]
    summary = {"Dice": Statistic(np.mean(known), math.nan, len(known))}
    per_case = {name: {"lesion": {"Dice": value}} for name, value in dice.items()}
    return PapersNumbers(("Dice",), {"lesion": summary, MEAN: summary}, per_case, ())


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


def test_curves_of_ours_and_of_a_stock_trainer(tmp_path):
    drawn = Drawn(tmp_path, "RGB", cases=2)
    folders = [
        make_model(drawn, trainer, ours=ours, epochs=7, checkpoint=name)
        for trainer, ours, name in (("a", True, "checkpoint_final.pth"), ("b", False, "checkpoint_latest.pth"))
    ]
    ours, stock = (read_curves(TrainedModel(folder), ["0", "1"]) for folder in folders)
    assert [panel.title for panel in stock.panels] == ["loss", "pseudo Dice", "learning rate"]
    logged = torch.load(folders[0] / "fold_1" / "checkpoint_final.pth", weights_only=False)["logging"]
    assert len(ours.panels) == 7 and ours.histories["1"] == {key: logged[key] for key in ours.histories["1"]}
    assert ours.parameters == 12 and list(ours.epoch_seconds) == ["0", "1"]
    assert ours.epoch_seconds["1"] == pytest.approx([2.5] * 7)
    assert ours.notes == () and stock.notes[0] == "Fold 0 is not finished: checkpoint_latest.pth, after 7 epochs."
    write_curves(tmp_path / "curves.png", ours, limits([ours, stock]))
    assert matplotlib.image.imread(tmp_path / "curves.png").shape[1] == 960


@pytest.mark.parametrize("content", [{"network_weights": {}}, {"logging": []}, {"logging": [1]}, 5])
def test_a_checkpoint_of_weights_alone_has_no_curves(tmp_path, content):
    model = TrainedModel(make_model(Drawn(tmp_path, "RGB", cases=1), "a", folds=1, epochs=2))
    torch.save(content, model.fold_folder("0") / "checkpoint_final.pth")
    curves = read_curves(model, ["0"])
    assert (curves.parameters, list(curves.epoch_seconds)) == (None, [])
    assert curves.panels == [] and curves.notes == ("Fold 0: checkpoint_final.pth holds no training curves.",)


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


def test_parameters_are_those_of_the_network(tmp_path):
    """nnU-Net's decoder holds the encoder again; a batch norm's running statistics are not trained."""
    of_nnunet = PlainConvUNet(
        1, 2, [4, 8], torch.nn.Conv2d, 3, [1, 2], 1, 3, 1, norm_op=torch.nn.BatchNorm2d, deep_supervision=True
    )
    for network in (of_nnunet, VMUNet(1, 2, dims=[8, 16], encoder_depths=[1, 1], decoder_depths=[1, 1])):
        torch.save(network.state_dict(), tmp_path / "weights.pth")
        weights = torch.load(tmp_path / "weights.pth", mmap=True)
        assert number_of_parameters(weights) == sum(p.numel() for p in network.parameters())
    assert number_of_parameters({"a": torch.eye(2).to_sparse(), 1: torch.ones(3)}) == 3
    assert sum(t.numel() for t in of_nnunet.state_dict().values()) > 1.5 * number_of_parameters(of_nnunet.state_dict())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.44, "4.4 s"), (59.97, "1 min 0 s"), (119.6, "2 min 0 s"), (3599.7, "1 h 0 min"), (9000, "2 h 30 min")],
)
def test_durations(seconds, text):
    assert shown_duration(seconds) == text


def test_curves_with_gaps_draw(tmp_path):
    """A continued training whose earlier epochs had no distillation; a term that is zero has no logarithm."""
    curves = read_curves(TrainedModel(make_model(Drawn(tmp_path, "RGB", cases=2), "a", epochs=5)), ["0"])
    curves.histories["0"].update(L_proj=[math.nan] * 3 + [0.2, 0.0], L_prog=[math.nan] * 5)
    assert [p.title for p in curves.panels if p.title.startswith("L_")] == ["L_proj (projection)"]
    write_curves(tmp_path / "curves.png", curves, limits([curves]))


def test_folds_in_common_are_the_default(tmp_path):
    drawn = Drawn(tmp_path, "RGB", cases=3)
    models = [TrainedModel(make_model(drawn, name, folds=n, epochs=1)) for name, n in (("a", 2), ("b", 3))]
    (models[0].folder / "fold_all").mkdir()
    assert choose_folds(models, None) == ["0", "1"]
    assert choose_folds([models[1]], ["02", "2"]) == ["2"]


def test_ct_is_shown_in_a_soft_tissue_window():
    image = np.array([-1000, -160, 40, 240, 3000], np.float32).reshape(1, 1, 1, 5)
    shown = displayed(image, 0, ["CT"])
    assert shown.rgb[0, :, 0] == pytest.approx([0, 0, 0.5, 1, 1])
    assert displayed(image / 4000, 0, ["CT"]).description == "CT, percentiles 0.5 to 99.5"  # scaled: no longer in HU


def test_other_images_are_shown_between_percentiles_and_photographs_in_colour():
    image = np.linspace(0, 1000, 1001, dtype=np.float32).reshape(1, 1, 1, 1001)
    shown = displayed(image, 0, ["MR"]).rgb[0, :, 0]
    assert (shown[5], shown[995]) == (0, 1) and shown[500] == pytest.approx(0.5)
    rgb = np.array([255, 128, 0], np.float32).reshape(3, 1, 1, 1)
    for names in (["R", "G", "B"], ["rgb_to_0_1"] * 3):
        assert displayed(rgb, 0, names).rgb[0, 0] == pytest.approx([1, 128 / 255, 0])
    with_alpha = np.concatenate([rgb, rgb])[:4]
    assert displayed(with_alpha, 0, ["R", "G", "B", "alpha"]).rgb[0, 0] == pytest.approx([1, 128 / 255, 0])
    assert displayed(rgb, 0, ["T1", "T2", "FLAIR"]).description.endswith("the first of 3 channels")


def test_the_slice_with_most_foreground():
    empty, mask = np.zeros((2, 5, 4, 4), bool)
    mask[3, :2] = mask[1, 0] = True
    assert slice_to_show(mask, []) == 3
    assert slice_to_show(empty, [empty, mask]) == 3 and slice_to_show(empty, []) == 2


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, NibabelIOWithReorient])
@pytest.mark.parametrize("stored", ["LPS", "RAS", "LAS", "LPI"])
def test_patients_are_shown_the_same_way_up(tmp_path, reader, stored):
    volume = np.zeros((3, 4, 5), np.float32)
    volume[2, 0, 0] = 1  # in LPS: head, front, right
    image = sitk.DICOMOrient(sitk.GetImageFromArray(volume), stored)
    sitk.WriteImage(image, str(tmp_path / "x_0000.nii.gz"))
    voxels, properties = reader().read_images([str(tmp_path / "x_0000.nii.gz")])
    for plane, name in zip(planes_of(properties), ("axial", "coronal", "sagittal"), strict=True):
        assert plane.name == name
        assert voxels[0].max(plane.axis)[plane.steps][0, 0] == 1


def test_contours_lie_where_the_labels_are(tmp_path, monkeypatch):
    drawn = Drawn(tmp_path, cases=3).write()
    monkeypatch.setenv("nnUNet_raw", str(drawn.raw.parent))
    model = TrainedModel(make_model(drawn, "a", shift=6, folds=1, epochs=1))
    assert len(model.image_files(drawn.case(2))) == 1
    (case,) = read_case_slices(
        model,
        images=model.image_files(drawn.case(2)),
        truth=model.reference_file(drawn.case(2), None),
        predictions={"prediction": model.validation_folder("0") / f"{drawn.case(2)}.nii.gz"},
    )
    assert (case.slice_number, case.slices) == (4, 6)
    write_case_picture(tmp_path / "case.png", [case], model.labels, colours_of_classes([case], model.labels))
    pixels = matplotlib.image.imread(tmp_path / "case.png")[..., :3]
    third = pixels.shape[1] // 3
    orange = np.abs(pixels - np.array([0xD5, 0x5E, 0x00]) / 255).max(axis=-1) < 0.02
    orange[int(0.85 * len(pixels)) :] = False  # the legend
    truth, prediction = (np.argwhere(orange[:, i * third : (i + 1) * third])[:, 1].mean() for i in (1, 2))
    assert not orange[:, :third].any()
    assert prediction - truth == pytest.approx(12 / 96 * third, rel=0.2)  # two times six of 96 columns


@pytest.mark.parametrize("configuration", ["3d_fullres", "3d_cascade_fullres"])
def test_a_case_segmented_in_3d_is_shown_in_three_planes(tmp_path, monkeypatch, configuration):
    drawn = Drawn(tmp_path, cases=1).write()
    monkeypatch.setenv("nnUNet_raw", str(drawn.raw.parent))
    model = TrainedModel(make_model(drawn, "a", folds=1, epochs=1, configuration=configuration))
    assert model.dimensions == 3
    results = [read_results(model, ["0"])]
    (illustration,) = case_illustrations(tmp_path, [model], ["a"], results)
    image, truth = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        for file in (*model.image_files(drawn.case(0)), model.reference_file(drawn.case(0), None))
    )
    most = [int((truth > 0).sum(axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3)]
    numbers = [f"slice {index + 1} of {size}" for index, size in zip(most, truth.shape, strict=True)]
    wanted = f"axial {numbers[0]}, coronal {numbers[1]}, sagittal {numbers[2]}, the ones with the most foreground; CT"
    assert wanted in illustration.caption
    planes = read_case_slices(
        model, images=model.image_files(drawn.case(0)), truth=model.reference_file(drawn.case(0), None),
        predictions={}, three_planes=True,
    )  # fmt: skip
    shown = [truth[most[0]], truth[::-1, most[1]], truth[::-1, :, most[2]]]  # the head up
    assert all(np.array_equal(p.segmentations["ground truth"], s) for p, s in zip(planes, shown, strict=True))
    greys = np.clip((image[::-1, most[1]].astype(float) + 160) / 400, 0, 1)
    np.testing.assert_allclose(planes[1].rgb[..., 0], greys, atol=1e-6)
    assert [p.pixel_aspect for p in planes] == pytest.approx([1, 4 / 1.5, 4 / 1.5])
    pixels = matplotlib.image.imread(illustration.file)[..., :3]
    orange = (np.abs(pixels - np.array([0xD5, 0x5E, 0x00]) / 255).max(axis=-1) < 0.02)[: int(0.9 * len(pixels))]
    rows = np.flatnonzero(orange.any(axis=1))
    assert (np.diff(rows) > 5).sum() >= 2  # three rows of contours, one below the other


def test_label_maps_of_another_shape_are_refused(tmp_path, monkeypatch):
    drawn = Drawn(tmp_path, cases=1).write()
    monkeypatch.setenv("nnUNet_raw", str(drawn.raw.parent))
    model = TrainedModel(make_model(drawn, "a", folds=1, epochs=1))
    image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8))
    sitk.WriteImage(image, str(tmp_path / "other.nii.gz"))
    truth = model.reference_file(drawn.case(0), None)
    with pytest.raises(ValueError, match="has 4×3×2 voxels .* its image has 96×72×6 voxels"):
        read_case_slices(
            model, images=model.image_files(drawn.case(0)), truth=truth,
            predictions={"prediction": tmp_path / "other.nii.gz"},
        )  # fmt: skip
