"""The network: against the official VM-UNet's numbers, and as a module that anybody can use."""

import json

import pytest
import torch
from helpers.golden_files import read_golden
from helpers.network_contract import NetworkContract
from helpers.places import DATA
from helpers.scan_inputs import relative_error

import nnunetv2_dsvm
from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.architecture import checkpoints
from nnunetv2_dsvm.architecture.blocks.directional_scan import DT_MAX, DT_MIN
from nnunetv2_dsvm.architecture.blocks.vss_block import SS2D, DropPath
from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes

TINY = {"dims": (8, 16, 32, 64), "encoder_depths": (1, 1, 1, 1), "decoder_depths": (1, 1, 1, 1), "d_state": 4}


def tiny(input_channels=1, num_classes=2, **overrides):
    return VMUNet(input_channels, num_classes, **{**TINY, **overrides})


class TestContract(NetworkContract):
    golden_file = DATA / "vm_unet_golden.npz"
    tolerance_in_fp64 = 1e-5  # the file's gradients are rounded

    def build(self, input_channels=1, num_classes=2, **options):
        sizes = {"dims": (16, 32, 64), "encoder_depths": (1, 1, 1), "decoder_depths": (1, 1, 1), "d_state": 2}
        return VMUNet(input_channels, num_classes, **sizes, drop_path_rate=0.0, **options)

    def build_golden(self, config, weights):
        sizes = VMUNetSizes(config["dims"], config["depths"], config["depths_decoder"], config["d_state"], 0.0)
        network = VMUNet(config["in_chans"], config["num_classes"], **sizes)
        network.load_state_dict(checkpoints.from_official_state_dict(weights))
        return network

    def official_name(self, ours):
        return checkpoints.to_official_name(ours, prefix="")

    def test_every_golden_gradient_is_a_real_number(self):
        golden = read_golden(self.golden_file)
        assert golden.grad_norms.keys() == golden.weights.keys() and min(golden.grad_norms.values()) > 1


class TestContractWithoutScan(NetworkContract):
    test_golden_numbers = None  # nobody has published such a network; test_vm_unet_3d.py computes one by its definition

    def build(self, input_channels=1, num_classes=2, **options):
        sizes = {"dims": (16, 32), "encoder_depths": (1, 1), "decoder_depths": (1, 1), "scan": False}
        return VMUNet(input_channels, num_classes, **sizes, drop_path_rate=0.0, **options)


def test_last_expanding_and_head_pixel_by_pixel():
    """Pixel (4 h + i, 4 w + j) comes from pixel (h, w), its channels from (4 i + j) c on, as in the official code."""
    network = tiny(num_classes=3).double().train()
    network.return_features = True
    output = network(torch.randn(2, 1, 64, 96, dtype=torch.float64))
    expanding, head = network.decoder.final_expanding, network.decoder.seg_layers[0]
    x = output.decoder_features[0].detach()  # (2, 8, 16, 24)
    expanded = torch.einsum("oc,bchw->bohw", expanding.expand.weight, x)
    expected = torch.full((2, 3, 64, 96), torch.nan, dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            part = expanded[:, 2 * (4 * i + j) : 2 * (4 * i + j) + 2]
            deviation = (part - part.mean(1, keepdim=True)) / (part.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
            normed = deviation * expanding.norm.weight[:, None, None] + expanding.norm.bias[:, None, None]
            logits = torch.einsum("oc,bchw->bohw", head.weight[:, :, 0, 0], normed) + head.bias[:, None, None]
            expected[:, :, i::4, j::4] = logits
    torch.testing.assert_close(output.logits, expected, rtol=1e-9, atol=1e-9)
    assert output.logits.std(dim=(2, 3)).min() > 1e-3  # it depends on the image


def test_gradients_are_those_of_finite_differences():
    """Along a random direction in the space of all parameters and of the image, in fp64."""
    network = tiny(num_classes=3, drop_path_rate=0.0).double().train()
    image = torch.randn(2, 1, 64, 96, dtype=torch.float64, requires_grad=True)
    weighting = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    variables = [*network.parameters(), image]
    (network(image) * weighting).sum().backward()
    for part in (variables[:1], variables[-1:], variables):
        direction = [torch.randn_like(v) for v in part]
        expected = sum((v.grad * d).sum() for v, d in zip(part, direction, strict=True)).item()
        sums = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                for v, d in zip(part, direction, strict=True):
                    v.add_(d, alpha=step)
                sums.append((network(image) * weighting).sum().item())
        with torch.no_grad():
            for v, d in zip(part, direction, strict=True):
                v.add_(d, alpha=1e-6)
        assert (sums[0] - sums[1]) / 2e-6 == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("preset", "entry", "parameters"),
    [("base", "recipe", 27_427_561), ("large", "class_default", 44_273_833)],
    ids=["base", "large"],
)
def test_full_sizes_have_the_official_parameters(preset, entry, parameters):
    official = json.loads((DATA / "vm_unet_state_dicts.json").read_text())[entry]
    with torch.device("meta"):
        network = VMUNet.from_preset(preset, input_channels=3, num_classes=1)
    assert sum(p.numel() for p in network.parameters()) == parameters == official["num_parameters"]
    ours = network.state_dict()
    converted = checkpoints.to_official_state_dict(ours)
    assert {k: list(v.shape) for k, v in converted.items()} == official["state_dict"]
    back = checkpoints.from_official_state_dict(converted)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in ours.items()}


def test_key_map_keeps_values():
    weights = tiny().state_dict()
    back = checkpoints.from_official_state_dict(checkpoints.to_official_state_dict(weights))
    assert all(torch.equal(back[k], v) for k, v in weights.items()) and list(back) == list(weights)


@pytest.mark.parametrize("name", ["encoder.unknown", "vmunet.layers.0.blocks.0.mlp.weight", "head.weight"])
def test_key_map_refuses_other_names(name):
    with pytest.raises(KeyError, match="not a parameter of VM-UNet"):
        checkpoints.to_our_name(name)


def test_images_are_padded_with_zeros_to_a_multiple_of_the_stride():
    network, image = tiny(2, 3).eval(), torch.randn(2, 2, 31, 47)
    padded = torch.zeros(2, 2, 32, 64)
    padded[..., :31, :47] = image
    assert torch.equal(network(image), network(padded)[..., :31, :47])


def test_logits_are_raw():
    """No sigmoid, no softmax: the head's bias shifts the logits of a single class by as much."""
    network, image = tiny(1, 1).eval(), torch.randn(1, 1, 32, 32)
    before = network(image)
    with torch.no_grad():
        network.decoder.seg_layers[0].bias += 100
    torch.testing.assert_close(network(image), before + 100, atol=1e-4, rtol=0)


def test_auxiliary_heads_do_not_change_the_main_output():
    plain, with_heads = tiny().eval(), tiny(auxiliary_heads=True).eval()
    missing = with_heads.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(".seg_layers." in key and ".seg_layers.0." not in key for key in missing)
    image = torch.randn(1, 1, 32, 32)
    assert torch.equal(plain(image), with_heads(image))


def test_gradient_checkpointing_changes_nothing():
    plain = tiny(drop_path_rate=0.0)
    checkpointed = tiny(drop_path_rate=0.0, gradient_checkpointing=True)
    checkpointed.load_state_dict(plain.state_dict())
    image = torch.randn(2, 1, 32, 32)
    for network in (plain, checkpointed):
        network(image).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_autocast_stays_near_fp32(dtype):
    network = tiny(dims=(16, 32, 64, 128)).eval()
    image = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        expected = network(image)
        with torch.autocast("cpu", dtype=dtype):
            got = network(image)
    assert relative_error(got, expected) < 3e-2


def test_presets_are_arguments_of_the_class():
    base = PRESETS["base"]
    assert dict(base) == {key: base[key] for key in ("dims", "encoder_depths", "decoder_depths")}
    assert {**base, "d_state": 8} == {**VMUNetSizes(d_state=8)} and VMUNet(1, 2, **PRESETS["small"]).sizes.d_state == 8
    with pytest.raises(KeyError):
        base["d_state"]  # the default


def test_public_names_are_imported_when_they_are_asked_for():
    assert all(getattr(nnunetv2_dsvm, name) for name in nnunetv2_dsvm.__all__)
    assert set(nnunetv2_dsvm.__all__) <= set(dir(nnunetv2_dsvm))
    with pytest.raises(AttributeError, match="has no attribute 'VMUnet'"):
        nnunetv2_dsvm.VMUnet  # noqa: B018


def test_named_sizes_and_overrides():
    assert VMUNet.from_preset("small", 1, 2, d_state=4).encoder.stages[0].blocks[0].ss2d.d_state == 4
    with pytest.raises(ValueError, match="unknown preset 'giant'.*small, base, large"):
        VMUNet.from_preset("giant", 1, 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dims": (4, 8, 12, 32)}, "double"),
        ({"dims": (6, 12, 24, 48)}, "multiple of 4"),
        ({"encoder_depths": (1, 1, 1)}, "one entry per stage"),
        ({"decoder_depths": (1, 0, 1, 1)}, "needs a block"),
        ({"d_state": 0}, "d_state"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"deep_supervision": True, "auxiliary_heads": False}, "auxiliary_heads"),
        (
            {"deep_supervision": True, "dims": (8,), "encoder_depths": (1,), "decoder_depths": (1,)},
            r"two stages or more, got dims \(8,\)",
        ),
    ],
    ids=lambda v: "" if isinstance(v, str) else "-".join(v),
)
def test_sizes_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        tiny(**overrides)


def test_images_of_another_rank_are_refused():
    with pytest.raises(ValueError, match=r"\(batch, channels, height, width\).*\(1, 32, 32\)"):
        tiny()(torch.randn(1, 32, 32))


def test_initial_values_of_the_scan():
    """method: A = -(1..N), D = 1, steps log-uniform in [1e-3, 1e-1], dt weights within ± rank^-0.5."""
    ss2d = SS2D(dim=64, d_state=16)
    assert torch.allclose(ss2d.A_log.exp(), torch.arange(1.0, 17.0).expand(4, 128, 16))
    assert (ss2d.D == 1).all()
    steps = torch.nn.functional.softplus(ss2d.dt_bias)
    assert steps.min() >= DT_MIN * 0.999 and steps.max() <= DT_MAX * 1.001
    # log-uniform: the median of 512 draws lies near the geometric mean
    assert steps.median().log10().item() == pytest.approx(-2, abs=0.15)
    assert ss2d.dt_proj.abs().max() <= ss2d.dt_rank**-0.5
    assert all(p.dtype == torch.float32 for p in (ss2d.A_log, ss2d.D, ss2d.dt_bias))


def test_initial_values_of_linear_layers():
    weight = VMUNet.from_preset("small", 1, 2).encoder.mergings[2].reduction.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_stochastic_depth_rates_grow_with_depth():
    network = tiny(encoder_depths=(1, 2, 1, 1), drop_path_rate=0.2)
    rates = [b.drop_path.probability for s in network.encoder.stages for b in s.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    rates = [b.drop_path.probability for s in network.decoder.stages for b in s.blocks]
    assert rates == pytest.approx([0.2, 0.2 * 2 / 3, 0.2 / 3, 0])


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    branch = torch.ones(4000, 2, 3)
    dropped = DropPath(0.25)(branch)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped.flatten(1).std(dim=1) == 0).all()
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(DropPath(0.25).eval()(branch), branch)
