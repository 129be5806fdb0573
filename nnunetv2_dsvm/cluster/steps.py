"""The steps of a cross-validation and what each waits for: data only, nothing of how or where they run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnunetv2_dsvm.cluster.request import BEFORE_CASCADE, CASCADE, Model, Request
from nnunetv2_dsvm.nnunet.names import fold_folder

Kind = Literal["prepare", "train", "best", "predict", "evaluate", "report"]


@dataclass(frozen=True)
class Step:
    """One piece of work, in a process of its own.

    Args:
        name: unlike every other's, and good for a file.
        kind: what is done.
        dataset: that it is about; empty for the report, which is about all of them.
        seed: of the results folder; None: nnU-Net's own.
        model: of a training and of an evaluation.
        fold: of a training.
        after: names of the steps that must have ended well before.
        after_any: names of those that must have ended, well or not.
    """

    name: str
    kind: Kind
    dataset: str = ""
    seed: int | None = None
    model: Model | None = None
    fold: str = ""
    after: tuple[str, ...] = ()
    after_any: tuple[str, ...] = ()

    @property
    def needs_gpu(self) -> bool:
        return self.kind in ("train", "predict")


def steps_of(request: Request) -> list[Step]:
    """All steps, each behind those that it waits for.

    The best configuration and the ensemble's prediction are those of several folds: one fold alone has neither.
    """
    steps: dict[str, Step] = {}

    def add(step: Step) -> str:
        steps[step.name] = step
        return step.name

    prepared = {dataset: add(Step(f"prepare__{dataset}", "prepare", dataset)) for dataset in request.datasets}
    everything: list[str] = []
    for dataset, seed in request.groups():
        trained: dict[Model, tuple[str, ...]] = {}
        for model in sorted(request.models(dataset, seed), key=lambda model: model.configuration == CASCADE):
            stage_before = trained.get(model._replace(configuration=BEFORE_CASCADE), ())
            after = (prepared[dataset], *(stage_before if model.configuration == CASCADE else ()))
            trained[model] = tuple(
                add(
                    Step(
                        _name("train", model, fold_folder(Path(), fold).name),
                        "train",
                        dataset,
                        seed,
                        model,
                        fold,
                        after,
                    )
                )
                for fold in request.folds
            )
        all_trained = tuple(name for names in trained.values() for name in names)
        best: tuple[str, ...] = ()
        if len(request.folds) > 1:
            best = (add(Step(_name("best", dataset, seed), "best", dataset, seed, after=all_trained)),)
            if dataset in request.predicted:
                everything.append(add(Step(_name("predict", dataset, seed), "predict", dataset, seed, after=best)))
        for model in request.models(dataset, seed):
            # nnU-Net empties the folder of the metrics when it finds the best configuration.
            step = Step(_name("evaluate", model), "evaluate", dataset, seed, model, "", trained[model], best)
            everything.append(add(step))
    add(Step("report", "report", after_any=tuple(everything)))
    return list(steps.values())


def _name(kind: str, *parts: str | int | Model | None) -> str:
    names = [kind]
    for part in parts:
        if isinstance(part, Model):
            names += [part.dataset, part.folder_name, *_seed(part.seed)]
        else:
            names += _seed(part) if part is None or isinstance(part, int) else [part]
    return "__".join(names)


def _seed(seed: int | None) -> list[str]:
    return [] if seed is None else [f"seed_{seed}"]
