"""Plans of every planner that nnU-Net brings: our trainers build their own network from them, and the log says so."""

import copy
import importlib
import inspect
import json
import pkgutil

import pytest
import SimpleITK as sitk
import torch
from helpers.tiny_dataset import NETWORK, SHAPE
from nnunetv2.experiment_planning import experiment_planners
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes
from nnunetv2_dsvm.planning.network_of_plans import in_words
from nnunetv2_dsvm.planning.plan_strides import strides_of_plan
from nnunetv2_dsvm.training.vm_unet_trainer import nnUNetTrainerVMUNet

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures", "one_epoch")


def planners():
    """The names of all planners in nnU-Net's package."""
    folders = pkgutil.walk_packages(experiment_planners.__path__, f"{experiment_planners.__name__}.")
    modules = [importlib.import_module(folder.name) for folder in folders]
    classes = [c for module in modules for c in vars(module).values() if inspect.isclass(c)]
    return sorted({c.__name__ for c in classes if issubclass(c, ExperimentPlanner)})


def plan_train_and_predict(dataset, tmp_path, planner, trainer, *options):
    """nnU-Net's commands from its planner to a prediction; returns the plans' name, its network's and the log."""
    for path in dataset.preprocessed.glob("*Plans.json"):
        path.unlink()
    data = ["-d", "901", "-c", "2d"]
    # fmt: off
    dataset.command_here(
        "nnUNetv2_plan_and_preprocess", *data, "-pl", planner, "-np", 1, "-npfp", 1, *options, nnUNet_n_proc_DA="1"
    )
    (plans,) = (plans for path in dataset.preprocessed.glob("*.json") if "plans_name" in (plans := read_json(path)))
    name = plans["plans_name"]
    check_volumes(plans)
    plans["configurations"]["2d"]["batch_size"] = 2
    (dataset.preprocessed / f"{name}.json").write_text(json.dumps(plans))
    dataset.train_here(trainer, plans=name)
    dataset.command_here(
        "nnUNetv2_predict", *data, "-i", dataset.raw / "imagesTs", "-o", tmp_path, "-p", name, "-f", 0, "-tr", trainer,
        "-device", "cpu", "-npp", 0, "-nps", 0,
    )
    # fmt: on
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "case_005.nii.gz"))).shape == SHAPE
    log = next((dataset.results / f"{trainer}__{name}__2d" / "fold_0").glob("training_log_*")).read_text()
    return name, plans["configurations"]["2d"]["architecture"]["network_class_name"].rsplit(".", 1)[-1], log


def check_volumes(plans):
    """The configuration of volumes gets the strides of the planner's network."""
    planned = PlansManager(copy.deepcopy(plans)).get_configuration("3d_fullres")
    with torch.device("meta"):
        network = nnUNetTrainerVMUNet.build_network_architecture(None, planned, 1, 3, True)
    strides = strides_of_plan(plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["strides"])
    assert [list(step) for step in network.sizes.strides] == strides
    said = in_words(planned, network)
    assert f"and strides {strides} and" in said and "the published size with the plans' strides, and not the" in said


def read_json(path):
    return json.loads(path.read_text())


def test_nnunets_recommended_planners_are_among_them():
    assert {"ExperimentPlanner", *(f"nnUNetPlannerResEnc{size}" for size in ("M", "L", "XL"))} <= set(planners())


@pytest.mark.parametrize("planner", planners())
def test_plans_of_every_planner_train_and_predict(copied_dataset, tmp_path, monkeypatch, planner):
    monkeypatch.setitem(PRESETS, "base", VMUNetSizes(**NETWORK))
    _, planned, log = plan_train_and_predict(copied_dataset, tmp_path / "out", planner, "ShortDSVM")
    assert planned == ("ResidualEncoderUNet" if "ResEnc" in planner else "PlainConvUNet")
    sizes = "dims [8, 16, 32], encoder_depths [1, 1, 1], decoder_depths [1, 1, 1]"
    assert f"network: VMUNet with {sizes} and" in log
    assert f"parameters: the published size, and not the {planned} that the plans describe" in log


def test_plans_may_have_any_name(copied_dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "base", VMUNetSizes(**NETWORK))
    options = ["nnUNetPlannerResEncM", "ShortDSVM_deepSupervision", "-overwrite_plans_name", "my plans.v2-ü"]
    name, _, log = plan_train_and_predict(copied_dataset, tmp_path / "out", *options)
    assert name == options[-1] and "and not the ResidualEncoderUNet" in log


@pytest.mark.slow
def test_the_published_size_trains_and_predicts_with_a_planners_plans(copied_dataset, tmp_path):
    _, _, log = plan_train_and_predict(copied_dataset, tmp_path / "out", "nnUNetPlannerResEncM", "ShortDSVM")
    # The published number is for 3 channels and 1 class: here 2 channels fewer, of 4x4 pixels, and 2 classes more.
    assert "dims [96, 192, 384, 768], encoder_depths [2, 2, 2, 2], decoder_depths [2, 2, 2, 1]" in log
    assert f"and {27_427_561 - 2 * 16 * 96 + 2 * (24 + 1):,} parameters" in log


def test_our_own_plans_are_named_as_the_source_of_the_size(copied_dataset):
    copied_dataset.train_here("ShortDSVM", "--disable_checkpointing")
    log = next(copied_dataset.results.rglob("training_log_*")).read_text()
    assert "network: VMUNet with dims [8, 16, 32]" in log and "parameters: as the plans ask" in log
