"""convert-weights --inflate: weights of images in a network of volumes."""

import json

import pytest
import torch
from helpers.vmamba_checkpoints import first_generation_shapes, random_weights

from nnunetv2_dsvm import VMUNet, convert_weights
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.models.pretrained.inflate import inflated
from nnunetv2_dsvm.ops.scan_order import axis_orders
from nnunetv2_dsvm.planning.architecture_entry import architecture_entry

SIZES = {"dims": (8, 16, 32), "encoder_depths": (1, 1, 1), "decoder_depths": (1, 1, 1), "d_state": 2}
VOLUMES = ((1, 1, 1), (2, 4, 4), (2, 2, 2), (1, 2, 2))
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def networks():
    """One of images, and one of volumes with all weights that can be made of its."""
    torch.manual_seed(0)
    of_images, of_volumes = VMUNet(2, 3, **SIZES), VMUNet(2, 3, **SIZES, strides=VOLUMES)
    with torch.no_grad():
        for parameter in of_images.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    weights = {name: inflated(name, w, of_volumes.sizes) for name, w in of_images.state_dict().items()}
    weights |= {name: w for name, w in of_volumes.state_dict().items() if ".seg_layers." in name}
    of_volumes.load_state_dict(weights)
    return of_images.eval(), of_volumes.eval()


@pytest.mark.parametrize(
    ("name", "channels_last", "shape", "depth"),
    [
        ("encoder.patch_embedding", False, (2, 8, 16), 4),
        ("encoder.mergings.0", True, (4, 6, 8), 4),
        ("encoder.mergings.1", True, (4, 6, 16), 3),
        ("decoder.expandings.0", True, (4, 6, 32), 3),
        ("decoder.expandings.1", True, (4, 6, 16), 3),
        ("decoder.final_expanding", True, (4, 6, 8), 3),
    ],
)
def test_slices_that_are_alike_give_what_one_gives(networks, name, channels_last, shape, depth):
    of_image, of_volume = (network.get_submodule(name) for network in networks)
    image = torch.randn(2, *shape)
    axis = 1 if channels_last else 2
    volume = image.unsqueeze(axis).expand(*image.shape[:axis], depth, *image.shape[axis:]).contiguous()
    got, expected = of_volume(volume), of_image(image)
    torch.testing.assert_close(got, expected.unsqueeze(1).expand_as(got), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", [(2, 4, 4), (4, 4, 4), (1, 4, 4)], ids=str)
def test_fine_stages_do_so_but_at_the_ends(step):
    torch.manual_seed(0)
    of_images = VMUNet(2, 3, **SIZES, fine_channels=6)
    of_volumes = VMUNet(2, 3, **SIZES, fine_channels=6, strides=((1, 1, 1), step, (2, 2, 2), (1, 2, 2)))
    shapes = {name: w.shape for name, w in of_volumes.state_dict().items()}
    weights = {name: inflated(name, w, of_volumes.sizes) for name, w in of_images.state_dict().items()}
    ends = ("encoder.patch_embedding.", "decoder.final_expanding.")
    weights = {name: w for name, w in weights.items() if name.startswith(ends)}
    assert all(w.shape == shapes[name] for name, w in weights.items())
    of_volumes.load_state_dict(weights, strict=False)
    image, depth = torch.randn(1, 2, 16, 16), 64
    volume = image[:, :, None].expand(-1, -1, depth, -1, -1).contiguous()
    tokens, expected = of_volumes.encoder.patch_embedding(volume)[0], of_images.encoder.patch_embedding(image)[0]
    middle = slice(tokens.shape[1] // 4, -(tokens.shape[1] // 4))  # a norm sees the ends, which see zeros beyond
    got, wanted = tokens[:, middle], expected[:, None].expand_as(tokens[:, middle])
    assert (got - wanted).norm() < 0.1 * wanted.norm()
    last = of_volumes.decoder.final_expanding.expandings, of_images.decoder.final_expanding.expandings
    for of_volume, of_image in zip(*last, strict=True):
        wanted = of_image(x := torch.randn(1, 4, 6, of_image.expand.in_features))
        got = of_volume(x[:, None].expand(-1, 3, -1, -1, -1).contiguous())
        torch.testing.assert_close(got, wanted[:, None].expand_as(got), rtol=1e-4, atol=1e-5)


def test_depthwise_convolutions_do_so_but_at_the_ends(networks):
    of_image, of_volume = (network.encoder.stages[1].blocks[0].ss2d.conv for network in networks)
    image = torch.randn(2, 32, 6, 5)
    got, expected = of_volume(image[:, :, None].expand(-1, -1, 5, -1, -1)), of_image(image)
    torch.testing.assert_close(got[:, :, 1:-1], expected[:, :, None].expand(-1, -1, 3, -1, -1))
    assert not torch.allclose(got[:, :, 0], expected)


def test_directions_along_the_depth_are_those_along_the_height(networks):
    of_image, of_volume = (network.decoder.stages[0].blocks[0].ss2d for network in networks)
    for name in ("x_proj", "dt_proj", "dt_bias", "A_log", "D"):
        images, volumes = getattr(of_image, name), getattr(of_volume, name)
        for of_volumes, of_images in enumerate((0, 1, 1, 2, 3, 3)):
            assert torch.equal(volumes[of_volumes], images[of_images])
    # Of both, direction 1 walks along the height first; of volumes, direction 2 along the depth.
    assert [order.axes[-1] for order in axis_orders(3)] == [2, 1, 0, 2, 1, 0]
    assert [order.axes[-1] for order in axis_orders(2)] == [1, 0, 1, 0]


@pytest.fixture
def vmamba(tmp_path):
    shapes = first_generation_shapes(SIZES["dims"], SIZES["encoder_depths"], d_state=2)
    torch.save({"model": random_weights(shapes)}, tmp_path / "vmamba.pth")
    return tmp_path / "vmamba.pth"


@pytest.fixture
def plans(tmp_path):
    """plans(strides): a plans.json with a 3D configuration of these strides, and a 2D one."""

    def write(strides):
        volumes = {"patch_size": [16, 64, 64], "architecture": architecture_entry({**SIZES, "strides": strides})}
        images = {"patch_size": [32, 32], "architecture": architecture_entry(SIZES)}
        configurations = {"3d_fullres": volumes, "2d": images}
        content = {"plans_name": "p", "dataset_name": "Dataset001_X", "configurations": configurations}
        (tmp_path / "plans.json").write_text(json.dumps(content))
        return tmp_path / "plans.json"

    return write


def shares(printed):
    return {line[:20].strip(): line.split()[-1] for line in printed.splitlines() if line.endswith("%")}


def test_the_command_fills_the_encoder_of_a_3d_configuration(vmamba, plans, tmp_path, capsys):
    command = ["convert-weights", str(vmamba), "--plans", str(plans(VOLUMES)), "-c", "3d_fullres", "--input-channels"]
    assert main([*command, "1", "-o", str(tmp_path / "out.pth"), "--inflate"]) == 0
    printed = capsys.readouterr().out
    assert shares(printed)["encoder"] == shares(printed)["decoder's blocks"] == "100.0%"
    # Three stages' convolution and five parameters of the scan, on both sides; mergings by 2, patch embedding.
    assert "made of an image's for volumes: 40 tensors" in printed and "3 input channels became 1" in printed
    weights = torch.load(tmp_path / "out.pth", weights_only=True)["network_weights"]
    there = torch.load(vmamba, weights_only=True)["model"]["patch_embed.proj.weight"]
    torch.testing.assert_close(weights["encoder.patch_embedding.projection.weight"].sum((1, 2)), there.sum(1))
    assert main([*command, "1", "-o", str(tmp_path / "not.pth")]) == 1
    assert "--inflate makes" in capsys.readouterr().err
    assert main([*command, "1", "-o", str(tmp_path / "not.pth"), "--force"]) == 0
    printed = capsys.readouterr().out
    assert "--inflate makes the one's" in printed and float(shares(printed)["encoder"][:-1]) < 90
    assert "encoder.patch_embedding.projection.weight (8x3x4x4 there and 8x1x2x4x4 here)" in printed


def test_what_has_no_counterpart_is_named(vmamba, plans, tmp_path):
    strides = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 1, 1]]
    converted = convert_weights(vmamba, tmp_path / "out.pth", plans=plans(strides), configuration="3d_fullres",
                                input_channels=3, inflate=True)  # fmt: skip
    assert "encoder.patch_embedding.projection.weight (8x3x4x4 there and 8x3x2x2x2 here)" in converted.report
    assert "encoder.mergings.1.reduction.weight (32x64 there and 32x32 here)" in converted.report
    assert 0.5 < converted.share_of_encoder < 1


def test_it_is_for_images_into_volumes_only(vmamba, plans, tmp_path):
    file = plans(VOLUMES)
    with pytest.raises(UserError, match="this network is one of images.*-c 3d_fullres"):
        convert_weights(vmamba, tmp_path / "out.pth", plans=file, input_channels=1, inflate=True)
    into_volumes = {"plans": file, "configuration": "3d_fullres", "input_channels": 2}
    torch.save(VMUNet(2, 3, **SIZES, strides=VOLUMES).state_dict(), tmp_path / "volumes.pth")
    with pytest.raises(UserError, match="already is of volumes"):
        convert_weights(tmp_path / "volumes.pth", tmp_path / "out.pth", **into_volumes, inflate=True)
    assert convert_weights(tmp_path / "volumes.pth", tmp_path / "out.pth", **into_volumes).share_of_network == 1


def test_weights_of_a_network_with_a_stem(plans, tmp_path):
    """They are recognised by the stem, go to its like, and their first layer to other channels."""
    torch.save(VMUNet(3, 2, **SIZES, stem="convolutions").state_dict(), tmp_path / "stem.pth")
    content = json.loads(plans(VOLUMES).read_text())
    content["configurations"]["2d"]["architecture"]["arch_kwargs"]["stem"] = "convolutions"
    (tmp_path / "plans.json").write_text(json.dumps(content))
    converted = convert_weights(tmp_path / "stem.pth", tmp_path / "out.pth", plans=tmp_path / "plans.json",
                                input_channels=1)  # fmt: skip
    assert converted.share_of_network == 1 and "3 input channels became 1" in converted.report
