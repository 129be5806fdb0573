"""The commands of each step, nnU-Net's own and this package's, as a user would type them."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_dsvm.cluster.choice import POSTPROCESSING, choosing, members
from nnunetv2_dsvm.cluster.preparation import dataset_number, missing_commands, processes_of_a_command
from nnunetv2_dsvm.cluster.progress import SUMMARY
from nnunetv2_dsvm.cluster.request import BEFORE_CASCADE, CASCADE, Request
from nnunetv2_dsvm.cluster.run_folder import RunFolder, model_folder
from nnunetv2_dsvm.cluster.steps import Step
from nnunetv2_dsvm.files.atomic_write import replaced_folder, set_aside
from nnunetv2_dsvm.nnunet.folders import nnunet_folder
from nnunetv2_dsvm.nnunet.names import CHECKPOINTS, FINAL, PLANS_JSON

Commands = list[list[str]]


@contextmanager
def commands_of(run: RunFolder, step: Step) -> Iterator[Commands]:
    """What a step runs, in this order; what they write takes its place when the block ends without an exception.

    Raises:
        UserError: what an earlier step has written cannot be read.
    """
    request = run.request
    if step.kind == "predict":
        final = run.predictions(step.dataset, step.seed)
        final.parent.mkdir(parents=True, exist_ok=True)
        with replaced_folder(final) as partial:
            yield _predict(run, step, partial)
    elif step.kind == "prepare":
        yield missing_commands(step.dataset, request)
    elif step.kind == "train":
        yield [_train(request, step)]
    elif step.kind == "best":
        with choosing(run, step) as commands:
            yield commands
    elif step.kind == "evaluate":
        yield _evaluate(request, step)
    else:
        yield []


def _train(request: Request, step: Step) -> list[str]:
    assert step.model is not None  # a training has one
    model = step.model
    folder = model_folder(model).fold_folder(step.fold)
    there = [name for name in CHECKPOINTS if (folder / name).is_file()]
    for name in [name for name in there if not _is_whole(folder / name)]:
        there.remove(name)
        set_aside(folder / name, f"unfinished_{name}")
    validated = model_folder(model).validation_folder(step.fold) / SUMMARY
    if FINAL not in there and validated.is_file():  # of an earlier training: this one's would seem to be validated
        set_aside(validated, f"earlier_{SUMMARY}")
    go_on = ["--val"] if FINAL in there else ["--c"] if there else []
    return [
        "nnUNetv2_train", dataset_number(model.dataset), model.configuration, step.fold,
        "-tr", model.trainer, "-p", model.plans, "-device", request.device,
        *(["-num_gpus", str(request.gpus_per_job)] if request.gpus_per_job > 1 else []),
        *(["--npz"] if request.ensembles else []), *go_on,
    ]  # fmt: skip


def _is_whole(checkpoint: Path) -> bool:
    """False of one that nnU-Net's own trainer was writing when it was ended: the end of torch's ZIP is missing."""
    with open(checkpoint, "rb") as file:
        begin = file.read(2)
    return not b"PK".startswith(begin) or zipfile.is_zipfile(checkpoint)


def _predict(run: RunFolder, step: Step, output: Path) -> Commands:
    request, choice = run.request, run.choice(step.dataset, step.seed)
    chosen = members(choice)
    raw = nnunet_folder("raw")
    assert raw is not None  # the request was checked
    images, beside, commands = raw / step.dataset / "imagesTs", output.parent, []

    def predict(trainer: str, plans: str, configuration: str, folder: Path, *options: str) -> None:
        commands.append([
            "nnUNetv2_predict", "-d", dataset_number(step.dataset), "-i", str(images), "-o", str(folder),
            "-tr", trainer, "-p", plans, "-c", configuration, "-f", *request.folds, "-device", request.device, *options,
        ])  # fmt: skip

    folders = [beside / f"member_{number}" for number in range(len(chosen))]
    for folder, (trainer, plans, configuration) in zip(folders, chosen, strict=True):
        options = ["--save_probabilities"] if len(chosen) > 1 else []
        if configuration == CASCADE:
            earlier = folder.with_name(f"{folder.name}_{BEFORE_CASCADE}")
            predict(trainer, plans, BEFORE_CASCADE, earlier)
            options += ["-prev_stage_predictions", str(earlier)]
        predict(trainer, plans, configuration, folder, *options)
    together = folders[0]
    if len(chosen) > 1:
        together = beside / "ensemble"
        commands.append(
            ["nnUNetv2_ensemble", "-i", *map(str, folders), "-o", str(together), "-np", processes_of_a_command()]
        )
    commands.append([
        "nnUNetv2_apply_postprocessing", "-i", str(together), "-o", str(output), "-np", processes_of_a_command(),
        "-pp_pkl_file", str(choice / POSTPROCESSING), "-plans_json", str(choice / PLANS_JSON),
    ])  # fmt: skip
    return commands


def _evaluate(request: Request, step: Step) -> Commands:
    assert step.model is not None  # an evaluation has one
    model = step.model
    which = ["-d", model.dataset, "-tr", model.trainer, "-p", model.plans, "-c", model.configuration]
    return [
        ["nnUNetv2_dsvm", "evaluate", *which, "-f", *request.folds, "--protocol", protocol]
        for protocol in ("nnunet", *request.protocols)
    ]
