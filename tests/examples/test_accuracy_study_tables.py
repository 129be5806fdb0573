"""The accuracy study: its tables and curves, and the texts that hold them."""

import random
import re
import sys
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from helpers.places import EXAMPLES, STUDY
from helpers.study_rows import outcome_of
from PIL import Image

pytestmark = pytest.mark.usefixtures("study_on_path")


def test_curves_of_a_stage_are_drawn(plan, tmp_path, monkeypatch, capsys):
    import figure
    import results

    command = ["figure.py", "long", "--results", str(tmp_path), "--to", str(tmp_path / "curves.png")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        figure.main()
    assert "no training of long is finished" in capsys.readouterr().err
    curves = [
        [t.name, epoch, 0.5, -0.5, -0.5, 9] for t in plan.trainings_of(plan.stage("long"), {}) for epoch in (0, 1)
    ]
    results.add(tmp_path, [{**drawn(plan, random.Random(0), plan.stage("long")), "curves.csv": curves}])
    figure.main()
    assert Image.open(tmp_path / "curves.png").size[0] > 100


def test_texts_say_what_the_files_say():
    from tables import main

    root = EXAMPLES.parent
    texts = [STUDY / "README.md", root / "documentation" / "study.md", root / "README.md"]
    with mock.patch.object(sys, "argv", ["tables.py", *map(str, texts), "--check"]):
        assert main() == 0, "write them by examples/accuracy_study/tables.py"


def drawn(plan, generator, stage):
    """Results of a stage: two frames of a patient, one of two others; Dice of all labels, HD95 of the first."""
    outcome = {"cases.csv": [], "curves.csv": [], "trainings.csv": []}
    for training in plan.trainings_of(stage, {}):
        for case in ("patient001_frame01", "patient001_frame02", "patient002_frame01", "patient003_frame01"):
            for label in ("RV", "LVC"):
                hd95 = "" if label == "LVC" else round(generator.random() * 9, 3)
                dice = [round(generator.random(), 5) for _ in range(2)]
                outcome["cases.csv"].append([training.name, case, label, dice[0], hd95, dice[1], hd95])
        ran = {"epoch_seconds": 2.0, "parameters": 1000, "hours": 0.5, "trainings_per_gpu": 4 + training.seed}
        ran |= {"loaders": "shared" if training.seed == 2 else 3}
        outcome["trainings.csv"] += outcome_of(training, dice=0.5, dice_mirrored=0.5, **ran)["trainings.csv"]
    return outcome


def test_a_table_is_paired_by_patient_and_corrected_for_its_comparisons(plan, tmp_path):
    import results
    from scipy.stats import wilcoxon
    from tables import Store, filled

    models = ["A_study", "B_study", "C_study"]
    small = replace(plan.stage("fine"), datasets=["Dataset027_ACDC"], folds=[0, 1], models=models,
                    against=models[:1], candidates=())  # fmt: skip
    only = replace(plan, stages=[small])
    results.add(tmp_path, [drawn(only, random.Random(0), small)])
    marked = "before\n<!-- study: fine -->\nold\n<!-- end of study: fine -->\nafter\n"
    text = filled(marked, only, Store.read(tmp_path))
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    assert filled(text, only, Store.read(tmp_path)) == text

    brief = filled(marked.replace("study: fine -->", "study: fine in short -->"), only, Store.read(tmp_path))
    in_short = [[cell.strip() for cell in line.split("|")[1:-1]] for line in brief.splitlines() if line[:2] == "| "]

    named = {t.name: (t.trainer, t.seed, t.fold) for t in only.trainings({})}
    rows = {
        (*named[row["training"]], row["case"], row["label"]): float(row["Dice"])
        for row in results.read(tmp_path, "cases.csv")
    }
    seeds, folds, cases = (1, 2), (0, 1), dict.fromkeys(key[3] for key in rows)

    def dice(model, patient):
        of = [np.mean([rows[model, s, f, case, label] for label in ("RV", "LVC")])
              for s in seeds for f in folds for case in cases if case.startswith(patient)]  # fmt: skip
        return 100 * np.mean(of)

    p_values = []
    for model in ("B_study", "C_study"):
        minus = [
            dice(model, patient) - dice("A_study", patient) for patient in ("patient001", "patient002", "patient003")
        ]
        p_values.append(wilcoxon(minus).pvalue)
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {model.removesuffix('_study')} |"))
        shown = re.search(r"([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\], d ([+-][\d.]+) \[.*\], p ([\d.]+)", line)
        assert float(shown[1]) == pytest.approx(np.mean(minus), abs=0.0051)
        assert float(shown[4]) == pytest.approx(np.mean(minus) / np.std(minus, ddof=1), abs=0.0051)
        # of three patients the 95 % of bootstrap means reach to the extremes
        assert float(shown[2]) == pytest.approx(min(minus), abs=0.0051)
        assert float(shown[3]) == pytest.approx(max(minus), abs=0.0051)
        of_seeds = [np.mean([rows[model, seed, f, c, label] for f in folds for c in cases for label in ("RV", "LVC")])
                    for seed in seeds]  # fmt: skip
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells[1:4] == ["0 1", "1 2", "3"] and cells[6] == str(2 * 4)  # in each seed
        assert cells[-5:-3] == ["5, 6 shared", "2.0"]
        assert cells[4] == f"{np.mean(of_seeds):.4f} ± {np.std(of_seeds, ddof=1):.4f}"
        assert [model.removesuffix("_study"), "0 1", "1 2", "3", cells[4], shown[0].partition(", d")[0]] in in_short
    smaller, larger = sorted(p_values)
    expected = [min(1.0, 2 * smaller), max(min(1.0, 2 * smaller), larger)]
    assert sorted(float(p) for p in re.findall(r"p ([\d.]+) \|", text)) == pytest.approx(expected, abs=0.01)


def test_a_row_that_is_not_complete_says_so_and_a_later_model_is_compared_with_an_earlier_one(plan, tmp_path):
    import results
    from tables import Store, filled

    models = ["A_study", "B_study", "C_study"]
    small = replace(plan.stage("fine"), datasets=["Dataset017_PH2"], folds=[0, 1], models=models,
                    against=["B_study", "A_study"], candidates=())  # fmt: skip
    only = replace(plan, stages=[small])
    outcome = drawn(only, random.Random(0), small)
    gone = [t.name for t in only.trainings({}) if (t.trainer, t.fold) == ("C_study", 1) and t.seed == 2]
    gone += [t.name for t in only.trainings({}) if (t.trainer, t.fold) == ("B_study", 1)]
    kept = {name: [row for row in rows if row[0] not in gone] for name, rows in outcome.items()}

    def lines(outcome, folder):
        results.add(folder, [outcome])
        text = filled("<!-- study: fine -->\n<!-- end of study: fine -->", only, Store.read(folder))
        return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]

    heads, _, a, b, c = lines(kept, tmp_path / "some")
    assert heads[5] == "HD95 (pixels)" and heads[7:9] == ["minus B", "minus A"]
    assert [a[0], b[0], c[0]] == ["A", "B (2 of 4)", "C (3 of 4)"]
    assert "±" in a[4] and "±" in b[4] and "±" not in c[4] + c[5]  # C's seeds have other folds
    assert a[7:9] == ["", ""] and b[7] == "" and "d " in b[8] and "d " in c[7] and "d " in c[8]

    alone = {name: [row for row in rows if name != "cases.csv" or row[1] == "patient003_frame01"]
             for name, rows in outcome.items()}  # fmt: skip
    *_, c = lines(alone, tmp_path / "alone")
    assert c[3] == "1" and re.fullmatch(r"[+-][\d.]+", c[7])


def test_a_stage_with_mirroring_tells_those_scores_alone_and_says_so(plan, tmp_path):
    import results
    from tables import Store, filled

    stage = replace(plan.stage("precision"), mirrored=True)
    only = replace(plan, stages=[stage])
    outcome = drawn(only, random.Random(0), stage)
    first, *_ = only.models_of(stage, {})
    without = {t.name for t in only.of_model(stage, first, stage.datasets[0], "2d")}
    place = results.COLUMNS["trainings.csv"].index("dice_mirrored")
    for row in outcome["trainings.csv"]:
        row[place] = "" if row[0] in without else row[place]
    results.add(tmp_path, [outcome])
    text = filled("<!-- study: precision -->\n<!-- end of study: precision -->", only, Store.read(tmp_path))
    assert "6 of 8 trainings are finished" in text and "2d, 50 epochs, mirrored at inference:" in text
    heads, _, *lines = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    assert heads[4] == "Dice" and len(lines) == 3
    second = only.of_model(stage, stage.models[1], stage.datasets[0], "2d")
    of_seeds = [np.mean([row[5] for row in outcome["cases.csv"] if row[0] == t.name]) for t in second]
    assert lines[0][4] == f"{np.mean(of_seeds):.4f} ± {np.std(of_seeds, ddof=1):.4f}"


def overview(plan, folder):
    """The table's heads and rows."""
    from tables import Store, filled

    text = filled("<!-- study: overview -->\n<!-- end of study: overview -->", plan, Store.read(folder))
    heads, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"
    ] or [[text], []]
    return heads, {row[0]: row[1:] for row in rows}


def test_the_overview_sets_what_judges_the_goals_side_by_side(plan, tmp_path):
    import results
    from tables import Store, filled

    models = ["nnUNetTrainer_study", "nnUNetTrainerVMUNet_study", "nnUNetTrainerDSVM_study"]
    told = replace(plan.stage("told"), datasets=["Dataset017_PH2", "Dataset027_ACDC"], models=models, folds=[1, 2],
                   against=models[:1])  # fmt: skip
    in_3d = replace(plan.stage("told_volumes"), models=models, folds=[1, 2])
    only = replace(plan, stages=[told, in_3d])
    (nothing,), _ = overview(only, tmp_path)
    assert "none of the plan's 18 trainings is finished" in nothing

    outcome = drawn(only, random.Random(0), told)
    gone = [t.name for t in only.trainings({}) if (t.trainer, t.fold, t.dataset) == (models[1], 2, told.datasets[1])]
    results.add(tmp_path, [{name: [row for row in rows if row[0] not in gone] for name, rows in outcome.items()}])
    heads, rows = overview(only, tmp_path)
    assert heads == ["trainer", "PH2 2d (n = 3)", "ACDC 2d (n = 3)"]  # nothing in 3D yet
    base, twin, minus = "nnUNetTrainerVMUNet", "nnUNetTrainerDSVM", "DSVM minus VMUNet"
    assert list(rows) == ["nnUNetTrainer", base, twin, minus]
    brief = filled("<!-- study: told in short -->\n<!-- end of study: told in short -->", only, Store.read(tmp_path))
    for name, column in ((base, 0), (twin, 0), (twin, 1)):
        assert re.fullmatch(r"0\.\d{4}, .*\]", rows[name][column])
        assert f"| {rows[name][column].replace(', ', ' | ', 1)} |" in brief
    assert rows[base][1].startswith("1 of 2 trainings, ") and rows[base][1].endswith("] of 1 training")  # and no Dice
    assert rows[minus][1].endswith("] of 1 training") and rows[minus][0].endswith("]")


def test_the_overview_knows_models_of_later_stages_seeds_and_who_is_whose_twin(plan, tmp_path):
    import results
    from tables import without_distillation

    own, residual, distilled = "nnUNetTrainer_study", "nnUNetTrainer_study@studyResEncMPlans", "nnUNetTrainerDistilled"
    told = replace(plan.stage("told"), datasets=["Dataset017_PH2"], models=[own], folds=[0], seeds=[1, 2])
    in_3d = replace(plan.stage("told_volumes"), models=[own, residual, f"{distilled}_study"], folds=[0], seeds=[1, 2])
    only = replace(plan, stages=[told, in_3d])
    for number, stage in enumerate(only.stages):
        results.add(tmp_path, [drawn(only, random.Random(number), stage)])
    heads, rows = overview(only, tmp_path)
    assert heads[1:] == ["PH2 2d (n = 3)", "Hippocampus 3d_fullres (n = 3)"]
    assert list(rows) == ["nnUNetTrainer", "nnUNetTrainer, ResEncM", distilled, "Distilled minus nnUNetTrainer"]
    assert rows[distilled][0] == "–" and "trainings" not in str(rows)  # both seeds have ended
    twins = ["nnUNetTrainerVMUNet_fine_study", "nnUNetTrainerVMUNet_study", own]
    assert without_distillation("nnUNetTrainerDSVM_fine_study", twins) == twins[0]
    assert without_distillation("nnUNetTrainerDSVM_projection_study", twins) == twins[1]
    assert without_distillation("nnUNetTrainerDistilled_tenth_study", twins) == own
    assert without_distillation(own, twins) is without_distillation(twins[0], twins) is None
