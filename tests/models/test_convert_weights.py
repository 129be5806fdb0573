"""nnUNetv2_dsvm convert-weights: checkpoints in every naming become the weights of our network, or are refused."""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers.examples_in_docstrings import run_example
from helpers.golden_files import read_golden
from helpers.places import DATA
from helpers.scan_inputs import relative_error
from helpers.vmamba_checkpoints import (
    first_generation_shapes,
    in_second_generation_names,
    of_one_value_each,
    random_weights,
    second_generation_shapes,
)

import nnunetv2_dsvm
from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.architecture.blocks.resampling import PatchEmbedding
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.models.pretrained.fitting import to_input_channels
from nnunetv2_dsvm.planning.architecture_entry import architecture_entry

FIRST_BLOCK = "layers.0.blocks.0.self_attention"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def golden():
    """Weights (official names), results and sizes of the official code on a small model."""
    golden = read_golden(DATA / "vm_unet_golden.npz")
    config = golden.config
    sizes = {
        "dims": config["dims"],
        "encoder_depths": config["depths"],
        "decoder_depths": config["depths_decoder"],
        "d_state": config["d_state"],
        "drop_path_rate": 0.0,
    }
    return sizes, golden.weights, golden.tensors


@pytest.fixture(scope="module")
def vmamba(golden):
    """The golden model's encoder with a classifier, as VMamba's first generation."""
    sizes, weights, _ = golden
    shapes = first_generation_shapes(sizes["dims"], sizes["encoder_depths"])
    classifier = random_weights({name: shape for name, shape in shapes.items() if name.startswith(("norm.", "head."))})
    encoder = {name: t for name, t in weights.items() if not name.startswith(("layers_up.", "final_"))}
    assert {name: tuple(t.shape) for name, t in {**encoder, **classifier}.items()} == shapes
    return {**encoder, **classifier}


@pytest.fixture
def convert(golden, tmp_path, capsys):
    """convert(checkpoint, *options, **sizes): runs the command for a network of the golden model's sizes."""

    def run(checkpoint, *options, plans=True, **sizes):
        file = tmp_path / "checkpoint.pth"
        if isinstance(checkpoint, bytes):
            file.write_bytes(checkpoint)
        else:
            torch.save(checkpoint, file)
        if plans:
            options = ("--plans", write_plans(tmp_path, {**golden[0], **sizes}), *options)
        if "--input-channels" not in options and plans:
            options = (*options, "--input-channels", 3)
        status = main(["convert-weights", str(file), "-o", str(tmp_path / "out.pth"), *map(str, options)])
        run.status, (run.printed, run.error) = status, capsys.readouterr()
        return torch.load(tmp_path / "out.pth", weights_only=True) if status == 0 else None

    run.out = tmp_path / "out.pth"
    return run


def write_plans(folder, sizes):
    configuration = {"patch_size": [32, 64], "architecture": architecture_entry(sizes)}
    plans = {"plans_name": "goldenPlans", "dataset_name": "Dataset001", "configurations": {"2d": configuration}}
    (folder / "plans.json").write_text(json.dumps(plans))
    return folder / "plans.json"


def refused(convert, *arguments, **sizes):
    assert convert(*arguments, **sizes) is None and convert.status == 1
    assert not convert.out.exists() and not list(convert.out.parent.glob(".*"))
    return convert.error


def features(weights, golden):
    sizes, _, tensors = golden
    network = VMUNet(3, 4, **sizes)
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected and all(".seg_layers." in name for name in missing)
    network.return_features = True
    return network(tensors["input"])


def assert_golden_features(weights, golden, sides):
    output = features(weights, golden)
    for side in sides:
        for level, got in enumerate(getattr(output, f"{side}_features"), start=1):
            assert relative_error(got, golden[2][f"feature/{side}_stage_{level}"]) <= 1e-5


# --- namings ----------------------------------------------------------------------------------------------------------


def prefixed(weights, prefix):
    return {prefix + name: tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    "prefix", ["", "vmunet.", "module.vmunet.", "_orig_mod.vmunet.", "_orig_mod.module."], ids=repr
)
def test_vm_unets_checkpoints_give_its_features(convert, golden, prefix):
    weights = convert(prefixed(golden[1], prefix))["network_weights"]
    assert_golden_features(weights, golden, ["encoder", "decoder"])
    assert "100.0%" in convert.printed.split("network without heads")[1].split("\n")[0]


@pytest.mark.parametrize("numpys", [b"numpy._core.", b"numpy.core."], ids=["numpy-2", "numpy-1"])
def test_vm_unets_latest_checkpoint(convert, golden, tmp_path, numpys):
    """Its train.py stores more beside the weights, NumPy's numbers among it; here in PyTorch's older file format."""
    latest = {"epoch": 3, "loss": np.float64(0.5), "min_loss": np.float32(0.25), "optimizer_state_dict": {"state": {}}}
    latest["model_state_dict"] = prefixed(golden[1], "vmunet.")
    torch.save(latest, tmp_path / "latest.pth", _use_new_zipfile_serialization=False)
    written = (tmp_path / "latest.pth").read_bytes()
    assert b"cnumpy._core.multiarray\nscalar\n" in written
    weights = convert(written.replace(b"numpy._core.", numpys))["network_weights"]
    assert_golden_features(weights, golden, ["encoder", "decoder"])


@pytest.mark.parametrize("entry", ["model", "state_dict", None])
@pytest.mark.parametrize("rename", [dict, in_second_generation_names], ids=["first", "second"])
def test_both_generations_give_the_golden_features(convert, golden, vmamba, rename, entry):
    weights = rename(vmamba)
    weights = convert({entry: weights} if entry else weights)["network_weights"]
    assert_golden_features(weights, golden, ["encoder"])
    assert f"VMamba, {'first' if rename is dict else 'second'} generation" in convert.printed
    assert "4 tensors of the file are no part of a VM-UNet" in convert.printed  # the classifier


def test_averaged_weights_are_preferred(convert, golden, vmamba):
    other = random_weights({name: t.shape for name, t in vmamba.items()})
    weights = convert({"model": other, "model_ema": vmamba})["network_weights"]
    assert_golden_features(weights, golden, ["encoder"])
    assert "(entry model_ema)" in convert.printed


def test_a_stored_configuration_of_vmambas_training_is_passed_over(convert, golden, vmamba, monkeypatch):
    """VMamba's main.py stores a yacs CfgNode, a class that is not installed where the file is read."""
    node = type("CfgNode", (dict,), {"__module__": "yacs.config", "__init__": lambda self, *a: dict.__init__(self, *a)})
    yacs = ModuleType("yacs.config")
    yacs.CfgNode = node
    config = node({"MODEL": node({"NAME": "vssm_small"})})
    config.__dict__["__immutable__"] = True
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", yacs)
        torch.save({"model": vmamba, "config": config}, convert.out.with_name("written.pth"))
    weights = convert(convert.out.with_name("written.pth").read_bytes())["network_weights"]
    assert_golden_features(weights, golden, ["encoder"])


def test_the_file_reads_with_weights_only_and_says_where_it_comes_from(convert, golden, vmamba):
    written = convert({"model": vmamba})
    assert written.keys() == {"network_weights", "nnunetv2_dsvm"}
    origin = written["nnunetv2_dsvm"]
    assert origin["converted_from"] == "checkpoint.pth" and origin["share_of_encoder"] == 1.0
    assert origin["network"]["dims"] == golden[0]["dims"] and origin["network"]["input_channels"] == 3
    expected = VMUNet(3, 4, **golden[0]).state_dict()
    assert written["network_weights"].keys() == {name for name in expected if ".seg_layers." not in name}
    assert (
        convert(written, "--overwrite")["network_weights"].keys() == written["network_weights"].keys()
    )  # and converts again


# --- full sizes -------------------------------------------------------------------------------------------------------

SMALL, TINY = [2, 2, 27, 2], [2, 2, 9, 2]
DIMS = [96, 192, 384, 768]


def test_the_key_lists_are_the_official_ones():
    official = json.loads((DATA / "vm_unet_state_dicts.json").read_text())["class_default"]["state_dict"]
    encoder = {
        name.removeprefix("vmunet."): tuple(shape)
        for name, shape in official.items()
        if name.startswith(("vmunet.patch_embed.", "vmunet.layers."))
    }
    tiny = first_generation_shapes(DIMS, TINY)
    assert len(tiny) == 212
    assert {name: shape for name, shape in tiny.items() if not name.startswith(("norm.", "head."))} == encoder


@pytest.mark.slow
@pytest.mark.parametrize(("depths", "preset", "unused"), [(SMALL, "base", 25 * 13), (TINY, "large", 0)])
def test_published_sizes_fill_the_whole_encoder(convert, depths, preset, unused):
    file = of_one_value_each(first_generation_shapes(DIMS, depths))
    weights = convert({"model": file}, "--preset", preset, "--input-channels", 1, plans=False)["network_weights"]
    rows = {line[:20].strip(): line.split()[-1] for line in convert.printed.splitlines() if line}
    assert rows["encoder"] == rows["decoder's blocks"] == "100.0%" and rows["patch expandings"] == "0.0%"
    unused_blocks = ": layers.2.blocks.2, layers.2.blocks.3, layers.2.blocks.4, …, layers.2.blocks.26"
    assert (f"{unused} tensors of the file without a place" in convert.printed) == bool(unused)
    assert (unused_blocks in convert.printed) == bool(unused)
    assert (
        weights["encoder.stages.2.blocks.1.ss2d.in_proj.weight"].unique()
        == (file["layers.2.blocks.1.self_attention.in_proj.weight"].flatten()[0])
    )
    assert weights["encoder.patch_embedding.projection.weight"].shape == (96, 1, 4, 4)


# --- decoder ----------------------------------------------------------------------------------------------------------


def mirrored(weights, depths):
    """{our decoder's name: VMamba's} as VM-UNet's load_from pairs them: layers.i with layers_up.(3 - i)."""
    names = {"ln_1.weight": "norm.weight", "self_attention.in_proj.weight": "ss2d.in_proj.weight"}
    return {
        f"decoder.stages.{3 - i}.blocks.{j}.{ours}": f"layers.{i}.blocks.{j}.{theirs}"
        for i in range(4)
        for j in range(depths[3 - i])
        for theirs, ours in names.items()
        if f"layers.{i}.blocks.{j}.{theirs}" in weights
    }


@pytest.mark.parametrize("decoder", ["auto", "encoder", "fresh"])
def test_the_decoder_starts_with_the_encoders_blocks_or_fresh(convert, golden, vmamba, decoder):
    weights = convert({"model": vmamba}, "--decoder", decoder)["network_weights"]
    pairs = mirrored(vmamba, golden[0]["decoder_depths"])
    assert len(pairs) == 10  # 5 of the decoder's blocks have one in the encoder: its stage of two has a stage of one
    equal = {torch.equal(weights[ours], vmamba[theirs]) for ours, theirs in pairs.items() if "in_proj" in ours}
    assert equal == {decoder != "fresh"}
    torch.manual_seed(0)
    fresh = VMUNet(3, 1, **golden[0]).state_dict()
    expandings = [name for name in weights if "expanding" in name]
    assert expandings and all(torch.equal(weights[name], fresh[name]) for name in expandings)
    assert ("copies of the file's encoder" in convert.printed) == (decoder != "fresh")


def test_the_encoder_can_replace_the_files_own_decoder(convert, golden):
    theirs = convert(golden[1], "--decoder", "encoder")["network_weights"]
    for ours, name in mirrored(golden[1], golden[0]["decoder_depths"]).items():
        assert torch.equal(theirs[ours], golden[1][name])


# --- input channels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_patch_embeddings_keep_their_sum_and_what_they_make_of_grey_images(channels):
    rgb, other = PatchEmbedding(3, 8), PatchEmbedding(channels, 8)
    state = rgb.state_dict()
    state["projection.weight"] = to_input_channels(state["projection.weight"], channels)
    assert state["projection.weight"].shape == (8, channels, 4, 4)
    torch.testing.assert_close(state["projection.weight"].sum(1), rgb.projection.weight.sum(1))
    other.load_state_dict(state)
    grey = torch.randn(2, 1, 16, 24)
    expected, got = rgb(grey.expand(-1, 3, -1, -1)), other(grey.expand(-1, channels, -1, -1))
    torch.testing.assert_close(got, expected)
    assert channels != 3 or torch.equal(state["projection.weight"], rgb.projection.weight)


def test_the_channels_are_those_of_the_dataset_beside_the_plans(golden, vmamba, tmp_path, capsys):
    torch.save({"model": vmamba}, tmp_path / "file.pth")
    plans, command = write_plans(tmp_path, golden[0]), ["convert-weights", str(tmp_path / "file.pth"), "-o"]
    assert main([*command, str(tmp_path / "a.pth"), "--plans", str(plans)]) == 1
    assert "no dataset.json beside" in capsys.readouterr().err and not (tmp_path / "a.pth").exists()
    dataset = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "lesion": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    assert main([*command, str(tmp_path / "a.pth"), "--plans", str(plans)]) == 0
    assert "3 input channels became 2" in capsys.readouterr().out
    weights = torch.load(tmp_path / "a.pth", weights_only=True)["network_weights"]
    name = "encoder.patch_embedding.projection.weight"
    torch.testing.assert_close(weights[name].sum(1), vmamba["patch_embed.proj.weight"].sum(1))


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_published_second_versions_are_refused_with_the_reason(convert, golden):
    weights = random_weights(second_generation_shapes(golden[0]["dims"], [2, 2, 5, 2]))
    error = refused(convert, {"model": weights}, "--force")
    assert "d_state 1, and this network's has d_state 16" in error and "MLP" in error


def test_neither_a_file_nor_a_network_without_scan_is_fitted_to_one_with_it(convert, golden, vmamba):
    assert "the network has no scan" in refused(convert, {"model": vmamba}, "--force", scan=False)
    without = VMUNet(3, 4, **golden[0], scan=False).state_dict()
    for checkpoint in (without, {"network_weights": without}):
        assert "is of a VM-UNet without its scan" in refused(convert, checkpoint, "--force")


def test_another_width_is_refused_with_both_sizes(convert, vmamba):
    error = refused(convert, {"model": vmamba}, dims=[8, 16, 32, 64])
    assert "fills only 0%" in error and "dims [16, 32, 64, 128]" in error and "dims [8, 16, 32, 64]" in error
    assert "fills only 0%" in refused(convert, {"model": vmamba}, "--force", dims=[8, 16, 32, 64])
    assert "(8, " not in error and "16x3x4x4 there and 8x3x4x4 here" in error


def test_less_than_half_of_the_encoder_only_with_force(convert, vmamba):
    without_deepest = {name: t for name, t in vmamba.items() if not name.startswith(("layers.2.", "layers.3."))}
    encoder = {name: t.numel() for name, t in vmamba.items() if name.startswith(("patch_embed.", "layers."))}
    share = sum(encoder[name] for name in without_deepest.keys() & encoder.keys()) / sum(encoder.values())
    assert share < 0.5
    error = refused(convert, {"model": without_deepest})
    assert f"fills only {share:.0%}" in error and "--force" in error
    weights = convert({"model": without_deepest}, "--force")["network_weights"]
    ours = "encoder.stages.0.blocks.0.ss2d.in_proj.weight"
    assert torch.equal(weights[ours], vmamba["layers.0.blocks.0.self_attention.in_proj.weight"])
    assert "freshly initialised, since the file has nothing for them" in convert.printed
    assert "encoder.stages.2.blocks.0, encoder.stages.3.blocks.0, " in convert.printed


@pytest.mark.parametrize(("share", "written"), [(0.45, False), (0.55, True)])
def test_half_of_the_encoders_parameters_is_the_border(convert, vmamba, share, written):
    names = [name for name in vmamba if name.startswith(("patch_embed.", "layers."))]
    total, kept = sum(vmamba[name].numel() for name in names), 0
    chosen = {}

    def order(name):  # first those that tell the sizes
        tells = name.endswith("ln_1.weight") or name in ("patch_embed.proj.weight", f"{FIRST_BLOCK}.A_logs")
        return not tells, -vmamba[name].numel()

    for name in sorted(names, key=order):
        if kept + vmamba[name].numel() <= share * total:
            chosen[name] = vmamba[name]
            kept += vmamba[name].numel()
    assert abs(kept / total - share) < 0.03
    assert (convert({"model": chosen}) is not None) == written
    row = next(line for line in convert.printed.splitlines() if line.startswith("encoder  "))
    assert row.split()[1:] == [f"{len(chosen)}/{len(names)}", f"{kept:,}/{total:,}", f"{kept / total:.1%}"]


def test_the_preset_that_fits_is_named(convert):
    weights = random_weights(first_generation_shapes([128, 256, 512, 1024], [1, 1, 1, 1], d_state=16))
    error = refused(convert, {"model": weights})
    assert "Presets of these dims: " in error and "deep" in error


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("layers.0.blocks.0.self_attention.A_logs", torch.zeros(5, 16)),
        ("layers.0.blocks.0.self_attention.A_logs", torch.tensor(1.0)),
        ("layers.0.blocks.0.self_attention.A_logs", torch.zeros(192)),
        ("layers.0.blocks.0.ln_1.weight", torch.tensor(1.0)),
        ("patch_embed.proj.weight", torch.zeros(4)),
        ("layers.0.blocks.0.ln_1.bias", torch.zeros(4).to_sparse()),
    ],
    ids=lambda value: value if isinstance(value, str) else str(tuple(value.shape)),
)
def test_tensors_of_another_rank_or_kind_are_named(convert, vmamba, name, broken):
    assert name in refused(convert, {"model": {**vmamba, name: broken}})


@pytest.mark.parametrize("prefix", ["backbone.", "model.", "module.backbone."])
def test_wrappers_around_vmamba_are_passed_over(convert, golden, vmamba, prefix):
    nested = {"state_dict": {"model": prefixed(vmamba, prefix)}}
    assert_golden_features(convert(nested)["network_weights"], golden, ["encoder"])


def test_weights_of_another_network_are_refused(convert):
    resnet = {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.bn1.weight": torch.zeros(64)}
    assert "neither VMamba nor VM-UNet: its first tensors are conv1.weight" in refused(convert, {"state_dict": resnet})
    assert "it has no state dict" in refused(convert, {"epoch": 3})
    assert "it has no state dict" in refused(convert, [torch.zeros(1)])


def test_a_truncated_file_is_refused(convert, vmamba, tmp_path):
    torch.save({"model": vmamba}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for part in (whole[: len(whole) // 2], b"", b"<html>not found</html>"):
        error = refused(convert, part)
        assert f"({len(part)} bytes) cannot be read" in error and "it is truncated" in error


def test_weights_that_are_not_finite_are_refused(convert, vmamba):
    bad = {**vmamba, "layers.1.blocks.0.ln_1.bias": torch.full((8,), float("nan"))}
    assert "layers.1.blocks.0.ln_1.bias holds NaN" in refused(convert, {"model": bad})


def test_a_missing_file_and_plans_without_the_configuration(convert, vmamba, tmp_path, capsys):
    assert main(["convert-weights", str(tmp_path / "none.pth"), "-o", str(tmp_path / "out.pth")]) == 1
    assert "there is no file" in capsys.readouterr().err
    assert "no network for the configuration 3d_fullres" in refused(convert, {"model": vmamba}, "-c", "3d_fullres")


# --- output -----------------------------------------------------------------------------------------------------------


def test_an_existing_file_stays_unless_overwrite_is_asked_for(convert, vmamba):
    convert.out.write_bytes(b"mine")
    assert convert({"model": vmamba}) is None and "--overwrite" in convert.error
    assert convert.out.read_bytes() == b"mine"
    assert "network_weights" in convert({"model": vmamba}, "--overwrite")


def test_the_file_that_is_read_is_never_the_one_that_is_written(tmp_path, capsys):
    file = tmp_path / "file.pth"
    file.write_bytes(b"mine")
    assert main(["convert-weights", str(file), "-o", str(tmp_path / "." / "file.pth"), "--overwrite"]) == 1
    assert "is the file to be read" in capsys.readouterr().err and file.read_bytes() == b"mine"
    assert main(["convert-weights", str(file), "-o", str(tmp_path / "no" / "out.pth")]) == 1
    assert "a folder that exists" in capsys.readouterr().err


def test_a_disk_that_fills_up_leaves_the_old_file(convert, vmamba, monkeypatch):
    def fill(checkpoint, file, original=torch.save):
        if Path(getattr(file, "name", file)).name == "out.pth":
            file.write(b"half")
            raise OSError(28, "No space left on device")
        original(checkpoint, file)

    convert.out.write_bytes(b"mine")
    monkeypatch.setattr(torch, "save", fill)
    assert convert({"model": vmamba}, "--overwrite") is None
    assert "No space left" in convert.error and convert.out.read_bytes() == b"mine"
    assert {path.name for path in convert.out.parent.iterdir()} == {"checkpoint.pth", "plans.json", "out.pth"}


def test_nothing_but_the_output_is_written_or_removed(vmamba, golden, tmp_path):
    """An unfinished download of the output's name among it, which may even be the input."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    torch.save({"model": vmamba}, folder / "out.pth.partial")
    before = (folder / "out.pth.partial").read_bytes()
    plans = write_plans(tmp_path, golden[0])
    command = ["convert-weights", folder / "out.pth.partial", "-o", folder / "out.pth", "--plans", plans]
    assert main([*map(str, command), "--input-channels", "3"]) == 0
    assert {path.name for path in folder.iterdir()} == {"out.pth", "out.pth.partial"}
    assert (folder / "out.pth.partial").read_bytes() == before


def test_the_random_rest_is_the_same_in_every_call(convert, vmamba):
    first = convert({"model": vmamba})["network_weights"]
    torch.rand(3)
    second = convert({"model": vmamba}, "--overwrite")["network_weights"]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_presets_are_those_of_the_network():
    from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
    from nnunetv2_dsvm.architecture.vm_unet import PRESETS
    from nnunetv2_dsvm.cli.commands import convert_weights
    from nnunetv2_dsvm.planning.network_of_plans import DEFAULT_PRESET

    assert tuple(PRESETS) == convert_weights.PRESETS and convert_weights.DEFAULT_PRESET == DEFAULT_PRESET
    assert tuple(RELATIVES) == convert_weights.RELATIVES


def test_a_call_writes_what_the_command_writes_and_prints_nothing(convert, vmamba, monkeypatch, capsys):
    by_command = convert({"model": vmamba})
    monkeypatch.chdir(convert.out.parent)
    run_example(nnunetv2_dsvm.convert_weights)
    assert capsys.readouterr() == ("", "")
    by_call = torch.load("weights.pth", weights_only=True)
    assert by_call["nnunetv2_dsvm"] == by_command["nnunetv2_dsvm"]
    assert list(by_call["network_weights"]) == list(by_command["network_weights"])
    assert all(torch.equal(by_call["network_weights"][name], t) for name, t in by_command["network_weights"].items())


@pytest.mark.parametrize(("option", "said"), [("decoder", "auto, encoder, fresh"), ("preset", "small, base, large, ")])
def test_a_call_names_a_choice_that_there_is_not(tmp_path, option, said):
    with pytest.raises(UserError, match=f"unknown {option} 'tiny': choose one of {said}"):
        nnunetv2_dsvm.convert_weights(tmp_path / "file.pth", tmp_path / "out.pth", **{option: "tiny"})
