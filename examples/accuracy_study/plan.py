"""The study's plan: which trainings, in the order of their importance, and what is chosen from which results."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from nnunetv2_dsvm.errors import check_choice

PLAN = Path(__file__).parent / "plan.json"
EQUAL = 0.002  # Dice: what is nearer to the best counts as equal to it
CHOSEN, DISTILLED = "chosen of ", ", distilled"
OWN_LOADERS = "_ownLoaders"  # in names of what was trained with them, where others share batches


def patient_of(case: str) -> str:
    """ACDC has two frames of each: `patient001_frame01`."""
    return case.partition("_frame")[0]


class Training(NamedTuple):
    """One training, which its name identifies in every file."""

    dataset: str
    configuration: str
    plans: str
    trainer: str
    fold: int
    seed: int
    epochs: int

    @property
    def name(self) -> str:
        """Short, for it stands in every row."""
        number = self.dataset[len("Dataset") : len("Dataset") + 3]
        return f"{number}-{self.configuration}-{self.plans}-{self.trainer}-f{self.fold}-s{self.seed}"


class Finished(NamedTuple):
    """What the choice needs of a training that has ended; None: not measured."""

    dice: float | None
    dice_mirrored: float | None
    parameters: int


@dataclass(frozen=True)
class Stage:
    """Trainings that are compared: every model on every data set, configuration, fold and seed.

    Args:
        name: for `chosen of NAME`, and of its tables.
        title: of its tables: the question.
        datasets, configurations, folds, seeds, epochs: of all its trainings.
        models: `TRAINER` or `TRAINER@PLANS`; `chosen of NAME` is what another stage's results choose, in any case with
            shared batches, and `chosen of NAME, distilled` its twin with distillation.
        against: the models from which the differences are taken; the first is kept where nothing is better.
        candidates: what is chosen from.
        mirrored: the scores of inference with mirroring count, not those without.
    """

    name: str
    title: str
    datasets: Sequence[str]
    configurations: Sequence[str]
    models: Sequence[str]
    against: Sequence[str]
    folds: Sequence[int] = (0,)
    seeds: Sequence[int] = (1,)
    epochs: int = 50
    candidates: Sequence[str] = field(default=())
    mirrored: bool = False

    def score(self, training: Training, finished: Mapping[str, Finished]) -> float | None:
        """The Dice that counts here; None as long as it is not measured."""
        ended = finished.get(training.name)
        return None if ended is None else ended.dice_mirrored if self.mirrored else ended.dice


@dataclass(frozen=True)
class Plan:
    """All of `plan.json`.

    Args:
        plans: of models that name none.
        copies: the study's plans by name: the plans of nnU-Net's that they are copies of.
        datasets: of each, by configuration, the `minutes` that a training of 50 epochs may take as long as nothing is
            measured, and the `batch` of all networks; and the unit of its
            `distances`: `mm`, or `voxels` or `pixels`, which ignore the spacing.
        slower: how many times longer trainers with this in their names take.
        stages: in the order of their importance.
    """

    plans: str
    copies: Mapping[str, str]
    datasets: Mapping[str, Mapping[str, Any]]
    slower: Mapping[str, float]
    stages: Sequence[Stage]

    @classmethod
    def read(cls, path: Path = PLAN) -> "Plan":
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**content, "stages": [Stage(**stage) for stage in content["stages"]]})

    def stage(self, name: str) -> Stage:
        """A stage by its name.

        Raises:
            UserError: there is none.
        """
        check_choice("stage", name, [stage.name for stage in self.stages])
        return next(stage for stage in self.stages if stage.name == name)

    def configurations(self, dataset: str) -> list[str]:
        """Those in which a data set is trained on."""
        named = (c for stage in self.stages if dataset in stage.datasets for c in stage.configurations)
        return list(dict.fromkeys(named))

    def trainings(self, finished: Mapping[str, Finished]) -> list[Training]:
        """All trainings, each once, in the order of the stages; within a stage seed by seed and fold by fold.

        Args:
            finished: by name. What is chosen from trainings that are not finished is left out until they are.
        """
        return self._once(t for stage in self.stages for t in self.trainings_of(stage, finished))

    def open(self, finished: Mapping[str, Finished]) -> list[Training]:
        """Those of `trainings` that lack a score which one of their stages needs."""
        return self._once(t for stage in self.stages for t in self.open_of(stage, finished))

    def open_of(self, stage: Stage, finished: Mapping[str, Finished]) -> list[Training]:
        """Those of a stage that lack the score which it needs."""
        return [t for t in self.trainings_of(stage, finished) if stage.score(t, finished) is None]

    @staticmethod
    def _once(trainings: Iterable[Training]) -> list[Training]:
        return list({training.name: training for training in trainings}.values())

    def trainings_of(self, stage: Stage, finished: Mapping[str, Finished]) -> list[Training]:
        """Those of a stage."""
        trainings = [
            training
            for dataset in stage.datasets
            for configuration in stage.configurations
            for model in self.models_of(stage, finished)
            for training in self.of_model(stage, model, dataset, configuration)
        ]
        return sorted(trainings, key=lambda t: (stage.seeds.index(t.seed), stage.folds.index(t.fold)))

    def models_of(self, stage: Stage, finished: Mapping[str, Finished]) -> list[str]:
        """Its models, the chosen ones by their names as far as they are known."""
        found = (self._model(model, finished) for model in stage.models)
        return list(dict.fromkeys(model for model in found if model is not None))

    def of_model(self, stage: Stage, model: str, dataset: str, configuration: str) -> list[Training]:
        """The trainings of one model of a stage, on one data set in one configuration."""
        trainer, _, plans = model.partition("@")
        return [
            Training(dataset, configuration, plans or self.plans, trainer, fold, seed, stage.epochs)
            for fold in stage.folds
            for seed in stage.seeds
        ]

    def times_longer(self, trainer: str) -> float:
        """How many times longer than others a trainer takes, as long as it is not measured."""
        return max((times for part, times in self.slower.items() if part in trainer), default=1.0)

    def choice(self, stage: Stage, finished: Mapping[str, Finished]) -> str | None:
        """The candidate that the rule chooses; None until all of them are finished.

        The rule: the mean Dice over the data sets and configurations decides, each the mean over its folds and seeds.
        Candidates that are at most `EQUAL` below the best are equal: of these the first of `against` is kept if it is
        one, and else the one with the fewest parameters, of as many the first in the plan.
        """
        dice, parameters = dict[str, float](), dict[str, float]()
        places = [(dataset, c) for dataset in stage.datasets for c in stage.configurations]
        for model in stage.candidates:
            groups = [self.of_model(stage, model, *place) for place in places]
            scores = [[score for t in group if (score := stage.score(t, finished)) is not None] for group in groups]
            if [*map(len, scores)] != [*map(len, groups)]:
                return None
            dice[model] = fmean(map(fmean, scores))
            parameters[model] = fmean(fmean(finished[t.name].parameters for t in group) for group in groups)
        equal = [model for model in stage.candidates if dice[model] >= max(dice.values()) - EQUAL]
        return stage.against[0] if stage.against[0] in equal else min(equal, key=lambda model: parameters[model])

    def _model(self, model: str, finished: Mapping[str, Finished]) -> str | None:
        if not model.startswith(CHOSEN):
            return model
        stage = self.stage(model.removeprefix(CHOSEN).removesuffix(DISTILLED))
        choice = self.choice(stage, finished)
        found = None if choice is None else choice.replace(OWN_LOADERS, "")
        return found.replace("VMUNet", "DSVM") if found is not None and model.endswith(DISTILLED) else found
