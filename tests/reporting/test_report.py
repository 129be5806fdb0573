"""`nnUNetv2_dsvm report`: the HTML in a real browser, its numbers, and what happens when something is missing."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from helpers.browser import Browser
from helpers.examples_in_docstrings import run_example
from helpers.report_models import Drawn, dice_and_iou, make_model, shifted
from helpers.runs_code import RunsCode
from helpers.short_trainers import ShortDSVM_UMambaBot, ShortRun, tiny_architecture, without_pictures
from helpers.tiny_dataset import PLANS
from helpers.tiny_relatives import TINY
from scipy.stats import bootstrap, wilcoxon

import nnunetv2_dsvm
from nnunetv2_dsvm.architecture.relatives.u_mamba import UMambaBot
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.nnunet.trained_model import find_models
from nnunetv2_dsvm.reporting import api
from nnunetv2_dsvm.reporting.curves import read_curves

GENERATOR = '<meta name="generator" content="nnunetv2_dsvm">'


def dice_of(drawn: Drawn, shift: int, values: tuple[int, ...]) -> list[float]:
    return [dice_and_iou(drawn.truth(i), shifted(drawn.truth(i), shift * i), values)[0] for i in range(drawn.cases)]


def spread_of_dice(drawn: Drawn, shift: int, values: tuple[int, ...]) -> str:
    dice = dice_of(drawn, shift, values)
    return f"{np.mean(dice):.3f} ± {np.std(dice, ddof=1):.3f}"


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    """Two models of a CT dataset: ours, and a stock nnU-Net trainer; neither was evaluated by us."""
    drawn = Drawn(tmp_path_factory.mktemp("ct")).write()
    make_model(drawn, "nnUNetTrainerDSVM", shift=1)
    make_model(drawn, "nnUNetTrainer", shift=2, ours=False)
    return drawn


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One case, one fold, no distillation: soon drawn."""
    drawn = Drawn(tmp_path_factory.mktemp("small"), "RGB", cases=1).write()
    make_model(drawn, "nnUNetTrainerDSVM", folds=1, epochs=2, ours=False)
    return drawn


@pytest.fixture
def report(monkeypatch, tmp_path):
    """report(drawn, *options): run the command on a drawn dataset; the exit status, and the report's folder."""
    out = tmp_path / "out"

    def run(drawn, *options):
        for name in ("nnUNet_raw", "nnUNet_results"):
            monkeypatch.setenv(name, str(drawn.root / name))
        monkeypatch.delenv("nnUNet_preprocessed", raising=False)
        return main(["report", "-d", "905", "-o", str(out), *map(str, options)]), out

    return run


def test_two_models_side_by_side_in_a_browser(ct, report, tmp_path):
    browser = Browser(tmp_path)
    status, out = report(ct, "-tr", "nnUNetTrainerDSVM", "nnUNetTrainer", "-f", "0", "1")
    assert status == 0
    seen = browser.look(out / "report.html")
    assert seen["title"] == "Dataset905_CT: report" and seen["loaded"] == []
    assert seen["headings"] == ["Models", "Metrics", "Cases", "Training"]

    facts, metrics, all_cases = seen["tables"]
    assert facts["rows"][0] == ["", "nnUNetTrainerDSVM", "nnUNetTrainer"]
    facts = {row[0]: row[1:] for row in facts["rows"]}
    assert facts["parameters"] == ["12"] * 2
    assert facts["time per epoch (median)"] == ["2.5 s"] * 2
    assert facts["training time"] == ["3 min 20 s (2 folds)"] * 2  # of 40 epochs
    titles, heads, *rows = metrics["rows"]
    assert titles == ["class", "nnUNetTrainerDSVM", "nnUNetTrainer", "nnUNetTrainerDSVM − nnUNetTrainer"]
    assert heads == ["mean", "95 % interval", "p"]
    classes = ["liver", "left kidney", "mean"]
    assert [row[0] for row in rows] == ["Dice ↑", *classes, "IoU ↑", *classes]
    assert rows[1][1:3] == [spread_of_dice(ct, shift, (1,)) for shift in (1, 2)]
    ours, stock = (dice_of(ct, shift, (1,)) for shift in (1, 2))
    difference = np.subtract(ours, stock)
    assert rows[1][3] == f"{difference.mean():+.3f}" and difference.mean() > 0.02  # ours is the better one
    low, high = (float(bound) for bound in rows[1][4].strip("[]").split(", "))
    expected = bootstrap([difference], np.mean, method="percentile", n_resamples=20_000).confidence_interval
    assert (low, high) == pytest.approx(tuple(expected), abs=0.004)
    assert rows[1][5] == f"{wilcoxon(difference).pvalue:.2g}"
    assert metrics["height"] > 200
    assert [row[0] for row in all_cases["rows"][1:]] == [f"ct_{i:03d}" for i in (5, 4, 3, 2, 1, 0)]
    assert any("nnUNetv2_dsvm evaluate adds" in note for note in seen["notes"])

    assert len(seen["pictures"]) == 5  # best, median and worst are the same cases for both; two of curves
    for picture in seen["pictures"]:
        assert picture["complete"] and picture["width"] > 700 and picture["shown"] > 400 and picture["alt"]
    assert "slice 4 of 6" in seen["captions"][0] and "window −160 to 240 HU" in seen["captions"][0]
    assert seen["page_width"] <= seen["window_width"]
    assert sorted(path.name for path in out.iterdir()) == [
        "report.html", "report_case_ct_000.png", "report_case_ct_003.png", "report_case_ct_005.png",
        "report_curves_nnUNetTrainer.png", "report_curves_nnUNetTrainerDSVM.png",
    ]  # fmt: skip


def test_one_evaluated_model_of_photographs_in_a_narrow_browser(report, tmp_path):
    browser = Browser(tmp_path)
    drawn = Drawn(tmp_path, "RGB", cases=3).write()
    make_model(drawn, "nnUNetTrainerDSVM", folds=1, evaluated=True)
    status, out = report(drawn)
    assert status == 0
    seen = browser.look(out / "report.html", width=500)
    assert seen["page_width"] <= seen["window_width"]
    metrics = seen["tables"][1]
    assert metrics["rows"][0] == ["class", "Dice ↑", "IoU ↑", "HD95 (mm) ↓", "NSD ↑"]
    as_in_the_file = ["0.500 ± 0.250", "0.500 ± 0.250", "0.50 ± 0.25", "0.500 ± 0.250"]
    assert metrics["rows"][1:] == [["lesion", *as_in_the_file]]  # one class: no mean that repeats it
    assert seen["tables"][0]["rows"][-1][0] == "Dice" and seen["tables"][2]["caption"] == "Dice, the worst first"
    assert not any("mean dice" in text.lower() for text in (*seen["captions"], *seen["notes"]))
    assert "NSD: normalised surface Dice at 2 mm." in seen["notes"]
    assert "The pictures have no spacing: a pixel counts as 1 mm." in seen["notes"]
    assert len(seen["pictures"]) == 4 and "in colour" in seen["captions"][0]

    pixels = browser.screenshot(out / "report.html", 1000, 2600)
    orange, blue, skin = (np.array(rgb) / 255 for rgb in ((0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2), (214, 168, 140)))
    assert (np.abs(pixels - blue).max(axis=-1) < 0.06).sum() > 200, "the contours"
    assert (np.abs(pixels - orange).max(axis=-1) < 0.06).sum() < 50, "not seen on skin"
    assert (np.abs(pixels - skin).max(axis=-1) < 0.1).mean() > 0.05, "the photographs"
    assert (pixels.min(axis=-1) > 0.99).mean() > 0.3, "the paper"


def test_what_cannot_be_drawn_is_said_in_the_report(small, report, tmp_path):
    moved = Drawn(tmp_path, "RGB")
    shutil.copytree(small.results, moved.results)
    status, out = report(moved)  # the raw data were not moved
    assert status == 0 and not list(out.glob("report_case_*"))
    assert "No picture: the image is not in nnUNet_raw." in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("reader", "kept"), [("SimpleITKIO", 0.7), ("NibabelIO", 0.7), ("NibabelIO", 0)])
def test_a_broken_label_map_costs_its_picture_only(report, tmp_path, reader, kept):
    drawn = Drawn(tmp_path, "CT", cases=1).write()
    folder = make_model(drawn, "nnUNetTrainerDSVM", folds=1, epochs=2)
    plans = json.loads((folder / "plans.json").read_text())
    (folder / "plans.json").write_text(json.dumps({**plans, "image_reader_writer": reader}))
    (prediction,) = (folder / "fold_0" / "validation").glob("*.nii.gz")
    prediction.write_bytes(prediction.read_bytes()[: int(kept * prediction.stat().st_size)] or b"no image")
    status, out = report(drawn)
    text = (out / "report.html").read_text(encoding="utf-8")
    assert status == 0 and "No picture: " in text and not list(out.glob("report_case_*"))


def test_names_are_escaped(tmp_path, report):
    drawn = Drawn(tmp_path, "RGB", cases=1).write()
    folder = make_model(drawn, "nnUNetTrainerDSVM", folds=1, epochs=2, ours=False)
    description = {**drawn.dataset_json, "labels": {"background": 0, "<script>alert(1)</script> & co": 1}}
    (folder / "dataset.json").write_text(json.dumps(description))
    status, out = report(drawn)
    text = (out / "report.html").read_text(encoding="utf-8")
    assert status == 0 and "<script" not in text and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text), "everything is inside of the file"


def test_an_earlier_report_is_replaced_and_nothing_else(small, report, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("report_case_gone.png", "notes.txt", "own.png", "report_2024_final.png"):
        (out / name).write_text("old")
    (out / "report.html").write_text(f'{GENERATOR}<img title="report_case_gone.png">')
    status, _ = report(small)
    assert status == 0
    names = {path.name for path in out.iterdir()}
    assert {"notes.txt", "own.png", "report_2024_final.png"} < names and "report_case_gone.png" not in names
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_somebody_elses_report_is_not_replaced(small, report, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("own")
    status, _ = report(small)
    assert status == 1 and "was not made by this command" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["report.html"] and (out / "report.html").read_text() == "own"


def test_somebody_elses_picture_is_not_replaced(small, report, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "report_curves_nnUNetTrainerDSVM.png").write_text("mine")
    assert report(small)[0] == 1
    assert "report_curves_nnUNetTrainerDSVM.png in" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["report_curves_nnUNetTrainerDSVM.png"]
    assert (out / "report_curves_nnUNetTrainerDSVM.png").read_text() == "mine"


def test_a_failure_leaves_the_earlier_report(small, report, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text(GENERATOR)

    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(api, "render", full)
    status, _ = report(small)
    assert status == 1 and "No space left on device" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["report.html"] and (out / "report.html").read_text() == GENERATOR


@pytest.mark.parametrize(
    "options, message",
    [
        (["-tr", "nnUNetTrainerX"], "is not a trained model: .* Beside it are: nnUNetTrainerDSVM__nnUNetPlans__2d, "),
        (["-f", "0", "7"], "has no fold 7; it has 0, 1.*\n.*nnUNetv2_train Dataset905_CT 2d 7 -tr nnUNetTrainerDSVM"),
        (["-f", "0,1"], "folds are numbers from 0 or all, got 0,1"),
        (["some_folder"], "give either model folders, or -d"),
    ],
)
def test_what_is_not_there_is_named(ct, report, capsys, options, message):
    status, out = report(ct, *options)
    assert status == 1 and not out.exists()
    assert re.search(message, capsys.readouterr().err)


def test_a_fold_without_validation_is_named(tmp_path, report, capsys):
    drawn = Drawn(tmp_path, "RGB", cases=2)
    folder = make_model_without_images(drawn)
    (folder / "fold_1" / "validation" / "summary.json").unlink()
    assert report(drawn)[0] == 1
    command = "nnUNetv2_train Dataset905_RGB 2d 1 -tr nnUNetTrainerDSVM -p nnUNetPlans --val"
    assert f"nnUNetPlans__2d has no finished validation; make it with {command}" in capsys.readouterr().err
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"half a checkpoint")
    assert report(drawn, "-f", "0")[0] == 1
    assert "(17 bytes) cannot be read" in capsys.readouterr().err


def test_a_checkpoint_that_would_run_code_runs_none_and_costs_its_curves_only(report, tmp_path):
    drawn = Drawn(tmp_path, "RGB", cases=2).write()
    folder = make_model(drawn, "nnUNetTrainerDSVM", epochs=2)
    file, ran = folder / "fold_1" / "checkpoint_final.pth", tmp_path / "ran"
    torch.save({**torch.load(file, weights_only=False), "init_args": RunsCode(os.mkdir, str(ran))}, file)
    status, out = report(drawn)
    text = (out / "report.html").read_text(encoding="utf-8")
    assert status == 0 and not ran.exists()
    assert f"Fold 1 has no curves: {file} was not loaded: it asks for posix.mkdir" in text
    assert "Nothing of it was run" in text and "Fold 0 has no curves" not in text
    assert len(list(out.glob("report_case_*"))) == 2 and len(list(out.glob("report_curves_*"))) == 1
    torch.load(file, weights_only=False)
    assert ran.is_dir()  # it would have


def test_a_call_writes_what_the_command_writes_and_prints_nothing(small, report, tmp_path, monkeypatch, capsys):
    status, by_command = report(small)
    assert status == 0 and "reading metrics and checkpoints …\n" in capsys.readouterr().err
    monkeypatch.chdir(small.results)
    (model,) = small.results.iterdir()
    written = nnunetv2_dsvm.report([model.name], tmp_path / "by_call", folds=["0"])
    assert capsys.readouterr() == ("", "")
    assert {path.name for path in (written.html, *written.pictures)} == {path.name for path in by_command.iterdir()}
    for path in written.pictures:
        assert path.read_bytes() == (by_command / path.name).read_bytes()
    one, other = (re.sub(r"\d\d:\d\d</p>", "", (f / "report.html").read_text("utf-8")) for f in
                  (by_command, tmp_path / "by_call"))  # fmt: skip
    assert one == other and written.results["nnUNetTrainerDSVM"].cases[0].mean_dice == 1
    monkeypatch.chdir(tmp_path)
    (tmp_path / model.name).symlink_to(model)
    run_example(nnunetv2_dsvm.report)
    with pytest.raises(UserError, match="models takes several, in a list"):
        nnunetv2_dsvm.report(model, tmp_path / "by_call")


def test_an_output_folder_that_is_a_file(small, report, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert report(small)[0] == 1
    assert "cannot write into" in capsys.readouterr().err and (tmp_path / "out").read_text() == "mine"


def test_models_of_two_datasets_are_refused(tmp_path, capsys):
    folders = [make_model_without_images(Drawn(tmp_path, kind, cases=2)) for kind in ("CT", "RGB")]
    assert main(["report", *map(str, folders), "-o", str(tmp_path / "out")]) == 1
    assert "different datasets (Dataset905_CT, Dataset905_RGB)" in capsys.readouterr().err


def test_options_that_would_be_ignored_beside_a_model_folder_are_refused(tmp_path, capsys):
    folder, out = make_model_without_images(Drawn(tmp_path, "CT", cases=2)), tmp_path / "out"
    assert main(["report", str(folder), "-tr", "nnUNetTrainer", "-c", "2d", "-o", str(out)]) == 1
    assert "-tr, -c belong to -d ID" in capsys.readouterr().err and not out.exists()


def make_model_without_images(drawn: Drawn):
    return make_model(drawn, "nnUNetTrainerDSVM", epochs=2)


def test_the_report_is_offered(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["report", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("MODEL_FOLDER", "-tr TRAINER", "-o OUT_FOLDER")), shown
    assert os.path.exists(os.path.join(os.path.dirname(api.__file__), "report.html.j2"))


def test_a_relative_has_the_report_of_any_model(tiny_dataset, tmp_path, monkeypatch):
    dataset = tiny_dataset.copy(tmp_path)
    plans = dataset.load_plans()
    plans["configurations"]["2d"].update(tiny_architecture(ShortDSVM_UMambaBot))
    (dataset.preprocessed / f"{PLANS}.json").write_text(json.dumps(plans))
    monkeypatch.setattr(ShortRun, "default_num_epochs", 1)
    with without_pictures():
        dataset.train_here("ShortDSVM_UMambaBot")
    for name, value in dataset.environment.items():
        monkeypatch.setenv(name, value)
    model = dataset.results / f"ShortDSVM_UMambaBot__{PLANS}__2d"
    written = nnunetv2_dsvm.report([model], tmp_path / "out")
    network = UMambaBot(1, 3, **TINY["UMambaBot"])
    assert f">{sum(p.numel() for p in network.parameters()):,}<" in (html := written.html.read_text())
    assert len(written.pictures) > 1 and html.count("data:image/png") == len(written.pictures)
    summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    assert f"{np.mean([case['metrics']['1']['Dice'] for case in summary['metric_per_case']]):.3f}" in html
    curves = read_curves(find_models([model], None, (), "", "")[0], ["0"])
    titles = [panel.title for panel in curves.panels]
    assert titles[-3:] == ["L_proj (projection)", "L_prog (progressive)", "ramp of the distillation"]
