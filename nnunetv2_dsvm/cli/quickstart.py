"""`nnUNetv2_dsvm quickstart`: the main job on real CT, from the download to a table and a picture to judge it by."""

import argparse
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.datasets.splits import write_grouped_splits
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.nnunet.project import NnUNetProject
from nnunetv2_dsvm.quickstart.output_folder import OutputFolder
from nnunetv2_dsvm.quickstart.phantom import write_phantom
from nnunetv2_dsvm.quickstart.reduced_plans import write_reduced_plans
from nnunetv2_dsvm.quickstart.result import evaluate, write_baselines, write_result
from nnunetv2_dsvm.quickstart.totalsegmentator_example import slab_of, write_totalsegmentator_example
from nnunetv2_dsvm.version import __version__

EPOCHS = (1, 5, 10, 20, 50, 100, 250, 500, 1000)  # the lengths of the trainer's variants
PLANS = "nnUNetPlans_quickstart"
DEFAULT_OUTPUT = "nnUNetv2_dsvm_quickstart"

DESCRIPTION = """\
Trains a small DSVM-UNet with stock nnU-Net and tests it on a person it has not seen: fetches two CT scans (38 MB,
once), writes an nnU-Net dataset (train on slabs of one person, test on the other), and runs nnU-Net's own commands:
plan and preprocess, train, predict, evaluate. Each is printed before it runs. The output folder gets a table of Dice
per organ beside a trivial baseline (result.md, .csv, .json) and a picture (overlay.png).

Interrupted, the same command again goes on where it stopped. Your own nnUNet_raw, nnUNet_preprocessed and
nnUNet_results are not touched."""


@dataclass(frozen=True)
class Data:
    """A dataset the quickstart can run on, and the sizes that train on it in minutes with two CPU cores."""

    dataset: str
    test_case: str
    note: str
    write: Callable[[Path], None]
    group_of: Callable[[str], str]  # cases of one group share a fold
    network: Mapping[str, Any]
    largest_patch_size: tuple[int, int]
    batch_size: int


REAL_CT = Data(
    dataset="Dataset900_DSVMQuickstart",
    test_case="a second person's CT",
    note="Trained on slabs of one person's CT without contrast agent, as it is and with a simulated agent; tested on "
    "another person's CT with contrast agent. The labels, the truth here, were made by a model and not corrected.",
    write=write_totalsegmentator_example,
    group_of=slab_of,
    network={
        "dims": [32, 64, 128, 256],
        "encoder_depths": [1, 1, 1, 1],
        "decoder_depths": [1, 1, 1, 1],
        "d_state": 4,
        "drop_path_rate": 0.0,
    },
    largest_patch_size=(112, 128),
    batch_size=2,
)
PHANTOM = Data(
    dataset="Dataset901_DSVMPhantom",
    test_case="a generated phantom",
    note="Trained and tested on generated phantoms, ellipsoids with the HU of organs: this shows that everything runs, "
    "and nothing about real images.",
    write=write_phantom,
    group_of=str,
    network={
        "dims": [16, 32, 64],
        "encoder_depths": [1, 1, 1],
        "decoder_depths": [1, 1, 1],
        "d_state": 2,
        "drop_path_rate": 0.0,
    },
    largest_patch_size=(64, 64),
    batch_size=2,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("--output", type=Path, default=Path(DEFAULT_OUTPUT), metavar="FOLDER",
                        help="where everything goes, nnU-Net's folders too (default: ./%(default)s)")  # fmt: skip
    parser.add_argument("-device", "--device", choices=("cpu", "cuda", "mps"), default="cpu",
                        help="as nnU-Net names it (default: %(default)s)")  # fmt: skip
    parser.add_argument("--epochs", type=int, choices=EPOCHS, default=5, metavar="N",
                        help=f"one of {', '.join(map(str, EPOCHS))} (default: %(default)s)")  # fmt: skip
    parser.add_argument("--folds", choices=("0", "all"), default="0",
                        help="'all': five folds, nnUNetv2_find_best_configuration, and prediction with the ensemble, "
                             "about five times as long (default: %(default)s)")  # fmt: skip
    parser.add_argument("--synthetic", action="store_true",
                        help="use a generated phantom instead of CT: needs no network")  # fmt: skip
    parser.add_argument("--keep", action="store_true",
                        help="keep what can be recomputed too (preprocessed arrays, probabilities); without it they "
                             "are removed at the end, while data, plans, models and predictions stay")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    try:
        with _terminated_like_interrupted():
            _run(args)
    except KeyboardInterrupt:
        print(f"\nInterrupted. To go on where it stopped: {_this_command(args)}", file=sys.stderr)
        return 130
    return 0


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, which ends nnU-Net's processes too.

    The handler is put back afterwards: processes forked later would inherit it, and a pool that terminates them may
    then wait forever for one that was in the midst of something that swallows exceptions.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(args: argparse.Namespace) -> None:
    _check_device(args.device)
    data = PHANTOM if args.synthetic else REAL_CT
    folds = [0, 1, 2, 3, 4] if args.folds == "all" else [0]
    folder = args.output.absolute()
    output = OutputFolder(folder, {"data": data.dataset, "epochs": args.epochs, "folds": args.folds})
    project = NnUNetProject(
        folder=folder,
        dataset=data.dataset,
        plans=PLANS,
        trainer=f"nnUNetTrainerDSVM_{args.epochs}epochs_quickstart",  # the patients lie as patients do
        device=args.device,
        processes=min(2, os.cpu_count() or 1),
    )
    print("Each nnU-Net command below can be repeated by hand, in a shell with")
    for name, value in project.variables().items():
        print(f"  export {name}={shlex.quote(value)}")

    def step(name: str, action: Callable[[], Any]) -> None:
        print(f"\n=== {name}{' (done before)' if output.is_finished(name) else ''}", flush=True)
        output.once(name, action)

    images, prediction, baselines = project.raw / "imagesTs", folder / "prediction", folder / "baselines"
    step("data", lambda: data.write(project.raw))
    step("plan and preprocess", project.plan_and_preprocess)
    step("reduce the plans", lambda: _reduce_plans(project, data))
    for fold in folds:
        step(f"train fold {fold}", lambda fold=fold: project.train(fold, save_probabilities=len(folds) > 1))
    if len(folds) == 1:
        step("predict", lambda: project.predict(images, prediction, folds))
    else:
        ensemble = folder / "prediction_before_postprocessing"
        step("find the best configuration", lambda: project.find_best_configuration(folds))
        step("predict", lambda: project.predict(images, ensemble, folds))
        step("postprocess", lambda: project.apply_postprocessing(ensemble, prediction))
    step("baselines", lambda: write_baselines(project.raw, baselines))
    step("evaluate", lambda: evaluate(project, prediction, baselines))

    print("\n=== result")
    seconds = output.finished_s
    details = {"version": __version__, "epochs": args.epochs, "folds": folds, "device": args.device, "seconds": seconds}
    title = f"DSVM-UNet on {data.test_case} after {args.epochs} epoch{'s' if args.epochs > 1 else ''}"
    text = write_result(project, prediction, baselines, title=title, note=data.note, details=details)
    if not args.keep:
        project.remove_what_can_be_recomputed()
    print(f"\n{text}")
    print(f"Took {sum(seconds.values()) / 60:.1f} minutes ({', '.join(f'{k} {v:.0f} s' for k, v in seconds.items())})")
    print(f"Table:   {folder / 'result.md'} (.csv, .json)")
    print(f"Picture: {folder / 'overlay.png'}")
    print(f"Model:   {project.model}")
    if not args.keep:
        print(
            "The preprocessed arrays were removed (--keep keeps them). To train again by hand, bring them back first:"
        )
        print(f"  {project.preprocess_again_command()}")


def _reduce_plans(project: NnUNetProject, data: Data) -> None:
    path = write_reduced_plans(
        project.preprocessed,
        project.plans,
        network=data.network,
        largest_patch_size=data.largest_patch_size,
        batch_size=data.batch_size,
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


def _this_command(args: argparse.Namespace) -> str:
    words = ["nnUNetv2_dsvm", "quickstart", "--output", str(args.output), "-device", args.device]
    words += ["--epochs", str(args.epochs), "--folds", args.folds]
    words += [flag for flag, given in (("--synthetic", args.synthetic), ("--keep", args.keep)) if given]
    return shlex.join(words)
