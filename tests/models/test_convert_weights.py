"""`nnUNetv2_dsvm convert-weights`: which namings and sizes are read, and what of them arrives in the network."""

import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers.converted_weights import assert_golden_features, prefixed, write_plans
from helpers.places import DATA
from helpers.vmamba_checkpoints import (
    first_generation_shapes,
    in_second_generation_names,
    of_one_value_each,
    random_weights,
)

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.architecture.blocks.resampling import PatchEmbedding
from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.models.pretrained.fitting import to_input_channels

pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.mark.parametrize("of_plans", [False, True], ids=["preset", "plans"])
def test_a_network_with_fine_channels_gets_all_but_its_fine_stages(tmp_path, capsys, of_plans):
    sizes = dict(PRESETS["small"])
    vmamba = random_weights(first_generation_shapes(sizes["dims"], sizes["encoder_depths"], d_state=8))
    torch.save({"model": vmamba}, tmp_path / "file.pth")
    command = ["convert-weights", str(tmp_path / "file.pth"), "-o", str(tmp_path / "a.pth"), "--input-channels", "1"]
    network = ["--plans", str(write_plans(tmp_path, sizes))] if of_plans else ["--preset", "small"]
    assert main([*command, *network, "--fine-channels", "8"]) == 0
    assert "fine_channels 8" in capsys.readouterr().out
    weights = torch.load(tmp_path / "a.pth", weights_only=True)["network_weights"]
    missing, unexpected = VMUNet(1, 4, **sizes, fine_channels=8).load_state_dict(weights, strict=False)
    assert not unexpected and all(".seg_layers." in name for name in missing)
    name = "encoder.stages.1.blocks.0.ss2d.in_proj.weight"
    torch.testing.assert_close(weights[name], vmamba["layers.1.blocks.0.self_attention.in_proj.weight"])
    assert main([*command, "--overwrite", "--network", "MSVMUNet", "--fine-channels", "8"]) == 1
    assert "preset, fine_channels, decoder and inflate are a VM-UNet's" in capsys.readouterr().err


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
