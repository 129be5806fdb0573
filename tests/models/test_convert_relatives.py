"""convert-weights for other networks of the family: published weights, ImageNet's of either generation of VMamba."""

import json

import pytest
import torch
from helpers.golden_files import read_golden
from helpers.places import DATA
from helpers.tiny_relatives import TINY
from helpers.vmamba_checkpoints import (
    first_generation_shapes,
    in_second_generation_names,
    random_weights,
    second_generation_shapes,
)

from nnunetv2_dsvm import convert_weights
from nnunetv2_dsvm.architecture.official_names.registry import OFFICIAL_NAMES
from nnunetv2_dsvm.architecture.official_names.vmamba import FIRST_GENERATION, SECOND_GENERATION
from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES, class_path
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
DIMS = (16, 32, 64, 128)
SIZES = {
    "VMUNetV2": {"dims": DIMS, "encoder_depths": (1, 2, 1, 1), "mid_channels": 8},
    "MSVMUNet": {"dims": DIMS, "encoder_depths": (1, 1, 2, 1)},
    "SwinUMamba": {"dims": DIMS, "encoder_depths": (1, 2, 1, 1)},
    "SwinUMambaD": {"dims": DIMS, "encoder_depths": (1, 2, 1, 1)},
}
CHANNELS = {"VMUNetV2": 3, "MSVMUNet": 3, "SwinUMamba": 2, "SwinUMambaD": 2}
OF_ITS_OWN_NAMES = ["UMambaBot", "UMambaEnc", "UMambaEnc of January", "LightMUNet", "ASPVMUNet"]
FIRST_GENERATION_ENCODERS = ["VMUNetV2", "SwinUMamba", "SwinUMambaD"]


@pytest.fixture
def convert(tiny_dataset, tmp_path):
    """convert(name, checkpoint, image_channels, **sizes): by plans of these sizes; the result, and its network."""

    def run(name, checkpoint, image_channels, **sizes):
        plans, arguments = tiny_dataset.load_plans(), {**SIZES.get(name, {}), **sizes}
        plans["configurations"]["2d"]["architecture"] = {
            "network_class_name": class_path(RELATIVES[name].network),
            "arch_kwargs": arguments,
            "_kw_requires_import": [],
        }
        (tmp_path / "plans.json").write_text(json.dumps(plans))
        torch.save(checkpoint, tmp_path / "checkpoint.pth")
        options = {"plans": tmp_path / "plans.json", "input_channels": image_channels, "overwrite": True}
        result = convert_weights(tmp_path / "checkpoint.pth", tmp_path / "out.pth", network=name, **options)
        written = torch.load(tmp_path / "out.pth", weights_only=True)["network_weights"]
        network = RELATIVES[name].network(image_channels, 5, **arguments)
        missing, unexpected = network.load_state_dict(written, strict=False)
        assert not unexpected and all(".seg_layers." in key for key in missing)
        return result, network

    return run


@pytest.mark.parametrize("name", SIZES)
def test_official_checkpoints_fill_the_whole_network(convert, name):
    weights = read_golden(DATA / "relatives" / f"{name}_golden.npz").weights
    result, network = convert(name, {"state_dict": {f"module.{k}": v for k, v in weights.items()}}, CHANNELS[name])
    assert result.share_of_encoder == result.share_of_network == 1
    again, _ = convert(name, {"network_weights": network.state_dict()}, CHANNELS[name])
    assert again.share_of_network == 1 and "this package's" in again.report


@pytest.mark.parametrize("name", OF_ITS_OWN_NAMES)
def test_official_checkpoints_of_networks_with_other_scans_do_too(convert, name):
    name, _, month = name.partition(" of ")
    sizes = {**TINY[name], "january": True} if month else TINY[name]
    weights = RELATIVES[name].network(2, 5, **sizes).state_dict()
    result, network = convert(name, OFFICIAL_NAMES[name].to_official_state(weights), 2, **sizes)
    assert result.share_of_network == 1 and "the official" in result.report
    got = network.state_dict()
    assert all(torch.equal(got[key], weights[key]) for key in weights if ".seg_layers." not in key)


@pytest.mark.parametrize("name", ["UMambaBot", "LightMUNet"])
def test_what_is_built_of_plans_needs_them(tmp_path, name):
    torch.save({"a": torch.zeros(1)}, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match="built of nnU-Net's plans: name them with --plans"):
        convert_weights(tmp_path / "checkpoint.pth", tmp_path / "out.pth", network=name, input_channels=1)


@pytest.mark.parametrize("names", ["first", "second"])
@pytest.mark.parametrize("name", FIRST_GENERATION_ENCODERS)
def test_vmambas_first_generation_fills_the_encoder_however_it_is_named(convert, name, names):
    weights = random_weights(first_generation_shapes(DIMS, (1, 2, 1, 1)))
    named = weights if names == "first" else in_second_generation_names(weights)
    result, network = convert(name, {"model": named}, 1)
    expected, got = FIRST_GENERATION.from_official(weights), network.state_dict()
    loaded = {key for key in got if key in expected and torch.equal(got[key], expected[key])}
    assert {key for key in got if key.startswith("encoder.") and ".blocks." in key} <= loaded
    assert 0.9 < result.share_of_encoder <= 1
    if name != "SwinUMamba":  # its patches are of a stem's result
        grey = weights["patch_embed.proj.weight"].sum(1, keepdim=True)
        torch.testing.assert_close(got["encoder.patch_embedding.projection.weight"], grey)


def second_generation(ratio):
    """Of the ratio of the scan's channels to the stage's; linear weights as the channels-first layers keep them."""
    weights = random_weights(second_generation_shapes(DIMS, (1, 1, 2, 1), ratio=ratio))
    return {k: v[..., None, None] if k.endswith("_proj.weight") else v for k, v in weights.items()}


@pytest.mark.parametrize("ratio", [1, 2])
def test_vmambas_second_generation_fills_msvm_unets_encoder(convert, ratio):
    weights = second_generation(ratio)
    result, network = convert("MSVMUNet", {"model": weights}, 3, encoder_ratio=ratio)
    assert result.share_of_encoder == 1
    got = network.state_dict()
    for key, value in SECOND_GENERATION.from_official(weights).items():
        assert torch.equal(got[key], value), key


def test_generations_are_told_by_shapes(convert):
    """A file of the second's names with the first's blocks, with a gate, or of another ratio, gives no encoder."""
    first = in_second_generation_names(random_weights(first_generation_shapes(DIMS, (1, 1, 2, 1))))
    gated = second_generation(2)
    gated |= {k: torch.cat([v, v]) for k, v in gated.items() if k.endswith("in_proj.weight")}
    for weights, ratio in ((first, 1), (gated, 2), (second_generation(2), 1)):
        with pytest.raises(UserError, match=r"other blocks than MSVM-UNet.*another shape.*Nothing was written"):
            convert("MSVMUNet", {"model": weights}, 3, encoder_ratio=ratio)
    with pytest.raises(UserError, match="other blocks than VM-UNet V2"):
        convert("VMUNetV2", {"model": second_generation(2)}, 3)


def test_what_is_refused(convert, tmp_path, capsys):
    with pytest.raises(UserError, match="holds nothing for MSVM-UNet"):
        convert("MSVMUNet", {"model": {"conv.weight": torch.zeros(3)}}, 3)
    spoilt = read_golden(DATA / "relatives" / "VMUNetV2_golden.npz").weights
    spoilt["deconv2.weight"] = torch.full_like(spoilt["deconv2.weight"], torch.nan)
    with pytest.raises(UserError, match=r"deconv2\.weight holds NaN"):
        convert("VMUNetV2", spoilt, 3)
    assert not (tmp_path / "out.pth").exists()
    command = ["convert-weights", str(tmp_path / "checkpoint.pth"), "-o", str(tmp_path / "out.pth")]
    for options, message in (
        (["--network", "VMUNetV2"], "--input-channels"),
        (["--network", "VMUNetV2", "--preset", "small"], "leave them out"),
    ):
        assert main([*command, *options]) == 1
        assert message in capsys.readouterr().err
