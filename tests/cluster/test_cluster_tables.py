"""The tables of a cross-validation, by an independent computation."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.cross_validations import asked
from helpers.report_models import SECONDS, Drawn, make_model
from scipy import stats

from nnunetv2_dsvm.cluster.results import write_results
from nnunetv2_dsvm.cluster.run_folder import RunFolder, State
from nnunetv2_dsvm.errors import UserError


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    """Two trainers with two seeds each, one of them trained for fewer epochs; the run that has written its results."""
    root = tmp_path_factory.mktemp("seeds")
    drawn, dice = Drawn(root, "RGB", cases=8, size=(40, 48)).write(), {}
    for seed in (1, 2):
        for trainer, shift, epochs in (("A", 1, 40), ("B", 2, 30)):
            model = make_model(drawn, trainer, shift=shift * seed, epochs=epochs)
            per_case = {}
            for summary in model.glob("fold_*/validation/summary.json"):
                for case in json.loads(summary.read_text())["metric_per_case"]:
                    per_case[Path(case["prediction_file"]).name] = case["metrics"]["1"]["Dice"]
            dice[trainer, seed] = np.array([per_case[name] for name in sorted(per_case)])
        (root / "nnUNet_results" / f"seed_{seed}").mkdir()
        shutil.move(drawn.results, root / "nnUNet_results" / f"seed_{seed}" / drawn.name)
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("raw", "results", "preprocessed"):
            patch.setenv(f"nnUNet_{kind}", str(root / f"nnUNet_{kind}"))
        request = asked(datasets=(drawn.name,), plans=("nnUNetPlans",), trainers=("A", "B", "C"), seeds=(1, 2))
        run = RunFolder(root / "run").write_request(request)
        for fold, mib in ((0, 2048.0), (1, 3072.0)):
            step = f"train__{drawn.name}__A__nnUNetPlans__2d__seed_2__fold_{fold}"
            run.write_state(step, State("done", gpu_memory_mib=mib))
        write_results(run)
    return run, dice


def rows(run: RunFolder, file: str) -> list[dict[str, str]]:
    return list(csv.DictReader((run.path / file).read_text().splitlines()))


def test_seeds_are_averaged_case_by_case(two_seeds):
    run, dice = two_seeds
    a, b = rows(run, "results.csv")  # nothing of C, which was not trained
    for row, trainer, epochs in ((a, "A", 40), (b, "B", 30)):
        of_cases = (dice[trainer, 1] + dice[trainer, 2]) / 2
        assert float(row["dice"]) == pytest.approx(of_cases.mean())
        interval = stats.bootstrap((of_cases,), np.mean, method="percentile", random_state=1).confidence_interval
        assert float(row["ci95_low"]) == pytest.approx(interval.low, abs=0.01)
        assert float(row["ci95_high"]) == pytest.approx(interval.high, abs=0.01)
        means = [dice[trainer, seed].mean() for seed in (1, 2)]
        assert float(row["std_over_seeds"]) == pytest.approx(np.std(means, ddof=1))
        assert float(row["hours"]) == pytest.approx(2 * epochs * SECONDS / 3600)  # two folds
        assert (row["seeds"], row["cases"], row["epochs"], row["parameters"]) == ("2", "8", str(epochs), "12")
    assert (a["gpu_memory_gib"], b["gpu_memory_gib"]) == ("3.0", "")


def test_differences_are_of_pairs_of_cases(two_seeds):
    run, dice = two_seeds
    (row,) = rows(run, "differences.csv")
    differences = (dice["A", 1] + dice["A", 2] - dice["B", 1] - dice["B", 2]) / 2
    assert (row["first"], row["second"], row["n"]) == ("A", "B", "8")
    assert float(row["mean_difference"]) == pytest.approx(differences.mean())
    assert float(row["p_value"]) == pytest.approx(stats.wilcoxon(differences).pvalue)


def test_intervals_and_holm_of_three_models_with_classes_that_some_cases_lack(tmp_path, monkeypatch):
    """Invented Dice: the mean of the classes' means, its interval, and p corrected for three pairs."""
    drawn, random = Drawn(tmp_path, "CT", cases=8, size=(16, 24)).write(), np.random.default_rng(7)
    dice = {}
    for trainer in ("A", "B", "C"):
        invented = random.uniform(0.6, 0.9, (8, 2)) - [[0, 0.4]]
        invented[:4, 1] = np.nan  # the second class is rare, and bad
        of_cases = {}
        for file in make_model(drawn, trainer).glob("fold_*/validation/summary.json"):
            summary = json.loads(file.read_text())
            for case in summary["metric_per_case"]:
                values = invented[len(of_cases)]
                of_cases[Path(case["prediction_file"]).name] = values
                case["metrics"]["1"]["Dice"], case["metrics"]["2"]["Dice"] = values
            file.write_text(json.dumps(summary))
        dice[trainer] = np.array([of_cases[name] for name in sorted(of_cases)])
    for kind in ("raw", "results", "preprocessed"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / f"nnUNet_{kind}"))
    request = asked(datasets=(drawn.name,), plans=("nnUNetPlans",), trainers=("A", "B", "C"))
    run = RunFolder(tmp_path / "run").write_request(request)
    write_results(run)

    for row, values in zip(rows(run, "results.csv"), dice.values(), strict=True):
        drawn_cases = values[random.integers(8, size=(3000, 8))]
        sums, n = np.nansum(drawn_cases, axis=1), (~np.isnan(drawn_cases)).sum(axis=1)
        means = [np.mean(of[seen > 0] / seen[seen > 0]) for of, seen in zip(sums, n, strict=True)]
        assert float(row["dice"]) == pytest.approx(np.nanmean(values, axis=0).mean())
        assert float(row["ci95_low"]) == pytest.approx(np.quantile(means, 0.025), abs=0.015)
        assert float(row["ci95_high"]) == pytest.approx(np.quantile(means, 0.975), abs=0.015)
    of_cases = {name: np.nanmean(values, axis=1) for name, values in dice.items()}
    p = [stats.wilcoxon(of_cases[a] - of_cases[b]).pvalue for a, b in ("AB", "AC", "BC")]
    found = rows(run, "differences.csv")
    assert [float(row["p_value"]) for row in found] == pytest.approx(p)
    in_order, largest = np.argsort(p), 0.0
    for rank, which in enumerate(in_order):
        largest = max(largest, min(1, (3 - rank) * p[which]))
        assert float(found[which]["p_value_holm"]) == pytest.approx(largest)

    for file in drawn.results.glob("B__*/fold_*/validation/summary.json"):  # nothing there, and nothing predicted
        summary = json.loads(file.read_text())
        for case in summary["metric_per_case"]:
            case["metrics"]["1"]["Dice"] = case["metrics"]["2"]["Dice"] = np.nan
        file.write_text(json.dumps(summary))
    write_results(run.write_request(asked(datasets=(drawn.name,), plans=("nnUNetPlans",), trainers=("B",))))
    (row,) = rows(run, "results.csv")
    assert [row[name] for name in ("cases", "dice", "ci95_low", "ci95_high")] == ["0", "", "", ""]
    assert not (run.path / "differences.csv").exists()  # those of the other call


def test_each_seed_has_its_report_with_the_whole_table(two_seeds):
    run, _ = two_seeds
    text = (run.path / "results.md").read_text(encoding="utf-8")
    warning = "The budgets of Dataset905_RGB are not matched, the epochs differ: A: 40, B: 30."
    assert "| A | 2 | 2 | 40 | 8 | 0." in text and "| A − B | 8 | +0." in text and text.endswith(f"{warning}\n")
    for seed in (1, 2):
        report = (run.path / f"seed_{seed}" / "report.html").read_text(encoding="utf-8")
        section = report[report.index('id="cross-validation"') : report.index('id="metrics"')]
        assert "A − B" in section and warning in section and "<td>3.0 GiB</td>" in section


def test_without_a_complete_model_there_is_nothing_to_report(tmp_path, folders):
    run = RunFolder(tmp_path / "run").write_request(asked())
    with pytest.raises(UserError, match="no model has all of its folds finished"):
        write_results(run)
