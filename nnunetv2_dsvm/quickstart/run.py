"""The quickstart as one call: data, plans, training, prediction, baselines, evaluation, table and picture."""

import os
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from nnunetv2_dsvm.datasets.splits import write_grouped_splits
from nnunetv2_dsvm.errors import UserError, check_choice
from nnunetv2_dsvm.nnunet.project import NnUNetProject
from nnunetv2_dsvm.quickstart.data import PHANTOM, REAL_CT, Data
from nnunetv2_dsvm.quickstart.output_folder import OutputFolder
from nnunetv2_dsvm.quickstart.plans import write_reduced_plans
from nnunetv2_dsvm.quickstart.result import evaluate, write_baselines, write_result
from nnunetv2_dsvm.version import __version__

PLANS = "nnUNetPlans_quickstart"
EPOCHS = (1, 5, 10, 20, 50, 100, 250, 500, 1000)  # there is a trainer of each length
DEVICES = ("cpu", "cuda", "mps")
CONFIGURATIONS = ("2d", "3d_fullres")
FOLDS = {"0": [0], "all": [0, 1, 2, 3, 4]}


def quickstart(
    output: Path | str,
    *,
    device: Literal["cpu", "cuda", "mps"] = "cpu",
    epochs: int = 5,
    folds: Literal["0", "all"] = "0",
    configuration: Literal["2d", "3d_fullres"] = "2d",
    synthetic: bool = False,
    keep: bool = False,
) -> NnUNetProject:
    """Train a small DSVM-UNet with nnU-Net's own commands, predict and evaluate; printed step by step.

    Called again with the same `output` it goes on where it stopped.

    Args:
        output: where everything goes, nnU-Net's folders too. Made if it is missing; else one that an earlier call with
            the same epochs, folds, configuration and data has made.
        device: as nnU-Net names it.
        epochs: one of `EPOCHS`.
        folds: fold 0 alone, or all five, whose ensemble predicts.
        configuration: slices, or volumes.
        synthetic: on a generated phantom instead of CT; needs no network.
        keep: keep what can be recomputed, preprocessed arrays and probabilities.

    Returns:
        The project with the data, plans and model; `output` holds result.md, .csv, .json and overlay.png.

    Raises:
        UserError: the device or the folder cannot be used, a download or one of nnU-Net's commands failed.
        ValueError: there is no trainer of that length.
    """
    if epochs not in EPOCHS:
        raise ValueError(f"epochs={epochs}, expected one of {', '.join(map(str, EPOCHS))}")
    check_choice("device", device, DEVICES)
    check_choice("folds", folds, FOLDS)
    check_choice("configuration", configuration, CONFIGURATIONS)
    _check_device(device)
    data = PHANTOM if synthetic else REAL_CT
    folder = Path(output).absolute()
    options = {"data": data.dataset, "epochs": epochs, "folds": folds}
    if configuration != "2d":
        options["config"] = configuration
    finished = OutputFolder(folder, options)
    project = NnUNetProject(
        folder=folder,
        dataset=data.dataset,
        plans=PLANS,
        trainer=f"nnUNetTrainerDSVM_{epochs}epochs_quickstart",  # the patients lie as patients do
        device=device,
        processes=min(2, os.cpu_count() or 1),
        configuration=configuration,
    )
    print("Each nnU-Net command below can be repeated by hand, in a shell with")
    for name, value in project.variables().items():
        print(f"  export {name}={shlex.quote(value)}")

    prediction, baselines = folder / "prediction", folder / "baselines"
    _run_steps(finished, project, data, FOLDS[folds], prediction, baselines)

    print("\n=== result")
    seconds = finished.finished_s
    text = write_result(
        project,
        prediction,
        baselines,
        title=f"DSVM-UNet{' in 3D' * (configuration != '2d')} on {data.test_case} after {epochs} "
        f"epoch{'s' if epochs > 1 else ''}",
        note=data.note,
        details={
            "version": __version__,
            "epochs": epochs,
            "folds": FOLDS[folds],
            "configuration": configuration,
            "device": device,
            "seconds": seconds,
        },
    )
    if not keep:
        project.remove_what_can_be_recomputed()
    print(f"\n{text}")
    print(f"Took {sum(seconds.values()) / 60:.1f} minutes ({', '.join(f'{k} {v:.0f} s' for k, v in seconds.items())})")
    print(f"Table:   {folder / 'result.md'} (.csv, .json)")
    print(f"Picture: {folder / 'overlay.png'}")
    print(f"Model:   {project.model}")
    if not keep:
        print(
            "The preprocessed arrays were removed (--keep keeps them). To train again by hand, bring them back first:"
        )
        print(f"  {project.preprocess_again_command()}")
    return project


def _run_steps(
    finished: OutputFolder, project: NnUNetProject, data: Data, folds: list[int], prediction: Path, baselines: Path
) -> None:
    """All that takes long, each step once."""

    def step(name: str, action: Callable[[], object]) -> None:
        print(f"\n=== {name}{' (done before)' if finished.is_finished(name) else ''}", flush=True)
        finished.once(name, action)

    images = project.raw / "imagesTs"
    step("data", lambda: data.write(project.raw))
    step("plan and preprocess", project.plan_and_preprocess)
    step("reduce the plans", lambda: _reduce_plans(project, data))
    for fold in folds:
        step(f"train fold {fold}", partial(project.train, fold, save_probabilities=len(folds) > 1))
    if len(folds) == 1:
        step("predict", lambda: project.predict(images, prediction, folds))
    else:
        ensemble = project.folder / "prediction_before_postprocessing"
        step("find the best configuration", lambda: project.find_best_configuration(folds))
        step("predict", lambda: project.predict(images, ensemble, folds))
        step("postprocess", lambda: project.apply_postprocessing(ensemble, prediction))
    step("baselines", lambda: write_baselines(project.raw, baselines))
    step("evaluate", lambda: evaluate(project, prediction, baselines))


def _reduce_plans(project: NnUNetProject, data: Data) -> None:
    sizes = data.sizes[project.configuration]
    path = write_reduced_plans(
        project.preprocessed,
        project.plans,
        network=sizes.network,
        largest_patch_size=sizes.largest_patch_size,
        batch_size=sizes.batch_size,
        configuration_name=project.configuration,
    )
    print(f"Wrote {path}: nnU-Net's plans with a small VM-UNet, patch and batch")
    print(f"Wrote {write_grouped_splits(project.preprocessed, data.group_of)}: the five folds")


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    import torch  # takes seconds: only where it is needed

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device]
    if not available:
        raise UserError(f"-device {device}: PyTorch {torch.__version__} finds no such device here; use -device cpu")
