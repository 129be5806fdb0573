"""Every command and Python block of README and documentation, run as printed, page by page, with a tiny dataset.

A page is one shell script of its blocks. nnU-Net's commands and ours run inside this process, where the published sizes
of the network are tiny, trainings are an epoch of one step, and a CPU stands in where a command names no device.
`STAND_INS` take the places of folders that a reader puts in; the others, which commands make, keep their names.
"""

import contextlib
import io
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from unittest import mock

import pytest
import torch
from helpers.commands_here import run_script
from helpers.dataset_miniatures import acdc, btcv, isic_official
from helpers.pages import PAGES, ROOT, RUN, Block, blocks
from helpers.quick_nnunet import threads_for_processes
from helpers.tiny_dataset import TinyDataset, write_raw_dataset
from helpers.unets import unet_architecture
from helpers.vmamba_checkpoints import first_generation_shapes, random_weights
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.run import run_training
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunetv2_dsvm import register_trainers
from nnunetv2_dsvm.architecture.vm_unet_sizes import PRESETS, VMUNetSizes
from nnunetv2_dsvm.distillation import unet_stages
from nnunetv2_dsvm.training.layers import distilled

TINY_SIZES = VMUNetSizes((8, 16), (1, 1), (1, 1), d_state=2)
COMMANDS = {entry.name: entry for entry in entry_points(group="console_scripts") if entry.name.startswith("nnUNetv2_")}
RAW, RESULTS = "nnUNet_raw/Dataset027_Heart", "nnUNet_results/Dataset027_Heart"
STAND_INS = {
    "INPUT_FOLDER": f"{RAW}/imagesTs",
    "REFERENCE_FOLDER": f"{RAW}/labelsTs",
    "OTHER_MODEL_FOLDER": f"{RESULTS}/nnUNetTrainerVMUNet__nnUNetPlans__2d",
    "MODEL_FOLDER": f"{RESULTS}/nnUNetTrainerDSVM__nnUNetPlans__2d",
}
# Added to commands where there is no GPU, and no time for processes that import torch.
WITHOUT_DEVICE = {"nnUNetv2_train": ["-device", "cpu"], "nnUNetv2_predict": ["-device", "cpu"]}
ALWAYS = {
    "nnUNetv2_predict": ["-npp", "0", "-nps", "0", "--disable_tta"],
    "nnUNetv2_dsvm evaluate": ["-np", "1"],
    "nnUNetv2_dsvm dataset": ["-np", "1"],
}


@contextlib.contextmanager
def everything_small() -> Iterator[None]:
    """Published sizes are tiny, trainings one step long, and nnU-Net's processes are threads."""
    make_trainer, start = run_training.get_trainer_from_args, DatasetFingerprintExtractor.__init__

    def short_trainer(*arguments, **options):
        trainer = make_trainer(*arguments, **options)
        trainer.num_epochs = trainer.num_iterations_per_epoch = trainer.num_val_iterations_per_epoch = 1
        return trainer

    def few_voxels(self, *arguments, **options):
        start(self, *arguments, **options)
        self.num_foreground_voxels_for_intensitystats = 10_000

    with (
        mock.patch.dict(PRESETS, dict.fromkeys(PRESETS, TINY_SIZES)),
        mock.patch.object(run_training, "get_trainer_from_args", short_trainer),
        mock.patch.object(DatasetFingerprintExtractor, "__init__", few_voxels),
        mock.patch.object(torch, "set_num_threads", lambda count: None),
        # Drawing takes longer than training here; nnU-Net's zip needs its file.
        mock.patch.object(LocalLogger, "plot_progress_png", lambda self, folder: Path(folder, "progress.png").touch()),
        mock.patch.object(distilled, "plot_distillation_progress", lambda *arguments: None),
        threads_for_processes(),
    ):
        yield


def run_command(name: str, *arguments: str) -> None:
    """One of the commands, as `nnUNetv2_…` would run it; raises SystemExit where it fails."""
    device = [] if "-device" in arguments else WITHOUT_DEVICE.get(name, [])
    more = ALWAYS.get(name) or ALWAYS.get(" ".join([name, *arguments[:1]]), [])
    words = [*arguments, *device, *more]
    if [name, *arguments] == ["nnUNetv2_dsvm", "doctor"]:
        return doctor()
    planning = {"nnUNet_n_proc_DA": "1"} if "plan" in " ".join([name, *arguments[:1]]) else {}  # cannot plan with 0
    with mock.patch.dict(os.environ, planning), mock.patch.object(sys, "argv", [name, *words]):
        register_trainers()  # as `import torch` does in a process of the command's own
        if status := COMMANDS[name].load()():
            raise SystemExit(status)


@cache
def doctor() -> None:
    """Run once: it starts several processes."""
    if status := COMMANDS["nnUNetv2_dsvm"].load()(["doctor"]):
        raise SystemExit(status)


def filled_in(code: str) -> str:
    for name, folder in STAND_INS.items():
        code = code.replace(name, folder)
    return code


def run_page(page: Path, within: Path, environment: dict[str, str], names: dict[str, object]) -> str:
    """The page's blocks in their order; Python's share their names. Returns what was printed."""
    python: list[Block] = []
    script = ["set -euo pipefail"]
    for block in blocks(page):
        if block.language == "bash" and not block.not_run:
            script += [f"echo '{block.place}' >&2", filled_in(block.code)]
        elif block.language == "python" and not block.not_run:
            script += [f"echo '{block.place}' >&2", f"run_python_block {len(python)}"]
            python.append(block)
    namespace = {"__name__": "page", **names}

    def run_python_block(number: str) -> None:
        block = python[int(number)]
        first = block.code.splitlines()[0]
        if first.startswith("# ") and first.endswith(".py"):  # a file of the reader's
            file = Path(first.removeprefix("# "))
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.code)
        exec(compile(filled_in(block.code), block.place, "exec"), namespace)

    commands: dict[str, Callable[..., object]] = {name: partial(run_command, name) for name in COMMANDS}
    (within / "bin").mkdir()
    (within / "page.sh").write_text("\n".join(script) + "\n")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), everything_small():
        done = run_script(
            ["bash", "page.sh"],
            commands={**commands, "run_python_block": run_python_block},
            folder=within / "bin",
            environment=environment,
            within=within,
        )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{textwrap.indent(printed.getvalue()[-3000:], '  | ')}"
    return printed.getvalue()


class Project:
    """A user's folder with a dataset 27 in it, raw, planned or trained on."""

    def __init__(self, root: Path) -> None:
        self.root, self.dataset = root, TinyDataset(root, "Dataset027_Heart")

    def run(self, *lines: str) -> None:
        with everything_small(), mock.patch.dict(os.environ, self.dataset.environment):
            for line in lines:
                run_command(*line.split())

    def copy(self, root: Path) -> "Project":
        shutil.copytree(self.root, root, symlinks=True)
        return Project(root)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("raw") / "project")
    write_raw_dataset(project.dataset)
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        (project.root / name).mkdir()
    return project


@pytest.fixture(scope="module")
def planned(raw, tmp_path_factory):
    project = raw.copy(tmp_path_factory.mktemp("planned") / "project")
    project.run("nnUNetv2_plan_and_preprocess -d 27 -c 2d -np 1 -npfp 1")
    return project


@pytest.fixture(scope="module")
def trained(planned, tmp_path_factory):
    """Five folds of DSVM-UNet and of its control, and predictions of the test cases."""
    project = planned.copy(tmp_path_factory.mktemp("trained") / "project")
    for trainer in ("nnUNetTrainerDSVM", "nnUNetTrainerVMUNet"):
        project.run(*(f"nnUNetv2_train 27 2d {fold} -tr {trainer}" for fold in range(5)))
    what = f"-i {project.dataset.raw / 'imagesTs'} -o {project.root / 'PREDICTION_FOLDER'}"
    project.run(f"nnUNetv2_predict -d 27 {what} -c 2d -f 0 -tr nnUNetTrainerDSVM")
    return project


# What a page needs, and a file that must be there after it.
STATES = {
    "README.md": ("raw", ["OUTPUT_FOLDER/metrics_nnunet.json", "REPORT_FOLDER/report.html"]),
    "documentation/start.md": ("raw", ["predictions/metrics_nnunet.json", "report/report.html"]),
    "documentation/installing.md": ("planned", []),
    "documentation/train.md": ("raw", ["OUTPUT_FOLDER/case_005.nii.gz", "model.zip"]),
    "documentation/trainers.md": ("planned", ["nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth"]),
    "documentation/plan.md": ("planned", ["nnUNet_preprocessed/Dataset027_Heart/myPlans.json"]),
    "documentation/pretrained.md": ("planned", ["vmamba.pth"]),
    "documentation/evaluate.md": ("trained", ["METRICS_FOLDER/metrics_synapse.json", "REPORT_FOLDER/report.html"]),
    "documentation/python.md": ("trained", ["model.pt2"]),
    "documentation/distil.md": ("raw", []),
    "documentation/datasets.md": ("raw", [f"nnUNet_raw/{name}/dataset.json" for name in
                                          ("Dataset018_ISIC2018", "Dataset005_Synapse", "Dataset028_ACDC")]),
}  # fmt: skip


def names_for(page: str) -> dict[str, object]:
    """What a page's reader has in Python already."""
    if page == "documentation/trainers.md":
        return {"TheirTrainer": type("TheirTrainer", (nnUNetTrainer,), {})}
    if page == "documentation/distil.md":
        entry = unet_architecture(2)
        network = get_network_from_plans(
            entry["network_class_name"],
            entry["arch_kwargs"],
            entry["_kw_requires_import"],
            1,
            2,
            deep_supervision=False,
        )
        encoder, decoder = unet_stages(network, from_stride=1)
        batches = [(torch.randn(2, 1, 64, 64), torch.randint(2, (2, 64, 64))) for _ in range(2)]
        return {"network": network, "encoder": encoder, "decoder": decoder, "batches": batches}
    return {}


def put_what_the_reader_has(page: str, root: Path) -> None:
    if page == "documentation/start.md":  # the page writes it
        (root / "nnUNet_raw" / "Dataset027_Heart" / "dataset.json").unlink()
    elif page == "documentation/pretrained.md":
        shapes = first_generation_shapes(TINY_SIZES.dims, (2, 27), TINY_SIZES.d_state)
        torch.save({"model": random_weights(shapes)}, root / "vssmsmall_dp03_ckpt_epoch_238.pth")
    elif page == "documentation/trainers.md":  # the copy of the model's folder
        model = root / "nnUNet_results" / "Dataset027_Heart" / "nnUNetTrainerDistilled__nnUNetPlans__3d_fullres"
        (root / "nnUNetTrainer__nnUNetPlans__3d_fullres").symlink_to(model)
    elif page == "documentation/datasets.md":
        isic_official(root / "ISIC2018_FOLDER", 2018)
        btcv(root / "SYNAPSE_FOLDER")
        acdc(root / "ACDC_FOLDER")


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", STATES)
def test_a_page_runs_as_printed(name, request, tmp_path):
    state, files = STATES[name]
    project = request.getfixturevalue(state).copy(tmp_path / "project")
    put_what_the_reader_has(name, project.root)
    run_page(ROOT / name, project.root, project.dataset.environment, names_for(name))
    assert not [file for file in files if not (project.root / file).is_file()]
    if name == "documentation/trainers.md":
        assert torch.load(project.root / files[0], weights_only=False)["trainer_name"] == "nnUNetTrainer"


def test_every_page_with_blocks_is_run():
    with_blocks = {
        page.relative_to(ROOT).as_posix()
        for page in PAGES
        if any(block.language in RUN and not block.not_run for block in blocks(page))
    }
    assert with_blocks == set(STATES)


def test_a_failing_block_is_named(tmp_path):
    page = ROOT / "documentation" / "page.md"
    broken = [Block(page, 7, "bash", "false", None)]
    with mock.patch(f"{__name__}.blocks", lambda page: broken), pytest.raises(AssertionError, match=r"page\.md:7"):
        run_page(page, tmp_path, {}, {})
