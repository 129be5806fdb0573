"""Plans that would be mixed in one results folder, and the command that copies plans under a name of their own."""

import json
import os
import re
from pathlib import Path

import pytest
from helpers.short_trainers import ShortDSVM, ShortVMUNet
from helpers.tiny_dataset import NETWORK, PLANS
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_dsvm.architecture.unwrapping import unwrap_model
from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.planning.copied_plans import copy_plans
from nnunetv2_dsvm.training.guards.other_plans import check_plans_of_folder

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures", "one_epoch")
LARGER = {**NETWORK, "dims": [16, 32, 64]}


def architecture(arguments):
    name = "nnunetv2_dsvm.architecture.vm_unet.VMUNet"
    return {"network_class_name": name, "arch_kwargs": arguments, "_kw_requires_import": []}


@pytest.fixture
def trained(tiny_dataset, tmp_path):
    """trained(trainer, fold=0): what a training leaves in the folder "a", as far as the next one looks at it."""

    def write(trainer_class, fold=0):
        folder = tmp_path / "a" / tiny_dataset.name / f"{trainer_class.__name__}__{PLANS}__2d"
        (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
        (folder / f"fold_{fold}" / "checkpoint_best.pth").touch()
        (folder / "plans.json").write_text(json.dumps(tiny_dataset.load_plans()))
        (folder / "dataset.json").write_text(json.dumps(tiny_dataset.load_dataset_json()))
        return folder

    return write


@pytest.mark.parametrize("trainer_class", [ShortVMUNet, ShortDSVM])
@pytest.mark.parametrize("fold", [0, 1, "all"])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architecture": architecture(LARGER)}, r"architecture.arch_kwargs.dims is \[8, .*\] and not \[16, 32, 64\]"),
        ({"patch_size": [16, 16]}, r"patch_size is \[32, 40\] and not \[16, 16\]"),
        ({"normalization_schemes": ["CTNormalization"]}, "normalization_schemes is .*ZScore.* and not .*CTNorm"),
        ({"labels": {"labels": {"background": 0, "one": 1}}}, "labels.two is 2 and not null"),
    ],
    ids=["network", "patch", "normalisation", "labels"],
)  # fmt: skip
def test_a_folder_of_other_plans_is_not_trained_into(make, trained, trainer_class, fold, changes, named):
    folder = trained(trainer_class)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"belongs to another network.* fold_0 was trained, {named}.*copy-plans -d "):
        make(trainer_class, fold=fold, **changes)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.glob("fold_*")] == ["fold_0"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": 1},
        {"architecture": architecture({**NETWORK, "gradient_checkpointing": True, "drop_path_rate": 0.0})},
    ],
    ids=["same", "batch", "memory"],
)
def test_what_changes_no_prediction_may_change_between_folds(make, trained, changes):
    trained(ShortVMUNet)
    assert os.path.isdir(make(ShortVMUNet, fold=1, **changes).output_folder)


def test_plans_without_a_trained_fold_are_replaced(make, trained):
    checkpoint = trained(ShortVMUNet) / "fold_0" / "checkpoint_best.pth"
    checkpoint = checkpoint.rename(checkpoint.with_name("earlier_1_checkpoint_best.pth"))
    with pytest.raises(UserError, match="belongs to another network"):
        make(ShortVMUNet, architecture=architecture(LARGER))
    checkpoint.rename(checkpoint.with_name("._checkpoint_best.pth"))  # as macOS leaves it
    make(ShortVMUNet, architecture=architecture(LARGER))


def test_intensities_that_are_not_finite_are_no_difference(make_on, trained, copied_dataset):
    """NaN is unlike itself."""
    plans = copied_dataset.load_plans()
    plans["foreground_intensity_properties_per_channel"]["0"]["mean"] = float("nan")
    (copied_dataset.preprocessed / f"{PLANS}.json").write_text(json.dumps(plans))
    (trained(ShortVMUNet) / "plans.json").write_text(json.dumps(plans))
    make_on(copied_dataset, ShortVMUNet, fold=1)


@pytest.mark.parametrize("changes", [{"architecture": architecture(LARGER)}, {"batch_size": 1}], ids=["size", "batch"])
def test_a_copy_that_calls_itself_by_the_old_name_is_refused(make_on, copied_dataset, trained, changes):
    plans = copied_dataset.load_plans()
    plans["configurations"]["2d"].update(changes)
    (copied_dataset.preprocessed / "Mine.json").write_text(json.dumps(plans))
    of_the_original = trained(ShortVMUNet) / "plans.json"
    with pytest.raises(UserError, match=f'Mine.json calls itself "{PLANS}" inside.*"plans_name": "Mine" into it'):
        make_on(copied_dataset, ShortVMUNet, **changes)
    make_on(copied_dataset, ShortVMUNet)  # the original
    of_the_original.write_text(json.dumps(plans))
    make_on(copied_dataset, ShortVMUNet, fold=1, **changes)  # more folds of what was trained so before


def test_the_order_of_regions_is_the_networks(trained, tiny_dataset, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "a"))
    monkeypatch.setenv("nnUNet_preprocessed", tiny_dataset.environment["nnUNet_preprocessed"])
    regions = {"background": 0, "whole": [1, 2], "core": [2]}
    dataset_json = {**tiny_dataset.load_dataset_json(), "labels": regions, "regions_class_order": [1, 2]}
    (trained(ShortVMUNet) / "dataset.json").write_text(json.dumps(dataset_json))
    plans = tiny_dataset.load_plans()
    check_plans_of_folder("ShortVMUNet", plans, "2d", dataset_json)
    reversed_regions = {**dataset_json, "labels": dict(reversed(regions.items()))}
    with pytest.raises(UserError, match="the order of labels is .*whole.*core.* and not .*core.*whole"):
        check_plans_of_folder("ShortVMUNet", plans, "2d", reversed_regions)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(copied_dataset, monkeypatch):
    """copy(*options) -> exit status; copies the plans of `copied_dataset`."""
    for name, value in copied_dataset.environment.items():
        monkeypatch.setenv(name, value)
    return lambda *options: main(["copy-plans", "-p", PLANS, *map(str, options)])


def test_a_copy_differs_in_its_name_alone_and_trains_beside_its_source(copy, make_on, copied_dataset, capsys):
    assert copy("-d", 901, "-o", "Mine") == 0
    assert "nnUNetv2_train 901 2d 0 -tr nnUNetTrainerDSVM -p Mine" in capsys.readouterr().out
    made = json.loads((copied_dataset.preprocessed / "Mine.json").read_text())
    assert made == {**copied_dataset.load_plans(), "plans_name": "Mine"}

    sizes = ["--dims", 16, 32, "--patch-size", 24, 16, "--batch-size", 3]
    assert copy("-d", copied_dataset.name, "-o", "Wide", *sizes) == 0
    plans = json.loads((copied_dataset.preprocessed / "Wide.json").read_text())
    trainer = ShortVMUNet({**plans, "continue_training": False}, "2d", 0, copied_dataset.load_dataset_json())
    assert Path(trainer.output_folder).parent.name == "ShortVMUNet__Wide__2d"
    trainer.run_training()
    assert unwrap_model(trainer.network).encoder.output_channels == [16, 32]
    assert [len(stage.blocks) for stage in unwrap_model(trainer.network).decoder.stages] == [2, 1]
    assert (trainer.configuration_manager.patch_size, trainer.batch_size) == ([24, 16], 3)


@pytest.mark.parametrize("dims", [("--preset", "small"), ("--dims", 16, 32, 64, 128, 256), ("--dims", 16, 32)], ids=str)
def test_a_copy_of_plans_for_a_vm_unet_keeps_what_its_options_do_not_name(copy, copied_dataset, dims):
    def arguments(name):
        path = copied_dataset.preprocessed / f"{name}.json"
        return json.loads(path.read_text())["configurations"]["2d"]["architecture"]["arch_kwargs"]

    assert copy("-d", 901, "-o", "published", *dims) == 0
    published = arguments("published")
    assert published["strides"][1] == [4, 4] and "fine_channels" not in published
    source = copied_dataset.preprocessed / "finer.json"
    plans = json.loads((copied_dataset.preprocessed / "published.json").read_text())
    plans["plans_name"] = "finer"
    first, _, *others = published["strides"]
    finer = {"strides": [first, [2, 2], *others], "fine_channels": 8, "scan": False}
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"].update(finer)
    source.write_text(json.dumps(plans))
    assert copy("-d", 901, "-p", "finer", "-o", "same", *dims) == 0 and arguments("same") == {**published, **finer}
    assert copy("-d", 901, "-p", "finer", "-o", "deeper", "--dims", 8, 16, 32, 64, 128, 256) == 0
    deeper = arguments("deeper")
    assert deeper["strides"] == [[1, 1], *[[2, 2]] * 6] and deeper["fine_channels"] == 8 and len(deeper["dims"]) == 6


@pytest.fixture
def of_vm_unet(copy, copied_dataset):
    """of_vm_unet(name, **changes): plans for the preset small with other arguments, by their name; returns the file."""

    def write(name, **changes):
        path = copied_dataset.preprocessed / f"{name}.json"
        if not (copied_dataset.preprocessed / "published.json").is_file():
            assert copy("-d", 901, "-o", "published", "--preset", "small") == 0
        plans = json.loads((copied_dataset.preprocessed / "published.json").read_text())
        plans["plans_name"] = name
        plans["configurations"]["2d"]["architecture"]["arch_kwargs"].update(changes)
        path.write_text(json.dumps(plans))
        return path

    return write


@pytest.mark.parametrize(
    "unusable",
    [
        {"strides": [[1, 1, 1], *[[2, 2, 2]] * 4]},
        {"stem": "convolutions", "fine_channels": 8},
        {"encoder_depths": [1], "decoder_depths": [1, 1]},
        {"fine_channels": "8"},
    ],
    ids=str,
)
def test_a_preset_takes_the_place_of_a_network_that_cannot_be_built(copy, copied_dataset, of_vm_unet, unusable):
    source = of_vm_unet("odd", **unusable)
    assert copy("-d", 901, "-p", source.stem, "-o", "mended", "--preset", "small") == 0
    made, usable = (
        json.loads((copied_dataset.preprocessed / f"{n}.json").read_text()) for n in ("mended", "published")
    )
    assert made["configurations"] == usable["configurations"]


def test_a_copy_of_plans_for_volumes_whose_vm_unet_is_one_of_images_is_refused_with_a_way_out(
    copy, copied_dataset, of_vm_unet, capsys
):
    source = of_vm_unet("flat")
    plans = json.loads(source.read_text())
    plans["configurations"]["3d_fullres"]["architecture"] = plans["configurations"]["2d"]["architecture"]
    source.write_text(json.dumps(plans))
    assert copy("-d", 901, "-p", "flat", "-o", "again", "-c", "3d_fullres", "--preset", "small") == 1
    assert "copy others, such as nnUNetPlans" in capsys.readouterr().err
    assert not (copied_dataset.preprocessed / "again.json").exists()


@pytest.mark.parametrize(
    ("had", "named", "left"),
    [
        ({"fine_channels": 8}, {"stem": "convolutions"}, {"stem": "convolutions"}),
        ({"fine_channels": 8}, {"full_resolution_channels": 8}, {"full_resolution_channels": 8}),
        ({"stem": "convolutions"}, {"fine_channels": 8, "scan": None}, {"fine_channels": 8}),
        ({"stem": "convolutions"}, {"fine_channels": None}, {"stem": "convolutions"}),
        ({"fine_channels": 8}, {"fine_channels": 0}, {"fine_channels": 0}),
        ({"fine_channels": 8}, {"stem": "patches"}, {"fine_channels": 8, "stem": "patches"}),
    ],
    ids=str,
)
def test_what_a_network_names_takes_the_place_of_what_its_source_has(copied_dataset, of_vm_unet, had, named, left):
    path = copy_plans(
        copied_dataset.preprocessed, of_vm_unet("had", **had).stem, "c", network={**PRESETS["small"], **named}
    )
    arguments = json.loads(path.read_text())["configurations"]["2d"]["architecture"]["arch_kwargs"]
    ours = ("stem", "full_resolution_channels", "fine_channels", "scan")
    assert {name: arguments[name] for name in ours if name in arguments} == left


@pytest.mark.parametrize(("channels", "trainer"), [(0, ""), (16, ""), (32, "_fine")])
def test_the_command_after_a_copy_names_the_trainer_of_its_fine_stages(copy, of_vm_unet, capsys, channels, trainer):
    of_vm_unet("source", fine_channels=channels)
    for number, options in enumerate([[], ["--batch-size", 2], ["--preset", "small"]]):
        assert copy("-d", 901, "-p", "source", "-o", f"copy{number}", *options) == 0
        assert f" 2d 0 -tr nnUNetTrainerDSVM{trainer} -p copy{number}\n" in capsys.readouterr().out


def test_a_copy_of_volumes_takes_the_strides_of_its_source(copy, copied_dataset, capsys):
    """nnU-Net's plans with slices 4 mm thick: three steps, all of which leave the slices alone."""
    steps = [[1, 1, 1], [1, 2, 2], [1, 2, 2], [1, 2, 2]]
    assert (
        copied_dataset.load_plans()["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["strides"] == steps
    )
    network, wanted = {}, {"small": steps, "narrow": steps[:3]}
    for name, options in {
        "small": ["--preset", "small"],
        "narrow": ["--dims", 8, 16, "--patch-size", 5, 30, 31],
    }.items():
        assert copy("-d", 901, "-o", name, "-c", "3d_fullres", *options) == 0
        plans = json.loads((copied_dataset.preprocessed / f"{name}.json").read_text())
        network[name] = PlansManager(plans).get_configuration("3d_fullres").network_arch_init_kwargs
        assert network[name]["strides"] == wanted[name]
        cut = f"The network has the first 3 of 4 stages: {PLANS} lowers the resolution of 3d_fullres no further\n"
        assert capsys.readouterr().out.startswith(cut if name == "small" else "Wrote ")
    assert network["small"]["dims"] == [16, 32, 64] and network["narrow"]["dims"] == [8, 16]
    assert copy("-d", 901, "-p", "narrow", "-o", "again", "-c", "3d_fullres", "--dims", 16, 32) == 0
    again = json.loads((copied_dataset.preprocessed / "again.json").read_text())["configurations"]["3d_fullres"]
    assert again["architecture"]["arch_kwargs"]["strides"] == steps[:3] and again["patch_size"] == [5, 30, 31]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-d", "901", "-o", PLANS], "is there already"),
        (["-d", "901", "-o", "a/b"], "-o 'a/b': the plans become a file"),
        (["-d", "901", "-o", "Mine_"], "-o 'Mine_': the plans become a file"),  # nnU-Net would read Mine and _2d
        (["-d", "901", "-o", "my plans"], "-o 'my plans': the plans become a file"),
        (["-d", "901", "-o", "Mine.json"], "-o 'Mine.json': give the name without its ending, Mine$"),
        (["-d", "901", "-o", "splits_final"], "splits_final.json is another file of nnU-Net's"),
        (["-d", "902", "-o", "Mine"], "there is no dataset 902 in"),
        (["-d", "901", "-o", "Mine", "-p", "Nope"], f"there are no plans Nope in .*there are nnUNetPlans, {PLANS}"),
        (["-d", "901", "-o", "Mine", "-c", "4d"], "has no configuration 4d; it has 2d"),
        (
            ["-d", "901", "-o", "Mine", "-c", "3d_fullres", "--patch-size", "24", "16"],
            "24×16 for 3d_fullres, which needs 3",
        ),
        (["-d", "901", "-o", "Mine", "--preset", "giant"], "unknown preset 'giant': choose one of small"),
        (["-d", "901", "-o", "Mine", "--preset", "small", "--dims", "8"], "--preset is a network with all its sizes"),
        (["-d", "901", "-o", "Mine", "--encoder-depths", "2"], "belong to --dims"),
        (["-d", "901", "-o", "Mine", "--dims", "8", "24"], "must double from stage to stage"),
        (["-d", "901", "-o", "Mine", "--dims", "8", "16", "--encoder-depths", "2"], "one entry per stage"),
        (["-d", "901", "-o", "Mine", "--dims", "4", "8"], "begin with 8 or more"),
    ],
)
def test_copies_that_cannot_be_made_are_refused_and_nothing_is_written(copy, copied_dataset, capsys, options, message):
    (copied_dataset.preprocessed / "._nnUNetPlans.json").write_bytes(b"\0\5\x16\7")
    before = {path: path.read_bytes() for path in copied_dataset.preprocessed.glob("*.json")}
    assert copy(*options) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("nnUNetv2_dsvm copy-plans: ")
    assert re.search(message, line)
    assert {path: path.read_bytes() for path in copied_dataset.preprocessed.glob("*.json")} == before


def test_a_copy_that_does_not_fit_on_the_disk_leaves_no_file(copy, copied_dataset, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", full)
    assert copy("-d", 901, "-o", "Mine") == 1
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert not (copied_dataset.preprocessed / "Mine.json").exists()
