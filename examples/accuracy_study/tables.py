"""Write the study's tables from the CSV files between the markers of a text, or check that they stand there.

    python examples/accuracy_study/tables.py documentation/study.md
    python examples/accuracy_study/tables.py documentation/study.md --check

Between `<!-- study: NAME -->` and `<!-- end of study: NAME -->` go the tables of the stage NAME of `plan.json`, one for
each data set and configuration, with `NAME in short` Dice and the first difference alone; `<!-- study: overview -->` is
one table of the stages that judge the goals, `<!-- study: state -->` says how much of the plan is finished,
`<!-- study: note -->` what the columns are.
"""

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev

import results
from plan import PLAN, Finished, Plan, Stage, Training, patient_of
from scripts import status_of

from nnunetv2_dsvm.evaluation.comparison import shown_p
from nnunetv2_dsvm.evaluation.paired_statistics import (
    CONFIDENCE,
    RESAMPLES,
    EffectSize,
    PairedStatistics,
    effect_sizes,
    holm,
    paired_statistics,
)
from nnunetv2_dsvm.evaluation.summary import case_mean, statistic
from nnunetv2_dsvm.files.atomic_write import write_text

BLOCK = re.compile(r"(<!-- study: (\w+)((?: in short)?) -->\n).*?(<!-- end of study: \2\3 -->)", re.DOTALL)
OFFERED_AS = "_fineStages_noDropPath", "_fine"  # part of a name in the study, and in the package
JUDGES = "told", "told_volumes", "told_volumes_acdc"  # the stages of the overview
Case = Mapping[str, Mapping[str, float]]  # label -> metric -> value, NaN where it is undefined
NOTE = (
    "Dice and HD95: of inference without mirroring, but where a table says so; mean over the labels of the mean over "
    "the cases of all folds named, mean over the seeds ± their "
    "standard deviation, the latter where all seeds have the same folds. (k of n): so many of the trainings of the "
    "row are finished. n: patients (images of PH2). Missed: structures with a Dice but no HD95, of which either "
    "segmentation has nothing, mean over the seeds. Differences: of Dice in points (hundredths), model minus the one "
    "named, over patients, each the mean over frames and seeds, of the folds and seeds that both have: mean and d, "
    f"that mean over their standard deviation, each with its [{CONFIDENCE:.0%} interval, percentiles of {RESAMPLES:,} "
    "bootstrap resamples of the patients], p: two-sided Wilcoxon signed-rank test. Intervals and p tell how patients "
    "vary, not how trainings do, of which each fold and seed has one. p is corrected by Holm for the comparisons of "
    "its table: the same pair may have another p in another table. At once: trainings at a time "
    "on a GPU, `shared` where they shared batches too, as fast as the GPU lets them; the others waited for their own "
    "loading processes. s/epoch: median of a training, comparable only where these are equal, and roughly, for the "
    "last ones have a GPU to themselves: `nnUNetv2_dsvm benchmark` compares the networks. Memory: the most that torch "
    "reserved; hours: all epochs of a training."
)


@dataclass(frozen=True)
class Store:
    """What the CSV files hold."""

    finished: Mapping[str, Finished]
    trainings: Mapping[str, results.Row]
    unmirrored: Mapping[str, Mapping[str, Case]]
    mirrored: Mapping[str, Mapping[str, Case]]

    @classmethod
    def read(cls, folder: Path) -> "Store":
        rows = results.read(folder, "cases.csv")
        trainings = {row["training"]: row for row in results.read(folder, "trainings.csv")}
        return cls(results.finished(folder), trainings, cases_of(rows, ""), cases_of(rows, "_mirrored"))


def cases_of(rows: Sequence[results.Row], suffix: str) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """By training, case and label, from the columns with this at the end of their names."""
    cases: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for row in rows:
        cells = {metric: row[metric + suffix] for metric in ("Dice", "HD95")}
        values = {metric: float(cell) if cell else math.nan for metric, cell in cells.items()}
        cases.setdefault(row["training"], {}).setdefault(row["case"], {})[row["label"]] = values
    return cases


@dataclass(frozen=True)
class Measured:
    """The finished trainings of one model on one data set.

    Args:
        planned: how many there are to be.
        rows: of `trainings.csv`.
        cases: of each, by its name.
    """

    model: str
    trainings: Sequence[Training]
    planned: int
    rows: Sequence[results.Row]
    cases: Mapping[str, Mapping[str, Case]]

    @property
    def title(self) -> str:
        ended = len(self.trainings)
        return short(self.model) + (f" ({ended} of {self.planned})" if ended < self.planned else "")

    @cached_property
    def folds_of_seeds(self) -> dict[int, set[int]]:
        seeds = sorted({training.seed for training in self.trainings})
        return {seed: {t.fold for t in self.trainings if t.seed == seed} for seed in seeds}

    @property
    def places(self) -> set[tuple[int, int]]:
        """Its folds, each with a seed."""
        return {(t.fold, t.seed) for t in self.trainings}

    @property
    def patients(self) -> int:
        return len(self.by_patient(self.places))

    def mean(self, metric: str) -> list[float]:
        """Of each seed, over all its folds."""
        found = []
        for seed in self.folds_of_seeds:
            cases = [case for t in self.trainings if t.seed == seed for case in self.cases[t.name].values()]
            labels = dict.fromkeys(label for case in cases for label in case)
            of_labels = [statistic(case[label][metric] for case in cases if label in case).mean for label in labels]
            found.append(statistic(of_labels).mean)
        return found

    def spread(self, metric: str, digits: int) -> str:
        """Mean over the seeds ± their sample standard deviation, where there are several with the same folds."""
        values, (folds, *others) = self.mean(metric), self.folds_of_seeds.values()
        alike = others and all(of_seed == folds for of_seed in others)
        return f"{fmean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if alike else "")

    def missed(self) -> float:
        """Structures of which the prediction has nothing, or that are not there, so that they have no HD95: a seed."""
        cases = [case for t in self.trainings for case in self.cases[t.name].values()]
        missed = sum(math.isnan(of["HD95"]) and not math.isnan(of["Dice"]) for case in cases for of in case.values())
        return missed / len(self.folds_of_seeds)

    def by_patient(self, places: set[tuple[int, int]]) -> dict[str, float]:
        """Each patient's mean Dice over these folds and seeds, in points."""
        found: dict[str, list[float]] = {}
        for t in self.trainings:
            if (t.fold, t.seed) in places:
                for name, case in self.cases[t.name].items():
                    found.setdefault(patient_of(name), []).append(100 * case_mean(case, "Dice"))
        return {patient: statistic(values).mean for patient, values in found.items()}

    def minus(self, other: "Measured") -> list[float]:
        """The differences of the patients, of the folds and seeds that both have."""
        both = self.places & other.places
        mine, others = self.by_patient(both), other.by_patient(both)
        return [mine[patient] - others[patient] for patient in sorted(mine)]


def finished_models(plan: Plan, stage: Stage, store: Store, dataset: str, configuration: str) -> list[Measured]:
    """A stage's models that have a finished training there."""
    done, cases = store.finished, store.mirrored if stage.mirrored else store.unmirrored
    found = []
    for model in plan.models_of(stage, done):
        planned = plan.of_model(stage, model, dataset, configuration)
        if ended := [t for t in planned if stage.score(t, done) is not None]:
            rows = [store.trainings[training.name] for training in ended]
            found.append(Measured(model, ended, len(planned), rows, cases))
    return found


def tables(plan: Plan, stage: Stage, store: Store, in_short: bool = False) -> str:
    """All tables of a stage, as Markdown."""
    done = store.finished
    wanted = len(plan.trainings_of(stage, done))
    parts = [f"**{stage.title}**: {wanted - len(plan.open_of(stage, done))} of {wanted} trainings are finished."]
    if unknown := len(stage.models) - len(plan.models_of(stage, done)):
        parts[0] += f" Up to {unknown} more models are chosen by the results of others, or are the same as those named."
    for dataset in stage.datasets:
        for configuration in stage.configurations:
            if found := finished_models(plan, stage, store, dataset, configuration):
                unit = plan.datasets[dataset]["distances"]
                lines = table_in_short(found, stage) if in_short else table(found, stage, unit)
                mirrored = ", mirrored at inference" * stage.mirrored
                parts.append(f"{dataset}, {configuration}, {stage.epochs} epochs{mirrored}:\n\n{lines}")
    return "\n\n".join(parts[1:] if in_short and parts[1:] else parts)


def overview(plan: Plan, store: Store) -> str:
    """What the stages of `JUDGES` say of all data sets and configurations, side by side.

    Each model's Dice where all its trainings are finished, and the difference from nnU-Net's own network; then each
    model with distillation minus the one without, of the trainings that both have.
    """
    stages = [stage for stage in plan.stages if stage.name in JUDGES]
    columns = {
        f"{dataset[len('Dataset000_'):]} {configuration}": found
        for stage in stages for dataset in stage.datasets for configuration in stage.configurations
        if (found := {m.model: m for m in finished_models(plan, stage, store, dataset, configuration)})
    }  # fmt: skip
    if not columns:
        return state(plan, store)
    planned = dict.fromkeys(model for stage in stages for model in plan.models_of(stage, store.finished))
    models = [model for model in planned if any(model in found for found in columns.values())]
    pairs = [(model, twin) for model in models if (twin := without_distillation(model, models)) is not None]

    def minus(found: Mapping[str, Measured], model: str, other: str) -> str:
        if model == other or not {model, other} <= found.keys():
            return ""
        s = paired_statistics([found[model].minus(found[other])])[0]
        both = len(found[model].places & found[other].places)
        part = f" of {both} training{'s' * (both > 1)}" if both < found[model].planned else ""
        return f"{mean_of(s)}{part}" if s.n > 1 else ""

    def cell(found: Mapping[str, Measured], model: str) -> str:
        if model not in found:
            return "–"
        m = found[model]
        ended = f"{len(m.trainings)} of {m.planned} trainings"
        dice = m.spread("Dice", 4) if len(m.trainings) == m.planned else ended  # of other folds it would mislead
        return ", ".join(filter(None, [dice, minus(found, model, stages[0].models[0])]))

    heads = [f"{name} (n = {max(m.patients for m in found.values())})" for name, found in columns.items()]
    lines = [[short(model), *(cell(found, model) for found in columns.values())] for model in models]
    lines += [
        [f"{brief(a)} minus {brief(b)}", *(minus(found, a, b) for found in columns.values())]
        for a, b in pairs
    ]  # fmt: skip
    return markdown(["trainer", *heads], lines)


def without_distillation(model: str, models: Sequence[str]) -> str | None:
    """Of a model with distillation the one that it is compared with: its twin, else the main one; None of others."""
    plain = re.sub("Distilled(_tenth|_hundredth)?", "", model.replace("DSVM", "VMUNet"))
    main = "nnUNetTrainerVMUNet_study" if "DSVM" in model else plain
    return next((other for other in (plain, main) if other in models), None) if plain != model else None


def brief(model: str) -> str:
    """A model's name without that of nnU-Net's trainer, which all begin with."""
    return short(model).removeprefix("nnUNetTrainer") or short(model)


def table(found: Sequence[Measured], stage: Stage, unit: str) -> str:
    """One table, the models in the order of the plan."""
    against = [m for name in stage.against for m in found if m.model == name]
    pairs = [
        (model, other) for number, model in enumerate(found) for other in against
        if other is not model and not (model in against and other in found[number:])  # one test, not two
    ]  # fmt: skip
    differences = [model.minus(other) for model, other in pairs]
    measured = paired_statistics(differences)
    told = zip(measured, effect_sizes(differences), holm([s.p_value for s in measured]), strict=True)
    cells = {(a.model, b.model): difference(*values) for (a, b), values in zip(pairs, told, strict=True)}
    heads = [
        "model", "folds", "seeds", "n", "Dice", f"HD95 ({unit})", "missed",
        *(f"minus {short(m.model)}" for m in against), "at once", "s/epoch", "memory", "hours", "parameters",
    ]  # fmt: skip
    lines = []
    for model in found:
        folds = sorted({t.fold for t in model.trainings})
        lines.append([
            model.title, " ".join(map(str, folds)), " ".join(map(str, model.folds_of_seeds)),
            str(model.patients), model.spread("Dice", 4), model.spread("HD95", 2),
            f"{round(model.missed(), 1):g}",
            *(cells.get((model.model, other.model), "") for other in against),
            at_once(model.rows), numbers(model.rows, "epoch_seconds", ".1f"),
            numbers(model.rows, "peak_memory_mib", ",.0f", " MiB"), numbers(model.rows, "hours", ".2f"),
            numbers(model.rows, "parameters", ",.0f"),
        ])  # fmt: skip
    return markdown(heads, lines)


def table_in_short(found: Sequence[Measured], stage: Stage) -> str:
    """Dice of what is finished, and the difference from the first model that the stage compares with."""
    other = next((m for name in stage.against for m in found if m.model == name), None)
    lines = []
    for model in found:
        s = None if other in (None, model) else paired_statistics([model.minus(other)])[0]
        cell = mean_of(s) if s and s.n > 1 else ""
        folds = " ".join(str(fold) for fold in sorted({t.fold for t in model.trainings}))
        seeds = " ".join(map(str, model.folds_of_seeds))
        lines.append([short(model.model), folds, seeds, str(model.patients), model.spread("Dice", 4), cell])
    against = f"points minus {short(other.model)}" if other else "difference"
    return markdown(["model", "folds", "seeds", "n", "Dice", against], lines)


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose first column alone is text."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines))


def short(model: str) -> str:
    """Without what all of the study's trainers have, and the plans that most models have; as the package names it."""
    trainer, _, plans = model.partition("@")
    return re.sub(r"_study(150)?$", "", trainer).replace(*OFFERED_AS) + (
        f", {plans.removeprefix('study').removesuffix('Plans')}" if plans else ""
    )


def difference(s: PairedStatistics, effect: EffectSize, p: float) -> str:
    """The cell of one comparison; of one patient the difference alone, of none nothing."""
    if s.n < 2:
        return f"{s.mean:+.2f}" if s.n else ""
    d = "–" if math.isnan(effect.d) else f"{effect.d:+.2f} [{effect.ci_low:+.2f}, {effect.ci_high:+.2f}]"
    return f"{mean_of(s)}, d {d}, p {shown_p(p)}"


def mean_of(s: PairedStatistics) -> str:
    """A mean difference with its interval."""
    return f"{s.mean:+.2f} [{s.ci_low:+.2f}, {s.ci_high:+.2f}]"


def numbers(rows: Sequence[results.Row], column: str, form: str, unit: str = "") -> str:
    """The mean of a column, where it is known."""
    known = [float(row[column]) for row in rows if row[column]]
    return f"{format(fmean(known), form)}{unit}" if known else "–"


def at_once(rows: Sequence[results.Row]) -> str:
    """How many trainings were on a GPU at the same time, and whether they shared batches."""
    found = {(row["trainings_per_gpu"], " shared" if row["loaders"] == "shared" else "") for row in rows}
    return ", ".join("".join(one) for one in sorted(found)) or "–"


def state(plan: Plan, store: Store) -> str:
    """How much of the plan is finished, in words."""
    wanted = len(plan.trainings(store.finished))
    ended = wanted - len(plan.open(store.finished))
    if not ended:
        return f"Not yet measured: none of the plan's {wanted} trainings is finished."
    return f"{ended} of the plan's {wanted} trainings are finished."


def filled(text: str, plan: Plan, store: Store) -> str:
    """A text with what belongs between its markers."""

    def block(match: re.Match[str]) -> str:
        name, in_short = match[2], bool(match[3])
        fixed = {
            "state": lambda: state(plan, store), "note": lambda: NOTE, "overview": lambda: overview(plan, store),
        }  # fmt: skip
        content = fixed[name]() if name in fixed else tables(plan, plan.stage(name), store, in_short)
        return f"{match[1]}\n{content}\n\n{match[4]}"

    return BLOCK.sub(block, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="+")
    parser.add_argument("--plan", type=Path, default=PLAN, metavar="JSON")
    parser.add_argument("--results", type=Path, default=results.RESULTS, metavar="FOLDER", help="of the CSV files")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where a text is not up to date")
    args = parser.parse_args()
    plan, store, outdated = Plan.read(args.plan), Store.read(args.results), 0
    for path in args.text:
        text = path.read_text(encoding="utf-8")
        new = filled(text, plan, store)
        if new != text:
            outdated += 1
            print(f"{path} {'is not up to date' if args.check else 'was written'}")
            if not args.check:
                write_text(path, new)
    return int(args.check and outdated > 0)


if __name__ == "__main__":
    sys.exit(status_of(main))
